import gzip
import itertools
import json
import operator
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
    decode_lenient_json,
    read_body,
)

# Texts that RFC 8259 does not allow, or that exceed our limits, one fault per line.
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
    b"9" * 20,
    b"9" * 5000,
    b"-1e999",
    b"[" * 100_000,
    b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
    b"[" + b"[]," * (MAX_VALUES // 2) + b"[]]",
    b"[" + b"1," * MAX_VALUES + b"1]",
    b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1),
    b"<html></html>",
    b'callback({"a":1})',
]


@pytest.mark.parametrize("body", MALFORMED, ids=lambda body: repr(body[:24]))
def test_invalid_json_is_refused(body: bytes) -> None:
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
    ],
)
def test_valid_json_is_accepted(body: bytes, value: Any) -> None:
    assert decode_json(body) == value


@pytest.mark.parametrize(
    "body",
    [b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH],
)
def test_nesting_is_accepted_up_to_the_limit(body: bytes) -> None:
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
def test_characters_that_postgresql_rejects_are_removed(body: bytes, value: Any) -> None:
    assert decode_json(body) == value


@pytest.mark.parametrize(
    ("body", "printed"),
    [
        (b"-0.0", "0.0"),
        (b"-0", "0"),
        (b"1.0", "1.0"),
        (b"1e17", "100000000000000000"),
        (b"1e-400", "0.0"),
        (b"8.80", "8.8"),
    ],
)
def test_numbers_have_the_form_that_a_column_returns(body: bytes, printed: str) -> None:
    assert json.dumps(decode_json(body)) == printed


texts = st.text(st.characters(exclude_categories=()))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(-1e18, 1e18) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
bodies = values.map(lambda value: json.dumps(value).encode())


@given(values)
def test_a_printed_value_is_decoded_and_cleaned(value: Any) -> None:
    assert decode_json(json.dumps(value).encode()) == clean(value)


@given(bodies | st.binary())
def test_a_decoded_value_can_be_printed_and_decoded_again(body: bytes) -> None:
    try:
        value = decode_json(body)
    except Undecodable:
        return

    printed = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()

    assert decode_json(printed) == value


@given(values)
def test_cleaning_twice_changes_nothing(value: Any) -> None:
    assert clean(clean(value)) == clean(value)


@pytest.mark.django_db
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(bodies)
def test_jsonb_returns_the_decoded_value(body: bytes) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL has jsonb")
    value = decode_json(body)

    with connection.cursor() as cursor:
        cursor.execute("SELECT %s::jsonb::text", [json.dumps(value)])
        (stored,) = cursor.fetchone()

    back = json.loads(stored)
    assert json.dumps(back, sort_keys=True) == json.dumps(value, sort_keys=True)


# Numbers


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("1e18", 10**18),
        ("-1e18", -(10**18)),
        ("9.2e18", 92 * 10**17),
    ],
)
def test_a_number_within_64_bits_stays(literal: str, value: int) -> None:
    assert decode_json(f'{{"a": {literal}}}'.encode()) == {"a": value}


@pytest.mark.parametrize(
    "literal",
    [
        "9223372036854775808",
        "-9223372036854775809",
        "9" * 19,
        "1" * 20,
        "-" + "1" * 20,
        "1" * 5000,
        "9223372036854775808.5",
        "1e19",
        "1.5e300",
        "-1.5e300",
        "1e999",
        "-1e999",
    ],
)
def test_a_number_beyond_64_bits_is_removed_and_the_rest_stays(literal: str) -> None:
    body = (
        f'{{"a": {literal}, "b": [{literal}, 1, {{"c": {literal}, "d": "{literal}"}}], "e": 1.5}}'
    )

    assert decode_json(body.encode()) == {"b": [1, {"d": literal}], "e": 1.5}


@pytest.mark.parametrize("rest", ["", ', "b": 3', ', "b": null', ', "b": true'])
def test_an_object_of_which_no_text_list_or_object_is_left_is_undecodable(rest: str) -> None:
    with pytest.raises(Undecodable):
        decode_json(f'{{"a": 1e30{rest}}}'.encode())


# Secrets

SECRET = "K3y/7f3a9c"


def escaped(text: str) -> str:
    """`text` with each character as a JSON escape sequence."""
    return "".join(f"\\u{ord(character):04X}" for character in text)


@pytest.mark.parametrize("decode", [decode_json, decode_lenient_json])
@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        escaped(SECRET),
        SECRET[:3] + escaped(SECRET[3]) + SECRET[4:],
        SECRET.replace("/", "\\/"),
        f"{SECRET[:5]}\\u0000{SECRET[5:]}",
        f"{SECRET[:5]}\\b{SECRET[5:]}",
        f"{SECRET[:5]}\x7f{SECRET[5:]}",
    ],
)
def test_a_secret_is_replaced_in_values_and_keys_in_any_form(decode: Any, form: str) -> None:
    body = f'{{"a": "url?key={form}&x", "{form}": [{{"b": ["{form}{form}"]}}], "c": 1}}'

    assert decode(body.encode(), [SECRET]) == {
        "a": "url?key=[redacted]&x",
        "[redacted]": [{"b": ["[redacted][redacted]"]}],
        "c": 1,
    }


def test_a_value_without_secrets_is_unchanged() -> None:
    body = b'{"a": "K3y", "b": "\\u0041", "c": ["\\"7f3a9c\\""]}'

    assert decode_json(body, [SECRET]) == {"a": "K3y", "b": "A", "c": ['"7f3a9c"']}


alphabet = st.sampled_from('aB1/"\\-')


