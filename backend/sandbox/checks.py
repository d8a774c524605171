"""Validation of values that arrive over the control API.

A check returns the value or raises InvalidValue; the message completes "must be ...".
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any], Any]

HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class InvalidValue(ValueError):
    """A value is not acceptable; the message completes "must be ..."."""


def whole(low: int, high: int | None = None) -> Check:
    limits = f"a whole number of at least {low}" + (f" and at most {high}" if high else "")

    def check(value: Any) -> Any:
        if type(value) is not int or value < low or (high is not None and value > high):
            raise InvalidValue(limits)
        return value

    return check


def number(low: float, high: float | None = None) -> Check:
    limits = f"a number of at least {low}" + (f" and at most {high}" if high else "")

    def check(value: Any) -> Any:
        if type(value) not in (int, float) or not low <= value <= (high or value):
            raise InvalidValue(limits)
        return value

    return check


def one_of(*allowed: Any) -> Check:
    def check(value: Any) -> Any:
        if value not in allowed or isinstance(value, bool):
            raise InvalidValue("one of " + ", ".join(str(item) for item in allowed))
        return value

    return check


def optional(inner: Check) -> Check:
    def check(value: Any) -> Any:
        if value is None:
            return None
        try:
            return inner(value)
        except InvalidValue as exc:
            raise InvalidValue(f"null or {exc}") from None

    return check


def flag(value: Any) -> Any:
    if not isinstance(value, bool):
        raise InvalidValue("true or false")
    return value


def text(value: Any) -> Any:
    if not isinstance(value, str):
        raise InvalidValue("a string")
    return value


def texts(value: Any) -> Any:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidValue("a list of strings")
    return value


def some_of(*allowed: str) -> Check:
    def check(value: Any) -> Any:
        if not isinstance(value, list) or not set(map(str, value)) <= set(allowed):
            raise InvalidValue("a list with any of " + ", ".join(allowed))
        return value

    return check


def an_object(value: Any) -> Any:
    if not isinstance(value, dict):
        raise InvalidValue("a JSON object")
    return value


def header(value: Any) -> Any:
    """The value of one header. For a malformed header, use the fault `raw`."""
    if not isinstance(value, str) or not (value.isascii() and value.isprintable()):
        raise InvalidValue("a string of printable ASCII")
    return value


def headers(value: Any) -> Any:
    if not isinstance(value, dict) or not all(HEADER_NAME.fullmatch(name) for name in value):
        raise InvalidValue("an object of header names and strings")
    for item in value.values():
        header(item)
    return value


def encoded(value: Any) -> Any:
    """A base64 string. It is returned undecoded, so that faults are listed as they were sent."""
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise InvalidValue("a string of base64") from None
    return value


def latency(value: Any) -> Any:
    """Milliseconds for every path, or per path glob (the first match counts)."""
    rows = value.values() if isinstance(value, dict) else [value]
    if any(type(row) is not int or row < 0 for row in rows):
        raise InvalidValue('milliseconds, or an object {"path glob": milliseconds}')
    return value


def bucket(value: Any) -> Any:
    if not isinstance(value, dict) or set(value) != {"capacity", "per"}:
        raise InvalidValue('null or {"capacity": calls, "per": seconds}')
    whole(1)(value["capacity"])
    number(0.001)(value["per"])
    return value


def apply(checks: Mapping[str, Check], values: Mapping[str, Any], *, of: str) -> dict[str, Any]:
    """Check every value; raise InvalidRequest with the allowed names or the rule."""
    for name, value in values.items():
        if name not in checks:
            raise InvalidRequest(f"{of} has no option {name!r}", sorted(checks))
        try:
            checks[name](value)
        except InvalidValue as exc:
            raise InvalidRequest(f"{name!r} must be {exc}") from None
    return dict(values)


class InvalidRequest(Exception):
    """A control request is invalid; `allowed` lists what would be valid."""

    def __init__(self, reason: str, allowed: list[str] | None = None) -> None:
        super().__init__(reason)
        self.reason, self.allowed = reason, allowed
