import gzip
import itertools
import json
import tracemalloc
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.services.decoding import (
    MAX_DEPTH,
    MAX_VALUES,
    TooLarge,
    Undecodable,
    clean,
    decode_json,
    read_body,
)

# What RFC 8259 does not allow, one way of being wrong a line.
MALFORMED = [
    b"",
    b" ",
    b"\n\t",
    b"[",
    b"]",
    b"{",
    b"}",
    b"[1",
    b"[1,",
    b"[1,]",
    b"[,1]",
    b"[1,,2]",
    b"[,]",
    b"[1 2]",
    b"[1]]",
    b"[1}",
    b"{]",
    b"[[1]",
    b"[1][2]",
    b"1 2",
    b"[1]x",
    b"x[1]",
    b'{"a"}',
    b'{"a":}',
    b'{"a" 1}',
    b'{"a":1,}',
    b'{,"a":1}',
    b'{"a":1 "b":2}',
    b'{"a":1,,"b":2}',
    b'{"a"::1}',
    b"{a:1}",
    b"{'a':1}",
    b"{1:1}",
    b"{null:1}",
    b'{"a":1}}',
    b'{"a":1',
    b"['a']",
    b'["a]',
    b'["a\nb"]',
    b'["a\tb"]',
    b'["a\x00b"]',
    b'["\\x41"]',
    b'["\\"]',
    b'["\\u12"]',
    b'["\\u12G4"]',
    b'["\\U0041"]',
    b'["\\\xc3\xa9"]',
    b"[01]",
    b"[-01]",
    b"[+1]",
    b"[.5]",
    b"[1.]",
    b"[-]",
    b"[1e]",
    b"[1e+]",
    b"[0x1F]",
    b"[1_000]",
    b"[1e999]",
    b"[-1e999]",
    b"[NaN]",
    b"[Infinity]",
    b"[-Infinity]",
    b"[nan]",
    b"[True]",
    b"[nul]",
    b"[undefined]",
    b"[1]//end",
    b"[/*none*/1]",
    b"[1]\x00",
    b"\x0c[1]",
    b"\xc2\xa0[1]",
    b"[\xe2\x80\x83 1]",
    b"\xef\xbb\xbf",
    b"\xef\xbb\xbf\xef\xbb\xbf[1]",
    b'["\xff"]',
    b'["\xc0\xaf"]',
    b'["\xe9"]',
    b'["\xed\xa0\x80"]',
    b'["\xf0\x9f\x98"]',
    "[1]".encode("utf-16"),
    "[1]".encode("utf-16-le"),
    "[1]".encode("utf-16-be"),
    "[1]".encode("utf-32"),
    b"[" + b"9" * 5000 + b"]",
    b"[" * 100_000,
    b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
    b"[" + b"[]," * (MAX_VALUES // 2) + b"[]]",
    b"[" + b"1," * MAX_VALUES + b"1]",
    b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1),
    b"<html></html>",
    b'callback({"a":1})',
]


@pytest.mark.parametrize("body", MALFORMED, ids=lambda body: repr(body[:24]))
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(Undecodable):
        decode_json(body)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"null", None),
        (b" [1 , 2]\r\n", [1, 2]),
        (b"\xef\xbb\xbf[1]", [1]),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b'"\xc4\xb1\\/"', "\u0131/"),
        (b"1E4", 10000.0),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b"9" * 400, int("9" * 400)),
    ],
)
def test_what_is_json_is_accepted(body: bytes, value: Any) -> None:
    assert decode_json(body) == value


