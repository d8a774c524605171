"""Many films for which no reader waits: each fetched until it is complete, at the sources' rate."""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from core.db import DATABASE_FAULTS, release_connection
from core.errors import UpstreamError, UpstreamNotFound
from core.services.limits import UpstreamLimits
from core.services.source import Priority
from core.utils.logging import film_id
from films.payload import HEALING_CODES, METADATA, SOURCE_OF, FilmPayload
from films.services.film_cache import FilmCacheService
from films.services.leases import FetchLeases
from films.services.refresh import Fetch, FilmRefresher

logger = logging.getLogger(__name__)

_CORE_SECTIONS = frozenset(name for name, source in SOURCE_OF.items() if source == METADATA.source)


class Status(Enum):
    """How a film ended."""

    WHOLE = "whole"
    INCOMPLETE = "incomplete"
    UNKNOWN = "unknown to IMDb"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class BulkResult:
    """The end of a film: `reasons` has the code of each section that is not as it should be.

    `may_heal` says that another try soon may succeed, `is_settled` that none is needed,
    `was_fetched` that a source was called.
    """

    imdb_id: str
    status: Status
    reasons: Mapping[str, str] = field(default_factory=dict)
    may_heal: bool = False
    is_settled: bool = False
    was_fetched: bool = True


@dataclass(frozen=True, slots=True)
class BulkPolicy:
    """How patient a bulk refresh is; times in seconds.

    `together` films are fetched at the same time, so that their metadata can be combined, each for
    at most `deadline`. A film is tried `rounds` times, with at least `pause` before a further
    round. A cool-down is waited for if it ends within `patience`. After `failures` films in a row
    for which the core source failed, the rest is left to another run.
    """

    deadline: float = 300.0
    together: int = 10
    rounds: int = 3
    pause: float = 5.0
    patience: float = 1000.0
    failures: int = 12


class GivenUp(Exception):
    """The core source keeps failing; the remaining films are left to another run."""


