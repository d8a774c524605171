"""Keeps the sources of this process in step with the other processes."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping

from core.db import DATABASE_FAULTS, release_connection
from core.models import UpstreamState
from core.services.limits import UpstreamLimits, is_in_reserve, plan_of
from core.services.source import Source
from core.services.usage import or_put_back, store_tally
from core.utils.logging import LogThrottle

logger = logging.getLogger(__name__)

# For how long the shared state counts as current after it was read, in seconds.
SYNC_SECONDS = 0.5
# How often to work while calls are queued or under way.
HEARTBEAT_SECONDS = 0.2
# For how long an idle coordinator keeps its database connection.
_IDLE_SECONDS = 5.0
# How often the counts of calls are stored.
_USAGE_SECONDS = 10.0
# How long to wait after the database failed.
_RETRY_SECONDS = 1.0


class Coordinator:
    """The thread that uses the database on behalf of the sources.

    It publishes and reads circuit breakers and plans, takes tokens and quota for queued calls, and
    calls `renew_leases`, which returns whether any lease is held. It sleeps while no call is queued
    or under way and no lease is held.
    """

    def __init__(
        self,
        *,
        sources: Collection[Source],
        limits: UpstreamLimits,
        renew_leases: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sources: Mapping[str, Source] = {source.name: source for source in sources}
        self._limits = limits
        self._renew_leases = renew_leases
        self._clock = clock
        self._rows: dict[str, UpstreamState] = {}
        self.synced_at = self._published_at = float("-inf")
        self._usage_due_at = float("-inf")
        self._outage = LogThrottle(seconds=_RETRY_SECONDS, clock=clock)
        self._lock = threading.Lock()
        self._is_started = False
        self._woken = threading.Event()
        self._is_idle = True
        for source in sources:
            source.coordinator = self

    @property
    def is_synced(self) -> bool:
        """Whether the shared state was read recently."""
        return self._clock() - self.synced_at <= SYNC_SECONDS

    def wake(self) -> None:
        """Make the thread work now, and start it if necessary."""
        if not self._is_started:
            with self._lock:
                if not self._is_started:
                    self._is_started = True
                    threading.Thread(target=self._run, name="coordinator", daemon=True).start()
        self._woken.set()

    def note_call(self, *, must_wait: bool) -> None:
        """Take note of a queued call; `must_wait` is true if it needs a token, quota or a probe."""
        # A thread that is not idle works within a heartbeat anyway.
        if must_wait or self._is_idle:
            self.wake()

    def work(self) -> float | None:
        """Do what is due; return the seconds until something may be due again, None if idle."""
        self._publish_trips()
        if any(source.is_quota_low for source in self.sources.values()):
            self._publish_usage()
        waiting = [source for source in self.sources.values() if source.is_waiting]
        if waiting:
            self._sync(waiting)
        seconds = [self._grant(source) for source in waiting]
        # Last, because no call waits for these.
        if self._clock() - self._published_at >= HEARTBEAT_SECONDS:
            self._publish_usage()
        if self._clock() >= self._usage_due_at:
            self._usage_due_at = self._clock() + _USAGE_SECONDS
            store_tally()
        if self._renew_leases() or any(source.is_busy for source in self.sources.values()):
            seconds.append(HEARTBEAT_SECONDS)
        return min(seconds, default=None)

    def publish(self) -> None:
        """Store what this process learned; commands call this before they end."""
        self._publish_trips()
        self._publish_usage()
        store_tally()

    def _run(self) -> None:
        while True:
            self._woken.clear()
            # Idle until work is found, so that a call that is queued meanwhile wakes this thread.
            self._is_idle = True
            seconds = self._work_safely()
            self._is_idle = seconds is None
            is_woken = self._woken.wait(_IDLE_SECONDS if self._is_idle else seconds)
            if self._is_idle and not is_woken:
                release_connection()
                self._woken.wait()

    def _work_safely(self) -> float | None:
        try:
            try:
                return self.work()
            except DATABASE_FAULTS:
                # The connection may have been cut since the last time.
                release_connection()
                return self.work()
        except DATABASE_FAULTS as exc:
            release_connection()
            if self._outage.is_due():
                logger.warning("database failed", extra={"outcome": type(exc).__name__})
            error: Exception = exc
        # A bug, logged with its traceback: the calls of the process must not wait forever.
        except Exception as exc:
            logger.exception("unexpected error", extra={"outcome": "unexpected"})
            error = exc
        for source in self.sources.values():
            source.fail_queued(error)
        return _RETRY_SECONDS

    def _publish_trips(self) -> None:
        for name, source in self.sources.items():
            is_new, trip = source.breaker.take_unpublished()
            if not is_new:
                continue
            with or_put_back(source.breaker.put_back):
                self._limits.publish(name, trip)
            # Another process may know of a longer trip.
            self.synced_at = float("-inf")

    def _publish_usage(self) -> None:
        for source in self.sources.values():
            self._publish_usage_of(source)
        self._published_at = self._clock()

    def _publish_usage_of(self, source: Source) -> None:
        if spare := source.take_spare_tokens():
            with or_put_back(source.put_back_tokens, spare):
                self._limits.add_tokens(source.name, spare)
        if debt := source.take_quota_debt():
            with or_put_back(source.put_back_quota_debt, debt):
                self._limits.count_quota(source.name, debt)
        # Last, because the source's own count replaces ours.
        if account := source.breaker.usage.take_account():
            with or_put_back(source.breaker.usage.put_back, account):
                self._limits.note_account(source.name, *account)
            if is_in_reserve(*account):
                self.synced_at = float("-inf")
        if plan := source.breaker.usage.take_plan():
            with or_put_back(source.breaker.usage.put_back_plan):
                self._limits.note_plan(source.name, plan)

    def _sync(self, waiting: Collection[Source]) -> None:
        """Learn the state of the circuit breakers and the plans, and claim the right to probe."""
        is_recent = self._clock() - self.synced_at < HEARTBEAT_SECONDS
        if is_recent and all(s.is_synced and not s.breaker.is_due_for_probe for s in waiting):
            return
        self._rows = self._limits.read(self.sources.keys())
        for name, row in self._rows.items():
            source = self.sources[name]
            source.breaker.usage.adopt_plan(plan_of(row))
            trip = self._limits.trip(row)
            source.breaker.adopt(trip, may_probe=False)
            if trip and source in waiting and source.breaker.is_due_for_probe:
                # If another process claimed it, the next read finds the trip that it prolonged.
                claimed = self._limits.claim_probe(name, trip)
                source.breaker.adopt(claimed or trip, may_probe=claimed is not None)
        self.synced_at = self._clock()
        for source in self.sources.values():
            source.recheck()

    def _grant(self, source: Source) -> float:
        """Get quota and tokens for the queued calls; return when to look again, in seconds."""
        if not source.breaker.may_call:
            return HEARTBEAT_SECONDS
        row = self._rows.get(source.name)
        if source.quota:
            # Where only the source counts, nothing has to be counted before the next call.
            if source.quota.limit and source.owes_quota:
                self._publish_usage_of(source)
            for leave_reserve in (False, True):
                calls = source.calls_without_quota(leave_reserve=leave_reserve)
                if not calls:
                    continue
                granted = self._limits.reserve_quota(
                    source.name, len(calls), leave_reserve=leave_reserve, row=row
                )
                source.give_quota(calls[:granted])
                if granted < len(calls):
                    source.refuse(calls[granted:], self._limits.quota_error(source.name))
        if source.rate and (wanted := source.tokens_wanted()):
            granted, seconds = self._limits.take_tokens(source.name, wanted, row)
            source.add_tokens(granted, seconds)
            if granted < wanted:
                return max(0.01, min(seconds, HEARTBEAT_SECONDS))
        return HEARTBEAT_SECONDS
