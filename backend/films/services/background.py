"""Fetches that no reader waits for: repair, refresh ahead of expiry, and what readers left."""

import logging
import queue
import threading
import time
import zlib
from collections.abc import Callable, Collection
from datetime import datetime

from cachetools import LRUCache
from django.utils import timezone

from core import metrics
from core.db import DATABASE_FAULTS, release_connection
from core.errors import ServiceError
from core.services.source import Priority
from core.utils.logging import film_id
from films.payload import FilmPayload
from films.services.film_cache import FilmCacheService
from films.services.leases import FetchLeases
from films.services.refresh import Fetch, FilmRefresher

logger = logging.getLogger(__name__)

# Films are refreshed ahead in this last part of their time to live, each at a point of its own.
_LAST_PART = 0.2
# How many reads within that part make a film count as in use.
_READS_IN_USE = 3
_REMEMBERED_FILMS = 10_000

_JOBS_ENDED = {
    outcome: metrics.BACKGROUND_JOBS.labels(outcome)
    for outcome in ("stored", "not_stored", "not_needed", "failed", "dropped", "unexpected")
}


class BackgroundRefresher:
    """Starts and finishes fetches in one daemon thread of its own, at most `fetches` at a time.

    The thread waits for no source: a fetch is finished when its last call is done. Films beyond
    `capacity` are dropped; the next hit schedules them again.
    """

    def __init__(
        self,
        *,
        cache: FilmCacheService,
        leases: FetchLeases,
        refresher: FilmRefresher,
        fetches: int = 8,
        capacity: int = 200,
        now: Callable[[], datetime] = timezone.now,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache = cache
        self._leases = leases
        self._refresher = refresher
        self._fetches = fetches
        self._capacity = capacity
        self._now = now
        self._clock = clock
        self._lock = threading.Lock()
        self._is_started = False
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._scheduled: dict[str, None] = {}
        self._started = 0
        # When a film may be scheduled again, and how often it was read in its last part.
        self._retry_at: LRUCache[str, float] = LRUCache(_REMEMBERED_FILMS)
        self._late_reads: LRUCache[str, int] = LRUCache(_REMEMBERED_FILMS)

    def maybe_schedule(self, imdb_id: str, *, cached_at: datetime, repair_at: float | None) -> None:
        """Schedule a fetch of a film that was just read, if it needs one.

        `repair_at` is the Unix time from which a failed section is to be repaired. Takes
        microseconds and never raises.
        """
        now = self._now()
        is_due = repair_at is not None and repair_at <= now.timestamp()
        is_old = now >= self._old_at(imdb_id, cached_at)
        if not is_due and not (is_old and self._is_in_use(imdb_id)):
            return
        with self._lock:
            clock = self._clock()
            if clock < self._retry_at.get(imdb_id, 0.0) or imdb_id in self._scheduled:
                return
            self._retry_at[imdb_id] = clock + 30.0
            if len(self._scheduled) >= self._capacity:
                _JOBS_ENDED["dropped"].inc()
                logger.info("background is full", extra={"outcome": "dropped", "film": imdb_id})
                return
            self._scheduled[imdb_id] = None
        self._enqueue(self._start_next)

    def due_at(self, imdb_id: str, *, cached_at: datetime, repair_at: float | None) -> float:
        """Return from when (Unix time) `maybe_schedule` is to know of the reads of a film."""
        old_at = self._old_at(imdb_id, cached_at).timestamp()
        return old_at if repair_at is None else min(old_at, repair_at)

    def take_over(self, fetch: Fetch) -> None:
        """Finish a fetch whose leader leaves, unless it is over, as soon as its calls are done."""
        if not fetch.is_over:
            fetch.when_complete(lambda done: self._enqueue(lambda: self._finish(done)))

    def start(self, imdb_id: str) -> bool:
        """Start a fetch of what the film needs now; return whether there was anything to fetch."""
        film_id.set(imdb_id)
        film = self._cache.get_cached(imdb_id)
        if film is None or self._needed(film) is None:
            return False
        retry_at = self._leases.record(imdb_id).retry_at
        if retry_at is not None and retry_at > self._now():
            return False
        lease = self._leases.acquire(imdb_id)
        if lease is None:
            return False
        # Another process may have stored something newer before the lease was given.
        film = self._cache.get_cached(imdb_id)
        needed = self._needed(film) if film is not None else None
        if film is None or needed is None:
            self._leases.finish(lease)
            return False
        fetch = self._refresher.lead(
            lease, film, needed, priority=Priority.BACKGROUND, is_renewal=self._is_old(film)
        )
        if fetch is None:
            return False
        with self._lock:
            self._started += 1
        fetch.when_complete(lambda done: self._enqueue(lambda: self._finish_started(done)))
        return True

    @property
    def queue_length(self) -> int:
        """The number of films that wait for a fetch."""
        return len(self._scheduled)

    def _needed(self, film: FilmPayload) -> Collection[str] | None:
        """Return the sections to fetch, None if the film needs nothing."""
        if self._is_old(film):
            return self._refresher.sections_to_refresh(film)
        now, states = self._now(), film.states
        due = [
            name
            for name in film.repairable()
            if name not in states or (states[name].retry_at or now) <= now
        ]
        return due or None

    def _is_old(self, film: FilmPayload) -> bool:
        return self._now() >= self._old_at(film["imdb_id"], film.cached_at)

    def _old_at(self, imdb_id: str, cached_at: datetime) -> datetime:
        """Return from when a film in use is refreshed ahead of its expiry."""
        return cached_at + self._cache.ttl * refresh_age(imdb_id)

    def _is_in_use(self, imdb_id: str) -> bool:
        with self._lock:
            reads = self._late_reads.get(imdb_id, 0) + 1
            self._late_reads[imdb_id] = reads
            return reads >= _READS_IN_USE

    def _enqueue(self, job: Callable[[], None]) -> None:
        with self._lock:
            if not self._is_started:
                self._is_started = True
                threading.Thread(target=self._work, name="background", daemon=True).start()
        self._jobs.put(job)

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                job()
            except (ServiceError, *DATABASE_FAULTS) as exc:
                _JOBS_ENDED["failed"].inc()
                logger.warning("background fetch failed", extra={"outcome": type(exc).__name__})
            # A bug, logged with its traceback: the thread goes on with the next film.
            except Exception:
                _JOBS_ENDED["unexpected"].inc()
                logger.exception("unexpected error", extra={"outcome": "unexpected"})
            finally:
                film_id.set("-")
                if self._jobs.empty():
                    release_connection()

    def _start_next(self) -> None:
        with self._lock:
            if self._started >= self._fetches or not self._scheduled:
                return
            imdb_id = next(iter(self._scheduled))
            del self._scheduled[imdb_id]
        # There may be room for another film, whether or not this one needs a fetch.
        self._enqueue(self._start_next)
        if not self.start(imdb_id):
            _JOBS_ENDED["not_needed"].inc()

    def _finish(self, fetch: Fetch) -> None:
        film_id.set(fetch.imdb_id)
        payload = self._refresher.finish(fetch)
        _JOBS_ENDED["stored" if payload.is_stored else "not_stored"].inc()

    def _finish_started(self, fetch: Fetch) -> None:
        try:
            self._finish(fetch)
        finally:
            with self._lock:
                self._started -= 1
            self._enqueue(self._start_next)


def refresh_age(imdb_id: str) -> float:
    """Return the part of its time to live after which a film in use is fetched again.

    Between 0.8 and 1.0, evenly spread over all ids and the same in every process, so that films
    stored together are not refreshed together.
    """
    return 1 - _LAST_PART * (zlib.crc32(imdb_id.encode()) % 1000) / 1000
