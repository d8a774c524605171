"""The limits of each source that all processes share: one row of `UpstreamState` per source."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import F, Q
from django.utils import timezone

from core import metrics
from core.errors import UpstreamError, UpstreamQuotaExhausted
from core.models import UpstreamState
from core.services.circuit_breaker import BreakerPolicy, Plan, Trip

_TIME = metrics.DB_QUERY_DURATION.labels("limits")

# Written out, because Django takes longer to build it than the database to run it.
_RESERVE = f"""
    UPDATE {UpstreamState._meta.db_table} SET quota_used = quota_used + %s
    WHERE source = %s AND quota_period = %s AND quota_used <= %s
"""  # noqa: S608  (the name in it is that of the model)

# How far the clocks of the processes may differ.
_CLOCK_SKEW = timedelta(seconds=10)
# How often to try to change a row that other processes change at the same time.
_TRIES = 10


def reserve_of(limit: int) -> int:
    """Return the part of a quota that is left to films that are stored, that is, in use."""
    return limit // 10


def is_in_reserve(limit: int, used: int) -> bool:
    """Whether only the reserve of a quota is left."""
    return used >= limit - reserve_of(limit)


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket: `calls` per `seconds`, refilled evenly, `calls` less `spare` at once.

    Calls that leave evenly do not arrive evenly. The spare call keeps a source that counts in
    windows of `seconds` from seeing one call too many.
    """

    calls: int
    seconds: float
    spare: int = 0

    @property
    def burst(self) -> int:
        """The calls that may be made at once after a pause."""
        return max(1, self.calls - self.spare)

    @property
    def per_second(self) -> float:
        """The calls that the bucket gains in a second."""
        return self.calls / self.seconds


@dataclass(frozen=True, slots=True)
class Quota:
    """The calls granted per `period`, a `strftime` pattern of UTC time such as `%Y-%m-%d`.

    `limit` is None if only the source knows the limit and the use, and reports both. `account`
    distinguishes the quotas of several keys; it must not reveal the key.
    """

    period: str
    limit: int | None
    account: str = ""

    def current(self, now: datetime) -> str:
        """Return the name of the period at `now`."""
        return f"{now.strftime(self.period)} {self.account}".strip()

    def seconds_left(self, now: datetime) -> float:
        """Return the seconds from `now` to the end of the period."""
        end = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        while end.strftime(self.period) == now.strftime(self.period):
            end += timedelta(days=1)
        return (end - now).total_seconds()


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """What the processes know of a source: the error of an open breaker, and its quota.

    `limit` is None if there is no quota or the limit is not known; `used` of it in `period`, which
    is "today" or "this month".
    """

    error: UpstreamError | None = None
    limit: int | None = None
    used: int = 0
    period: str = ""

    @property
    def left(self) -> int | None:
        """The calls or credits that are left."""
        return None if self.limit is None else max(0, self.limit - self.used)


def plan_of(row: UpstreamState) -> Plan | None:
    """Return the plan in a row, None if it was never read."""
    if row.plan_read_at is None:
        return None
    return Plan(frozenset(filter(None, row.plan_regions.split(","))), row.plan_read_at)


