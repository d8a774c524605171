"""Who fetches which film, and what came of the last time: shared by all processes."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from films.models import FilmFetch

# One statement, so that of many who ask at once one gets it, and learns what is known besides.
_TABLE = FilmFetch._meta.db_table
_ACQUIRE = f"""
    INSERT INTO {_TABLE} (imdb_id, token, leased_until, failure) VALUES (%s, %s, %s, '')
    ON CONFLICT (imdb_id) DO UPDATE SET token = excluded.token, leased_until = excluded.leased_until
    WHERE {_TABLE}.leased_until IS NULL OR {_TABLE}.leased_until <= %s
    RETURNING *
"""  # noqa: S608  (the one name in it is the model's)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to fetch a film and to store what comes of it, as long as nobody took it over.

    `entry` is what was known when it was given.
    """

    imdb_id: str
    token: str
    entry: FilmFetch = field(compare=False)


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
        token = uuid.uuid4().hex
        now = self._now()
        given = FilmFetch.objects.raw(
            _ACQUIRE,
            [
                imdb_id,
                token,
                connection.ops.adapt_datetimefield_value(now + self._lease_time),
                connection.ops.adapt_datetimefield_value(now),
            ],
        )
        for entry in given:
            return Lease(imdb_id, token, entry)
        return None

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

    def resting(self) -> Any:
        """Return a query of the ids whose last fetch failed, and that are not due again yet."""
        return FilmFetch.objects.filter(retry_at__gt=self._now()).values("imdb_id")

    def forget_unstored(self, before: datetime, *, stored: QuerySet[Any, Any]) -> int:
        """Delete the entries of ids that no row of `stored` has as its `imdb_id`.

        Kept are those that somebody asked for since `before`. Returns the number of the deleted.
        """
        asked_since = (
            Q(ended_at__gte=before) | Q(leased_until__gte=before) | Q(missing_until__gte=before)
        )
        # Not `imdb_id__in`: past some 200,000 films PostgreSQL would read them all for each entry.
        is_stored = Exists(stored.filter(imdb_id=OuterRef("imdb_id")))
        deleted, _ = FilmFetch.objects.exclude(asked_since).exclude(is_stored).delete()
        return int(deleted)

    def _held(self, lease: Lease) -> Any:
        return FilmFetch.objects.filter(imdb_id=lease.imdb_id, token=lease.token)
