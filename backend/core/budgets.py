"""What all processes together may ask of each source."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from core.errors import UpstreamError, UpstreamQuotaExhausted, error_for_code
from core.models import UpstreamState
from core.services.gate import Closure, Gate, News

# The part of a quota that is kept for films which people already use.
RESERVE = 0.1


@dataclass(frozen=True, slots=True)
class Pace:
    """At most `calls` in any `seconds`, refilled evenly; up to `calls` at once, less the `spare`.

    What leaves evenly arrives unevenly: without a spare call some would come a moment too early.
    """

    calls: int
    seconds: float
    spare: int = 0

    @property
    def burst(self) -> int:
        """The calls that may be made at once after a rest."""
        return max(1, self.calls - self.spare)


@dataclass(frozen=True, slots=True)
class Quota:
    """Calls granted per `period`, a `strftime` pattern of UTC time such as `%Y-%m-%d`.

    `limit` is None where only the source itself tells it, and the calls used of it.
    """

    period: str
    limit: int | None


@dataclass(frozen=True, slots=True)
class Standing:
    """How we stand with a source: why it is left alone (None: it is not), and its quota.

    `limit` is None where there is none or nobody knows; `used` of it in the `period`, "today" or
    "this month".
    """

    closed: UpstreamError | None = None
    limit: int | None = None
    used: int = 0
    period: str = ""

    @property
    def left(self) -> int | None:
        """The calls or credits that are left of the quota."""
        return None if self.limit is None else max(0, self.limit - self.used)


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
            self._tell_news(source, gate)
        refused: dict[str, UpstreamError] = {}
        seen = {source: self._gates[source].revision for source in wanted}
        rows = {row.source: row for row in UpstreamState.objects.filter(source__in=wanted)}
        for source in wanted:
            row = rows.get(source)
            self._learn(source, row, seen[source])
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

    def standing(self, source: str) -> Standing:
        """Return what all processes know of the source; changes nothing."""
        row = UpstreamState.objects.filter(source=source).first() or UpstreamState(source=source)
        now = self._now()
        closed: UpstreamError | None = None
        if row.closed_until and row.closed_until > now:
            wait = (row.closed_until - now).total_seconds()
            closed = error_for_code(row.code)(source, "closed", retry_after=max(1.0, wait))
        quota = self._quotas.get(source)
        if quota is None:
            return Standing(closed)
        is_current = row.quota_period == self._period(quota)
        limit = quota.limit if quota.limit is not None else row.quota_limit if is_current else None
        return Standing(
            closed,
            limit=limit or None,
            used=row.quota_used if is_current else 0,
            period="today" if quota.period.endswith("%d") else "this month",
        )

    def complete(self, error: UpstreamError) -> None:
        """Let `error` say when to come back, where its source did not but is closed now."""
        closed = self.closed(error.source)
        if error.retry_after is None and closed:
            error.retry_after = closed.retry_after

    def overview(self) -> dict[str, str]:
        """Return for each source `open`, or the code for which nobody asks it right now."""
        now = self._now()
        rows = UpstreamState.objects.filter(source__in=self._gates, closed_until__gt=now)
        closed = {row.source: row.code for row in rows}
        return {source: closed.get(source, "open") for source in self._gates}

    def is_paced(self, source: str) -> bool:
        """Whether calls to the source need `take` first."""
        return source in self._paces

    def take(self, source: str, wanted: int) -> tuple[int, float]:
        """Return how many of the `wanted` calls may be made now, and the seconds until the next."""
        pace = self._paces[source]
        rate = pace.calls / pace.seconds
        with transaction.atomic():
            row, _ = UpstreamState.objects.select_for_update().get_or_create(
                source=source, defaults={"tokens": pace.burst}
            )
            now = self._now()
            passed = (now - row.tokens_at).total_seconds() if row.tokens_at else pace.seconds
            tokens = min(pace.burst, row.tokens + max(0.0, passed) * rate)
            granted = min(wanted, math.floor(tokens))
            row.tokens, row.tokens_at = tokens - granted, now
            row.save(update_fields=["tokens", "tokens_at"])
        return granted, max(0.0, (1 - row.tokens) / rate)

    def _tell_news(self, source: str, gate: Gate) -> None:
        news = gate.take_news()
        try:
            self._tell(source, news)
        except BaseException:
            gate.untold(news)
            raise
        gate.told(news)

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
            # A closure that outlives our probe is another one, which somebody noted meanwhile.
            UpstreamState.objects.filter(
                source=source, closed_until__lte=self._now() + self._probe_time
            ).update(closed_until=None, code="", strikes=0)
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
        if not UpstreamState.objects.filter(source=source).update(**columns):
            UpstreamState.objects.update_or_create(source=source, defaults=columns)

    def _period(self, quota: Quota) -> str:
        return self._now().strftime(quota.period)

    def _learn(self, source: str, row: UpstreamState | None, seen: int) -> None:
        gate = self._gates[source]
        if row is None or row.closed_until is None:
            gate.adopt(None, probe=False, seen=seen)
            return
        now = self._now()
        closure = Closure(row.closed_until, row.code, row.strikes)
        if row.closed_until > now:
            gate.adopt(closure, probe=False, seen=seen)
            return
        until = now + self._probe_time
        won = UpstreamState.objects.filter(source=row.source, closed_until=row.closed_until).update(
            closed_until=until
        )
        gate.adopt(Closure(until, row.code, row.strikes), probe=bool(won), seen=seen)

    def _quota_error(
        self, source: str, row: UpstreamState | None, *, known_film: bool
    ) -> UpstreamError | None:
        quota = self._quotas.get(source)
        now = self._now()
        if quota is None or row is None or row.quota_period != self._period(quota):
            return None
        limit = quota.limit if quota.limit is not None else row.quota_limit
        # A source that counts itself refuses itself too, and lets us know when it counts anew.
        share = (1.0 if quota.limit else math.inf) if known_film else 1 - RESERVE
        if not limit or row.quota_used < limit * share:
            return None
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        wait = (midnight - now).total_seconds()
        return UpstreamQuotaExhausted(source, "quota", retry_after=wait)