class BulkRefresher:
    """Fetches and stores many films with the lowest priority.

    What is stored and good is not fetched again, so an interrupted run continues where it stopped.
    """

    def __init__(
        self,
        *,
        cache: FilmCacheService,
        leases: FetchLeases,
        refresher: FilmRefresher,
        limits: UpstreamLimits,
        policy: BulkPolicy = BulkPolicy(),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._cache = cache
        self._leases = leases
        self._refresher = refresher
        self._limits = limits
        self._policy = policy
        self._sleep = sleep

    def run(
        self,
        imdb_ids: Sequence[str],
        *,
        saved_since: datetime | None,
        on_wait: Callable[[str, float], object],
    ) -> Iterator[BulkResult]:
        """Fetch what each film needs and yield its result; films that may heal come last.

        A film saved before `saved_since` (None: whose time to live is over) is refreshed; of any
        other film only what is missing is fetched. `on_wait` is called with the reason and the
        seconds of a longer wait. Raises `GivenUp` if the core source failed too often in a row.
        """
        remaining, failures = list(imdb_ids), 0
        for number in range(1, self._policy.rounds + 1):
            may_heal: list[str] = []
            for start in range(0, len(remaining), self._policy.together):
                for result in self._fetch_together(
                    remaining[start : start + self._policy.together], saved_since, on_wait
                ):
                    is_failure = result.status is Status.FAILED and result.may_heal
                    failures = failures + 1 if is_failure else 0
                    if failures >= self._policy.failures:
                        raise GivenUp(result.reasons.get(METADATA.name, "unavailable"))
                    if result.may_heal and number < self._policy.rounds:
                        may_heal.append(result.imdb_id)
                    else:
                        yield result
            if not may_heal:
                return
            self._wait_before_next_round(on_wait)
            remaining = may_heal

    def _fetch_together(
        self,
        imdb_ids: Sequence[str],
        saved_since: datetime | None,
        on_wait: Callable[[str, float], object],
    ) -> Iterator[BulkResult]:
        started: dict[str, Fetch | BulkResult] = {}
        for imdb_id in imdb_ids:
            film_id.set(imdb_id)
            try:
                started[imdb_id] = self._start(imdb_id, saved_since, on_wait)
            except (UpstreamError, *DATABASE_FAULTS) as exc:
                started[imdb_id] = self._failed(imdb_id, exc)
        end = time.monotonic() + self._policy.deadline
        release_connection()
        for fetch in started.values():
            if isinstance(fetch, Fetch) and fetch.last is None:
                self._store_first_copy(fetch, end)
        for imdb_id, fetch in started.items():
            film_id.set(imdb_id)
            if isinstance(fetch, BulkResult):
                yield fetch
                continue
            fetch.wait_until(lambda it: it.is_complete, lambda: end - time.monotonic())
            try:
                film = self._refresher.finish(fetch)
                yield self._result(imdb_id, film, saved_since)
            except (UpstreamError, *DATABASE_FAULTS) as exc:
                yield self._failed(imdb_id, exc)
        film_id.set("-")

    def _store_first_copy(self, fetch: Fetch, end: float) -> None:
        """Store a new film as soon as its metadata is there: readers may wait for it."""
        film_id.set(fetch.imdb_id)
        fetch.wait_until(
            lambda it: it.has_metadata or it.is_complete, lambda: end - time.monotonic()
        )
        if fetch.is_complete or not fetch.has_metadata:
            return
        try:
            self._refresher.store_interim(fetch)
        except DATABASE_FAULTS as exc:
            # It is stored when it is complete.
            logger.warning("database failed", extra={"outcome": type(exc).__name__})

    def _start(
        self,
        imdb_id: str,
        saved_since: datetime | None,
        on_wait: Callable[[str, float], object],
    ) -> Fetch | BulkResult:
        film = self._cache.get_cached(imdb_id)
        if self._leases.is_missing(self._leases.record(imdb_id), is_stored=film is not None):
            return BulkResult(imdb_id, Status.UNKNOWN, is_settled=True, was_fetched=False)
        needed = self._needed(film, saved_since)
        if film is not None and needed is None:
            return self._stored_result(imdb_id, film)
        self._wait_for_core(needed or (), on_wait)
        busy = BulkResult(imdb_id, Status.FAILED, {"film": "busy"}, may_heal=True)
        lease = self._leases.acquire(imdb_id)
        if lease is None:
            return busy
        # Another process may have stored something newer before the lease was given.
        film = self._cache.get_cached(imdb_id)
        needed = self._needed(film, saved_since)
        if film is not None and needed is None:
            self._leases.finish(lease)
            return self._stored_result(imdb_id, film)
        is_renewal = film is None or self._is_old(film, saved_since)
        fetch = self._refresher.lead(
            lease, film, needed or (), priority=Priority.BATCH, is_renewal=is_renewal
        )
        return fetch or busy

    def _needed(
        self, film: FilmPayload | None, saved_since: datetime | None
    ) -> Collection[str] | None:
        """Return the sections to fetch, None if the film needs nothing."""
        if film is None or self._is_old(film, saved_since):
            return self._refresher.sections_to_refresh(film)
        return film.repairable() or None

    def _is_old(self, film: FilmPayload, saved_since: datetime | None) -> bool:
        return film.cached_at < saved_since if saved_since else not film.is_fresh

    def _stored_result(self, imdb_id: str, film: FilmPayload) -> BulkResult:
        reasons = film.warning_codes
        status = Status.INCOMPLETE if reasons else Status.WHOLE
        return BulkResult(imdb_id, status, reasons, is_settled=True, was_fetched=False)

    def _result(self, imdb_id: str, film: FilmPayload, saved_since: datetime | None) -> BulkResult:
        if not film.is_stored:
            return BulkResult(imdb_id, Status.FAILED, {"film": "not_stored"}, may_heal=True)
        reasons = {name: film.failures.get(name, code) for name, code in film.warning_codes.items()}
        is_gone = reasons.get(METADATA.name) == UpstreamNotFound.code
        status = Status.INCOMPLETE if reasons else Status.WHOLE
        if METADATA.name in reasons and not is_gone:
            status = Status.FAILED
        return BulkResult(
            imdb_id,
            status,
            reasons,
            may_heal=any(code in HEALING_CODES for code in film.failures.values()),
            is_settled=is_gone or self._needed(film, saved_since) is None,
        )

    def _failed(self, imdb_id: str, error: Exception) -> BulkResult:
        if isinstance(error, UpstreamNotFound):
            return BulkResult(imdb_id, Status.UNKNOWN, is_settled=True)
        if isinstance(error, UpstreamError):
            heals = error.code in HEALING_CODES
            return BulkResult(imdb_id, Status.FAILED, {METADATA.name: error.code}, may_heal=heals)
        logger.warning("database failed", extra={"outcome": type(error).__name__})
        release_connection()
        return BulkResult(imdb_id, Status.FAILED, {"film": "database"}, may_heal=True)

    def _wait_for_core(
        self, sections: Collection[str], on_wait: Callable[[str, float], object]
    ) -> None:
        """Wait until the core source may be called; raise its error if that takes too long."""
        waited = 0.0
        while _CORE_SECTIONS & set(sections):
            error = self._limits.status(METADATA.source).error
            if error is None:
                return
            seconds = error.retry_after or self._policy.pause
            if waited + seconds > self._policy.patience:
                raise error
            on_wait(str(error.code), seconds)
            self._pause(seconds)
            waited += seconds

    def _wait_before_next_round(self, on_wait: Callable[[str, float], object]) -> None:
        rows = self._limits.read(set(SOURCE_OF.values()))
        errors = [self._limits.status(name, row).error for name, row in rows.items()]
        waits = [e.retry_after or 0.0 for e in errors if e is not None and e.code in HEALING_CODES]
        seconds = max([self._policy.pause, *waits])
        if seconds <= self._policy.patience:
            on_wait("next round", seconds)
            self._pause(seconds)

    def _pause(self, seconds: float) -> None:
        release_connection()
        self._sleep(seconds)
