"""Whether a source may be called now: cool-down, circuit breaker, used-up quota, in one state.

However a source got closed, it opens the same way: once its time is over one call may try, and
what becomes of that probe decides (https://learn.microsoft.com/azure/architecture/patterns/circuit-breaker).
"""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from core.deadline import time_left
from core.errors import (
    DeadlineExceeded,
    UpstreamError,
    UpstreamQuotaExhausted,
    UpstreamRateLimited,
    UpstreamRejected,
    error_for_code,
)


@dataclass(frozen=True, slots=True)
class Closure:
    """A source is not to be called before `until`, for the reason that `code` names.

    `strikes` counts how often in a row it was closed for this reason.
    """

    until: datetime
    code: str
    strikes: int = 1


@dataclass(frozen=True, slots=True)
class GatePolicy:
    """How a source is treated when it fails; all times in seconds.

    After `failures` failed attempts in a row it is closed for `pause`, after a 429 without
    `Retry-After` for `cool_down`, doubling up to `longest`; after a refused key for `rejected`,
    after a used-up quota for `exhausted`.
    """

    failures: int = 5
    pause: float = 5.0
    cool_down: float = 30.0
    longest: float = 900.0
    rejected: float = 600.0
    exhausted: float = 3600.0


@dataclass(frozen=True, slots=True)
class News:
    """What the other processes do not know yet of a source.

    `closure` is the new state where `is_new`, `attempts` the calls made, `account` the limit and
    use of our quota as the source told them.
    """

    is_new: bool
    closure: Closure | None
    attempts: int
    account: tuple[int, int] | None


class Gate:
    """What this process knows about one source; safe to use from many threads, does no I/O.

    A `shared` gate is kept in step with those of the other processes by `core.budgets`, which also
    decides who may probe; one that is not decides for itself.
    """

    def __init__(
        self,
        source: str,
        *,
        policy: GatePolicy = GatePolicy(),
        shared: bool = False,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.source = source
        self._policy = policy
        self._shared = shared
        self._now = now
        self._jitter = jitter
        self._changed = threading.Condition()
        self._closure: Closure | None = None
        self._failures = 0
        self._probe_granted = False
        self._prober: int | None = None
        self._news = False
        self._attempts = 0
        self._account: tuple[int, int] | None = None

    def admit(self) -> bool:
        """Return whether the call that may be made now is a probe.

        While another thread probes, waits for what becomes of it, no longer than the deadline.
        Raises the `UpstreamError` for which the source is closed.
        """
        with self._changed:
            while True:
                closure = self._closure
                if closure is None:
                    return False
                if not self._shared and closure.until <= self._now():
                    self._probe_granted = True
                if not self._probe_granted:
                    raise self._error(closure)
                if self._prober is None:
                    self._prober = threading.get_ident()
                    return True
                if not self._changed.wait(time_left(threading.TIMEOUT_MAX)):
                    raise DeadlineExceeded(self.source, "deadline")

    def record_success(self) -> None:
        """Tell that the source answered: it is open."""
        with self._changed:
            self._attempts += 1
            # An answer to a call made before the source was closed does not open it.
            if self._closure is None or self._is_probe():
                self._failures = 0
            if self._is_probe():
                self._closure = None
                self._news = True
                self._end_probe()

    def record_failure(self, error: UpstreamError) -> None:
        """Tell that an attempt failed; closes the source where its policy says so."""
        with self._changed:
            self._attempts += 1
            self._failures += 1
            seconds = self._seconds_closed(error)
            if seconds is not None:
                self._close(seconds, error.code)
            elif self._closure is not None and self._is_probe():
                self._close(self._policy.pause, self._closure.code)
            if self._is_probe():
                self._end_probe()

    def abandon(self) -> None:
        """Tell that an admitted call was not made after all, or says nothing about the source."""
        with self._changed:
            if self._is_probe():
                self._end_probe()

    def note_account(self, limit: int, used: int) -> None:
        """Tell what the source itself says of our quota: calls granted, and calls used of them."""
        with self._changed:
            self._account = limit, used

    def adopt(self, closure: Closure | None, *, probe: bool) -> None:
        """Take over what all processes agreed on; `probe` lets the next call of ours try."""
        with self._changed:
            if self._news or self._prober is not None:
                return
            if closure is None and self._closure is not None:
                self._failures = 0
            # A right to probe that was granted and not used yet outlives another look.
            keeps_grant = self._probe_granted and closure == self._closure
            self._closure = closure
            self._probe_granted = closure is not None and (probe or keeps_grant)
            self._changed.notify_all()

    @property
    def has_news(self) -> bool:
        """Whether the source was closed or opened since the other processes were told."""
        return self._news

    def take_news(self) -> News:
        """Return what happened since the last time; it counts as told."""
        with self._changed:
            news = News(self._news, self._closure, self._attempts, self._account)
            self._news, self._attempts, self._account = False, 0, None
            return news

    def error(self) -> UpstreamError | None:
        """Return the error for which no call may be made now, None where one may."""
        with self._changed:
            if self._closure is None or self._probe_granted:
                return None
            if not self._shared and self._closure.until <= self._now():
                return None
            return self._error(self._closure)

    def _seconds_closed(self, error: UpstreamError) -> float | None:
        policy = self._policy
        if isinstance(error, UpstreamQuotaExhausted):
            return max(error.retry_after or 0.0, policy.exhausted)
        if isinstance(error, UpstreamRejected):
            return policy.rejected
        if isinstance(error, UpstreamRateLimited):
            return error.retry_after or self._backed_off(policy.cool_down, error.code)
        if error.retry_after:
            return error.retry_after
        # A certificate does not get valid by asking five times.
        if self._failures >= policy.failures or error.reason.startswith("tls_"):
            return policy.pause
        return None

    def _backed_off(self, base: float, code: str) -> float:
        last = self._closure
        strikes = last.strikes if last and last.code == code and self._is_probe() else 0
        doubled = min(base * 2**strikes, self._policy.longest)
        return float(doubled * (1 + self._jitter() / 10))

    def _close(self, seconds: float, code: str) -> None:
        until = self._now() + timedelta(seconds=seconds)
        last = self._closure
        strikes = 1
        if last and self._is_probe():
            strikes = last.strikes + 1 if last.code == code else 1
        elif last:
            # Seven calls refused together are one refusal: the longest wait stands.
            if last.until >= until:
                return
            strikes = last.strikes
        self._closure = Closure(until, code, strikes)
        self._news = True

    def _is_probe(self) -> bool:
        """Whether the call of this thread is the probe; a call begins and ends in one thread."""
        return self._prober == threading.get_ident()

    def _end_probe(self) -> None:
        self._prober = None
        self._probe_granted = False
        self._changed.notify_all()

    def _error(self, closure: Closure) -> UpstreamError:
        error = error_for_code(closure.code)
        left = max(0.0, (closure.until - self._now()).total_seconds())
        return error(self.source, "closed", retry_after=max(1.0, left))
