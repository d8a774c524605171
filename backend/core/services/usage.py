"""How many calls were made to each source, and how many were avoided and why, per day."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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

    The coordinator and the housekeeper store them with `store_tally`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._hits: Counter[tuple[str, ...]] = Counter()

    def made(self, source: str, calls: int) -> None:
        """Count attempts to call a source."""
        self._add(source, "made", calls)

    def avoided(self, why: Avoided, sources: Iterable[str], *, times: int = 1) -> None:
        """Count a call that was not made, for each element of `sources`, `times` over."""
        for source, calls in Counter(sources).items():
            metrics.UPSTREAM_CALLS_AVOIDED.labels(source, why.value).inc(calls * times)
            self._add(source, why.value, calls * times)

    def cache_hit(self, sources: tuple[str, ...]) -> None:
        """Count what `avoided` counts for a cache hit; takes a hundredth of the time of a hit.

        `add_up_hits` does the rest.
        """
        with self._lock:
            self._hits[sources] += 1

    def add_up_hits(self) -> None:
        """Add the hits to the counts and to the metrics."""
        with self._lock:
            hits, self._hits = self._hits, Counter()
        for sources, times in hits.items():
            self.avoided(Avoided.CACHE_HIT, sources, times=times)

    def take(self) -> dict[tuple[str, str], int]:
        """Return the counts by source and kind, and reset them."""
        self.add_up_hits()
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


def store_tally() -> int:
    """Store the counts of this process; return how many. They are kept if that fails."""
    counts = tally.take()
    with or_put_back(tally.put_back, counts):
        _store(counts)
    return len(counts)


@contextmanager
def or_put_back(put_back: Callable[..., object], *taken: object) -> Iterator[None]:
    """Put back what was taken to be stored if the block that stores it fails."""
    try:
        yield
    except BaseException:
        put_back(*taken)
        raise


def _store(counts: dict[tuple[str, str], int]) -> None:
    """Add counts to those of the day (UTC)."""
    today = timezone.now().date()
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
