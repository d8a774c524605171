"""Checks for values that arrive over the control API.

A check gives the value back, or raises Unfit with the words that follow "must be".
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any], Any]

HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class Unfit(ValueError):
    """A value that will not do; the text completes "must be ..."."""


def whole(low: int, high: int | None = None) -> Check:
    limits = f"a whole number of at least {low}" + (f" and at most {high}" if high else "")

    def check(value: Any) -> Any:
        if type(value) is not int or value < low or (high is not None and value > high):
            raise Unfit(limits)
        return value

    return check


def number(low: float, high: float | None = None) -> Check:
    limits = f"a number of at least {low}" + (f" and at most {high}" if high else "")

    def check(value: Any) -> Any:
        if type(value) not in (int, float) or not low <= value <= (high or value):
            raise Unfit(limits)
        return value

    return check


def one_of(*allowed: Any) -> Check:
    def check(value: Any) -> Any:
        if value not in allowed or isinstance(value, bool):
            raise Unfit("one of " + ", ".join(str(item) for item in allowed))
        return value

    return check


def optional(inner: Check) -> Check:
    def check(value: Any) -> Any:
        if value is None:
            return None
        try:
            return inner(value)
        except Unfit as exc:
            raise Unfit(f"null or {exc}") from None

    return check


def flag(value: Any) -> Any:
    if not isinstance(value, bool):
        raise Unfit("true or false")
    return value


def text(value: Any) -> Any:
    if not isinstance(value, str):
        raise Unfit("a string")
    return value


def texts(value: Any) -> Any:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Unfit("a list of strings")
    return value


def some_of(*allowed: str) -> Check:
    def check(value: Any) -> Any:
        if not isinstance(value, list) or not set(map(str, value)) <= set(allowed):
            raise Unfit("a list with any of " + ", ".join(allowed))
        return value

    return check


def an_object(value: Any) -> Any:
    if not isinstance(value, dict):
        raise Unfit("a JSON object")
    return value


def header(value: Any) -> Any:
    """The value of one header. Whoever wants a broken one has the fault `raw`."""
    if not isinstance(value, str) or not (value.isascii() and value.isprintable()):
        raise Unfit("a string of printable ASCII")
    return value


def headers(value: Any) -> Any:
    if not isinstance(value, dict) or not all(HEADER_NAME.fullmatch(name) for name in value):
        raise Unfit("an object of header names and strings")
    for item in value.values():
        header(item)
    return value


def encoded(value: Any) -> Any:
    """Base64 in, bytes kept as the base64 text so that a fault can be listed as it was sent."""
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise Unfit("a string of base64") from None
    return value


def latency(value: Any) -> Any:
    """Milliseconds for every path, or for the first glob that fits."""
    rows = value.values() if isinstance(value, dict) else [value]
    if any(type(row) is not int or row < 0 for row in rows):
        raise Unfit('milliseconds, or an object {"path glob": milliseconds}')
    return value


def bucket(value: Any) -> Any:
    if not isinstance(value, dict) or set(value) != {"capacity", "per"}:
        raise Unfit('null or {"capacity": calls, "per": seconds}')
    whole(1)(value["capacity"])
    number(0.001)(value["per"])
    return value


def apply(checks: Mapping[str, Check], values: Mapping[str, Any], *, of: str) -> dict[str, Any]:
    """Every value checked, or Refusal that says what would have been right."""
    for name, value in values.items():
        if name not in checks:
            raise Refusal(f"{of} has no option {name!r}", sorted(checks))
        try:
            checks[name](value)
        except Unfit as exc:
            raise Refusal(f"{name!r} must be {exc}") from None
    return dict(values)


class Refusal(Exception):
    """The control API was asked for something it does not offer."""

    def __init__(self, reason: str, allowed: list[str] | None = None) -> None:
        super().__init__(reason)
        self.reason, self.allowed = reason, allowed
