"""Many films at once for which no reader waits: each fetched until it is whole, at their pace."""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from django.db import DatabaseError, InterfaceError

from core.budgets import UpstreamBudgets
from core.deadline import Deadline, deadline_of
from core.errors import (
    DeadlineExceeded,
    UpstreamBadAnswer,
    UpstreamError,
    UpstreamNotFound,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from core.utils.logging import film_id
from films.services.fetch_register import FetchRegister, Lease
from films.services.film_cache import FilmCacheService, StoredFilm
from films.services.film_fetcher import ALL_SECTIONS, Fetched, FilmFetcher
from films.services.sections import METADATA, SECTIONS, repairable

logger = logging.getLogger(__name__)

_OF_THE_CORE = frozenset(section.name for section in SECTIONS if section.source == METADATA.source)
# What time heals; not a used-up quota, a refused key or a region that the plan leaves out. By
# exact class: some of those are kinds of `UpstreamUnavailable`.
_HEALING = (
    UpstreamUnavailable,
    UpstreamTimeout,
    DeadlineExceeded,
    UpstreamRateLimited,
    UpstreamBadAnswer,
)
# Waited between two looks at a film that another process is fetching.
_POLL_SECONDS = 1.0


class Ending(Enum):
    """What became of a film."""

    WHOLE = "whole"
    INCOMPLETE = "incomplete"
    UNKNOWN = "unknown to IMDb"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The end of a film: `reasons` has the code of each section that is not as it should be.

    `may_heal` tells that another try soon may do better, `is_settled` that no other try would,
    `was_fetched` that a source was asked.
    """

    imdb_id: str
    ending: Ending
    reasons: Mapping[str, str]
    may_heal: bool = False
    is_settled: bool = False
    was_fetched: bool = True


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """How patient a batch is; times in seconds.

    A film is taken up `rounds` times, with at least `pause` before each further round; one pass
    over a film lasts up to `deadline`. A cool-down is waited out where it is over within
    `patience`. After `failures` films in a row that the core source could not give, it is left
    alone.
    """

    deadline: float
    rounds: int = 3
    pause: float = 5.0
    patience: float = 1000.0
    failures: int = 12


class GivenUp(Exception):
    """The core source gives nothing; what was not done is left for another run."""


class FilmBatch:
    """Fetches films one after the other, in the background manner, and stores them.

    Readers go first, the reserve of each quota is left to them, and what is stored and good is not
    asked for again. So a batch that was cut short continues where it ended.
    """

    def __init__(
        self,
        *,
        cache: FilmCacheService,
        register: FetchRegister,
        fetcher: FilmFetcher,
        budgets: UpstreamBudgets,
        policy: BatchPolicy,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._cache = cache
        self._register = register
        self._fetcher = fetcher
        self._budgets = budgets
        self._policy = policy
        self._sleep = sleep

    def run(
        self,
        imdb_ids: Sequence[str],
        *,
        saved_since: datetime | None,
        on_wait: Callable[[str, float], object],
    ) -> Iterator[BatchResult]:
        """Bring each film to its end and give it then; one that may heal comes last.

        A film saved before `saved_since` (None: longer ago than its time to live) is fetched
        anew, of another one only what is missing. `on_wait` is told of longer waits, why and how
        many seconds. Raises `GivenUp` where the core source gave nothing too often in a row.
        """
        to_do, failures = list(imdb_ids), 0
        for number in range(1, self._policy.rounds + 1):
            is_last = number == self._policy.rounds
            left: list[str] = []
            for imdb_id in to_do:
                result = self._brought(imdb_id, saved_since, on_wait)
                failures = failures + 1 if _is_failure(result) else 0
                if failures >= self._policy.failures:
                    raise GivenUp(result.reasons.get(METADATA.name, "unavailable"))
                if result.may_heal and not is_last:
                    left.append(imdb_id)
                else:
                    yield result
            if not left:
                return
            self._wait_before_next_round(on_wait)
            to_do = left

    def _brought(
        self,
        imdb_id: str,
        saved_since: datetime | None,
        on_wait: Callable[[str, float], object],
    ) -> BatchResult:
        film_id.set(imdb_id)
        try:
            return self._passes(imdb_id, saved_since, on_wait)
        except UpstreamNotFound:
            return BatchResult(imdb_id, Ending.UNKNOWN, {}, is_settled=True)
        except UpstreamError as exc:
            heals = type(exc) in _HEALING
            return BatchResult(imdb_id, Ending.FAILED, {METADATA.name: exc.code}, may_heal=heals)
        except (DatabaseError, InterfaceError) as exc:
            logger.warning("the database failed", extra={"outcome": type(exc).__name__})
            self._cache.release_connection()
            return BatchResult(imdb_id, Ending.FAILED, {"film": "database"}, may_heal=True)
        finally:
            film_id.set("-")

    def _passes(
        self,
        imdb_id: str,
        saved_since: datetime | None,
        on_wait: Callable[[str, float], object],
    ) -> BatchResult:
        """Fetch the film, and again as long as sections are in line and it gets better."""
        stored = self._cache.load(imdb_id)
        if self._fetcher.is_missing(self._register.entry(imdb_id), stored):
            return BatchResult(imdb_id, Ending.UNKNOWN, {}, is_settled=True, was_fetched=False)
        fetched: Fetched | None = None
        needed, waited = self._needed(stored, saved_since), 0.0
        while needed:
            self._wait_for_core(needed, on_wait)
            lease = self._register.acquire(imdb_id)
            if lease:
                fetched = self._fetch(lease, saved_since)
            elif waited >= self._policy.deadline:
                return BatchResult(imdb_id, Ending.FAILED, {"film": "busy"}, may_heal=True)
            else:
                self._pause(_POLL_SECONDS)
                waited += _POLL_SECONDS
            before, stored = len(needed), self._cache.load(imdb_id)
            needed = self._needed(stored, saved_since)
            if lease and not (fetched and fetched.is_cut_off and len(needed) < before):
                break
        return self._result(imdb_id, stored, needed, fetched)

    def _fetch(self, lease: Lease, saved_since: datetime | None) -> Fetched | None:
        # Under the lease: what another process stored a moment ago is not overwritten.
        stored = self._cache.load(lease.imdb_id)
        needed = self._needed(stored, saved_since)
        if not needed:
            self._register.finish(lease)
            return None
        with deadline_of(Deadline(self._policy.deadline)):
            return self._fetcher.fetch(
                lease, stored, needed, in_background=True, spares_reserve=True
            )

    def _result(
        self,
        imdb_id: str,
        stored: StoredFilm | None,
        needed: Collection[str],
        fetched: Fetched | None,
    ) -> BatchResult:
        failures = fetched.failures if fetched else {}
        warnings = stored.payload.get("warnings", []) if stored else []
        # What failed just now tells more than that an older copy is shown.
        reasons = {warning["section"]: warning["code"] for warning in warnings}
        reasons |= {name: error.code for name, error in failures.items() if name in reasons}
        if stored is None or (needed and not reasons):
            return BatchResult(imdb_id, Ending.FAILED, {"film": "not_stored"}, may_heal=True)
        is_gone = reasons.get(METADATA.name) == UpstreamNotFound.code
        ending = Ending.INCOMPLETE if reasons else Ending.WHOLE
        return BatchResult(
            imdb_id,
            Ending.FAILED if METADATA.name in reasons and not is_gone else ending,
            reasons,
            may_heal=any(type(error) in _HEALING for error in failures.values()),
            is_settled=not needed or is_gone,
            was_fetched=fetched is not None,
        )

    def _needed(self, stored: StoredFilm | None, saved_since: datetime | None) -> Collection[str]:
        if stored is None:
            return ALL_SECTIONS
        is_old = stored.cached_at < saved_since if saved_since else not stored.is_fresh
        return ALL_SECTIONS if is_old else repairable(stored.payload)

    def _wait_for_core(
        self, sections: Collection[str], on_wait: Callable[[str, float], object]
    ) -> None:
        """Wait until the core source may be called; raise its error where that takes too long."""
        waited = 0.0
        while _OF_THE_CORE & set(sections):
            error = self._budgets.sync({METADATA.source}).get(METADATA.source)
            if error is None:
                return
            seconds = error.retry_after or self._policy.pause
            if waited + seconds > self._policy.patience:
                raise error
            on_wait(str(error.code), seconds)
            self._pause(seconds)
            waited += seconds

    def _wait_before_next_round(self, on_wait: Callable[[str, float], object]) -> None:
        sources = {section.source for section in SECTIONS}
        waits = [
            error.retry_after or 0.0
            for error in self._budgets.sync(sources, known_film=False).values()
            if type(error) in _HEALING
        ]
        seconds = max([self._policy.pause, *waits])
        if seconds <= self._policy.patience:
            on_wait("next round", seconds)
            self._pause(seconds)

    def _pause(self, seconds: float) -> None:
        self._cache.release_connection()
        self._sleep(seconds)


def _is_failure(result: BatchResult) -> bool:
    return result.ending is Ending.FAILED and result.may_heal
