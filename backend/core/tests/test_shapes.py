"""What `sanitize` removes from an answer of a source, and what counts as a web URL."""

import copy
import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.services.shapes import (
    Credits,
    IMDbMetadata,
    StreamingSource,
    Trailer,
    is_web_url,
    sanitize,
)

TITLE = {
    "id": "tt1",
    "primaryTitle": "A film",
    "startYear": 1999,
    "isAdult": False,
    "genres": ["Drama"],
    "rating": {"aggregateRating": 8, "voteCount": 5},
    "directors": [{"id": "nm1", "primaryImage": {"url": "https://i.example/1.jpg", "width": 9}}],
}
OFFER = {"source_id": 203, "name": "A service", "price": None, "web_url": "https://s.example/1"}


def title(value: Any) -> Any:
    return sanitize(copy.deepcopy(value), IMDbMetadata, source="imdbapi")


def trailer(value: Any) -> Any:
    return sanitize(copy.deepcopy(value), Trailer, source="kinocheck")


def offers(value: Any) -> Any:
    return sanitize(copy.deepcopy(value), list[StreamingSource], source="watchmode")


def test_a_valid_answer_stays_as_it_is_without_a_log_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sent = {"new": 1, **reversed_keys(TITLE), "rating": {"voteCount": 5, "aggregateRating": 8}}
    text = json.dumps(sent)

    assert sanitize(sent, IMDbMetadata, source="imdbapi") is sent
    assert json.dumps(sent) == text
    assert caplog.records == []


def reversed_keys(value: dict[str, Any]) -> dict[str, Any]:
    return dict(reversed(value.items()))


def test_an_invalid_answer_is_logged_once_with_the_names_of_the_fields(
    caplog: pytest.LogCaptureFixture,
) -> None:
    title({**TITLE, "rating": {"voteCount": "many"}, "startYear": "1999", "genres": [1, 2]})

    (line,) = caplog.records
    assert (line.levelno, line.source, line.outcome) == (logging.WARNING, "imdbapi", "bad_shape")
    assert line.fields == "startYear, genres.0, genres.1, rating.voteCount"


def test_the_log_line_of_an_answer_full_of_invalid_values_is_short(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert title({"genres": list(range(1000))}) == {"genres": []}

    (line,) = caplog.records
    assert len(line.fields) < 100


@pytest.mark.parametrize(
    ("sent", "left"),
    [
        (
            {"rating": {"aggregateRating": 8.1, "voteCount": "x"}},
            {"rating": {"aggregateRating": 8.1}},
        ),
        ({"rating": {"voteCount": True}}, {"rating": {}}),
        ({"rating": {"voteCount": 5.5}}, {"rating": {}}),
        ({"rating": {"voteCount": 5.0}}, {"rating": {}}),
        ({"rating": {"aggregateRating": True}}, {"rating": {}}),
        ({"rating": {"aggregateRating": "8"}}, {"rating": {}}),
        ({"rating": [8]}, {}),
        ({"rating": None}, {}),
        ({"startYear": None}, {}),
        ({"startYear": 2**31}, {}),
        ({"startYear": -(2**31) - 1}, {}),
        ({"startYear": 10**30}, {}),
        ({"isAdult": 1}, {}),
        ({"plot": 5}, {}),
        ({"genres": ["Drama", 5, None]}, {"genres": ["Drama"]}),
        ({"genres": [5, "Drama", None, "War"]}, {"genres": ["Drama", "War"]}),
        ({"genres": "Drama"}, {}),
        ({"directors": [{"id": "nm1"}, "x", {"id": 7}]}, {"directors": [{"id": "nm1"}, {}]}),
        (
            {"directors": [None, {"primaryImage": {"url": 5}}]},
            {"directors": [{"primaryImage": {}}]},
        ),
        ({"unknown": [{"x": None}]}, {"unknown": [{"x": None}]}),
        ({"rating": {"new": None}}, {"rating": {"new": None}}),
        ({"primaryTitle": 5}, {}),
        ({"id": None}, {}),
    ],
)
def test_only_invalid_values_are_removed(sent: dict[str, Any], left: dict[str, Any]) -> None:
    assert title(sent) == left


@pytest.mark.parametrize("year", [2**31 - 1, -(2**31)])
def test_a_number_that_fits_into_32_bits_stays(year: int) -> None:
    assert title({"startYear": year}) == {"startYear": year}


def test_an_integer_stays_an_integer_where_a_number_is_expected() -> None:
    left = title(TITLE)

    assert type(left["rating"]["aggregateRating"]) is int


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "//i.example/1.jpg", "", 5, None, "https://" + "x" * 2000]
)
def test_an_image_loses_an_invalid_url_wherever_it_is(url: Any) -> None:
    image = {"url": url, "width": 9}

    assert title({"primaryImage": image}) == {"primaryImage": {"width": 9}}
    assert sanitize(
        {"credits": [{"name": {"id": "nm1", "primaryImage": image}}]}, Credits, source="imdbapi"
    ) == {"credits": [{"name": {"id": "nm1", "primaryImage": {"width": 9}}}]}


