"""From the bytes of an untrusted answer to JSON values that databases and clients accept."""

import json
import math
import re
import zlib
from collections.abc import Collection, Iterable
from typing import Any

# Deeper than any real answer, and within the recursion limit of JSON encoders.
MAX_DEPTH = 60
# A value needs about 60 bytes of memory and may take 3 bytes of the body; real answers have
# thousands.
MAX_VALUES = 100_000
# What headers and block headers may add to data that does not compress.
_COMPRESSION_OVERHEAD = 65_536

# In place of a secret in an answer.
REDACTED = "[redacted]"

# In place of a number that is removed.
_TOO_LARGE = object()

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# The group does not match if the characters after the backslash form no escape sequence.
_ESCAPE = re.compile(r"\\([\"\\/bfnrt]|u[0-9a-fA-F]{4})?")
# Apart from DEL, a strict JSON parser lets these characters through only as escape sequences.
_SUSPICIOUS = re.compile(r"\x7f|\\(?:[bfr]|u00[01]|u007[fF]|u[dD][89a-fA-F])")


class TooLarge(ValueError):
    """The decoded body is longer than the limit."""


class Undecodable(ValueError):
    """The body does not match its headers, or is not JSON."""


def read_body(chunks: Iterable[bytes], coding: str, limit: int) -> bytes:
    """Return the body, decoded from the content coding `""`, `identity`, `gzip` or `deflate`.

    gzip may have several members (RFC 1952, section 2.2). deflate is the zlib format (RFC 1950) or,
    as some servers send it, the raw format (RFC 1951). Holds at most `limit` decoded bytes in
    memory, whatever the compression ratio.
    Raises `TooLarge` beyond the limit, and `Undecodable` for another coding, for broken or
    incomplete data and for bytes after its end.
    """
    if coding in {"gzip", "x-gzip", "deflate"}:
        return _inflate(chunks, coding, limit)
    if coding not in {"", "identity"}:
        raise Undecodable("unknown content coding")
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > limit:
            raise TooLarge
    return bytes(body)


def _inflate(chunks: Iterable[bytes], coding: str, limit: int) -> bytes:
    body = bytearray()
    received = 0
    inflater = None
    try:
        for chunk in chunks:
            received += len(chunk)
            # Empty blocks and empty members decode to nothing, so an endless stream of them
            # never exceeds the limit of the decoded bytes.
            if received > limit + _COMPRESSION_OVERHEAD:
                raise TooLarge
            data = chunk
            while data:
                if inflater is None or (inflater.eof and coding != "deflate"):
                    inflater = zlib.decompressobj(_window_bits(coding, data[0]))
                elif inflater.eof:
                    raise Undecodable("bytes after the compressed data")
                # Without a maximum one small chunk could become 60 MB before its length is checked.
                body += inflater.decompress(data, limit + 1 - len(body))
                if len(body) > limit:
                    raise TooLarge
                data = inflater.unused_data
    except zlib.error as exc:
        raise Undecodable("broken compressed data") from exc
    if inflater is None or not inflater.eof:
        raise Undecodable("incomplete compressed data")
    return bytes(body)


def _window_bits(coding: str, first_byte: int) -> int:
    """Return the argument by which zlib selects the gzip, the zlib or the raw format."""
    if coding != "deflate":
        return 16 + zlib.MAX_WBITS
    # The method in a zlib header is 8. Raw data begins with these bits only if the padding of a
    # stored block, which encoders fill with zeros, is not zero.
    return zlib.MAX_WBITS if first_byte & 0x0F == 8 else -zlib.MAX_WBITS


def decode_json(body: bytes, secrets: Collection[str] = ()) -> Any:
    """Return the JSON value in `body` (UTF-8, with or without BOM).

    Control characters except newline and tab are removed from all strings and keys, and lone
    surrogates become U+FFFD, because PostgreSQL rejects them. `secrets` in strings and keys become
    `[redacted]`. Numbers get the form in which a `jsonb` column returns them, so that a stored
    value equals the received one. Numbers beyond the range of 64-bit integers, which many clients
    cannot read, are removed from their object or list.
    Raises `Undecodable` for anything that RFC 8259 does not allow (also NaN and Infinity), for
    nesting deeper than `MAX_DEPTH`, for more than `MAX_VALUES` values, and for an object in which
    no string, list or object remains after such a number was removed from it.
    """
    text = _text(body)
    value = _parsed(text, strict=True)
    # Most texts have neither, which takes less time to find.
    has_suspects = ("\\" in text or "\x7f" in text) and _SUSPICIOUS.search(text)
    if has_suspects or any(_may_contain(text, secret) for secret in secrets):
        return clean(value, secrets)
    return value


