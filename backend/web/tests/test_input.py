"""IMDb ids and search texts."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidInput
from core.imdb_id import canonical_imdb_id, parse_imdb_id
from web import search_text
from web.openapi import SEARCH_TEXT
from web.search_text import parse_search_text

ANY_TEXT = st.text(st.characters(exclude_categories=()))
# One of each kind: zero width, byte order mark, bidi mark, bidi isolate, soft hyphen, fillers,
# combining grapheme joiner, variation selector, tag, blanks, line separator.
INVISIBLE = (
    "\u200b\ufeff\u200e\u2066\u00ad\u115f\u1160\u3164\uffa0\u034f\ufe0f\U000e0020\u2800\u180e"
    "\u17b4\u2064\ufff9 \u00a0\u3000\u2028"
)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("tt1375666", "tt1375666"),
        ("tt" + "9" * 18, "tt" + "9" * 18),
        ("tt1", "tt0000001"),
        ("tt137", "tt0000137"),
        ("tt0", "tt0000000"),
        ("tt000000000000000000", "tt0000000"),
        ("tt38674", "tt0038674"),
        ("tt0038674", "tt0038674"),
        ("tt00038674", "tt0038674"),
        ("tt00111161", "tt0111161"),
        ("tt000000000000111161", "tt0111161"),
        ("tt12345678", "tt12345678"),
        ("tt0012345678", "tt12345678"),
        ("tt10", "tt0000010"),
    ],
)
def test_an_imdb_id_is_returned_in_canonical_form(text: str, canonical: str) -> None:
    assert parse_imdb_id(text) == canonical
    assert canonical_imdb_id(text) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tt",
        "1375666",
        "nm0000158",
        "tt12x",
        "ttt1",
        "tt-1",
        "tt1.0",
        "tt" + "9" * 19,
        "tt" + "9" * 10_000,
        "tt\uff11\uff12\uff13",
        "tt\u0661\u0662",
        "tt\u00b2",
        "tt0111161\n",
        "\ntt0111161",
        "tt0111161\x00",
        "TT0111161",
        "Tt0111161",
        " tt0111161",
        "tt0111161 ",
        "tt1/../tt2",
        "tt1%0A",
        "tt1?x",
    ],
)
def test_anything_else_is_no_imdb_id(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_imdb_id(text)
    assert canonical_imdb_id(text) is None


@pytest.mark.parametrize("value", [None, 1375666, True, b"tt1375666", ["tt1375666"]])
def test_a_value_that_is_no_text_is_no_imdb_id(value: object) -> None:
    assert canonical_imdb_id(value) is None


@given(number=st.integers(0, 10**17), zeros=st.integers(0, 17))
def test_all_spellings_of_an_id_have_one_canonical_form(number: int, zeros: int) -> None:
    text = f"tt{'0' * zeros}{number}"[:20]
    expected = f"tt{int(text[2:]):07}"

    assert parse_imdb_id(text) == expected
    assert parse_imdb_id(expected) == expected


@given(ANY_TEXT)
def test_no_text_makes_the_parser_of_ids_fail(text: str) -> None:
    try:
        parsed = parse_imdb_id(text)
    except InvalidInput:
        return

    assert int(parsed[2:]) == int(text[2:])
    assert re.fullmatch("tt[0-9]{7,18}", parsed, re.ASCII)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("inception", "inception"),
        ("  two words  ", "two words"),
        ("two  words", "two  words"),
        ("\u3000wide blanks\u00a0", "wide blanks"),
        ("e\u0301t\u00e9", "\u00e9t\u00e9"),
        ("K\u0131\u015f Uykusu", "K\u0131\u015f Uykusu"),
        ("\u05e9\u05dc\u05d5\u05dd", "\u05e9\u05dc\u05d5\u05dd"),
        ("\U0001f3ac", "\U0001f3ac"),
        ("\U0001fae9", "\U0001fae9"),
        ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),
        ("' OR 1=1--", "' OR 1=1--"),
        ("%s%n{0}${jndi:ldap://x}", "%s%n{0}${jndi:ldap://x}"),
        ("<script>", "<script>"),
        ("?", "?"),
        ("\u0600", "\u0600"),
        ("x" * 200, "x" * 200),
        (" " * 300 + "x" * 200 + "\u200b" * 300, "x" * 200),
        ("e\u0301" * 200, "\u00e9" * 200),
    ],
)
def test_a_search_text_is_returned_in_nfc_without_blanks_around_it(
    text: str, expected: str
) -> None:
    assert parse_search_text(text, "q") == expected


@pytest.mark.parametrize("character", INVISIBLE, ids=ascii)
def test_an_invisible_character_is_removed_around_a_text_and_is_blank_alone(
    character: str,
) -> None:
    assert parse_search_text(f"{character * 3}a b{character}", "q") == "a b"
    assert parse_search_text(f"a{character}b", "q") == f"a{character}b"
    with pytest.raises(InvalidInput, match="blank"):
        parse_search_text(character * 3, "q")


def test_the_invisible_characters_are_those_of_the_unicode_database_and_five_more() -> None:
    # "Total code points: 4174" of Default_Ignorable_Code_Point in DerivedCoreProperties.txt.
    assert sum(last - first + 1 for first, last in search_text.INVISIBLE) == 4174 + 5


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        " ",
        "\u00a0\u3000",
        "\u200b",
        INVISIBLE,
        "\u2028",
        "a\x00b",
        "a\nb",
        "a\tb",
        "a\n",
        "\ta",
        "a\x1b[31m",
        "a\x7f",
        "a\x85",
        "a\ud83d",
        "x" * 201,
        "\u0958" * 101,
        "x" * 4000,
    ],
)
def test_a_text_that_cannot_be_searched_for_is_refused_with_the_name_of_its_parameter(
    text: str | None,
) -> None:
    with pytest.raises(InvalidInput, match="'query'"):
        parse_search_text(text, "query")


@given(ANY_TEXT)
def test_what_is_searched_for_can_be_sent_and_is_stable(text: str) -> None:
    try:
        parsed = parse_search_text(text, "q")
    except InvalidInput:
        return

    assert 1 <= len(parsed) <= 200
    assert parsed.encode()
    assert "\x00" not in parsed
    assert unicodedata.is_normalized("NFC", parsed)
    assert parse_search_text(f"\u200b {parsed}\ufeff", "q") == parsed


@pytest.mark.parametrize("character", INVISIBLE, ids=ascii)
def test_the_document_allows_no_text_of_invisible_characters_alone(character: str) -> None:
    if ord(character) < 0x10000:
        assert not re.search(SEARCH_TEXT["pattern"], character * 3)
    assert re.search(SEARCH_TEXT["pattern"], f"{character}a{character}")


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0)])
def test_the_document_allows_no_control_character_either(code: int) -> None:
    assert not re.search(SEARCH_TEXT["pattern"], f"a{chr(code)}b")
    assert not re.search(SEARCH_TEXT["pattern"], f"{chr(code)}b")