def test_an_invalid_value_becomes_null_where_null_is_allowed() -> None:
    sent = {
        "youtube_video_id": "x",
        "title": 5,
        "thumbnail": "data:image/png;base64,",
        "url": None,
    }

    assert trailer(sent) == {
        "youtube_video_id": "x",
        "title": None,
        "thumbnail": None,
        "url": None,
    }


@pytest.mark.parametrize("views", [5, 2**62])
def test_a_count_of_views_may_need_64_bits(views: Any) -> None:
    assert trailer({"youtube_video_id": "x", "views": views})["views"] == views


@pytest.mark.parametrize("views", ["many", "5", "", -1.5, 5.0, True, None, [], 2**63])
def test_a_count_of_views_that_is_no_integer_is_left_out(views: Any) -> None:
    assert "views" not in trailer({"youtube_video_id": "x", "views": views})


def test_the_rows_of_a_bare_list_are_checked_too() -> None:
    assert offers([OFFER, {**OFFER, "price": "free"}, 5]) == [OFFER, OFFER]


@pytest.mark.parametrize(
    "link",
    ["nflx://www.example/title/1", "Deeplinks available for paid plans only.", "x" * 2000, None],
)
def test_a_link_may_have_a_scheme_of_its_own_or_be_a_sentence(link: str | None) -> None:
    offer = {**OFFER, "ios_url": link}

    assert offers([offer]) == [offer]


@pytest.mark.parametrize(
    "link",
    [
        "javascript:alert(1)",
        " \tJavaScript :alert(1)",
        "data:text/html,x",
        "VBScript:x",
        "java\tscript:x",
        "java\nscript:x",
        5,
        "x" * 2001,
    ],
)
def test_a_link_that_runs_code_is_null(link: Any) -> None:
    assert offers([{**OFFER, "ios_url": link}]) == [{**OFFER, "ios_url": None}]


def test_the_page_of_an_offer_is_a_web_url_or_null() -> None:
    rows = offers([{**OFFER, "web_url": "Deeplinks available for paid plans only."}])

    assert rows == [{**OFFER, "web_url": None}]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*TITLE, "url"]), inner),
    )
)
def test_sanitizing_twice_changes_nothing_more(value: Any) -> None:
    left = title({**TITLE, "directors": value, "primaryImage": value, "rating": value})

    assert title(left) == left


# Web URLs


@pytest.mark.parametrize(
    "url",
    [
        "https://s.example/1",
        "HTTPS://s.example/1",
        "http://s.example",
        "http://s.example:8080/a?b=c#d",
        "https://s.example?x=https://user@other.example",
        "https://[2001:db8::1]:443/x",
        "https://m.media-amazon.com/images/M/MV5BMjAx@@._V1_.jpg",
        "https://örnek.example/kış.jpg",
        "https://s.example/" + "x" * (2000 - len("https://s.example/")),
    ],
)
def test_a_web_url_is_accepted(url: str) -> None:
    assert is_web_url(url)


@pytest.mark.parametrize(
    "url",
    [
        None,
        5,
        b"https://s.example/",
        "",
        "s.example/1",
        "//s.example/1",
        "/1.jpg",
        "ftp://s.example/1",
        "javascript://s.example/%0aalert(1)",
        "https:s.example",
        "https:/s.example",
        "https://",
        "https:///1.jpg",
        "https://?x",
        "https://#x",
        "https://:443/",
        "https://user@s.example/",
        "https://user:secret@s.example/",
        "https://:secret@s.example/",
        "https://@s.example/",
        "https://s.example\\@other.example/",
        "https://s.example:port/",
        "https://s.example:123456/",
        "https://[::1",
        "https://[s.example]/",
        "https://s example/",
        " https://s.example/",
        "https://s.example/\n",
        "https://s.example/a b",
        "https://s.example/a\tb",
        "https://s.example/a\x00b",
        "https://s.example/a\x7fb",
        "https://s.example/a\x85b",
        "https://s.example/a\u00a0b",
        "https://s.example/a\u2028b",
        "https://s.example/a\u3000b",
        "https://s.example/" + "x" * (2001 - len("https://s.example/")),
    ],
)
def test_another_value_is_no_web_url(url: Any) -> None:
    assert not is_web_url(url)
