"""How many calls were made to each source, and how many were avoided and why, per day."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta
from enum import Enum

from django.db.models import F, Sum
from django.utils import timezone

from core import metrics
from core.models import UpstreamUsage

_TIME = metrics.DB_QUERY_DURATION.labels("usage")
# Days for which the counts are kept, as many as `upstream_report` can show.
KEPT_DAYS = 999


class Avoided(Enum):
    """Why a call was not made."""

    CACHE_HIT = "cache_hit"
    NEGATIVE_CACHE = "negative_cache"
    CARRIED_OVER = "carried_over"
    COMBINED = "combined"
    SINGLE_FLIGHT = "single_flight"


class UsageTally:
    """Counts of this process that are not stored yet; thread-safe, does no I/O.

    The coordinator stores them with `store_usage`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()

    def made(self, source: str, calls: int) -> None:
        """Count attempts to call a source."""
        self._add(source, "made", calls)

    def avoided(self, why: Avoided, sources: Iterable[str]) -> None:
        """Count a call that was not made, for each element of `sources`."""
        for source, calls in Counter(sources).items():
            metrics.UPSTREAM_CALLS_AVOIDED.labels(source, why.value).inc(calls)
            self._add(source, why.value, calls)

    def take(self) -> dict[tuple[str, str], int]:
        """Return the counts by source and kind, and reset them."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
            return dict(counts)

    def put_back(self, counts: dict[tuple[str, str], int]) -> None:
        """Undo a `take` whose result could not be stored."""
        with self._lock:
            self._counts.update(counts)

    def _add(self, source: str, kind: str, calls: int) -> None:
        with self._lock:
            self._counts[source, kind] += calls


# The counts of this process; calls are made and avoided in many places.
tally = UsageTally()


def store_usage(
    counts: dict[tuple[str, str], int], *, now: Callable[[], datetime] = timezone.now
) -> None:
    """Add counts to those of the day (UTC)."""
    today = now().date()
    for (source, kind), calls in sorted(counts.items()):
        row = UpstreamUsage.objects.filter(source=source, day=today, kind=kind)
        with _TIME.time():
            if row.update(calls=F("calls") + calls):
                continue
            UpstreamUsage.objects.bulk_create(
                [UpstreamUsage(source=source, day=today, kind=kind)], ignore_conflicts=True
            )
            row.update(calls=F("calls") + calls)


def usage_since(first_day: date) -> dict[str, dict[str, int]]:
    """Return the counts by source and kind of all days from `first_day` on."""
    rows = (
        UpstreamUsage.objects.filter(day__gte=first_day)
        .values_list("source", "kind")
        .annotate(total=Sum("calls"))
    )
    usage: dict[str, dict[str, int]] = {}
    for source, kind, total in rows:
        usage.setdefault(source, {})[kind] = total
    return usage


def forget_old_usage(*, now: Callable[[], datetime] = timezone.now) -> int:
    """Delete the counts of days that are too long ago; return the number of rows."""
    oldest = now().date() - timedelta(days=KEPT_DAYS - 1)
    deleted, _ = UpstreamUsage.objects.filter(day__lt=oldest).delete()
    return int(deleted)