@given(secret=st.text(alphabet, min_size=1), around=st.lists(st.text(alphabet), min_size=2))
def test_no_secret_survives_any_encoder(secret: str, around: list[str]) -> None:
    text = secret.join(around)
    body = json.dumps({text: [text]})

    for form in (body, body.replace("/", "\\/"), body.replace("a", "\\u0061")):
        decoded = decode_json(form.encode(), [secret])

        assert decoded == {text.replace(secret, "[redacted]"): [text.replace(secret, "[redacted]")]}


# Content codings


def raw_deflate(data: bytes, level: int = -1, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS, strategy=strategy)
    return packer.compress(data) + packer.flush()


def zlib_format(data: bytes, level: int = -1, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, zlib.MAX_WBITS, strategy=strategy)
    return packer.compress(data) + packer.flush()


def gzip_format(data: bytes, level: int = -1, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, 16 + zlib.MAX_WBITS, strategy=strategy)
    return packer.compress(data) + packer.flush()


def split(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """Yield `data` in pieces; equal cuts give empty pieces."""
    start = 0
    for cut in [*sorted(cuts), len(data)]:
        yield data[start:cut]
        start = max(start, cut)


contents = st.binary(max_size=300) | st.builds(
    operator.mul, st.binary(max_size=9), st.integers(0, 99)
)
levels = st.integers(0, 9)
strategies = st.sampled_from(
    [zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE]
)
cuts = st.lists(st.integers(0, 700), max_size=6)


@given(st.lists(contents, min_size=1, max_size=4), levels, strategies, cuts)
def test_gzip_with_any_number_of_members_is_decoded_at_any_split(
    members: list[bytes], level: int, strategy: int, cuts: list[int]
) -> None:
    stream = b"".join(gzip_format(member, level, strategy) for member in members)
    body = b"".join(members)

    assert read_body(split(stream, cuts), "gzip", len(body)) == body
    assert read_body(split(stream, cuts), "x-gzip", len(body)) == body


@given(st.sampled_from([zlib_format, raw_deflate]), contents, levels, strategies, cuts)
def test_deflate_is_decoded_with_and_without_zlib_header_at_any_split(
    pack: Any, body: bytes, level: int, strategy: int, cuts: list[int]
) -> None:
    stream = pack(body, level, strategy)

    assert read_body(split(stream, cuts), "deflate", len(body)) == body


CODINGS = [("gzip", gzip_format), ("deflate", zlib_format), ("deflate", raw_deflate)]


@given(st.sampled_from(CODINGS), contents, st.binary(min_size=1, max_size=30), cuts)
def test_bytes_after_the_compressed_data_are_refused_at_any_split(
    coding: tuple[str, Any], body: bytes, trailing: bytes, cuts: list[int]
) -> None:
    name, pack = coding

    with pytest.raises(Undecodable):
        read_body(split(pack(body) + trailing, cuts), name, 10_000)


@given(st.sampled_from(CODINGS), contents, st.integers(0, 700), cuts)
def test_incomplete_compressed_data_is_refused_at_any_split(
    coding: tuple[str, Any], body: bytes, length: int, cuts: list[int]
) -> None:
    name, pack = coding
    stream = pack(body)

    with pytest.raises(Undecodable):
        read_body(split(stream[: min(length, len(stream) - 1)], cuts), name, 10_000)


@given(st.lists(contents, min_size=1, max_size=4).filter(any), cuts)
def test_the_limit_applies_to_all_members_together(members: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(gzip_format, members))
    size = sum(map(len, members))

    with pytest.raises(TooLarge):
        read_body(split(stream, cuts), "gzip", size - 1)


@given(st.sampled_from(["", "identity"]), contents, cuts)
def test_a_body_without_coding_is_joined(coding: str, body: bytes, cuts: list[int]) -> None:
    assert read_body(split(body, cuts), coding, len(body)) == body
    if body:
        with pytest.raises(TooLarge):
            read_body(split(body, cuts), coding, len(body) - 1)


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "identity, gzip"])
def test_an_unknown_coding_is_refused(coding: str) -> None:
    with pytest.raises(Undecodable):
        read_body([b"{}"], coding, 100)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [b""],
        [b"plain text"],
        [gzip.compress(b"x" * 100)[:-8] + b"bad sum!"],
        [zlib.compress(b"x" * 100)[:-4] + b"sum!"],
    ],
)
def test_broken_compressed_data_is_refused(coding: str, chunks: list[bytes]) -> None:
    with pytest.raises(Undecodable):
        read_body(chunks, coding, 1000)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_bytes_after_the_compressed_data_are_not_collected(coding: str) -> None:
    pack = gzip.compress if coding == "gzip" else zlib.compress
    endless = itertools.chain([pack(b"{}")], itertools.repeat(b"x" * 65_536))

    with pytest.raises(Undecodable):
        read_body(endless, coding, 1000)


@pytest.mark.parametrize(
    ("coding", "chunks"),
    [
        ("gzip", itertools.repeat(gzip.compress(b""))),
        # An empty stored block that is not the last one.
        ("deflate", itertools.repeat(b"\x00\x00\x00\xff\xff")),
    ],
)
def test_endless_data_that_decodes_to_nothing_is_refused(
    coding: str, chunks: Iterator[bytes]
) -> None:
    with pytest.raises(TooLarge):
        read_body(chunks, coding, 1000)


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_small_compressed_chunk_cannot_become_a_large_body(coding: str, pack: Any) -> None:
    bomb = pack(b"x" * 50_000_000)
    tracemalloc.start()

    try:
        with pytest.raises(TooLarge):
            read_body([bomb], coding, 1_000_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 5_000_000
