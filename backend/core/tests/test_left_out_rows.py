"""A missing list is empty only in an answer that has no other fields."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from core.errors import UpstreamBadAnswer
from core.services.imdb_service import IMDbService
from core.services.watchmode_service import WatchmodeService
from core.tests.support import Answers, client_of

FILM = "tt1375666"


def asks(answer: Any) -> list[Callable[[], Any]]:
    """Return calls that read lists, from sources that always send `answer`."""
    http = client_of(Answers(httpx.Response(200, json=answer)))
    imdb = IMDbService(http=http, base_url="https://imdb.test")
    watchmode = WatchmodeService(
        http=http, base_url="https://watchmode.test", api_key="key", regions=["TR"]
    )
    return [
        lambda: imdb.search("x"),
        lambda: imdb.get_credits(FILM),
        lambda: imdb.get_images(FILM),
        lambda: imdb.get_parents_guide(FILM),
        lambda: watchmode.lookup_title_id(FILM),
    ]


def test_an_empty_answer_is_an_empty_list() -> None:
    search, *sections, lookup = asks({})

    assert search() == []
    assert [section() for section in sections] == [{}, {}, {}]
    assert lookup() is None


def test_counts_and_tokens_may_be_present_without_the_list() -> None:
    assert asks({"totalCount": 0, "nextPageToken": ""})[1]()["totalCount"] == 0
    assert asks({"people_results": []})[4]() is None


@pytest.mark.parametrize(
    "answer", [{"id": "tt9", "primaryTitle": "Another"}, {"error": "x"}, {"message": "Failed"}]
)
def test_the_answer_of_another_call_is_unusable(answer: Any) -> None:
    for ask in asks(answer):
        with pytest.raises(UpstreamBadAnswer):
            ask()
