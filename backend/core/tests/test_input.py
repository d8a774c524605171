import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidInput
from core.imdb_id import parse_imdb_id
from core.openapi import SEARCH_TEXT
from core.search_text import parse_search_text


@pytest.mark.parametrize("text", ["tt1", "tt1375666", "tt00111161", "tt" + "9" * 18])
def test_an_imdb_id_is_returned_as_it_is(text: str) -> None:
    assert parse_imdb_id(text) == text


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


@given(st.text(st.characters(exclude_categories=())))
def test_no_text_makes_the_parser_of_ids_fail(text: str) -> None:
    try:
        parsed = parse_imdb_id(text)
    except InvalidInput:
        return

    assert parsed == text
    assert parsed.isascii()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("inception", "inception"),
        ("  two words  ", "two words"),
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
        ("x" * 200, "x" * 200),
    ],
)
def test_a_search_text_is_returned_without_blanks_around_it(text: str, expected: str) -> None:
    assert parse_search_text(text, "q") == expected


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        " ",
        "\u00a0\u3000",
        "\u200b",
        "\u200b \ufeff\u2060\u200e",
        "\u2028",
        "a\x00b",
        "a\nb",
        "a\tb",
        "a\x1b[31m",
        "a\x7f",
        "a\x85",
        "a\ud83d",
        "x" * 201,
        "x" * 4000,
    ],
)
def test_what_cannot_be_searched_for_is_refused_by_the_name_of_its_parameter(
    text: str | None,
) -> None:
    with pytest.raises(InvalidInput, match="'query'"):
        parse_search_text(text, "query")


@given(st.text(st.characters(exclude_categories=())))
def test_what_is_searched_for_can_be_sent(text: str) -> None:
    try:
        parsed = parse_search_text(text, "q")
    except InvalidInput:
        return

    assert parsed
    assert parsed.encode()
    assert "\x00" not in parsed


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0)])
def test_the_document_allows_no_control_character_either(code: int) -> None:
    assert not re.search(SEARCH_TEXT["pattern"], f"a{chr(code)}b")
    assert not re.search(SEARCH_TEXT["pattern"], f"{chr(code)}b")
