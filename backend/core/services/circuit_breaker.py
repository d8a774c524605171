"""Whether a source may be called now: cool-down, repeated failures and used-up quota, in one state.

Closed is normal, open is failing fast. The breaker always closes in the same way: when the time of
the trip is over, one call may probe the source, and its outcome decides
(https://learn.microsoft.com/azure/architecture/patterns/circuit-breaker).
"""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone

from core.deadline import time_left
from core.errors import (
    DeadlineExceeded,
    UpstreamError,
    UpstreamQuotaExhausted,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
    error_for_code,
)


@dataclass(frozen=True, slots=True)
class Trip:
    """The breaker is open until `until` because of the error that has this `code`.

    `count` is the number of consecutive trips for this reason.
    """

    until: datetime
    code: str
    count: int = 1

    def error(self, source: str, now: datetime) -> UpstreamError:
        """Return the error of the calls to the source that are not made because of the trip."""
        left = max(1.0, (self.until - now).total_seconds())
        return error_for_code(self.code)(source, "circuit_open", retry_after=left)


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When the breaker opens, and for how long; all times in seconds.

    `failures` consecutive failed attempts open it for `pause`. A 429 without `Retry-After` opens it
    for `cool_down`, doubled for each consecutive one up to `longest`. A rejected key opens it for
    `rejected`, a used-up quota for `exhausted`, which is the longest trip that there is.
    """

    failures: int = 5
    pause: float = 5.0
    cool_down: float = 30.0
    longest: float = 900.0
    rejected: float = 600.0
    exhausted: float = 3600.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The regions that the plan with a source includes, and when they were read."""

    regions: frozenset[str]
    read_at: datetime


class Usage:
    """How often a source was called, and the quota and the plan as the source last reported them.

    The plan is shared with the other processes.
    """

    def __init__(self) -> None:
        self._of_thread = threading.local()
        self._lock = threading.Lock()
        self._account: tuple[int, int] | None = None
        self._plan: Plan | None = None
        self._is_plan_new = False

    def count(self) -> None:
        """Count one attempt of this thread."""
        self._of_thread.attempts = getattr(self._of_thread, "attempts", 0) + 1

    def take_attempts(self) -> int:
        """Return the attempts of this thread since the last time."""
        attempts: int = getattr(self._of_thread, "attempts", 0)
        self._of_thread.attempts = 0
        return attempts

    @property
    def account(self) -> tuple[int, int] | None:
        """The calls granted in the period and those used, None if nothing was reported."""
        return self._account

    def note_account(self, limit: int, used: int) -> None:
        """Note what the source reports: the calls granted in the period, and those used."""
        with self._lock:
            self._account = limit, used

    def take_account(self) -> tuple[int, int] | None:
        """Return what the source reported since the last time."""
        with self._lock:
            account, self._account = self._account, None
        return account

    def put_back(self, account: tuple[int, int]) -> None:
        """Undo a `take_account` whose result could not be stored."""
        with self._lock:
            self._account = self._account or account

    @property
    def plan(self) -> Plan | None:
        """The plan as some process read it last, None if none did."""
        return self._plan

    def note_plan(self, plan: Plan) -> None:
        """Note the plan that this process read."""
        with self._lock:
            self._plan, self._is_plan_new = plan, True

    def take_plan(self) -> Plan | None:
        """Return the plan if this process read it since the last time."""
        with self._lock:
            is_new, self._is_plan_new = self._is_plan_new, False
        return self._plan if is_new else None

    def put_back_plan(self) -> None:
        """Undo a `take_plan` whose result could not be stored."""
        self._is_plan_new = True

    def adopt_plan(self, plan: Plan | None) -> None:
        """Take over the shared plan, if there is one, unless this process has one to store."""
        with self._lock:
            if plan is not None and not self._is_plan_new:
                self._plan = plan


