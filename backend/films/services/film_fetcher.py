"""One fetch of a film: from the sources into the database, under a lease."""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db import DatabaseError, InterfaceError, transaction
from django.utils import timezone

from core.deadline import time_left
from core.errors import UpstreamError, UpstreamNotFound
from films.models import FilmFetch
from films.services.fan_out import IN_LINE, FanOut, WatchmodeNumber
from films.services.fetch_register import FetchRegister, Lease
from films.services.film_cache import FilmCacheService, StoredFilm
from films.services.rendering import Rendering, render
from films.services.sections import METADATA, SECTIONS, Outcome, merge

logger = logging.getLogger(__name__)

ALL_SECTIONS = tuple(section.name for section in SECTIONS)


@dataclass(frozen=True, slots=True)
class MemoryPolicy:
    """How long what a fetch found out is believed.

    A film that IMDb does not know is not asked for again for `missing`, an expired film whose
    fetch failed not for `retry`, and Watchmode's number for a film is good for `watchmode_id`.
    """

    missing: timedelta = timedelta(hours=1)
    retry: timedelta = timedelta(seconds=60)
    watchmode_id: timedelta = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of a fetch: the payload, its bytes, and since when it is good.

    `is_fresh` tells that metadata is news of now, or was not asked for; `is_cut_off` that sections
    are still in line for their source; `is_stored` that others will find it. `failures` has the
    error of each section that failed.
    """

    payload: dict[str, Any]
    rendering: Rendering
    cached_at: datetime
    is_fresh: bool
    is_cut_off: bool
    failures: Mapping[str, UpstreamError]
    is_stored: bool = False


class FilmFetcher:
    """Fetches sections of a film whose lease the caller holds, and stores what comes of it."""

    def __init__(
        self,
        *,
        cache: FilmCacheService,
        register: FetchRegister,
        fan_out: FanOut,
        policy: MemoryPolicy,
        now: Callable[[], datetime] = timezone.now,
    ) -> None:
        self._cache = cache
        self._register = register
        self._fan_out = fan_out
        self._policy = policy
        self._now = now

    def fetch(
        self,
        lease: Lease,
        stored: StoredFilm | None,
        sections: Collection[str] = ALL_SECTIONS,
        *,
        in_background: bool = False,
        spares_reserve: bool = False,
    ) -> Fetched:
        """Return the payload, merged with the `stored` one, by the end of the current deadline.

        `spares_reserve` leaves the reserve of each quota to others even where the film is stored.
        The lease is over afterwards, whatever happens. Raises the error of `metadata` where
        nothing is stored. A payload that cannot be written is returned all the same, and one that
        comes after a newer fetch is returned but not written.
        """
        number = self._watchmode_number(lease.entry)
        try:
            outcomes = self._fan_out.run(
                lease.imdb_id,
                sections,
                number=number,
                known_film=stored is not None and not spares_reserve,
                needs_metadata=stored is None,
                in_background=in_background,
                heartbeat=partial(self._register.renew, lease),
            )
        except BaseException:
            self._register.finish(lease)
            raise
        findings = self._findings(lease.entry, outcomes.get(METADATA.name)) | self._found(number)
        return self._settle(lease, stored, outcomes, findings)

    def is_missing(self, entry: FilmFetch, stored: StoredFilm | None) -> bool:
        """Whether IMDb said that there is no such film: once for a new one, twice for a stored."""
        until, since = entry.missing_until, entry.missing_since
        if until is None or since is None or until <= self._now():
            return False
        return stored is None or until - since >= 2 * self._policy.missing

    def _settle(
        self,
        lease: Lease,
        stored: StoredFilm | None,
        outcomes: dict[str, Outcome],
        findings: dict[str, Any],
    ) -> Fetched:
        try:
            payload = merge(lease.imdb_id, outcomes, stored.payload if stored else None)
        except UpstreamError:
            self._write(partial(self._register.finish, lease, **findings))
            raise
        metadata = outcomes.get(METADATA.name)
        failed = isinstance(metadata, UpstreamError)
        keeps_age = stored is not None and (failed or metadata is None)
        fetched = Fetched(
            payload=payload,
            rendering=render(payload),
            cached_at=stored.cached_at if stored and keeps_age else self._now(),
            is_fresh=not failed,
            is_cut_off=any(_is_in_line(outcome) for outcome in outcomes.values()),
            failures={
                name: outcome
                for name, outcome in outcomes.items()
                if isinstance(outcome, UpstreamError)
            },
        )
        is_stored = self._write(partial(self._store, lease, fetched, findings))
        return replace(fetched, is_stored=is_stored)

    def _store(self, lease: Lease, fetched: Fetched, findings: dict[str, Any]) -> bool:
        with transaction.atomic():
            is_ours = self._register.finish(lease, **findings)
            if is_ours:
                self._cache.store(
                    lease.imdb_id,
                    fetched.payload,
                    cached_at=fetched.cached_at,
                    rendering=fetched.rendering,
                )
            else:
                logger.warning("a newer fetch came first", extra={"outcome": "lease_lost"})
        return is_ours

    def _write(self, write: Callable[[], bool]) -> bool:
        """Write, once more where that fails and there is time; tell whether it is written.

        What is in hand is given to the reader in any case.
        """
        for is_last in (False, True):
            try:
                return write()
            except (DatabaseError, InterfaceError) as exc:
                gives_up = is_last or time_left(1) <= 0
                outcome = "not_stored" if gives_up else "db_retry"
                logger.warning("a write failed", extra={"outcome": outcome}, exc_info=exc)
                self._cache.release_connection()
                if gives_up:
                    break
        return False

    def _findings(self, entry: FilmFetch, metadata: Outcome) -> dict[str, Any]:
        now = self._now()
        if metadata is None:
            return {}
        if isinstance(metadata, UpstreamNotFound):
            until = now + self._policy.missing
            return {
                "failure": metadata.code,
                "missing_since": entry.missing_since or now,
                "missing_until": until,
                "retry_at": until,
            }
        if isinstance(metadata, UpstreamError):
            return {"failure": metadata.code, "retry_at": now + self._policy.retry}
        return {"failure": "", "retry_at": None, "missing_since": None, "missing_until": None}

    def _watchmode_number(self, entry: FilmFetch) -> WatchmodeNumber:
        looked_up_at = entry.watchmode_at
        if looked_up_at is None or self._now() - looked_up_at >= self._policy.watchmode_id:
            return WatchmodeNumber(is_known=False, value=None)
        return WatchmodeNumber(is_known=True, value=entry.watchmode_id)

    def _found(self, number: WatchmodeNumber) -> dict[str, Any]:
        if number.is_gone:
            return {"watchmode_id": None, "watchmode_at": None}
        if number.is_new:
            return {"watchmode_id": number.value, "watchmode_at": self._now()}
        return {}


def _is_in_line(outcome: Outcome) -> bool:
    return isinstance(outcome, UpstreamError) and outcome.reason == IN_LINE
