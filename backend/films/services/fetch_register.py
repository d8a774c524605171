"""Who fetches which film, and what came of the last time: shared by all processes."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q
from django.utils import timezone

from films.models import FilmFetch


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to fetch a film and to store what comes of it, as long as nobody took it over."""

    imdb_id: str
    token: str


class FetchRegister:
    """Keeps the `FilmFetch` rows.

    A lease that is not renewed for `lease_time` is over: whoever held it is dead or paused.
    """

    def __init__(
        self, *, lease_time: timedelta, now: Callable[[], datetime] = timezone.now
    ) -> None:
        self._lease_time = lease_time
        self._now = now

    def entry(self, imdb_id: str) -> FilmFetch:
        """Return what is known, an unsaved empty entry where that is nothing."""
        return FilmFetch.objects.filter(imdb_id=imdb_id).first() or FilmFetch(imdb_id=imdb_id)

    def acquire(self, imdb_id: str) -> Lease | None:
        """Return a lease on the film, None while another one holds."""
        lease = Lease(imdb_id, uuid.uuid4().hex)
        now = self._now()
        until = now + self._lease_time
        free = Q(leased_until__isnull=True) | Q(leased_until__lte=now)
        mine = FilmFetch.objects.filter(free, imdb_id=imdb_id)
        if mine.update(token=lease.token, leased_until=until):
            return lease
        FilmFetch.objects.bulk_create(
            [FilmFetch(imdb_id=imdb_id, token=lease.token, leased_until=until)],
            ignore_conflicts=True,
        )
        return lease if self._held(lease).exists() else None

    def renew(self, lease: Lease) -> bool:
        """Hold the lease for another while; False where somebody took it over."""
        return bool(self._held(lease).update(leased_until=self._now() + self._lease_time))

    def finish(self, lease: Lease, **findings: Any) -> bool:
        """Give the lease back and note the findings, columns of `FilmFetch`, in one step.

        False, and nothing noted, where somebody took the lease over: what was fetched under it
        may be older than what they stored.
        """
        return bool(
            self._held(lease).update(token="", leased_until=None, ended_at=self._now(), **findings)
        )

    def forget_missing(self, before: datetime) -> int:
        """Delete the entries of made-up ids that nobody asked for since; return their number."""
        deleted, _ = FilmFetch.objects.filter(
            missing_until__lt=before, leased_until__isnull=True, watchmode_at__isnull=True
        ).delete()
        return int(deleted)

    def _held(self, lease: Lease) -> Any:
        return FilmFetch.objects.filter(imdb_id=lease.imdb_id, token=lease.token)