@pytest.mark.parametrize(
    "body",
    [b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH],
)
def test_nesting_is_accepted_as_deep_as_the_limit(body: bytes) -> None:
    assert decode_json(body)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'"a\\u0000b"', "ab"),
        (b'{"a\\u0000":1}', {"a": 1}),
        (b'"\\b\\f\\u001b[31m\\u007f"', "[31m"),
        (b'"a\x7fb"', "ab"),
        (b'"a\\r\\nb\\tc"', "a\nb\tc"),
        (b'"\\ud83d"', "\ufffd"),
        (b'"\\ude00\\ud83d"', "\ufffd\ufffd"),
        (b'{"\\udfff":["\\ud800x"]}', {"\ufffd": ["\ufffdx"]}),
        ('"\u202eabc\u200f <script>"'.encode(), "\u202eabc\u200f <script>"),
        (b'"\\\\u0000"', "\\u0000"),
    ],
)
def test_what_postgresql_refuses_is_taken_out(body: bytes, value: Any) -> None:
    assert decode_json(body) == value


@pytest.mark.parametrize(
    ("body", "printed"),
    [
        (b"-0.0", "0.0"),
        (b"-0", "0"),
        (b"1.0", "1.0"),
        (b"1e22", "10000000000000000000000"),
        (b"1e-400", "0.0"),
        (b"8.80", "8.8"),
    ],
)
def test_numbers_are_as_a_column_gives_them_back(body: bytes, printed: str) -> None:
    assert json.dumps(decode_json(body)) == printed


texts = st.text(st.characters(exclude_categories=()))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
bodies = values.map(lambda value: json.dumps(value).encode())


@given(values)
def test_what_json_prints_comes_back_cleaned(value: Any) -> None:
    assert decode_json(json.dumps(value).encode()) == clean(value)


@given(bodies | st.binary())
def test_what_is_decoded_can_be_printed_and_read_again(body: bytes) -> None:
    try:
        value = decode_json(body)
    except Undecodable:
        return

    printed = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()

    assert decode_json(printed) == value


@given(values)
def test_cleaning_is_done_once(value: Any) -> None:
    assert clean(clean(value)) == clean(value)


@pytest.mark.django_db
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(bodies)
def test_jsonb_gives_back_what_was_decoded(body: bytes) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL has jsonb")
    value = decode_json(body)

    with connection.cursor() as cursor:
        cursor.execute("SELECT %s::jsonb::text", [json.dumps(value)])
        (stored,) = cursor.fetchone()

    back = json.loads(stored)
    assert json.dumps(back, sort_keys=True) == json.dumps(value, sort_keys=True)


# Bodies


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        ("", bytes),
        ("identity", bytes),
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
    ],
)
def test_a_body_is_joined_and_decompressed(coding: str, pack: Any, size: int) -> None:
    body = b"the same again " * 50

    assert read_body(pieces(pack(body), size), coding, 1000) == body


@pytest.mark.parametrize(("coding", "pack"), [("", bytes), ("gzip", gzip.compress)])
def test_a_body_may_be_as_long_as_the_limit_and_no_longer(coding: str, pack: Any) -> None:
    assert len(read_body([pack(b"x" * 100)], coding, 100)) == 100
    with pytest.raises(TooLarge):
        read_body([pack(b"x" * 101)], coding, 100)


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "identity, gzip"])
def test_an_unknown_coding_is_refused(coding: str) -> None:
    with pytest.raises(Undecodable):
        read_body([b"{}"], coding, 100)


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [b""],
        [b"plain text"],
        [gzip.compress(b"x" * 100)[:-9]],
        [gzip.compress(b"x" * 100)[:-8] + b"bad sum!"],
    ],
)
def test_broken_compressed_data_is_refused(chunks: list[bytes]) -> None:
    with pytest.raises(Undecodable):
        read_body(chunks, "gzip", 1000)


def test_what_follows_the_compressed_data_is_not_hoarded() -> None:
    trailing = itertools.chain([gzip.compress(b"{}")], itertools.repeat(b"x" * 65_536, 100))

    with pytest.raises(Undecodable):
        read_body(trailing, "gzip", 1000)


def test_one_small_chunk_cannot_become_a_big_body() -> None:
    bomb = gzip.compress(b"x" * 50_000_000)
    tracemalloc.start()

    try:
        with pytest.raises(TooLarge):
            read_body([bomb], "gzip", 1_000_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 5_000_000
