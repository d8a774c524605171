"""What is left of an answer that is not quite as its source promised."""

import logging
from typing import Any

import pytest

from core.services.conformity import conforming
from core.source_shapes import (
    CreditsSerializer,
    IMDbMetadataSerializer,
    StreamingSourceSerializer,
    TrailerSerializer,
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
    return conforming(value, IMDbMetadataSerializer, source="imdbapi")


def offers(value: Any) -> Any:
    return conforming(value, StreamingSourceSerializer, source="watchmode")


def test_what_conforms_is_returned_as_it_is_and_nobody_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert title(TITLE) is TITLE
    assert caplog.records == []


def test_what_does_not_conform_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    title({**TITLE, "rating": {"voteCount": "many"}, "startYear": "1999"})

    (line,) = caplog.records
    assert (line.levelno, line.source, line.outcome) == (logging.WARNING, "imdbapi", "bad_shape")


@pytest.mark.parametrize(
    ("sent", "left"),
    [
        (
            {"rating": {"aggregateRating": 8.1, "voteCount": "x"}},
            {"rating": {"aggregateRating": 8.1}},
        ),
        ({"rating": {"voteCount": True}}, {"rating": {}}),
        ({"rating": {"voteCount": 5.5}}, {"rating": {}}),
        ({"rating": [8]}, {}),
        ({"rating": None}, {}),
        ({"startYear": None}, {}),
        ({"startYear": 10**30}, {}),
        ({"genres": ["Drama", 5, None]}, {"genres": ["Drama"]}),
        ({"genres": "Drama"}, {}),
        ({"directors": [{"id": "nm1"}, "x", {"id": 7}]}, {"directors": [{"id": "nm1"}, {}]}),
        ({"nobodyKnows": [{"x": None}]}, {"nobodyKnows": [{"x": None}]}),
        ({"rating": {"new": None}}, {"rating": {"new": None}}),
    ],
)
def test_only_what_is_unfit_is_left_out(sent: dict[str, Any], left: dict[str, Any]) -> None:
    assert title(sent) == left


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "//i.example/1.jpg", "", 5, None, "https://" + "x" * 2000]
)
def test_an_address_that_is_none_is_left_out_wherever_it_is(url: Any) -> None:
    image = {"url": url, "width": 9}

    assert title({"primaryImage": image}) == {"primaryImage": {"width": 9}}
    assert conforming(
        {"credits": [{"name": {"id": "nm1", "primaryImage": image}}]},
        CreditsSerializer,
        source="imdbapi",
    ) == {"credits": [{"name": {"id": "nm1", "primaryImage": {"width": 9}}}]}


def test_what_may_be_null_becomes_null() -> None:
    trailer = {
        "youtube_video_id": "x",
        "title": 5,
        "thumbnail": "data:image/png;base64,",
        "url": None,
    }

    assert conforming(trailer, TrailerSerializer, source="kinocheck") == {
        "youtube_video_id": "x",
        "title": None,
        "thumbnail": None,
        "url": None,
    }


@pytest.mark.parametrize("views", [5, "1391790", None])
def test_a_count_comes_in_two_types(views: Any) -> None:
    trailer = {"youtube_video_id": "x", "views": views}

    assert conforming(trailer, TrailerSerializer, source="kinocheck") is trailer


@pytest.mark.parametrize("views", ["many", "", -1.5, True, [], "1" * 40])
def test_what_is_no_count_is_null(views: Any) -> None:
    trailer = {"youtube_video_id": "x", "views": views}

    assert conforming(trailer, TrailerSerializer, source="kinocheck")["views"] is None


def test_rows_of_a_bare_list_are_looked_at_too() -> None:
    assert offers([OFFER, {**OFFER, "price": "free"}]) == [OFFER, OFFER]


@pytest.mark.parametrize(
    "link", ["nflx://www.example/title/1", "Deeplinks available for paid plans only.", None]
)
def test_a_link_may_have_a_scheme_of_its_own_or_be_words(link: str | None) -> None:
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
def test_a_link_that_runs_in_the_page_is_null(link: Any) -> None:
    assert offers([{**OFFER, "ios_url": link}]) == [{**OFFER, "ios_url": None}]


def test_a_page_of_an_offer_is_an_address_or_null() -> None:
    rows = offers([{**OFFER, "web_url": "Deeplinks available for paid plans only."}])

    assert rows == [{**OFFER, "web_url": None}]


def test_a_scheme_may_be_in_capitals() -> None:
    offer = {**OFFER, "web_url": "HTTPS://s.example/1"}

    assert offers([offer]) == [offer]
