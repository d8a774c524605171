"""The film that a reader asks for, now, and as good as it can be had."""

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from core.deadline import Deadline, deadline_of, time_left
from core.errors import (
    DeadlineExceeded,
    Overloaded,
    UpstreamBadAnswer,
    UpstreamError,
    UpstreamNotFound,
    error_for_code,
)
from core.services.single_flight import SingleFlight
from core.utils.logging import film_id
from films.models import FilmFetch
from films.services.fetch_register import FetchRegister
from films.services.film_answer import FilmAnswer, FilmCopy, Origin
from films.services.film_cache import FilmCacheService, StoredFilm
from films.services.film_fetcher import FilmFetcher
from films.services.rendering import render
from films.services.sections import METADATA, as_stale
from films.services.upkeep import Upkeep

logger = logging.getLogger(__name__)

# How often to look whether another process is done with a film.
_POLL_SECONDS = 0.1
# By how much the clocks of two machines may differ.
_CLOCK_SKEW = timedelta(seconds=10)


class FilmAggregatorService:
    """Gives the payload of a film: from the cache or, on a miss, from all sources at once.

    One fetch a film at a time, in all processes that share the database: whoever asks meanwhile
    waits for it, `deadline_seconds` at most. `cold_slots` bounds the requests of this process that
    fetch or wait.
    """

    def __init__(
        self,
        *,
        cache: FilmCacheService,
        register: FetchRegister,
        fetcher: FilmFetcher,
        upkeep: Upkeep,
        cold_slots: threading.Semaphore,
        deadline_seconds: float,
        now: Callable[[], datetime] = timezone.now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._cache = cache
        self._register = register
        self._fetcher = fetcher
        self._upkeep = upkeep
        self._cold_slots = cold_slots
        self._deadline_seconds = deadline_seconds
        self._now = now
        self._sleep = sleep
        self._flights = SingleFlight(METADATA.source, before_wait=cache.release_connection)

    def fetch_and_cache(self, imdb_id: str) -> dict[str, Any]:
        """Return the twelve-key payload of the film, fetched and stored where it is not fresh.

        Sections that could not be fetched are named in `warnings`. Raises `UpstreamNotFound` where
        IMDb knows no such title, `Overloaded` where too many films are being fetched already, and
        another `UpstreamError` where a source could not tell and nothing is stored.
        """
        return self.answer(imdb_id).payload

    def answer(
        self,
        imdb_id: str,
        *,
        gzipped: bool = False,
        before_fetch: Callable[[], None] = lambda: None,
    ) -> FilmAnswer:
        """Do as `fetch_and_cache`, and return the payload as bytes, plain or `gzipped`.

        On a miss, `before_fetch` may refuse by raising `Overloaded`.
        """
        hit = self.hit(imdb_id, gzipped=gzipped)
        if hit:
            return hit
        copy = self._miss(imdb_id, before_fetch)
        return copy.answer(gzipped=gzipped, now=self._now(), ttl=self._cache.ttl)

    def hit(self, imdb_id: str, *, gzipped: bool = False) -> FilmAnswer | None:
        """Return the answer for a film that is stored and fresh, else None; asks no source."""
        film_id.set(imdb_id)
        hit = self._cache.hit(imdb_id, gzipped=gzipped)
        if hit is None:
            return None
        self._upkeep.consider(imdb_id, age=hit.age, needs_repair=hit.needs_repair)
        return hit.answer

    def _miss(self, imdb_id: str, before_fetch: Callable[[], None]) -> FilmCopy:
        looked_at = self._now()
        stored = self._cache.load(imdb_id)
        if stored and stored.is_fresh and (copy := self._cache.fresh_copy(imdb_id)):
            # Somebody stored it since we found nothing.
            return copy
        entry = self._register.entry(imdb_id)
        self._raise_if_missing(entry, stored)
        if stored is None:
            self._raise_if_unusable(entry)
        if stored and entry.retry_at and entry.retry_at > self._now():
            return _stale(stored)
        try:
            before_fetch()
            return self._fetch_once(imdb_id, stored, looked_at)
        except UpstreamNotFound:
            raise
        except (UpstreamError, Overloaded, DatabaseError, InterfaceError) as exc:
            if stored is None:
                raise
            logger.warning("an expired film is shown", extra={"outcome": type(exc).__name__})
            return _stale(stored)

    def _fetch_once(self, imdb_id: str, stored: StoredFilm | None, looked_at: datetime) -> FilmCopy:
        """Fetch the film in this thread or wait for the one that does."""
        if not self._cold_slots.acquire(blocking=False):
            raise Overloaded("Too many films are being fetched right now.", retry_after=1)
        try:
            with deadline_of(Deadline(self._deadline_seconds)):
                return self._flights.run(imdb_id, partial(self._lead, imdb_id, stored, looked_at))
        finally:
            self._cold_slots.release()

    def _lead(self, imdb_id: str, stored: StoredFilm | None, looked_at: datetime) -> FilmCopy:
        """Fetch for all who wait in this process, or wait for the process that does already."""
        while (lease := self._register.acquire(imdb_id)) is None:
            self._cache.release_connection()
            if time_left(1) <= 0:
                raise DeadlineExceeded(METADATA.source, "deadline")
            self._sleep(time_left(_POLL_SECONDS))
            if copy := self._cache.fresh_copy(imdb_id):
                return copy
            stored = self._cache.load(imdb_id)
            entry = self._register.entry(imdb_id)
            self._raise_if_missing(entry, stored)
            if entry.failure and entry.ended_at and entry.ended_at >= looked_at:
                raise error_for_code(entry.failure)(METADATA.source, "another process failed")
        ended_at = lease.entry.ended_at
        if ended_at and ended_at >= looked_at - _CLOCK_SKEW:
            # Somebody may have stored it between our look and our lease.
            if copy := self._cache.fresh_copy(imdb_id):
                self._register.finish(lease)
                return copy
            stored = self._cache.load(imdb_id)
        fetched = self._fetcher.fetch(lease, stored)
        if fetched.is_cut_off:
            self._upkeep.complete(imdb_id)
        came = Origin.FETCHED if fetched.is_stored else Origin.UNSTORED
        origin = came if fetched.is_fresh else Origin.STALE
        return FilmCopy(fetched.rendering, fetched.cached_at, origin)

    def _raise_if_unusable(self, entry: FilmFetch) -> None:
        """Ask nobody again so soon for a film of which IMDb told nonsense: nothing closes there."""
        is_recent = entry.retry_at is not None and entry.retry_at > self._now()
        if is_recent and entry.failure == UpstreamBadAnswer.code:
            raise UpstreamBadAnswer(METADATA.source, "remembered")

    def _raise_if_missing(self, entry: FilmFetch, stored: StoredFilm | None) -> None:
        if self._fetcher.is_missing(entry, stored):
            raise UpstreamNotFound(METADATA.source, "remembered")


def _stale(stored: StoredFilm) -> FilmCopy:
    return FilmCopy(render(as_stale(stored.payload)), stored.cached_at, Origin.STALE)
