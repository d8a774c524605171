"""A look at every source: does it answer, does it take our key, and what is left of its quota."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from core.budgets import RESERVE, Standing, UpstreamBudgets
from core.deadline import Deadline, deadline_of, time_left
from core.errors import DeadlineExceeded, UpstreamQuotaExhausted, UpstreamRateLimited
from core.services.upstream import UpstreamService
from core.services.upstream_status import UpstreamStatus


@dataclass(frozen=True, slots=True)
class Check:
    """A source to look at. `before` counts the call, or raises the `UpstreamError` that forbids it.

    `standing` tells afterwards how we stand with the source.
    """

    service: UpstreamService
    before: Callable[[], object]
    standing: Callable[[], Standing]


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of a check: `advice` is what somebody must do, `notes` what will pass by itself."""

    status: UpstreamStatus
    standing: Standing
    advice: tuple[str, ...]
    notes: tuple[str, ...]


def findings(checks: Sequence[Check], *, deadline_seconds: float) -> Iterator[Finding]:
    """Look at one source after the other, at each no longer than `deadline_seconds`."""
    for check in checks:
        with deadline_of(Deadline(deadline_seconds)):
            status = check.service.get_status(before=check.before)
        standing = check.standing()
        yield Finding(
            status,
            standing,
            (*status.advice, *(() if status.error else _about_quota(standing))),
            () if status.error else _about_closure(standing),
        )


def budgeted(
    service: UpstreamService,
    budgets: UpstreamBudgets,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Check:
    """Return the check of a source whose pace and quota `budgets` keeps.

    A cool-down that the source asked for holds for the check too. A refused key and an outage do
    not: whether they are over is what the check is for.
    """
    return Check(
        service,
        partial(_take_part, service, budgets, sleep),
        partial(_told_standing, service.source, budgets),
    )


def _take_part(
    service: UpstreamService, budgets: UpstreamBudgets, sleep: Callable[[float], None]
) -> None:
    source = service.source
    standing = budgets.standing(source)
    if isinstance(standing.closed, UpstreamRateLimited):
        raise standing.closed
    if standing.left == 0 and not service.is_status_free:
        raise UpstreamQuotaExhausted(source, "quota")
    while budgets.is_paced(source):
        granted, seconds = budgets.take(source, 1)
        if granted:
            return
        if time_left(seconds + 1) <= seconds:
            raise DeadlineExceeded(source, "deadline")
        sleep(seconds)


def _told_standing(source: str, budgets: UpstreamBudgets) -> Standing:
    budgets.sync(())
    return budgets.standing(source)


def _about_quota(standing: Standing) -> tuple[str, ...]:
    if standing.limit is None or standing.left is None:
        return ()
    if standing.left == 0:
        return (f"the quota of {standing.period} is used up: wait, or take a larger plan",)
    if standing.left <= standing.limit * RESERVE:
        kept = f"what is left for {standing.period} is kept for films that are stored"
        return (f"{kept}: wait, or take a larger plan",)
    return ()


def _about_closure(standing: Standing) -> tuple[str, ...]:
    if standing.closed is None:
        return ()
    wait = standing.closed.retry_after or 0.0
    return (f"answers again; films ask it again within {wait:.0f} s ({standing.closed.code})",)
