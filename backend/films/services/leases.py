"""One fetch of a film at a time, in all processes that share the database."""

import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from core import metrics
from core.db import aware, fetch_row
from films.models import FilmFetch, WatchmodeTitle
from films.payload import CLOCK_SKEW, LONGEST_RETRY

# For how long "no such title" is believed, and for how long a search result counts.
MISSING_TIME = timedelta(hours=1)
_SEEN_TIME = timedelta(days=30)
# Records that one statement looks at when old ones are deleted.
_BATCH = 2000

_TIME = metrics.DB_QUERY_DURATION.labels("lease")

_TABLE = FilmFetch._meta.db_table
_MAP = WatchmodeTitle._meta.db_table
# Written out, because Django takes longer to build these statements, and to read their rows, than
# the database to run them.
_NAMES = [field.attname for field in FilmFetch._meta.concrete_fields]
_COLUMNS = ", ".join(f"{_TABLE}.{field.column}" for field in FilmFetch._meta.concrete_fields)
# One statement, so that one of many processes gets the lease, and with it the record. A lease that
# ends later than any lease may was written by a wrong clock. A statement that is repeated because
# the connection broke finds its own token.
_ACQUIRE = f"""
    INSERT INTO {_TABLE} (imdb_id, token, leased_until, failure) VALUES (%s, %s, %s, '')
    ON CONFLICT (imdb_id) DO UPDATE SET token = excluded.token, leased_until = excluded.leased_until
    WHERE {_TABLE}.leased_until IS NULL OR {_TABLE}.leased_until <= %s
      OR {_TABLE}.leased_until > %s OR {_TABLE}.token = excluded.token
    RETURNING {_COLUMNS}, (SELECT watchmode_id FROM {_MAP} WHERE imdb_id = {_TABLE}.imdb_id)
"""  # noqa: S608  (the names in it are those of the models)
_READ = f"""
    SELECT {_COLUMNS}, map.watchmode_id
    FROM (SELECT %s AS wanted) asked
    LEFT JOIN {_TABLE} ON {_TABLE}.imdb_id = asked.wanted
    LEFT JOIN {_MAP} map ON map.imdb_id = asked.wanted
"""  # noqa: S608  (as above)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to fetch a film and to store the result, until another process takes it over.

    `record` is the film's record when the lease was given (`FetchLeases.record`).
    """

    imdb_id: str
    token: str
    record: FilmFetch = field(compare=False)


class FetchLeases:
    """Keeps the `FilmFetch` records.

    A lease that is not renewed for `lease_time` is over: its process is dead or paused. The
    coordinator calls `renew_kept`.
    """

    def __init__(
        self, *, lease_time: timedelta, now: Callable[[], datetime] = timezone.now
    ) -> None:
        self._lease_time = lease_time
        self._now = now
        self._lock = threading.Lock()
        self._kept: dict[str, datetime] = {}

    @_TIME.time()
    def record(self, imdb_id: str) -> FilmFetch:
        """Return the film's record, an unsaved empty one if there is none.

        Its `mapped_id` is Watchmode's id of the film by the imported id map, None without one.
        """
        row = fetch_row(_READ, [imdb_id])
        if row and row[0] is not None:
            return self._clamped(_record(row))
        empty = FilmFetch(imdb_id=imdb_id)
        empty.mapped_id = row[-1] if row else None
        return empty

    @_TIME.time()
    def acquire(self, imdb_id: str) -> Lease | None:
        """Return a lease on the film, None while another process has it."""
        token = uuid.uuid4().hex
        now = self._now()
        until = now + self._lease_time
        moments = [
            connection.ops.adapt_datetimefield_value(moment)
            for moment in (until, now, until + CLOCK_SKEW)
        ]
        row = fetch_row(_ACQUIRE, [imdb_id, token, *moments])
        return Lease(imdb_id, token, self._clamped(_record(row))) if row else None

    def keep(self, lease: Lease) -> None:
        """Have `renew_kept` renew the lease until `finish`."""
        with self._lock:
            self._kept[lease.token] = self._now()

    @_TIME.time()
    def finish(self, lease: Lease, *, dropped_id: int | None = None, **findings: Any) -> bool:
        """End the lease and store the findings, columns of `FilmFetch`, in one step.

        False, and they are not stored, if another process took the lease over: what was fetched
        under it may be older than what that process stored. `dropped_id` is an id that Watchmode
        does not have any more; it is removed from the id map.
        """
        if dropped_id is not None:
            dropped = WatchmodeTitle.objects.filter(imdb_id=lease.imdb_id, watchmode_id=dropped_id)
            dropped.delete()
        with self._lock:
            self._kept.pop(lease.token, None)
        ended = {"token": "", "leased_until": None, "ended_at": self._now(), **findings}
        return _update_held(lease, ended)

    @_TIME.time()
    def is_held(self, lease: Lease) -> bool:
        """Whether no other process took the lease over; renews it."""
        return _update_held(lease, {"leased_until": self._now() + self._lease_time})

    def renew_kept(self) -> bool:
        """Renew the kept leases of this process that are due; return whether there are any."""
        now = self._now()
        with self._lock:
            due = [t for t, at in self._kept.items() if now - at >= self._lease_time / 4]
            self._kept |= dict.fromkeys(due, now)
            keeps_any = bool(self._kept)
        if due:
            with _TIME.time():
                FilmFetch.objects.filter(token__in=due).update(leased_until=now + self._lease_time)
        return keeps_any

    def is_missing(self, record: FilmFetch, *, is_stored: bool) -> bool:
        """Whether IMDb reported that there is no such film: once if it is new, twice if stored."""
        until, since = record.missing_until, record.missing_since
        if until is None or since is None or until <= self._now():
            return False
        return not is_stored or until - since >= 2 * MISSING_TIME

    @_TIME.time()
    def note(self, imdb_id: str, findings: Mapping[str, Any]) -> bool:
        """Store findings, columns of `FilmFetch`, without a lease; returns true."""
        _store([FilmFetch(imdb_id=imdb_id, **findings)], findings)
        return True

    @_TIME.time()
    def note_seen(self, imdb_ids: Iterable[str]) -> None:
        """Note that these ids were in a search result, so that the titles are known to exist."""
        ids = sorted(set(imdb_ids))
        _store([FilmFetch(imdb_id=it, seen_at=self._now()) for it in ids], ["seen_at"])

    def is_vouched_for(self, record: FilmFetch) -> bool:
        """Whether a search result or an id of Watchmode shows that the title exists."""
        known = (record.seen_at, record.watchmode_id, record.mapped_id)
        return any(value is not None for value in known)

    def cooling_down(self) -> Any:
        """Return a query of the ids whose last fetch failed and is not due again."""
        return FilmFetch.objects.filter(retry_at__gt=self._now()).values("imdb_id")

    def forget_unstored(self, before: datetime, *, stored: QuerySet[Any, Any]) -> int:
        """Delete the records of ids that no row of `stored` has as its `imdb_id`.

        Those that were asked for since `before`, or were in a search result in the last 30 days,
        are kept. Returns the number of deleted records. No statement takes long.
        """
        asked_since = (
            Q(ended_at__gte=before)
            | Q(leased_until__gte=before)
            | Q(missing_until__gte=before)
            | Q(seen_at__gte=self._now() - _SEEN_TIME)
        )
        # Not `imdb_id__in`: past some 200,000 films PostgreSQL would read them all for each record.
        is_stored = Exists(stored.filter(imdb_id=OuterRef("imdb_id")))
        old = FilmFetch.objects.exclude(asked_since).exclude(is_stored)
        in_order = FilmFetch.objects.order_by("imdb_id").values_list("imdb_id", flat=True)
        total, last = 0, ""
        while ids := list(in_order.filter(imdb_id__gt=last)[:_BATCH]):
            deleted, _ = old.filter(imdb_id__gt=last, imdb_id__lte=ids[-1]).delete()
            total, last = total + deleted, ids[-1]
        return total

    def _clamped(self, record: FilmFetch) -> FilmFetch:
        """Shorten times that are later than any rule allows, here and in the row."""
        now = self._now()
        latest = {"missing_until": now + MISSING_TIME, "retry_at": now + LONGEST_RETRY}
        latest |= dict.fromkeys(("ended_at", "watchmode_at", "missing_since", "seen_at"), now)
        wrong = {
            name: limit
            for name, limit in latest.items()
            if getattr(record, name) and getattr(record, name) > limit + CLOCK_SKEW
        }
        if wrong:
            FilmFetch.objects.filter(imdb_id=record.imdb_id).update(**wrong)
            for name, limit in wrong.items():
                setattr(record, name, limit)
        return record


def _record(row: Sequence[Any]) -> FilmFetch:
    """Return the record in a row of `_COLUMNS` and Watchmode's id by the id map."""
    *values, mapped_id = row
    record: FilmFetch = FilmFetch.from_db(connection.alias, _NAMES, [aware(it) for it in values])
    record.mapped_id = mapped_id
    return record


def _store(records: Sequence[FilmFetch], columns: Iterable[str]) -> None:
    """Store columns of records, those that exist and new ones."""
    FilmFetch.objects.bulk_create(
        records,
        update_conflicts=True,
        unique_fields=["imdb_id"],
        update_fields=list(columns),
    )


def _update_held(lease: Lease, columns: Mapping[str, Any]) -> bool:
    """Change columns of the record; False if another process took the lease over."""
    moment = connection.ops.adapt_datetimefield_value
    values = [moment(it) if isinstance(it, datetime) else it for it in columns.values()]
    assignments = ", ".join(f"{name} = %s" for name in columns)
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {_TABLE} SET {assignments} WHERE imdb_id = %s AND token = %s",  # noqa: S608
            [*values, lease.imdb_id, lease.token],
        )
        return bool(cursor.rowcount)
