"""The calls that OMDb grants us in a day: it reports none of them, so we count."""

from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone

from django.db import connection
from django.db.models import F, QuerySet
from django.utils.crypto import salted_hmac

from cinemix.models import OmdbDay
from core.budgets import Standing
from core.errors import UpstreamQuotaExhausted


class OmdbQuota:
    """Counts calls per UTC day in the database, shared by all processes that share it.

    Each key has a count of its own, as OMDb has. `limit` is what the key is worth in a day.
    """

    def __init__(
        self,
        *,
        api_key: str,
        limit: int,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        # The key has few digits: without our secret its hash could be turned back into it.
        self._account = salted_hmac("cinemix.omdb", api_key, algorithm="sha256").hexdigest()[:32]
        self._limit = limit
        self._now = now

    def spend(self) -> date:
        """Take one call and return the day that it is taken from.

        Raises `UpstreamQuotaExhausted` where none is left until the next UTC midnight.
        """
        today = self._now().date()
        if not self._take(today):
            OmdbDay.objects.bulk_create(
                [OmdbDay(day=today, account=self._account)], ignore_conflicts=True
            )
            if not self._take(today):
                raise self.used_up()
        return today

    def add(self, day: date, calls: int) -> None:
        """Count calls beyond the one that was taken: repeated tries, or -1 where none went out."""
        if calls:
            self._rows(day).update(calls=F("calls") + calls)

    def close(self, day: date) -> None:
        """Remember that OMDb itself grants no more calls on `day`."""
        self._rows(day).update(is_used_up=True)

    def standing(self) -> Standing:
        """Return how much of today is used."""
        row = self._rows(self._now().date()).first()
        used = row.calls if row else 0
        if row and row.is_used_up:
            used = max(used, self._limit)
        return Standing(limit=self._limit, used=used, period="today")

    def used_up(self) -> UpstreamQuotaExhausted:
        """Return the error that says so, and when the next day begins."""
        now = self._now()
        midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        wait = (midnight - now).total_seconds()
        return UpstreamQuotaExhausted("omdb", "quota", retry_after=wait)

    def release_connection(self) -> None:
        """Give the thread's database connection back before a wait for the network."""
        if not connection.in_atomic_block:
            connection.close()

    def _take(self, day: date) -> bool:
        free = self._rows(day).filter(is_used_up=False, calls__lt=self._limit)
        taken: int = free.update(calls=F("calls") + 1)
        return taken == 1

    def _rows(self, day: date) -> QuerySet[OmdbDay]:
        rows: QuerySet[OmdbDay] = OmdbDay.objects.filter(day=day, account=self._account)
        return rows
