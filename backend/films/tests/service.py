"""The film services of one process, put together around hand-written sources and a clock."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

from django.db import connections

from core.errors import UpstreamUnavailable
from core.services.circuit_breaker import CircuitBreaker
from core.services.limits import Rate, UpstreamLimits
from core.services.source import Source
from films.payload import RetryPolicy
from films.services.background import BackgroundRefresher
from films.services.bulk import BulkPolicy, BulkRefresher
from films.services.fan_out import FanOut
from films.services.film_aggregator import FilmAggregatorService, Reader, reading_as
from films.services.film_cache import FilmCacheService
from films.services.film_search import FilmSearchService
from films.services.leases import FetchLeases
from films.services.reads import FilmReads
from films.services.refresh import FilmRefresher, RefreshPolicy
from films.tests.fakes import INCEPTION, Clock, FakeIMDb, FakeKinoCheck, FakeWatchmode

IMDB_METHODS = (
    "get_metadata",
    "get_credits",
    "get_images",
    "get_videos",
    "get_parents_guide",
    "get_certificates",
    "get_release_dates",
)
SOURCE_NAMES = ("imdbapi", "kinocheck", "watchmode")


class Service:
    """The objects of one process; two on one database are two processes.

    Without `sources` the calls are not limited. The background works only when a test calls it.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        deadline_seconds: float = 5,
        queue_patience: float = 5,
        slots: int = 4,
        sources: dict[str, Source] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        offers_max_age: timedelta | None = None,
        regions: tuple[str, ...] = ("TR",),
        **policy: Any,
    ) -> None:
        self.clock = clock or Clock()
        self.imdb, self.kinocheck, self.watchmode = FakeIMDb(), FakeKinoCheck(), FakeWatchmode()
        self.sources = unlimited_sources(self.clock) | (sources or {})
        self.limits = UpstreamLimits(rates={}, quotas={}, now=self.clock)
        self.cache = FilmCacheService(
            ttl=timedelta(hours=24),
            offers_max_age=offers_max_age,
            sections_outlive_film="lifetimes" in policy,
            now=self.clock,
        )
        self.leases = FetchLeases(lease_time=timedelta(seconds=4), now=self.clock)
        self.reads = FilmReads(now=self.clock)
        self.fan_out = FanOut(
            imdb=self.imdb,
            kinocheck=self.kinocheck,
            watchmode=self.watchmode,
            sources=self.sources.values(),
            regions=regions,
        )
        self.refresher = FilmRefresher(
            cache=self.cache,
            leases=self.leases,
            fan_out=self.fan_out,
            policy=RefreshPolicy(sections=RetryPolicy(first=timedelta(minutes=5)), **policy),
            now=self.clock,
        )
        self.background = InlineBackground(
            cache=self.cache, leases=self.leases, refresher=self.refresher, now=self.clock
        )
        self.miss_slots = threading.BoundedSemaphore(slots)
        self.aggregator = FilmAggregatorService(
            cache=self.cache,
            leases=self.leases,
            refresher=self.refresher,
            background=self.background,
            miss_slots=self.miss_slots,
            deadline_seconds=deadline_seconds,
            queue_patience=queue_patience,
            note_read=self.reads.note,
            now=self.clock,
            sleep=sleep,
        )
        self.search = FilmSearchService(
            imdb=self.imdb,
            source=self.sources["imdbapi"],
            leases=self.leases,
            stored_film=self.cache.get_cached,
            vouches_for=self.aggregator.vouches_for,
            fetch_title=self.refresher.fetch_title,
            miss_slots=self.miss_slots,
            deadline_seconds=deadline_seconds,
        )

    @property
    def call_count(self) -> int:
        return sum(len(fake.calls) for fake in (self.imdb, self.kinocheck, self.watchmode))

    def fetch(self, imdb_id: str = INCEPTION, **reader: Any) -> Any:
        """The film as a reader gets it; of a title that is known to exist."""
        self.vouch_for(imdb_id)
        return self.fetch_unvouched(imdb_id, **reader)

    def fetch_unvouched(self, imdb_id: str = INCEPTION, **reader: Any) -> Any:
        with reading_as(Reader(**reader)):
            return self.aggregator.fetch_and_cache(imdb_id)

    def vouch_for(self, *imdb_ids: str) -> None:
        """As after a search that found these titles."""
        self.leases.note_seen(imdb_ids)

    def bulk(self, **policy: Any) -> "Bulk":
        return Bulk(self, **policy)

    def break_sources(self) -> None:
        """From now on no source can be reached."""
        error = UpstreamUnavailable("imdbapi", "dns_error")
        self.imdb.fail(error, "get_metadata_batch", *IMDB_METHODS)
        self.kinocheck.fail(UpstreamUnavailable("kinocheck", "dns_error"), "get_trailer")
        error = UpstreamUnavailable("watchmode", "dns_error")
        self.watchmode.fail(error, "lookup_title_id", "get_streaming_sources")

    def repair_sources(self) -> None:
        """From now on all sources answer, and nothing was called."""
        for fake in (self.imdb, self.kinocheck, self.watchmode):
            fake.answers.clear()
            fake.calls.clear()


