"""Fakes with the public methods of the real classes."""

import threading
from collections.abc import Sequence
from typing import Any

from django.core.cache import caches

from cinemix.daily_share import DailyShare
from cinemix.dtos import MovieResults
from cinemix.known_answers import KnownAnswers
from cinemix.movie_cache import CachedMovie, MovieCache
from cinemix.movies import MovieService
from cinemix.rate_limiter import Decision
from core.services.source import Source

SHAWSHANK = "tt0111161"
ANSWER = {
    "Title": "The Shawshank Redemption",
    "Year": "1994",
    "imdbID": SHAWSHANK,
    "Type": "movie",
    "Poster": "https://img.test/shawshank.jpg",
    "imdbRating": "9.3",
    "Response": "True",
}


class FakeOmdb:
    """Returns or raises `answer`, and records the requests."""

    source = "omdb"

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[Any] = []

    def get_title(self, imdb_id):
        return self._answer(imdb_id)

    def search(self, text, page=1):
        return self._answer((text, page))

    def _answer(self, asked):
        self.asked.append(asked)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer() if callable(self.answer) else self.answer


class FakeMovies:
    """Returns or raises `answer` and records the requests."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.asked: list[Any] = []
        self.clients: list[str] = []

    def search(self, query: str, page: int, *, client: str) -> MovieResults:
        return self._answer((query, page), client)

    def details(self, imdb_id: str, *, client: str) -> CachedMovie:
        return self._answer(imdb_id, client)

    def _answer(self, asked: Any, client: str) -> Any:
        self.asked.append(asked)
        self.clients.append(client)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class FakeLimiter:
    """Returns `decision` and records the clients."""

    limit = 10

    def __init__(self) -> None:
        self.decision, self.clients = Decision(admitted=True), []

    def allow_request(self, client: str = "global") -> bool:
        return self.check(client).admitted

    def check(self, client: str = "global", *, names: Sequence[str] = ()) -> Decision:
        self.clients.append(client)
        return self.decision


def make_movies(
    omdb: Any, *, source: Any = None, share: Any = None, seconds: float = 5.0, slots: int = 8
) -> MovieService:
    """The real service with fakes around it. By default nothing limits the calls."""
    return MovieService(
        omdb=omdb,
        source=source or Source("omdb", concurrency=4),
        cache=MovieCache(caches["movies"]),
        answers=KnownAnswers(caches["default"]),
        share=share or DailyShare(calls_left=lambda: None),
        miss_slots=threading.Semaphore(slots),
        deadline_seconds=seconds,
    )
