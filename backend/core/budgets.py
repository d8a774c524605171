"""What all processes together may ask of each source."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from core.errors import UpstreamError, UpstreamQuotaExhausted
from core.models import UpstreamState
from core.services.gate import Closure, Gate, News

# The part of a quota that is kept for films which people already use.
RESERVE = 0.1


@dataclass(frozen=True, slots=True)
class Pace:
    """At most `calls` in any `seconds`, refilled evenly."""

    calls: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Quota:
    """Calls granted per `period`, a `strftime` pattern of UTC time such as `%Y-%m-%d`.

    `limit` is None where only the source itself tells it, and the calls used of it.
    """

    period: str
    limit: int | None


class UpstreamBudgets:
    """Keeps the gates of this process in step with the database, and counts pace and quota there.

    Every method makes a query or two: call them from threads that own a connection anyway.
    """

    def __init__(
        self,
        *,
        gates: Mapping[str, Gate],
        paces: Mapping[str, Pace],
        quotas: Mapping[str, Quota],
        probe_seconds: float,
        now: Callable[[], datetime] = timezone.now,
    ) -> None:
        self._gates = gates
        self._paces = paces
        self._quotas = quotas
        self._probe_time = timedelta(seconds=probe_seconds)
        self._now = now

    def sync(self, sources: Iterable[str], *, known_film: bool = True) -> dict[str, UpstreamError]:
        """Tell and learn news of `sources`; return the errors for which some may not be called.

        Where the time of a closure is over, one process gets the right to probe.
        The reserve of a quota is left to films that are stored already (`known_film`).
        """
        wanted = set(sources)
        for source, gate in self._gates.items():
            self._tell(source, gate.take_news())
        refused: dict[str, UpstreamError] = {}
        rows = {row.source: row for row in UpstreamState.objects.filter(source__in=wanted)}
        for source in wanted:
            row = rows.get(source)
            self._learn(self._gates[source], row)
            error = self._gates[source].error() or self._quota_error(
                source, row, known_film=known_film
            )
            if error:
                refused[source] = error
        return refused

    @property
    def has_news(self) -> bool:
        """Whether another process should be told something without delay."""
        return any(gate.has_news for gate in self._gates.values())

    def closed(self, source: str) -> UpstreamError | None:
        """Return why no call may be made now, as far as this process knows; makes no query."""
        return self._gates[source].error()

    def is_paced(self, source: str) -> bool:
        """Whether calls to the source need `take` first."""
        return source in self._paces

    def take(self, source: str, wanted: int) -> tuple[int, float]:
        """Return how many of the `wanted` calls may be made now, and the seconds until the next."""
        pace = self._paces[source]
        rate = pace.calls / pace.seconds
        with transaction.atomic():
            row, _ = UpstreamState.objects.select_for_update().get_or_create(
                source=source, defaults={"tokens": pace.calls}
            )
            now = self._now()
            passed = (now - row.tokens_at).total_seconds() if row.tokens_at else pace.seconds
            tokens = min(pace.calls, row.tokens + max(0.0, passed) * rate)
            granted = min(wanted, math.floor(tokens))
            row.tokens, row.tokens_at = tokens - granted, now
            row.save(update_fields=["tokens", "tokens_at"])
        return granted, max(0.0, (1 - row.tokens) / rate)

    def _tell(self, source: str, news: News) -> None:
        if news.is_new:
            self._tell_closure(source, news.closure)
        quota = self._quotas.get(source)
        if quota and news.account:
            limit, used = news.account
            self._set(source, quota_period=self._period(quota), quota_limit=limit, quota_used=used)
        elif quota and news.attempts:
            self._count(source, self._period(quota), news.attempts)

    def _tell_closure(self, source: str, closure: Closure | None) -> None:
        if closure is None:
            self._set(source, closed_until=None, code="", strikes=0)
            return
        UpstreamState.objects.get_or_create(source=source)
        # Where another process knows of a longer closure, that one stands.
        UpstreamState.objects.filter(
            Q(closed_until__isnull=True) | Q(closed_until__lt=closure.until), source=source
        ).update(closed_until=closure.until, code=closure.code, strikes=closure.strikes)

    def _count(self, source: str, period: str, attempts: int) -> None:
        this_period = UpstreamState.objects.filter(source=source, quota_period=period)
        if not this_period.update(quota_used=F("quota_used") + attempts):
            self._set(source, quota_period=period, quota_used=attempts)

    def _set(self, source: str, **columns: Any) -> None:
        UpstreamState.objects.update_or_create(source=source, defaults=columns)

    def _period(self, quota: Quota) -> str:
        return self._now().strftime(quota.period)

    def _learn(self, gate: Gate, row: UpstreamState | None) -> None:
        if row is None or row.closed_until is None:
            gate.adopt(None, probe=False)
            return
        now = self._now()
        closure = Closure(row.closed_until, row.code, row.strikes)
        if row.closed_until > now:
            gate.adopt(closure, probe=False)
            return
        until = now + self._probe_time
        won = UpstreamState.objects.filter(source=row.source, closed_until=row.closed_until).update(
            closed_until=until
        )
        gate.adopt(Closure(until, row.code, row.strikes), probe=bool(won))

    def _quota_error(
        self, source: str, row: UpstreamState | None, *, known_film: bool
    ) -> UpstreamError | None:
        quota = self._quotas.get(source)
        now = self._now()
        if quota is None or row is None or row.quota_period != self._period(quota):
            return None
        limit = quota.limit if quota.limit is not None else row.quota_limit
        if not limit or row.quota_used < limit * (1 if known_film else 1 - RESERVE):
            return None
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        wait = (midnight - now).total_seconds()
        return UpstreamQuotaExhausted(source, "quota", retry_after=wait)
