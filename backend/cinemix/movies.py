"""Movies from OMDb: few calls, each counted, none of them twice at once."""

import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from cinemix.dtos import MovieDetails, MovieResult, MovieResults
from cinemix.quota import OmdbQuota
from core.deadline import Deadline, deadline_of
from core.errors import Overloaded, UpstreamBadAnswer, UpstreamQuotaExhausted
from core.services.bulkhead import Bulkhead, outcome_of
from core.services.omdb_service import OmdbService
from core.services.single_flight import SingleFlight
from core.utils.logging import film_id

logger = logging.getLogger(__name__)

T = TypeVar("T")


class MovieService:
    """Finds movies at OMDb, each request within `deadline_seconds`.

    `get_movie` and `cache_movie` are the cache of details, `peek_movie` looks into it without
    being counted. `cold_slots` bounds the requests of this process that wait for a source. Every
    method raises an `UpstreamError` where OMDb could not be asked or had nothing usable to say,
    `Overloaded` where too many requests wait already.
    """

    def __init__(
        self,
        *,
        omdb: OmdbService,
        bulkhead: Bulkhead,
        quota: OmdbQuota,
        cold_slots: threading.Semaphore,
        get_movie: Callable[[str], MovieDetails | None],
        peek_movie: Callable[[str], MovieDetails | None],
        cache_movie: Callable[[str, BaseModel], None],
        deadline_seconds: float,
    ) -> None:
        self._omdb = omdb
        self._bulkhead = bulkhead
        self._quota = quota
        self._cold_slots = cold_slots
        self._get_movie = get_movie
        self._peek_movie = peek_movie
        self._cache_movie = cache_movie
        self._deadline_seconds = deadline_seconds
        self._flights = SingleFlight(omdb.source, before_wait=quota.release_connection)

    def search(self, query: str, page: int) -> MovieResults:
        """Return up to ten titles that match; that none does is an empty list."""
        return self._wait_for(f"search {page} {query}", lambda: self._search(query, page))

    def details(self, imdb_id: str) -> MovieDetails:
        """Return the title, from the cache where it is there.

        Raises `UpstreamNotFound` where OMDb has no such title.
        """
        film_id.set(imdb_id)
        movie = self._get_movie(imdb_id)
        return movie or self._wait_for(f"id {imdb_id}", lambda: self._fetch(imdb_id))

    def _wait_for(self, key: str, work: Callable[[], T]) -> T:
        if not self._cold_slots.acquire(blocking=False):
            raise Overloaded("Too many requests wait for OMDb right now.", retry_after=1)
        try:
            with deadline_of(Deadline(self._deadline_seconds)):
                return self._flights.run(key, work)
        finally:
            self._cold_slots.release()

    def _search(self, query: str, page: int) -> MovieResults:
        rows, total = self._call(lambda count: self._omdb.search(query, page, before_attempt=count))
        found = [result for row in rows if (result := _result(row))]
        if rows and not found:
            raise UpstreamBadAnswer(self._omdb.source, "bad_shape")
        return MovieResults(search_results=found, total_results=total)

    def _fetch(self, imdb_id: str) -> MovieDetails:
        # Whoever missed it while somebody else was about to keep it finds it now.
        if movie := self._peek_movie(imdb_id):
            return movie
        answer = self._call(lambda count: self._omdb.get_title(imdb_id, before_attempt=count))
        try:
            fetched = MovieDetails.from_omdb(answer)
        except ValidationError as exc:
            raise UpstreamBadAnswer(self._omdb.source, "bad_shape") from exc
        if fetched.id == imdb_id:
            self._cache_movie(imdb_id, fetched)
        else:
            logger.warning("omdb answered with another id", extra={"outcome": "other_id"})
        return fetched

    def _call(self, ask: Callable[[Callable[[], None]], T]) -> T:
        """Return what `ask` returns in a thread of the bulkhead, every try counted.

        The thread only adds to a number; the database is this thread's business.
        """
        attempts: list[None] = []
        day = self._quota.spend()
        self._quota.release_connection()
        future = self._bulkhead.submit(lambda: ask(lambda: attempts.append(None)))
        try:
            result: T = outcome_of(future, self._omdb.source)
        except UpstreamQuotaExhausted as exc:
            self._quota.close(day)
            raise self._quota.used_up() from exc
        finally:
            # What is still under way may yet go out, so the call that was taken stays taken.
            if attempts or future.done():
                self._quota.add(day, len(attempts) - 1)
        return result


def _result(row: dict[str, Any]) -> MovieResult | None:
    try:
        return MovieResult.from_omdb(row)
    except ValidationError:
        # One odd row is no reason to hide the others.
        logger.warning("unreadable search result", extra={"outcome": "bad_shape"})
        return None
