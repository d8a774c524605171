"""From the bytes of an untrusted answer to JSON values that every store and client can carry."""

import json
import math
import re
import zlib
from collections.abc import Iterable
from typing import Any

# Deeper than any answer of the sources, shallower than what a recursive encoder can bear.
MAX_DEPTH = 60
# Each costs some 60 bytes of memory and as few as 3 of the body; real answers have thousands.
MAX_VALUES = 100_000

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# The group is empty where what follows the backslash makes no escape.
_ESCAPE = re.compile(r"\\([\"\\/bfnrt]|u[0-9a-fA-F]{4})?")
# But for DEL, only escapes can bring one of these through a strict JSON parser.
_SUSPICIOUS = re.compile(r"\x7f|\\(?:[bfr]|u00[01]|u007[fF]|u[dD][89a-fA-F])")


class TooLarge(ValueError):
    """The decoded body is longer than the limit."""


class Undecodable(ValueError):
    """The body is not what its headers or its type say."""


def read_body(chunks: Iterable[bytes], coding: str, limit: int) -> bytes:
    """Return the body behind the content coding `coding` (`""`, `identity`, `gzip`, `deflate`).

    Never holds more than `limit` decoded bytes, however small the compressed ones are.
    Raises `TooLarge` past the limit and `Undecodable` for another coding or broken data.
    """
    if coding in {"", "identity"}:
        return _join(chunks, limit)
    if coding in {"gzip", "x-gzip", "deflate"}:
        return _inflate(chunks, limit)
    raise Undecodable("unknown content coding")


def _join(chunks: Iterable[bytes], limit: int) -> bytes:
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > limit:
            raise TooLarge
    return bytes(body)


def _inflate(chunks: Iterable[bytes], limit: int) -> bytes:
    # 32 + MAX_WBITS reads both the gzip and the zlib header.
    inflater = zlib.decompressobj(32 + zlib.MAX_WBITS)
    body = bytearray()
    try:
        for chunk in chunks:
            if inflater.eof and chunk:
                # The inflater would hoard what follows, and never finish.
                raise Undecodable("more than the compressed data")
            # max_length is what keeps a small chunk from becoming 60 MB before we can count.
            body += inflater.decompress(chunk, limit + 1 - len(body))
            if len(body) > limit:
                raise TooLarge
    except zlib.error as exc:
        raise Undecodable("broken compressed data") from exc
    if not inflater.eof:
        raise Undecodable("compressed data ends early")
    return bytes(body)


def decode_json(body: bytes) -> Any:
    """Return the JSON value in `body` (UTF-8, with or without BOM).

    NUL, other control characters except newline and tab, and lone surrogates are taken out of all
    texts and keys (surrogates become U+FFFD): PostgreSQL refuses them. Numbers come out as a
    `jsonb` column would give them back, so that what was stored equals what was received.
    Raises `Undecodable` for anything that RFC 8259 does not allow (NaN and Infinity too), for
    numbers that no float or column can hold, for nesting deeper than `MAX_DEPTH` and for more
    than `MAX_VALUES` values.
    """
    text = _text(body)
    value = _parsed(text, strict=True)
    return clean(value) if _SUSPICIOUS.search(text) else value


def decode_handmade_json(body: bytes) -> Any:
    """Return the value as `decode_json` does, of JSON that was put together by hand.

    Control characters within texts are taken out instead of refused, and so are backslashes that
    begin no escape. Raises `Undecodable` for all that is still no JSON then.
    """
    text = _text(body)
    try:
        return clean(_parsed(text, strict=False))
    except Undecodable:
        repaired = _ESCAPE.sub(lambda escape: escape[0] if escape[1] else "", text)
        if repaired == text:
            raise
        return clean(_parsed(repaired, strict=False))


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")
    except ValueError as exc:
        raise Undecodable("not UTF-8") from exc


def _parsed(text: str, *, strict: bool) -> Any:
    if sum(map(text.count, ",[{")) > MAX_VALUES:
        raise Undecodable("too many values")
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_number, strict=strict)
    except RecursionError as exc:
        raise Undecodable("nested too deeply") from exc
    except ValueError as exc:
        raise Undecodable("not JSON") from exc
    if _depth_exceeds(value, MAX_DEPTH):
        raise Undecodable("nested too deeply")
    return value


def clean(value: Any) -> Any:
    """Return `value` without the characters that JSON readers or PostgreSQL refuse."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", _CONTROL.sub("", value))
    if isinstance(value, list):
        return [clean(item) for item in value]
    if isinstance(value, dict):
        return {clean(key): clean(item) for key, item in value.items()}
    return value


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _number(literal: str) -> float | int:
    number = float(literal)
    if math.isinf(number):
        raise ValueError("number too large")
    if number == 0:
        return 0.0  # jsonb knows no negative zero
    # jsonb prints these without exponent and fraction, which reads back as an integer.
    return int(number) if number.is_integer() and abs(number) >= 1e16 else number


def _depth_exceeds(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True