class UpstreamLimits:
    """Token buckets, quotas and breaker states in the database.

    A row that the caller has read before may be given to the methods as `row`; it need not be
    current, and saves a query.
    """

    def __init__(
        self,
        *,
        rates: Mapping[str, Rate],
        quotas: Mapping[str, Quota],
        policy: BreakerPolicy = BreakerPolicy(),  # noqa: B008  (frozen)
        now: Callable[[], datetime] = timezone.now,
    ) -> None:
        self.rates = rates
        self.quotas = quotas
        self._policy = policy
        self._now = now

    @_TIME.time()
    def read(self, sources: Collection[str]) -> dict[str, UpstreamState]:
        """Return the row of each source, an unsaved empty one if there is none."""
        rows = {row.source: row for row in UpstreamState.objects.filter(source__in=sources)}
        return {source: rows.get(source) or UpstreamState(source=source) for source in sources}

    def status(self, source: str, row: UpstreamState | None = None) -> SourceStatus:
        """Return what is known of the source."""
        row, now = row or self.read([source])[source], self._now()
        trip = self.trip(row)
        error = trip.error(source, now) if trip and trip.until > now else None
        quota = self.quotas.get(source)
        if quota is None:
            return SourceStatus(error)
        is_current = row.quota_period in self._periods(quota)
        limit = quota.limit if quota.limit is not None else row.quota_limit if is_current else None
        return SourceStatus(
            error,
            limit=limit or None,
            used=row.quota_used if is_current else 0,
            period="today" if quota.period.endswith("%d") else "this month",
        )

    def quota_info(self, source: str, row: UpstreamState | None = None) -> dict[str, Any] | None:
        """Return limit, use and end of the period of a quota, None if the limit is not known."""
        status, quota = self.status(source, row), self.quotas.get(source)
        if quota is None or status.limit is None:
            return None
        now = self._now()
        end = now + timedelta(seconds=quota.seconds_left(now))
        resets_at = end.isoformat(timespec="seconds").replace("+00:00", "Z")
        return {"limit": status.limit, "used": status.used, "resets_at": resets_at}

    def code_or_ok(self, row: UpstreamState) -> str:
        """Return `ok`, or the code of the error for which the breaker in a row is open."""
        trip = self.trip(row)
        return trip.code if trip and trip.until > self._now() else "ok"

    # --- Circuit breakers

    def trip(self, row: UpstreamState) -> Trip | None:
        """Return the trip in a row; one that ends later than any rule allows is shortened there."""
        if row.open_until is None:
            return None
        latest = self._now() + timedelta(seconds=self._policy.exhausted)
        if row.open_until > latest:
            UpstreamState.objects.filter(source=row.source, open_until=row.open_until).update(
                open_until=latest
            )
            row.open_until = latest
        return Trip(row.open_until, row.code, row.trips)

    @_TIME.time()
    def publish(self, source: str, trip: Trip | None) -> None:
        """Store that the breaker of a source opened, or that it closed (None)."""
        rows = UpstreamState.objects.filter(source=source)
        if trip is None:
            # A trip that ends after our probe is a newer one of another process.
            probe_end = self._now() + timedelta(seconds=self._policy.pause)
            rows.filter(open_until__lte=probe_end).update(open_until=None, code="", trips=0)
            return
        self._stored(source)
        # The longer one of two trips counts.
        rows.filter(Q(open_until__isnull=True) | Q(open_until__lt=trip.until)).update(
            open_until=trip.until, code=trip.code, trips=trip.count
        )

    @_TIME.time()
    def claim_probe(self, source: str, trip: Trip) -> Trip | None:
        """Claim the right to probe a source whose trip is over; None if another process has it.

        The trip is prolonged by the time that a probe may take, so that another
        process probes if this one dies.
        """
        until = self._now() + timedelta(seconds=self._policy.pause)
        claimed = UpstreamState.objects.filter(source=source, open_until=trip.until).update(
            open_until=until
        )
        return Trip(until, trip.code, trip.count) if claimed else None

    # --- Token buckets

    @_TIME.time()
    def take_tokens(
        self, source: str, wanted: int, row: UpstreamState | None = None
    ) -> tuple[int, float]:
        """Take up to `wanted` tokens; return how many, and the seconds until the next one.

        `row` is brought up to date.
        """
        rate = self.rates[source]
        for _ in range(_TRIES):
            if row is None or row.tokens_at is None:
                row = self._stored(source)
            now = at = self._now()
            is_ahead = row.tokens_at is not None and row.tokens_at > now + _CLOCK_SKEW
            if row.tokens_at is None:
                passed = rate.seconds
            elif is_ahead:
                # A clock that was ahead wrote it. The tokens that it granted are used up.
                passed = 0.0
            else:
                # `tokens_at` never goes back: the tokens up to then were granted already.
                at = max(now, row.tokens_at)
                passed = (at - row.tokens_at).total_seconds()
            tokens = min(rate.burst, row.tokens + passed * rate.per_second)
            taken = max(0, min(wanted, math.floor(tokens)))
            seconds = max(0.0, (1 + taken - tokens) / rate.per_second)
            if not taken and not is_ahead:
                return 0, seconds
            is_same = UpstreamState.objects.filter(
                source=source, tokens=row.tokens, tokens_at=row.tokens_at
            )
            # Another process may have changed the row since it was read.
            if is_same.update(tokens=tokens - taken, tokens_at=at):
                row.tokens, row.tokens_at = tokens - taken, at
                return taken, seconds
            row = None
        return 0, 0.0

    @_TIME.time()
    def add_tokens(self, source: str, count: int) -> None:
        """Return tokens whose calls were not made; a negative count takes those of repeated calls.

        What exceeds the bucket is lost at the next `take_tokens`.
        """
        UpstreamState.objects.filter(source=source).update(tokens=F("tokens") + count)

    # --- Quotas

    def reserve_quota(
        self,
        source: str,
        calls: int = 1,
        *,
        leave_reserve: bool,
        row: UpstreamState | None = None,
    ) -> int:
        """Take up to `calls` calls from the quota of the source; return how many there were.

        `leave_reserve` does not touch the last tenth. A source that reports its own count is called
        until it refuses, except for that tenth.
        """
        quota = self.quotas[source]
        if quota.limit is None:
            is_kept = leave_reserve and self._is_in_reserve(row or self.read([source])[source])
            return 0 if is_kept else calls
        if quota.limit == 0:
            return calls
        share = quota.limit - (reserve_of(quota.limit) if leave_reserve else 0)
        rows = UpstreamState.objects.filter(source=source)
        period = quota.current(self._now())
        with _TIME.time():
            while calls > 0:
                with connection.cursor() as cursor:
                    cursor.execute(_RESERVE, [calls, source, period, share - calls])
                    if cursor.rowcount:
                        return calls
                found = self._stored(source)
                if found.quota_period in self._periods(quota):
                    period = found.quota_period
                    calls = min(calls, share - found.quota_used)
                    continue
                # The first call of a period starts the count; of several processes one does.
                rows.filter(quota_period=found.quota_period).update(
                    quota_period=period, quota_used=0, quota_limit=None
                )
        return 0

    @_TIME.time()
    def count_quota(self, source: str, calls: int) -> None:
        """Count `calls` more of the quota; a negative number returns calls that were not made.

        Nothing is returned to a quota that the source reported as used up.
        """
        quota = self.quotas.get(source)
        if quota is None or not quota.limit:
            return
        rows = UpstreamState.objects.filter(source=source, quota_period__in=self._periods(quota))
        if calls < 0:
            rows = rows.filter(quota_limit__isnull=True, quota_used__gte=-calls)
        rows.update(quota_used=F("quota_used") + calls)

    @_TIME.time()
    def note_account(self, source: str, limit: int, used: int) -> None:
        """Store the quota as the source reports it."""
        quota = self.quotas.get(source)
        if quota is None:
            return
        rows = UpstreamState.objects.filter(source=source)
        account = {
            "quota_period": quota.current(self._now()),
            "quota_limit": limit,
            "quota_used": used,
        }
        # Most often there is a row.
        if not rows.update(**account):
            self._stored(source)
            rows.update(**account)

    # --- Plans

    @_TIME.time()
    def note_plan(self, source: str, plan: Plan) -> None:
        """Store the plan as the source reports it."""
        self._stored(source)
        regions = ",".join(sorted(plan.regions))
        UpstreamState.objects.filter(source=source).update(
            plan_regions=regions, plan_read_at=plan.read_at
        )

    def quota_error(self, source: str) -> UpstreamQuotaExhausted:
        """Return the error of a used-up quota, with the time until the next period."""
        wait = self.quotas[source].seconds_left(self._now())
        return UpstreamQuotaExhausted(source, "quota", retry_after=wait)

    def _stored(self, source: str) -> UpstreamState:
        """Return the row of a source, a new one with a full bucket if there is none."""
        burst = self.rates[source].burst if source in self.rates else 0
        full = {"tokens": burst, "tokens_at": self._now()}
        row: UpstreamState = UpstreamState.objects.get_or_create(source=source, defaults=full)[0]
        return row

    def _periods(self, quota: Quota) -> tuple[str, str]:
        """Return the names of the current period by this clock, and by one that is ahead of it."""
        now = self._now()
        return quota.current(now), quota.current(now + _CLOCK_SKEW)

    def _is_in_reserve(self, row: UpstreamState) -> bool:
        quota = self.quotas[row.source]
        if row.quota_period not in self._periods(quota) or not row.quota_limit:
            return False
        return is_in_reserve(row.quota_limit, row.quota_used)
