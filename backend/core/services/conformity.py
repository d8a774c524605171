"""Fields of the types that are promised to clients, whatever a source sends."""

import logging
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from rest_framework import serializers

from core.source_shapes import AddressField, CountField, LinkField, SourceShape

logger = logging.getLogger(__name__)

_LONGEST_URL = 2000
# Clients read whole numbers into 32 bits.
_LARGEST_INTEGER = 2**31 - 1
_WEB = re.compile(r"https?://", re.IGNORECASE)
# Schemes with which a link is a program or a page of its own making. Browsers look past blanks.
_SCRIPT = re.compile(r"(?:javascript|data|vbscript):", re.IGNORECASE)
_BLANKS = re.compile(r"[\x00-\x20]+")

# Takes a value, returns it, or what is left of it without what is unfit, or `_UNFIT`.
_Check = Callable[[Any], Any]
_UNFIT = object()


def conforming(value: Any, shape: type[SourceShape], *, source: str) -> Any:
    """Return `value`, an object or a list of objects, without what `shape` does not allow.

    A field of another type is left out, or null where it may be, and so are addresses that are not
    http(s) and links that run in the page that shows them. Rows of another type are left out too;
    fields that the shape does not know stay. Where all conforms, it is the very `value` that is
    returned; else the log tells of it.
    """
    check = _object(shape)
    fit = _list_of(check)(value) if isinstance(value, list) else check(value)
    if fit is not value:
        logger.warning("fields left out", extra={"source": source, "outcome": "bad_shape"})
    return fit


@cache
def _object(shape: type[SourceShape]) -> _Check:
    checks = {name: _nullable(field) for name, field in shape().fields.items()}

    def check(value: Any) -> Any:
        if not isinstance(value, dict):
            return _UNFIT
        mended = {
            name: fit
            for name, item in value.items()
            if name in checks and (fit := checks[name](item)) is not item
        }
        if not mended:
            return value
        return {name: item for name, item in (value | mended).items() if item is not _UNFIT}

    return check


def _nullable(field: serializers.Field[Any, Any, Any, Any]) -> _Check:
    check = _field(field)
    if not field.allow_null:
        return check

    def check_or_null(value: Any) -> Any:
        fit = None if value is None else check(value)
        return None if fit is _UNFIT else fit

    return check_or_null


def _field(field: serializers.Field[Any, Any, Any, Any]) -> _Check:
    if isinstance(field, serializers.ListSerializer | serializers.ListField) and field.child:
        return _list_of(_field(field.child))
    if isinstance(field, SourceShape):
        return _object(type(field))
    return next(check for kind, check in _CHECKS.items() if isinstance(field, kind))


def _list_of(check: _Check) -> _Check:
    def check_rows(value: Any) -> Any:
        if not isinstance(value, list):
            return _UNFIT
        rows = [check(row) for row in value]
        if all(row is sent for row, sent in zip(rows, value, strict=True)):
            return value
        return [row for row in rows if row is not _UNFIT]

    return check_rows


def _one_of(*types: type) -> _Check:
    # Not `isinstance`: for Python, true is a number.
    return lambda value: value if type(value) in types else _UNFIT


def _address(value: Any) -> Any:
    is_address = isinstance(value, str) and len(value) <= _LONGEST_URL and _WEB.match(value)
    return value if is_address else _UNFIT


def _link(value: Any) -> Any:
    if not isinstance(value, str) or len(value) > _LONGEST_URL:
        return _UNFIT
    return _UNFIT if _SCRIPT.match(_BLANKS.sub("", value)) else value


def _integer(value: Any) -> Any:
    # For Python, true is a number.
    is_integer = type(value) is int and abs(value) <= _LARGEST_INTEGER
    return value if is_integer else _UNFIT


def _count(value: Any) -> Any:
    if isinstance(value, str):
        return value if re.fullmatch(r"[0-9]{1,18}", value) else None
    return value if type(value) is int else None


# Some are texts too: the narrower ones go first.
_CHECKS: dict[type[serializers.Field[Any, Any, Any, Any]], _Check] = {
    AddressField: _address,
    LinkField: _link,
    serializers.CharField: _one_of(str),
    serializers.IntegerField: _integer,
    serializers.FloatField: _one_of(float, int),
    serializers.BooleanField: _one_of(bool),
    CountField: _count,
}