def decode_lenient_json(body: bytes, secrets: Collection[str] = ()) -> Any:
    """Return the value as `decode_json` does, also from JSON that a source did not escape well.

    Unescaped control characters in strings and backslashes that begin no escape sequence are
    removed. Raises `Undecodable` if the result is still not JSON.
    """
    text = _text(body)
    try:
        return clean(_parsed(text, strict=False), secrets)
    except Undecodable:
        repaired = _ESCAPE.sub(lambda escape: escape[0] if escape[1] else "", text)
        if repaired == text:
            raise
        return clean(_parsed(repaired, strict=False), secrets)


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")
    except ValueError as exc:
        raise Undecodable("not UTF-8") from exc


def _may_contain(text: str, secret: str) -> bool:
    """Whether a string in the JSON `text` may contain `secret`, written as it is or escaped."""
    return secret in text or "\\u00" in text or (not secret.isalnum() and "\\" in text)


def _parsed(text: str, *, strict: bool) -> Any:
    opened = text.count("[") + text.count("{")
    if opened + text.count(",") > MAX_VALUES:
        raise Undecodable("too many values")
    numbers = _NumberReader()
    try:
        value = json.loads(
            text,
            parse_int=numbers.integer,
            parse_float=numbers.decimal,
            parse_constant=_refuse,
            strict=strict,
        )
    except RecursionError as exc:
        raise Undecodable("nested too deeply") from exc
    except ValueError as exc:
        raise Undecodable("not JSON") from exc
    if opened > MAX_DEPTH and _depth_exceeds(value, MAX_DEPTH):
        raise Undecodable("nested too deeply")
    if value is _TOO_LARGE:
        raise Undecodable("number too large")
    if not numbers.has_large:
        return value
    rest = _without_large_numbers(value)
    # Some sources send `{}` for an empty list; another answer must not become one.
    is_cut = isinstance(value, dict) and len(rest) < len(value)
    if is_cut and not any(isinstance(item, str | list | dict) for item in rest.values()):
        raise Undecodable("number too large")
    return rest


class _NumberReader:
    """Reads the number literals of one text; `has_large` says whether one became `_TOO_LARGE`."""

    has_large = False

    def integer(self, literal: str) -> Any:
        if len(literal) <= 18:
            return int(literal)
        # `int` raises an error for more than 4,300 digits.
        return self._within_64_bits(int(literal) if len(literal) <= 20 else math.inf)

    def decimal(self, literal: str) -> Any:
        number = self._within_64_bits(float(literal))
        if number == 0:
            return 0.0  # jsonb has no negative zero
        # jsonb prints these without exponent and fraction, so they are read back as integers.
        return int(number) if number is not _TOO_LARGE and abs(number) >= 1e16 else number

    def _within_64_bits(self, number: float) -> Any:
        if -(2**63) <= number < 2**63:
            return number
        self.has_large = True
        return _TOO_LARGE


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _without_large_numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_large_numbers(item) for item in value if item is not _TOO_LARGE]
    if isinstance(value, dict):
        return {
            key: _without_large_numbers(item)
            for key, item in value.items()
            if item is not _TOO_LARGE
        }
    return value


def clean(value: Any, secrets: Collection[str] = ()) -> Any:
    """Return `value` without the characters that PostgreSQL rejects and without `secrets`."""
    if isinstance(value, str):
        text = _SURROGATE.sub("\ufffd", _CONTROL.sub("", value))
        for secret in secrets:
            text = text.replace(secret, REDACTED)
        return text
    if isinstance(value, list):
        return [clean(item, secrets) for item in value]
    if isinstance(value, dict):
        return {clean(key, secrets): clean(item, secrets) for key, item in value.items()}
    return value


def _depth_exceeds(value: Any, limit: int) -> bool:
    level: list[Any] = [[value]]
    for _ in range(limit + 1):
        # `isinstance` with both types takes three times as long.
        level = [
            child
            for parent in level
            for child in (parent.values() if type(parent) is dict else parent)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return False
    return True
