"""Work on stored films that no reader waits for: repair, refresh ahead of expiry, completion."""

import logging
import queue
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from core.deadline import Deadline, deadline_of
from core.errors import ServiceError
from core.utils.logging import film_id
from films.services.fetch_register import FetchRegister
from films.services.film_cache import FilmCacheService, StoredFilm
from films.services.film_fetcher import ALL_SECTIONS, FilmFetcher
from films.services.sections import repairable

logger = logging.getLogger(__name__)

# Refreshes ahead happen in this last part of the time to live, each film at a point of its own.
_LAST_PART = 0.2
# Reads within that part that make a film worth a refresh nobody asked for.
_HOT_READS = 3
_REMEMBERED_FILMS = 10_000


@dataclass(frozen=True, slots=True)
class _Job:
    imdb_id: str
    is_due: bool


class Upkeep:
    """Looks after stored films in `threads` daemon threads of its own, one job a film at a time.

    A section that failed is fetched again, on a hit, no sooner than `repair_after` after the last
    fetch. A film that is read near its expiry is fetched again before it expires. Jobs beyond
    `capacity` are dropped: the next hit brings them back.
    """

    def __init__(
        self,
        *,
        cache: FilmCacheService,
        register: FetchRegister,
        fetcher: FilmFetcher,
        repair_after: timedelta,
        deadline_seconds: float,
        threads: int = 2,
        capacity: int = 200,
        now: Callable[[], datetime] = timezone.now,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache = cache
        self._register = register
        self._fetcher = fetcher
        self._repair_after = repair_after
        self._deadline_seconds = deadline_seconds
        self._max_threads = threads
        self._now = now
        self._clock = clock
        self._lock = threading.Lock()
        self._threads = 0
        self._jobs: queue.Queue[_Job] = queue.Queue(capacity)
        self._waiting: set[str] = set()
        # When a film was last put in line, and how often it was read in its last part of life.
        self._offered: OrderedDict[str, float] = OrderedDict()
        self._reads: OrderedDict[str, int] = OrderedDict()

    def consider(self, imdb_id: str, *, age: float, needs_repair: bool) -> None:
        """See, on a hit, whether the film needs something; takes microseconds, never raises.

        `age` is the part of the film's time to live that is over.
        """
        needs_refresh = age >= refresh_age(imdb_id) and self._is_hot(imdb_id)
        if (needs_refresh or needs_repair) and not self._was_offered(imdb_id):
            self._offer(_Job(imdb_id, is_due=False))

    def complete(self, imdb_id: str) -> None:
        """Fetch, as soon as their source allows, the sections for which a reader did not wait."""
        self._offer(_Job(imdb_id, is_due=True))

    def tend(self, imdb_id: str, *, is_due: bool) -> bool:
        """Fetch what the film needs, sections that failed only if `is_due` or due by their time.

        Return whether sections are still in line for their source.
        """
        film_id.set(imdb_id)
        stored = self._cache.load(imdb_id)
        if stored is None:
            return False
        sections = self._needed(imdb_id, stored, is_due=is_due)
        lease = self._register.acquire(imdb_id) if sections else None
        if lease is None:
            return False
        # Another process may have stored something newer before we had the lease.
        stored = self._cache.load(imdb_id) or stored
        with deadline_of(Deadline(self._deadline_seconds)):
            fetched = self._fetcher.fetch(lease, stored, sections, in_background=True)
        return fetched.is_cut_off

    def _needed(self, imdb_id: str, stored: StoredFilm, *, is_due: bool) -> Collection[str]:
        entry, now = self._register.entry(imdb_id), self._now()
        if not is_due and entry.ended_at and now - entry.ended_at < self._repair_after:
            return ()
        # Readers would not ask again so soon either.
        if entry.retry_at and entry.retry_at > now:
            return ()
        return ALL_SECTIONS if stored.age >= refresh_age(imdb_id) else repairable(stored.payload)

    def _is_hot(self, imdb_id: str) -> bool:
        with self._lock:
            reads = self._reads.pop(imdb_id, 0) + 1
            _remember(self._reads, imdb_id, reads)
            return reads >= _HOT_READS

    def _was_offered(self, imdb_id: str) -> bool:
        now = self._clock()
        with self._lock:
            if now < self._offered.get(imdb_id, 0.0):
                return True
            _remember(self._offered, imdb_id, now + self._repair_after.total_seconds() / 10)
            return False

    def _offer(self, job: _Job) -> None:
        with self._lock:
            if job.imdb_id in self._waiting:
                return
            try:
                self._jobs.put_nowait(job)
            except queue.Full:
                logger.info("too much upkeep", extra={"outcome": "dropped", "film": job.imdb_id})
                return
            self._waiting.add(job.imdb_id)
            if self._threads < min(self._max_threads, len(self._waiting)):
                self._threads += 1
                threading.Thread(
                    target=self._work, name=f"upkeep-{self._threads}", daemon=True
                ).start()

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            is_cut_off = False
            try:
                is_cut_off = self.tend(job.imdb_id, is_due=job.is_due)
            except (ServiceError, DatabaseError, InterfaceError) as exc:
                logger.warning("upkeep failed", extra={"outcome": type(exc).__name__})
            # A bug, told as such: the thread is needed for the next film.
            except Exception:
                logger.exception("unexpected error", extra={"outcome": "unexpected"})
            finally:
                self._cache.release_connection()
                with self._lock:
                    self._waiting.discard(job.imdb_id)
            if is_cut_off:
                self.complete(job.imdb_id)


def refresh_age(imdb_id: str) -> float:
    """Return the part of its time to live after which a film that is in use is fetched again.

    Between 0.8 and 1.0, evenly spread over all ids and the same in every process, so that films
    stored together are not refreshed together.
    """
    return 1 - _LAST_PART * (zlib.crc32(imdb_id.encode()) % 1000) / 1000


def _remember(memory: OrderedDict[str, Any], imdb_id: str, value: float) -> None:
    memory[imdb_id] = value
    while len(memory) > _REMEMBERED_FILMS:
        memory.popitem(last=False)