class InlineBackground(BackgroundRefresher):
    """Has no thread: its jobs are run by the test, which owns the database connection."""

    def run(self) -> None:
        """Run all jobs, and those that follow from them, until no fetch is under way."""
        while not self._jobs.empty() or self._refresher._fetches:
            self.run_next()

    def run_next(self) -> None:
        try:
            job = self._jobs.get(timeout=5)
        except queue.Empty:
            raise AssertionError("a fetch is under way that nothing completes") from None
        job()

    def _enqueue(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)


class Bulk:
    """A bulk refresher whose waits move the clock and are recorded."""

    def __init__(self, service: Service, **policy: Any) -> None:
        self.slept: list[float] = []
        self.waits: list[tuple[str, float]] = []
        self.during_sleep: Callable[[], object] = lambda: None
        self._clock = service.clock
        self._refresher = BulkRefresher(
            cache=service.cache,
            leases=service.leases,
            refresher=service.refresher,
            limits=service.limits,
            policy=BulkPolicy(**{"deadline": 5, **policy}),
            sleep=self._sleep,
        )

    def run(self, *imdb_ids: str, **options: Any) -> list[Any]:
        return list(
            self._refresher.run(
                imdb_ids,
                **{
                    "saved_since": None,
                    "on_wait": lambda reason, seconds: self.waits.append((reason, seconds)),
                    **options,
                },
            )
        )

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._clock.advance(seconds=seconds)
        self.during_sleep()


def unlimited_sources(clock: Clock, *, concurrency: int = 4) -> dict[str, Source]:
    """Sources without a coordinator, so that nothing limits their calls."""
    return {
        name: Source(name, concurrency=concurrency, breaker=CircuitBreaker(name, now=clock))
        for name in SOURCE_NAMES
    }


class RatedSource(Source):
    """A source whose calls leave the queue only when a test grants them."""

    def __init__(self, name: str = "imdbapi", *, per_second: float = 1.0, **options: Any) -> None:
        # The clock stands, so that what the processes agreed on stays current.
        super().__init__(
            name,
            concurrency=4,
            rate=Rate(1, 1 / per_second),
            clock=lambda: 0.0,
            **options,
        )
        self.coordinator = _NoCoordinator()

    def _results(self, calls: Any) -> dict[str, Any]:
        # The fakes count no attempts, and a call without an attempt gives its token back.
        self.breaker.usage.count()
        return super()._results(calls)

    def grant(self, calls: int, *, seconds_to_next: float = 0.0) -> None:
        self.add_tokens(calls, seconds_to_next)


class _NoCoordinator:
    is_synced = True
    synced_at = 0.0

    def wake(self) -> None:
        pass

    def note_call(self, *, must_wait: bool) -> None:
        pass


def run_beside(call: Callable[[], Any]) -> "Future[Any]":
    """Run `call` in another thread with the database connection of this one.

    The test takes care that no two threads use it at the same time.
    """
    ours = connections["default"]
    ours.inc_thread_sharing()
    pool = ThreadPoolExecutor(1)

    def run() -> Any:
        connections["default"] = ours
        try:
            return call()
        finally:
            del connections["default"]

    future = pool.submit(run)
    pool.shutdown(wait=False)
    future.add_done_callback(lambda _: ours.dec_thread_sharing())
    return future
