"""A check of every source: does it answer, does it accept our key, how much quota is left."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from core.deadline import Deadline, deadline_of, time_left
from core.errors import DeadlineExceeded, UpstreamRateLimited
from core.services.limits import SourceStatus, UpstreamLimits, reserve_of
from core.services.upstream import UpstreamService
from core.services.upstream_status import UpstreamStatus


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check: `advice` for the operator, `notes` on what needs no action."""

    status: UpstreamStatus
    shared: SourceStatus
    advice: tuple[str, ...]
    notes: tuple[str, ...]


def check_sources(
    services: Sequence[UpstreamService],
    limits: UpstreamLimits,
    *,
    deadline_seconds: float,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Finding]:
    """Check one source after the other, each within `deadline_seconds`.

    The check respects a cool-down that the source asked for. It makes a call in spite of a rejected
    key or an outage, to find out whether that is over; so the services need circuit breakers of
    their own.
    """
    for service in services:
        share = _Share(service, limits, sleep)
        with deadline_of(Deadline(deadline_seconds)):
            status = service.get_status(before=share.take)
        share.settle()
        shared = limits.status(service.source)
        yield Finding(
            status,
            shared,
            (*status.advice, *(() if status.error else _about_quota(shared))),
            () if status.error else _about_breaker(shared),
        )


class _Share:
    """What one check takes from the quota and the rate limit of its source."""

    def __init__(
        self, service: UpstreamService, limits: UpstreamLimits, sleep: Callable[[float], None]
    ) -> None:
        self._service = service
        self._limits = limits
        self._sleep = sleep
        self._tokens = self._calls = 0

    def take(self) -> None:
        """Take one call; raise the error for which none may be made."""
        service, limits, source = self._service, self._limits, self._service.source
        if not service.has_key:
            return
        error = limits.status(source).error
        if isinstance(error, UpstreamRateLimited):
            raise error
        if source in limits.quotas and not service.is_status_free:
            self._calls = limits.reserve_quota(source, leave_reserve=False)
            if not self._calls:
                raise limits.quota_error(source)
        while source in limits.rates and not self._tokens:
            self._tokens, seconds = limits.take_tokens(source, 1)
            if not self._tokens:
                if time_left(seconds + 1) <= seconds:
                    raise DeadlineExceeded(source, "deadline")
                self._sleep(seconds)

    def settle(self) -> None:
        """Account for the attempts that were made, and for what the source reported."""
        usage, source = self._service.breaker.usage, self._service.source
        attempts = usage.take_attempts()
        self._limits.count_quota(source, attempts - self._calls)
        if source in self._limits.rates:
            self._limits.add_tokens(source, self._tokens - attempts)
        if account := usage.take_account():
            self._limits.note_account(source, *account)
        if plan := usage.take_plan():
            self._limits.note_plan(source, plan)


def _about_quota(shared: SourceStatus) -> tuple[str, ...]:
    if shared.limit is None or shared.left is None:
        return ()
    if shared.left == 0:
        return (f"the quota of {shared.period} is used up: wait, or take a larger plan",)
    if shared.left <= reserve_of(shared.limit):
        kept = f"what is left for {shared.period} is kept for films that are stored"
        return (f"{kept}: wait, or take a larger plan",)
    return ()


def _about_breaker(shared: SourceStatus) -> tuple[str, ...]:
    if shared.error is None:
        return ()
    wait = shared.error.retry_after or 0.0
    return (f"answers again; films use it again within {wait:.0f} s ({shared.error.code})",)