class CircuitBreaker:
    """The breaker of one source in this process; thread-safe, does no I/O.

    The state of a `shared` breaker is kept in step with the other processes by the coordinator
    (`core.services.coordinator`), which also grants the right to probe. Other breakers grant it
    themselves.
    """

    def __init__(
        self,
        source: str,
        *,
        policy: BreakerPolicy = BreakerPolicy(),
        shared: bool = False,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.source = source
        self.usage = Usage()
        self.policy = policy
        self._shared = shared
        self._now = now
        self._jitter = jitter
        self._changed = threading.Condition()
        self._trip: Trip | None = None
        self._failures = 0
        self._probe_granted = False
        # The thread that probes, and the trip whose end it probes.
        self._prober: int | None = None
        self._probed: Trip | None = None
        self._unpublished = False
        self._waiting = 0

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Enclose one attempt to call the source.

        Raises the `UpstreamError` of an open breaker. Counts the attempt, and records an
        `UpstreamUnavailable` that is raised inside as a failure. A reply is judged by the caller,
        who reports it with `record_success` or `record_failure`.
        """
        self.admit()
        self.usage.count()
        try:
            yield
        except UpstreamUnavailable as exc:
            self.record_failure(exc)
            raise
        except BaseException:
            self.abandon()
            raise

    def admit(self) -> None:
        """Return if a call may be made now; the first call after a trip is the probe.

        While another thread probes, waits for its outcome, and after a trip for the right to
        probe, at most until the deadline. Raises the `UpstreamError` of an open breaker.
        """
        with self._changed:
            self._clamp()
            while self._trip is not None:
                if not self._shared and self._trip.until <= self._now():
                    self._probe_granted = True
                if self._probe_granted and self._prober is None:
                    self._prober, self._probed = threading.get_ident(), self._trip
                    return
                if not self._probe_granted and self._now() < self._trip.until:
                    raise self._trip.error(self.source, self._now())
                # A retry is not in the queue of the source; the coordinator sees it by this.
                self._waiting += 1
                changed = self._changed.wait(time_left(threading.TIMEOUT_MAX))
                self._waiting -= 1
                if not changed:
                    raise DeadlineExceeded(self.source, "deadline")

    def record_success(self) -> None:
        """Record that the source answered. A successful probe closes the breaker."""
        with self._changed:
            # A reply to a call that was made before the trip does not close the breaker.
            if self._trip is None or self._is_probe():
                self._failures = 0
            if self._is_probe():
                # A refusal of another call during the probe is newer than the probe.
                if self._trip == self._probed:
                    self._change(None)
                self._end_probe()

    def record_failure(self, error: UpstreamError) -> None:
        """Record that an attempt failed; opens the breaker as the policy says."""
        with self._changed:
            self._failures += 1
            seconds = self._seconds_open(error)
            if seconds is not None:
                self._open(seconds, error.code)
            elif self._trip is not None and self._is_probe():
                self._open(self.policy.pause, self._trip.code)
            if self._is_probe():
                self._end_probe()

    def abandon(self) -> None:
        """Record that the admitted call of this thread says nothing about the source.

        Does nothing if its outcome was recorded.
        """
        with self._changed:
            if self._is_probe():
                self._end_probe()

    def error(self) -> UpstreamError | None:
        """Return the error with which calls fail now.

        None if the breaker is closed, or if the time of the trip is over: calls then wait for the
        outcome of the probe.
        """
        with self._changed:
            self._clamp()
            trip = self._trip
            if trip is None or self._probe_granted or trip.until <= self._now():
                return None
            return trip.error(self.source, self._now())

    def is_open_for(self, code: str) -> bool:
        """Whether calls fail now with an error that has this `code`."""
        error = self.error()
        return error is not None and error.code == code

    @property
    def may_call(self) -> bool:
        """Whether a call may be made now without waiting: the breaker is closed, or it probes."""
        if self._trip is None:
            return True
        with self._changed:
            trip = self._trip
            if trip is None or self._prober is not None:
                return trip is None
            return self._probe_granted or (not self._shared and trip.until <= self._now())

    @property
    def is_due_for_probe(self) -> bool:
        """Whether the time of the trip is over and no probe was granted yet."""
        if self._trip is None:
            return False
        with self._changed:
            self._clamp()
            trip = self._trip
            return trip is not None and not self._probe_granted and trip.until <= self._now()

    @property
    def is_waited_for(self) -> bool:
        """Whether a call that left the queue waits for a probe, made or granted."""
        return self._waiting > 0

    @property
    def is_unpublished(self) -> bool:
        """Whether the breaker opened or closed since `take_unpublished`."""
        return self._unpublished

    def take_unpublished(self) -> tuple[bool, Trip | None]:
        """Return whether the state changed since the last time, and the state."""
        with self._changed:
            changed, self._unpublished = self._unpublished, False
            return changed, self._trip

    def put_back(self) -> None:
        """Undo a `take_unpublished` whose result could not be stored."""
        self._unpublished = True

    def adopt(self, trip: Trip | None, *, may_probe: bool) -> None:
        """Take over the shared state, unless this process probes or has an unpublished change.

        `may_probe` allows the next call of this process to probe the source.
        """
        with self._changed:
            if self._unpublished or self._prober is not None:
                return
            if trip is None and self._trip is not None:
                self._failures = 0
            # A probe that was granted and not made yet stays granted.
            keeps_grant = self._probe_granted and trip == self._trip
            self._trip = trip
            self._probe_granted = trip is not None and (may_probe or keeps_grant)
            self._changed.notify_all()

    def _seconds_open(self, error: UpstreamError) -> float | None:
        policy = self.policy
        if isinstance(error, UpstreamQuotaExhausted):
            return policy.exhausted
        if isinstance(error, UpstreamRejected):
            return policy.rejected
        if isinstance(error, UpstreamRateLimited):
            return error.retry_after or self._backed_off(policy.cool_down, error.code)
        if error.retry_after:
            return error.retry_after
        if self._failures >= policy.failures or error.is_tls_failure:
            return policy.pause
        return None

    def _backed_off(self, base: float, code: str) -> float:
        last = self._trip
        count = last.count if last and last.code == code and self._is_probe() else 0
        doubled = min(base * 2**count, self.policy.longest)
        return float(doubled * (1 + self._jitter() / 10))

    def _open(self, seconds: float, code: str) -> None:
        until = self._now() + timedelta(seconds=seconds)
        last = self._trip
        count = 1
        if last and self._is_probe():
            count = last.count + 1 if last.code == code else 1
        elif last:
            # Several calls that are refused together count once; the longest wait counts.
            if last.until >= until:
                return
            count = last.count
        self._change(Trip(until, code, count))

    def _clamp(self) -> None:
        """Shorten a trip that is longer than the policy allows: the clock was ahead."""
        latest = self._now() + timedelta(seconds=self.policy.exhausted)
        if self._trip and self._trip.until > latest:
            self._change(replace(self._trip, until=latest))

    def _change(self, trip: Trip | None) -> None:
        self._trip = trip
        self._unpublished = True

    def _is_probe(self) -> bool:
        """Whether this thread makes the probe; a call begins and ends in one thread."""
        return self._prober == threading.get_ident()

    def _end_probe(self) -> None:
        self._prober = None
        self._probe_granted = False
        self._changed.notify_all()
