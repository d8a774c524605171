"""The film services put together around hand-written sources and a clock that stands."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from core.errors import UpstreamUnavailable
from core.services.bulkhead import Bulkhead
from films.services.fan_out import FanOut
from films.services.fetch_register import FetchRegister
from films.services.film_aggregator import FilmAggregatorService
from films.services.film_cache import FilmCacheService
from films.services.film_fetcher import FilmFetcher, MemoryPolicy
from films.services.upkeep import Upkeep
from films.tests.fakes import (
    INCEPTION,
    Clock,
    FakeIMDb,
    FakeKinoCheck,
    FakeUpkeep,
    FakeWatchmode,
    budgets,
    bulkheads,
)

IMDB_METHODS = (
    "get_metadata",
    "get_credits",
    "get_images",
    "get_videos",
    "get_parents_guide",
    "get_certificates",
    "get_release_dates",
)


class House:
    """What one process is made of, all at hand; two on one database are two processes.

    `paces` and `quotas` are those of the budgets; with `keeps_up` the upkeep is the real one.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        deadline_seconds: float = 5,
        slots: int = 4,
        sources: dict[str, Bulkhead] | None = None,
        keeps_up: bool = False,
        sleep: Callable[[float], None] = time.sleep,
        **limits: Any,
    ) -> None:
        self.clock = clock or Clock()
        self.imdb, self.kinocheck, self.watchmode = FakeIMDb(), FakeKinoCheck(), FakeWatchmode()
        self.cache = FilmCacheService(ttl=timedelta(hours=24), now=self.clock)
        self.register = FetchRegister(lease_time=timedelta(seconds=4), now=self.clock)
        self.budgets = budgets(self.clock, **limits)
        self.fan_out = FanOut(
            imdb=self.imdb,
            kinocheck=self.kinocheck,
            watchmode=self.watchmode,
            bulkheads=sources or bulkheads(),
            budgets=self.budgets,
            release_connection=self.cache.release_connection,
            sleep=sleep,
        )
        self.fetcher = FilmFetcher(
            cache=self.cache,
            register=self.register,
            fan_out=self.fan_out,
            policy=MemoryPolicy(),
            now=self.clock,
        )
        self.upkeep: Any = self.make_upkeep() if keeps_up else FakeUpkeep()
        self.cold_slots = threading.BoundedSemaphore(slots)
        self.aggregator = FilmAggregatorService(
            cache=self.cache,
            register=self.register,
            fetcher=self.fetcher,
            upkeep=self.upkeep,
            cold_slots=self.cold_slots,
            deadline_seconds=deadline_seconds,
            now=self.clock,
            sleep=sleep,
        )

    def make_upkeep(self, **options: Any) -> Upkeep:
        return Upkeep(
            **{
                "cache": self.cache,
                "register": self.register,
                "fetcher": self.fetcher,
                "repair_after": timedelta(minutes=5),
                "deadline_seconds": 5,
                "now": self.clock,
                **options,
            }
        )

    @property
    def calls(self) -> int:
        return sum(len(fake.asked) for fake in (self.imdb, self.kinocheck, self.watchmode))

    def fetch(self, imdb_id: str = INCEPTION) -> dict[str, Any]:
        return self.aggregator.fetch_and_cache(imdb_id)

    def break_everything(self) -> None:
        """From now on no source can be reached."""
        self.imdb.fail(UpstreamUnavailable("imdbapi", "dns_error"), *IMDB_METHODS)
        self.kinocheck.fail(UpstreamUnavailable("kinocheck", "dns_error"), "get_trailer")
        error = UpstreamUnavailable("watchmode", "dns_error")
        self.watchmode.fail(error, "lookup_title_id", "get_streaming_sources")

    def mend_everything(self) -> None:
        """From now on all sources answer again."""
        for fake in (self.imdb, self.kinocheck, self.watchmode):
            fake.answers.clear()
