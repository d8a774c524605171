"""What processes agree on: two `UpstreamBudgets` on one database are two processes."""

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from django.db import DatabaseError
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from core.budgets import Pace, Quota, UpstreamBudgets
from core.errors import (
    UpstreamError,
    UpstreamQuotaExhausted,
    UpstreamRateLimited,
    UpstreamUnavailable,
)
from core.models import UpstreamState
from core.services.gate import Gate

PROBE_SECONDS = 5
pytestmark = pytest.mark.django_db


class Clock:
    def __init__(self) -> None:
        self.time = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)

    def __call__(self) -> datetime:
        return self.time

    def pass_by(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


class Process:
    """The gates and budgets of a process."""

    def __init__(
        self,
        clock: Clock,
        *,
        pace: Pace | None = None,
        quota: Quota | None = None,
    ) -> None:
        self.gates = {
            name: Gate(name, shared=True, now=clock, jitter=lambda: 0.0)
            for name in ("imdbapi", "watchmode")
        }
        self.budgets = UpstreamBudgets(
            gates=self.gates,
            paces={"imdbapi": pace} if pace else {},
            quotas={"watchmode": quota} if quota else {},
            probe_seconds=PROBE_SECONDS,
            now=clock,
        )

    def sync(self, source: str = "imdbapi", **options: Any) -> UpstreamError | None:
        return self.budgets.sync([source], **options).get(source)

    def may_call(self) -> bool:
        """Whether a call to IMDb would be let through now, after a look at the database."""
        return self.sync() is None

    def fail(self, error: UpstreamError, source: str = "imdbapi") -> None:
        self.gates[source].admit()
        self.gates[source].record_failure(error)

    def succeed(self, source: str = "imdbapi", times: int = 1) -> None:
        for _ in range(times):
            self.gates[source].admit()
            self.gates[source].record_success()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def processes(clock: Clock) -> tuple[Process, Process]:
    return Process(clock), Process(clock)


def limited(seconds: float | None = None) -> UpstreamRateLimited:
    return UpstreamRateLimited("imdbapi", "rate_limited", retry_after=seconds)


# News


def test_a_source_of_which_nothing_is_known_is_open(processes: tuple[Process, Process]) -> None:
    assert processes[0].may_call()


def test_a_429_that_one_process_met_holds_in_the_other_to_the_second(
    processes: tuple[Process, Process], clock: Clock
) -> None:
    one, other = processes
    one.fail(limited(30))
    assert one.budgets.has_news
    one.budgets.sync(())
    assert not one.budgets.has_news

    clock.pass_by(29.9)
    error = other.sync()

    assert isinstance(error, UpstreamRateLimited)
    assert isinstance(one.sync(), UpstreamRateLimited)


def test_a_closure_of_one_source_is_none_of_another(processes: tuple[Process, Process]) -> None:
    one, other = processes
    one.fail(limited(30))
    one.budgets.sync(())

    assert other.sync("watchmode") is None


def test_the_longest_wait_that_any_process_knows_of_stands(
    processes: tuple[Process, Process], clock: Clock
) -> None:
    one, other = processes
    one.fail(limited(60))
    other.fail(limited(10))
    one.budgets.sync(())
    other.budgets.sync(())

    clock.pass_by(30)

    assert not one.may_call()
    assert not other.may_call()


def test_when_it_is_over_one_process_of_two_may_probe(
    processes: tuple[Process, Process], clock: Clock
) -> None:
    one, other = processes
    one.fail(limited(30))
    one.budgets.sync(())
    other.sync()
    clock.pass_by(30)

    assert one.may_call()
    assert not other.may_call()


def test_a_probe_that_is_answered_opens_it_for_all(
    processes: tuple[Process, Process], clock: Clock
) -> None:
    one, other = processes
    one.fail(limited(30))
    one.budgets.sync(())
    clock.pass_by(30)
    one.sync()
    other.sync()

    one.succeed()
    one.budgets.sync(())

    assert other.may_call()


def test_a_probe_that_fails_keeps_it_closed_for_all(
    processes: tuple[Process, Process], clock: Clock
) -> None:
    one, other = processes
    one.fail(limited())
    one.budgets.sync(())
    clock.pass_by(30)
    one.sync()
    one.fail(limited())
    one.budgets.sync(())

    clock.pass_by(59)

    assert not other.may_call()
    assert UpstreamState.objects.get(source="imdbapi").strikes == 2


def test_the_doubling_goes_on_in_whichever_process_probes(
    processes: tuple[Process, Process], clock: Clock
) -> None:
    waits = []
    for number in range(4):
        process = processes[number % 2]
        assert process.may_call()
        process.fail(limited())
        process.budgets.sync(())
        row = UpstreamState.objects.get(source="imdbapi")
        assert row.closed_until
        waits.append((row.closed_until - clock.time).total_seconds())
        clock.pass_by(waits[-1])

    assert waits == [30, 60, 120, 240]


def test_a_process_that_dies_while_it_probes_is_followed_by_another(
    processes: tuple[Process, Process], clock: Clock
) -> None:
    one, other = processes
    one.fail(limited(30))
    one.budgets.sync(())
    clock.pass_by(30)
    assert one.may_call()
    assert not other.may_call()

    clock.pass_by(PROBE_SECONDS)

    assert other.may_call()


def test_a_dead_source_gets_one_probe_an_interval_from_all_processes_together(
    processes: tuple[Process, Process], clock: Clock
) -> None:
    one, _ = processes
    for _ in range(5):
        one.fail(UpstreamUnavailable("imdbapi", "http_5xx"))
    one.budgets.sync(())
    probes = 0

    for _ in range(600):
        clock.pass_by(0.1)
        for process in processes:
            if process.may_call():
                probes += 1
                process.fail(UpstreamUnavailable("imdbapi", "http_5xx"))
                process.budgets.sync(())

    assert 10 <= probes <= 60 / PROBE_SECONDS


def test_a_refusal_met_during_somebody_elses_probe_outlives_its_success(
    processes: tuple[Process, Process], clock: Clock
) -> None:
    one, other = processes
    # A call of the other process that is still under way when the probe is made.
    other.gates["imdbapi"].admit()
    one.fail(limited(10))
    one.budgets.sync(())
    clock.pass_by(10)
    assert one.may_call()
    other.gates["imdbapi"].record_failure(limited(30))
    other.budgets.sync(())

    one.succeed()

    assert not one.may_call()
    assert not other.may_call()


def test_news_that_could_not_be_told_is_told_later(
    processes: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = processes
    one.fail(limited(30))
    with monkeypatch.context() as patched:
        patched.setattr(UpstreamState.objects, "get_or_create", _fails)
        with pytest.raises(DatabaseError):
            one.budgets.sync(())

    assert one.budgets.closed("imdbapi")
    one.budgets.sync(())
    assert not other.may_call()


def _fails(**_: Any) -> None:
    raise DatabaseError


# Pace


def test_a_source_without_a_pace_is_not_paced(processes: tuple[Process, Process]) -> None:
    assert not processes[0].budgets.is_paced("imdbapi")


def test_the_first_calls_are_there_at_once_and_the_next_come_evenly(clock: Clock) -> None:
    process = Process(clock, pace=Pace(8, 5))

    assert process.budgets.take("imdbapi", 7) == (7, 0.0)
    assert process.budgets.take("imdbapi", 7)[0] == 1
    granted, seconds = process.budgets.take("imdbapi", 7)
    assert granted == 0
    assert seconds == pytest.approx(5 / 8)


def test_who_waits_as_long_as_told_gets_a_call(clock: Clock) -> None:
    process = Process(clock, pace=Pace(8, 5))
    process.budgets.take("imdbapi", 8)

    for _ in range(50):
        granted, seconds = process.budgets.take("imdbapi", 1)
        if not granted:
            # Clocks and floats are not exact: a millionth of a second is given on top.
            clock.pass_by(seconds + 1e-6)
            assert process.budgets.take("imdbapi", 1)[0] == 1


def test_a_long_pause_saves_up_no_more_than_one_burst(clock: Clock) -> None:
    process = Process(clock, pace=Pace(8, 5))
    process.budgets.take("imdbapi", 8)

    clock.pass_by(3600)

    assert process.budgets.take("imdbapi", 100)[0] == 8


def test_a_clock_that_goes_back_gives_nothing_away(clock: Clock) -> None:
    process = Process(clock, pace=Pace(8, 5))
    process.budgets.take("imdbapi", 8)

    clock.pass_by(-3600)

    assert process.budgets.take("imdbapi", 1)[0] == 0


class NaiveBucket:
    """Fills by one a call, leaks evenly, and refuses what does not fit: as the source does."""

    def __init__(self, pace: Pace, now: Callable[[], datetime]) -> None:
        self._pace, self._now = pace, now
        self._level, self._at = 0.0, now()

    def call(self) -> bool:
        leaked = (self._now() - self._at).total_seconds() * self._pace.calls / self._pace.seconds
        self._level, self._at = max(0.0, self._level - leaked), self._now()
        # What is granted is exact to a thousandth of a call.
        fits = self._level + 1 <= self._pace.calls + 1e-3
        self._level += fits
        return fits


class AnyTraffic(TestCase):
    @given(
        pace=st.builds(Pace, st.integers(1, 20), st.floats(0.5, 60)),
        traffic=st.lists(
            st.tuples(st.integers(0, 1), st.integers(1, 12), st.floats(0, 10)), max_size=25
        ),
    )
    def test_the_bucket_of_the_source_never_overflows(
        self, pace: Pace, traffic: list[tuple[int, int, float]]
    ) -> None:
        UpstreamState.objects.all().delete()
        clock = Clock()
        processes = [Process(clock, pace=pace), Process(clock, pace=pace)]
        bucket = NaiveBucket(pace, clock)

        for which, wanted, pause in traffic:
            granted, _ = processes[which].budgets.take("imdbapi", wanted)
            assert 0 <= granted <= wanted
            assert all(bucket.call() for _ in range(granted))
            clock.pass_by(pause)


# Quotas

BY_DAY = Quota("%Y-%m-%d", 100)
BY_MONTH = Quota("%Y-%m", None)


def test_calls_of_all_processes_count_towards_the_quota(clock: Clock) -> None:
    one, other = Process(clock, quota=BY_DAY), Process(clock, quota=BY_DAY)
    one.succeed("watchmode", 60)
    other.succeed("watchmode", 39)
    assert one.sync("watchmode") is None
    assert other.sync("watchmode") is None

    other.succeed("watchmode")
    other.budgets.sync(())

    error = one.sync("watchmode")
    assert isinstance(error, UpstreamQuotaExhausted)
    assert error.retry_after == 12 * 3600


def test_the_last_tenth_is_kept_for_films_that_are_stored(clock: Clock) -> None:
    process = Process(clock, quota=BY_DAY)
    process.succeed("watchmode", 89)
    assert process.sync("watchmode", known_film=False) is None

    process.succeed("watchmode")

    assert isinstance(process.sync("watchmode", known_film=False), UpstreamQuotaExhausted)
    assert process.sync("watchmode", known_film=True) is None


def test_the_next_day_the_quota_is_whole_again(clock: Clock) -> None:
    process = Process(clock, quota=BY_DAY)
    process.succeed("watchmode", 100)
    assert process.sync("watchmode")

    clock.pass_by(12 * 3600)

    assert process.sync("watchmode") is None
    process.succeed("watchmode")
    process.sync("watchmode")
    assert UpstreamState.objects.get(source="watchmode").quota_used == 1


def test_failed_attempts_count_too(clock: Clock) -> None:
    process = Process(clock, quota=BY_DAY)
    process.fail(UpstreamUnavailable("watchmode", "http_5xx"), "watchmode")

    process.budgets.sync(())

    assert UpstreamState.objects.get(source="watchmode").quota_used == 1


def test_a_limit_of_0_is_no_limit(clock: Clock) -> None:
    process = Process(clock, quota=Quota("%Y-%m-%d", 0))
    process.succeed("watchmode", 5000)

    assert process.sync("watchmode", known_film=False) is None


def test_what_the_source_says_of_our_account_is_believed_by_all(clock: Clock) -> None:
    one, other = Process(clock, quota=BY_MONTH), Process(clock, quota=BY_MONTH)
    one.succeed("watchmode", 3)
    one.gates["watchmode"].note_account(1000, 950)
    one.budgets.sync(())

    row = UpstreamState.objects.get(source="watchmode")
    assert (row.quota_limit, row.quota_used, row.quota_period) == (1000, 950, "2026-03")
    assert isinstance(other.sync("watchmode", known_film=False), UpstreamQuotaExhausted)
    assert other.sync("watchmode", known_film=True) is None


def test_a_source_that_counts_itself_is_asked_until_it_refuses(clock: Clock) -> None:
    process = Process(clock, quota=BY_MONTH)
    process.succeed("watchmode")
    process.gates["watchmode"].note_account(1000, 1000)
    assert process.sync("watchmode", known_film=True) is None

    # It may count from another day of the month on than we do, so it is asked again now and then.
    process.fail(UpstreamQuotaExhausted("watchmode", "quota"), "watchmode")

    assert isinstance(process.sync("watchmode"), UpstreamQuotaExhausted)
    clock.pass_by(3600)
    assert process.sync("watchmode") is None


def test_a_new_month_begins_with_the_whole_quota(clock: Clock) -> None:
    process = Process(clock, quota=BY_MONTH)
    process.succeed("watchmode")
    process.gates["watchmode"].note_account(1000, 1000)
    assert process.sync("watchmode", known_film=False)

    clock.pass_by(31 * 86_400)

    assert process.sync("watchmode", known_film=False) is None
