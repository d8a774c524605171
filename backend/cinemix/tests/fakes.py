"""Stand-ins with the public methods of the real ones."""

import threading
from datetime import datetime, timezone
from typing import Any

from cinemix.dtos import MovieDetails, MovieResults
from cinemix.movies import MovieService
from cinemix.rate_limiter import Verdict
from core.services.bulkhead import Bulkhead

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
    """Answers with `answer`, an error or a value, and remembers what it was asked."""

    source = "omdb"

    def __init__(self, answer: Any, tries: int = 1) -> None:
        self.answer, self.tries = answer, tries
        self.asked: list[Any] = []

    def get_title(self, imdb_id, *, before_attempt=None):
        return self._answer(imdb_id, before_attempt)

    def search(self, text, page=1, *, before_attempt=None):
        return self._answer((text, page), before_attempt)

    def _answer(self, asked, before_attempt):
        self.asked.append(asked)
        for _ in range(self.tries):
            before_attempt()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer() if callable(self.answer) else self.answer


class FakeQuota:
    """As many calls as are wanted, each written down."""

    def __init__(self) -> None:
        self.spent, self.closed, self.released = 0, [], 0
        self.error: Exception | None = None

    def spend(self):
        if self.error:
            raise self.error
        self.spent += 1
        return datetime(2026, 5, 1, tzinfo=timezone.utc).date()

    def add(self, day, calls):
        self.spent += calls

    def close(self, day):
        self.closed.append(day)

    def used_up(self):
        return self.error

    def release_connection(self):
        self.released += 1


class FakeMovies:
    """Answers every question with `answer`, an error or a value."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.asked: list[Any] = []

    def search(self, query: str, page: int) -> MovieResults:
        return self._answer((query, page))

    def details(self, imdb_id: str) -> MovieDetails:
        return self._answer(imdb_id)

    def _answer(self, asked: Any) -> Any:
        self.asked.append(asked)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class FakeLimiter:
    limit = 10

    def __init__(self) -> None:
        self.verdict, self.clients = Verdict(admitted=True), []

    def allow_request(self, client: str = "global") -> bool:
        return self.check(client).admitted

    def check(self, client: str = "global") -> Verdict:
        self.clients.append(client)
        return self.verdict


def make_movies(
    omdb: FakeOmdb, *, quota: Any = None, kept: Any = None, seconds: float = 5.0, slots: int = 8
):
    """The real service on fakes; `kept` is the dictionary that plays the cache."""
    kept = {} if kept is None else kept
    return MovieService(
        omdb=omdb,
        bulkhead=Bulkhead("omdb", concurrency=4),
        quota=quota or FakeQuota(),
        cold_slots=threading.Semaphore(slots),
        get_movie=kept.get,
        peek_movie=kept.get,
        cache_movie=kept.__setitem__,
        deadline_seconds=seconds,
    )
