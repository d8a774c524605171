"""Movies from OMDb: cached, and fetched with as few calls as possible."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from pydantic import ValidationError

from cinemix.daily_share import DailyShare
from cinemix.dtos import MovieDetails, MovieResult, MovieResults, is_untitled
from cinemix.known_answers import KnownAnswers, search_question
from cinemix.movie_cache import CachedMovie, MovieCache
from core.cache_outcome import note_outcome
from core.db import release_connection
from core.deadline import Deadline, deadline_of
from core.errors import ServiceError, UpstreamBadAnswer, UpstreamNotFound
from core.services.omdb_service import OmdbService
from core.services.single_flight import SingleFlight
from core.services.slots import occupied
from core.services.source import Source, outcome_of
from core.services.usage import Avoided, tally
from core.utils.logging import film_id

logger = logging.getLogger(__name__)

T = TypeVar("T")


class MovieService:
    """Finds movies in the caches or at OMDb, within `deadline_seconds` per request.

    The caches are used by all threads at once.

    `client` is the address that asks, for its share of the day's calls. `miss_slots` limits the
    requests of this process that wait for OMDb.

    All methods raise `UpstreamError` if OMDb fails, `InvalidInput` if it rejects the input, and
    `Overloaded` if too many requests wait or the client has used up its share.
    """

    def __init__(
        self,
        *,
        omdb: OmdbService,
        source: Source,
        cache: MovieCache,
        answers: KnownAnswers,
        share: DailyShare,
        miss_slots: threading.Semaphore,
        deadline_seconds: float,
    ) -> None:
        self._omdb = omdb
        self._source = source
        self._cache = cache
        self._answers = answers
        self._share = share
        self._miss_slots = miss_slots
        self._deadline_seconds = deadline_seconds
        self._flights = SingleFlight(omdb.source, before_wait=release_connection)

    def details(self, imdb_id: str, *, client: str) -> CachedMovie:
        """Return the movie with this canonical id, and how long it stays cached.

        Raises `UpstreamNotFound` if OMDb has no such title.
        """
        film_id.set(imdb_id)
        if cached := self._cache.look_up(imdb_id):
            note_outcome("memory")
            return cached
        question = f"title {imdb_id}"
        with self._waiting(question, client):
            fetched = self._once(
                question,
                find=partial(self._cache.find, imdb_id),
                fetch=partial(self._fetch_movie, imdb_id, client),
            )
        note_outcome("miss")
        return fetched

    def search(self, query: str, page: int, *, client: str) -> MovieResults:
        """Return a page of up to ten matching titles, and the number of matches on all pages."""
        question = search_question(query, page)
        if found := self._answers.find_results(question):
            self._count_hit()
            note_outcome("memory")
            return found
        with self._waiting(question, client):
            fetched = self._search_once(query, page, client)
        note_outcome("miss")
        return fetched

    @contextmanager
    def _waiting(self, question: str, client: str) -> Iterator[None]:
        """Occupy a miss slot, under the deadline of the request.

        Raises the error that is known for `question`, or `Overloaded`.
        """
        self._raise_known_error(question)
        self._share.check(client)
        with (
            occupied(self._miss_slots, "Too many requests are waiting for OMDb."),
            deadline_of(Deadline(self._deadline_seconds)),
        ):
            yield

    def _once(self, question: str, *, find: Callable[[], T | None], fetch: Callable[[], T]) -> T:
        """Return what `find` or `fetch` returns, called once for simultaneous equal questions."""

        def answer() -> T:
            # The previous call may have ended between the caller's look-up and this one.
            self._raise_known_error(question)
            if known := find():
                self._count_hit()
                return known
            try:
                return fetch()
            except ServiceError as exc:
                self._answers.keep_error(question, exc)
                raise

        return self._flights.run(question, answer)

    def _fetch_movie(self, imdb_id: str, client: str) -> CachedMovie:
        answer = self._call(client, partial(self._omdb.get_title, imdb_id))
        if is_untitled(answer):
            raise UpstreamNotFound(self._omdb.source, "untitled")
        try:
            movie = MovieDetails.from_omdb(answer)
        except ValidationError as exc:
            raise UpstreamBadAnswer(self._omdb.source, "bad_shape") from exc
        if movie.id != imdb_id:
            logger.warning("omdb answered with another id", extra={"outcome": "other_id"})
            raise UpstreamBadAnswer(self._omdb.source, "other_id")
        self._cache.store(imdb_id, movie)
        return CachedMovie(movie, self._cache.lifetime)

    def _search_once(self, query: str, page: int, client: str) -> MovieResults:
        question = search_question(query, page)
        return self._once(
            question,
            find=partial(self._answers.find_results, question),
            fetch=partial(self._fetch_page, query, page, client),
        )

    def _fetch_page(self, query: str, page: int, client: str) -> MovieResults:
        rows, total = self._call(client, partial(self._omdb.search, query, page))
        titled = [row for row in rows if not is_untitled(row)]
        found = _readable(titled)
        if titled and not found:
            raise UpstreamBadAnswer(self._omdb.source, "bad_shape")
        if total is None:
            total = self._total(query, page, client)
        else:
            self._answers.keep_total(query, total)
        results = MovieResults(search_results=found, total_results=total)
        self._answers.keep_results(search_question(query, page), results)
        return results

    def _total(self, query: str, page: int, client: str) -> str:
        """Return the number of matches of a page for which OMDb reports none."""
        if page == 1:
            return "0"
        # The page is past the end, where OMDb leaves out the total.
        if known := self._answers.find_total(query):
            self._count_hit()
            return known
        return self._search_once(query, 1, client).total_results

    def _raise_known_error(self, question: str) -> None:
        if error := self._answers.find_error(question):
            tally.avoided(Avoided.NEGATIVE_CACHE, [self._omdb.source])
            raise error

    def _count_hit(self) -> None:
        """Count the call that was not made because its result was kept."""
        tally.cache_hit((self._omdb.source,))

    def _call(self, client: str, call: Callable[[], T]) -> T:
        """Make a call in a thread of the source, and count it for the client."""
        started = threading.Event()

        def make_call() -> T:
            started.set()
            return call()

        self._share.count(client, 1)
        release_connection()
        try:
            return outcome_of(self._source.submit(make_call), self._source.name)
        finally:
            if not started.is_set():
                self._share.count(client, -1)


def _readable(rows: Iterable[Mapping[str, Any]]) -> list[MovieResult]:
    """Return the rows that can be read, the first of each id."""
    found: dict[str, MovieResult] = {}
    for row in rows:
        try:
            result = MovieResult.from_omdb(row)
        except ValidationError:
            logger.warning("unreadable search result", extra={"outcome": "bad_shape"})
        else:
            found.setdefault(result.id, result)
    return list(found.values())
