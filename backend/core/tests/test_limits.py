"""Token buckets, quotas and trips in the database. Two `UpstreamLimits` are two processes."""

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from core.errors import UpstreamRateLimited
from core.models import UpstreamState
from core.services.circuit_breaker import BreakerPolicy, Plan, Trip
from core.services.limits import Quota, Rate, SourceStatus, UpstreamLimits, plan_of
from core.tests.clock import WallClock

pytestmark = pytest.mark.django_db

SOURCE = "a-source"
BY_DAY = Quota("%Y-%m-%d", 100)
BY_MONTH = Quota("%Y-%m", None)


def make_limits(
    clock: Callable[[], datetime], *, rate: Rate | None = None, quota: Quota | None = None
) -> UpstreamLimits:
    return UpstreamLimits(
        rates={SOURCE: rate} if rate else {},
        quotas={SOURCE: quota} if quota else {},
        now=clock,
    )


def stored() -> UpstreamState:
    return UpstreamState.objects.get(source=SOURCE)


def store(**columns: Any) -> UpstreamState:
    return UpstreamState.objects.create(source=SOURCE, **columns)


# Rates


def test_the_burst_is_granted_at_once_and_further_tokens_evenly(clock: WallClock) -> None:
    limits = make_limits(clock, rate=Rate(8, 5))

    assert limits.take_tokens(SOURCE, 7) == (7, 0.0)
    assert limits.take_tokens(SOURCE, 7)[0] == 1
    granted, seconds = limits.take_tokens(SOURCE, 7)
    assert granted == 0
    assert seconds == pytest.approx(5 / 8)


def test_spare_calls_are_not_part_of_the_burst(clock: WallClock) -> None:
    limits = make_limits(clock, rate=Rate(8, 5, spare=1))

    assert limits.take_tokens(SOURCE, 100)[0] == 7


def test_a_burst_has_at_least_one_call(clock: WallClock) -> None:
    assert make_limits(clock, rate=Rate(1, 5, spare=1)).take_tokens(SOURCE, 100)[0] == 1


def test_a_token_is_there_after_the_reported_time(clock: WallClock) -> None:
    limits = make_limits(clock, rate=Rate(8, 5))
    limits.take_tokens(SOURCE, 8)

    for _ in range(50):
        granted, seconds = limits.take_tokens(SOURCE, 1)
        if not granted:
            # Clocks and floats are not exact: a millionth of a second is added.
            clock.pass_by(seconds + 1e-6)
            assert limits.take_tokens(SOURCE, 1)[0] == 1


def test_a_long_pause_saves_up_no_more_than_one_burst(clock: WallClock) -> None:
    limits = make_limits(clock, rate=Rate(8, 5))
    limits.take_tokens(SOURCE, 8)

    clock.pass_by(3600)

    assert limits.take_tokens(SOURCE, 100)[0] == 8


def test_the_processes_share_one_bucket(clock: WallClock) -> None:
    one, other = (make_limits(clock, rate=Rate(8, 5)) for _ in range(2))

    assert one.take_tokens(SOURCE, 5)[0] == 5
    assert other.take_tokens(SOURCE, 5)[0] == 3


def test_a_row_that_was_read_before_another_process_took_tokens_grants_none_twice(
    clock: WallClock,
) -> None:
    one, other = (make_limits(clock, rate=Rate(8, 5)) for _ in range(2))
    one.take_tokens(SOURCE, 1)
    row = one.read([SOURCE])[SOURCE]
    other.take_tokens(SOURCE, 5)

    assert one.take_tokens(SOURCE, 5, row)[0] == 2


def test_a_row_that_was_read_stays_usable(
    clock: WallClock, django_assert_num_queries: Callable[[int], Any]
) -> None:
    limits = make_limits(clock, rate=Rate(8, 5))
    limits.take_tokens(SOURCE, 1)
    row = limits.read([SOURCE])[SOURCE]

    with django_assert_num_queries(2):
        assert [limits.take_tokens(SOURCE, 3, row)[0] for _ in range(2)] == [3, 3]
    assert limits.take_tokens(SOURCE, 3)[0] == 1


def test_an_empty_bucket_costs_no_query(
    clock: WallClock, django_assert_num_queries: Callable[[int], Any]
) -> None:
    limits = make_limits(clock, rate=Rate(8, 5))
    limits.take_tokens(SOURCE, 8)
    row = limits.read([SOURCE])[SOURCE]
    clock.pass_by(0.1)

    with django_assert_num_queries(0):
        granted, seconds = limits.take_tokens(SOURCE, 1, row)
    assert granted == 0
    assert seconds == pytest.approx(5 / 8 - 0.1)


def test_a_row_that_has_no_bucket_yet_has_a_full_one(clock: WallClock) -> None:
    store(quota_period="2026-03", quota_used=7)

    assert make_limits(clock, rate=Rate(8, 5)).take_tokens(SOURCE, 100)[0] == 8


def test_returned_tokens_are_granted_again(clock: WallClock) -> None:
    limits = make_limits(clock, rate=Rate(8, 5))
    limits.take_tokens(SOURCE, 8)

    limits.add_tokens(SOURCE, 3)

    assert limits.take_tokens(SOURCE, 8)[0] == 3


def test_tokens_taken_afterwards_delay_the_next_calls(clock: WallClock) -> None:
    limits = make_limits(clock, rate=Rate(8, 5))
    limits.take_tokens(SOURCE, 8)

    limits.add_tokens(SOURCE, -2)

    assert limits.take_tokens(SOURCE, 1)[1] == pytest.approx(3 * 5 / 8)


def test_a_clock_that_goes_back_grants_nothing(clock: WallClock) -> None:
    limits = make_limits(clock, rate=Rate(8, 5))
    limits.take_tokens(SOURCE, 8)

    clock.pass_by(-3600)

    assert limits.take_tokens(SOURCE, 1)[0] == 0


def test_a_bucket_filled_in_the_future_is_written_back_as_of_now(clock: WallClock) -> None:
    store(tokens=0.0, tokens_at=clock.time + timedelta(days=365))
    limits = make_limits(clock, rate=Rate(8, 5))

    assert limits.take_tokens(SOURCE, 1)[0] == 0
    assert stored().tokens_at == clock.time
    clock.pass_by(5)
    assert limits.take_tokens(SOURCE, 10)[0] == 8


def test_clocks_that_differ_by_seconds_grant_nothing_extra(clock: WallClock) -> None:
    rate = Rate(8, 5)
    late = make_limits(clock, rate=rate)
    early = make_limits(lambda: clock.time + timedelta(seconds=3), rate=rate)
    granted = 0

    for _ in range(200):
        granted += early.take_tokens(SOURCE, 1)[0] + late.take_tokens(SOURCE, 1)[0]
        clock.pass_by(0.1)

    # The burst, 20 seconds, and once the difference of the clocks.
    assert granted <= 8 + (20 + 3) * 8 / 5


class SourceBucket:
    """The bucket of a source: filled by one a call, leaks evenly, refuses what does not fit."""

    def __init__(self, rate: Rate, now: Callable[[], datetime]) -> None:
        self._rate, self._now = rate, now
        self._level, self._at = 0.0, now()

    def call(self) -> bool:
        leaked = (self._now() - self._at).total_seconds() * self._rate.per_second
        self._level, self._at = max(0.0, self._level - leaked), self._now()
        # What is granted is exact to a thousandth of a call.
        fits = self._level + 1 <= self._rate.burst + 1e-3
        self._level += fits
        return fits


class AnyTraffic(TestCase):
    @given(
        rate=st.builds(Rate, st.integers(1, 20), st.floats(0.5, 60), st.integers(0, 3)),
        traffic=st.lists(
            st.tuples(st.integers(0, 1), st.integers(1, 12), st.integers(0, 3), st.floats(0, 10)),
            max_size=25,
        ),
    )
    def test_the_bucket_of_the_source_never_overflows(
        self, rate: Rate, traffic: list[tuple[int, int, int, float]]
    ) -> None:
        UpstreamState.objects.all().delete()
        clock = WallClock()
        processes = [make_limits(clock, rate=rate) for _ in range(2)]
        rows = [limits.read([SOURCE])[SOURCE] for limits in processes]
        bucket = SourceBucket(rate, clock)

        for which, wanted, returned, pause in traffic:
            granted, _ = processes[which].take_tokens(SOURCE, wanted, rows[which])
            assert 0 <= granted <= wanted
            made = max(0, granted - returned)
            assert all(bucket.call() for _ in range(made))
            processes[which].add_tokens(SOURCE, granted - made)
            clock.pass_by(pause)


# Quotas


def test_calls_of_all_processes_count_towards_the_quota(clock: WallClock) -> None:
    one, other = (make_limits(clock, quota=BY_DAY) for _ in range(2))

    assert one.reserve_quota(SOURCE, 60, leave_reserve=False) == 60
    assert other.reserve_quota(SOURCE, 39, leave_reserve=False) == 39
    assert one.reserve_quota(SOURCE, leave_reserve=False) == 1
    assert other.reserve_quota(SOURCE, leave_reserve=False) == 0


def test_of_several_calls_those_that_fit_are_granted(clock: WallClock) -> None:
    limits = make_limits(clock, quota=BY_DAY)
    limits.reserve_quota(SOURCE, 97, leave_reserve=False)

    assert limits.reserve_quota(SOURCE, 5, leave_reserve=False) == 3
    assert stored().quota_used == 100


def test_its_error_ends_with_the_period(clock: WallClock) -> None:
    assert make_limits(clock, quota=BY_DAY).quota_error(SOURCE).retry_after == 12 * 3600
    month = make_limits(clock, quota=BY_MONTH).quota_error(SOURCE)
    assert month.retry_after == (30 * 24 + 12) * 3600


@pytest.mark.parametrize(("limit", "granted"), [(100, 90), (1000, 900), (15, 14), (5, 5)])
def test_the_last_tenth_is_kept_for_films_that_are_stored(
    clock: WallClock, limit: int, granted: int
) -> None:
    limits = make_limits(clock, quota=Quota("%Y-%m-%d", limit))

    assert limits.reserve_quota(SOURCE, 2000, leave_reserve=True) == granted
    assert limits.reserve_quota(SOURCE, leave_reserve=True) == 0
    assert limits.reserve_quota(SOURCE, 2000, leave_reserve=False) == limit - granted


def test_the_next_day_the_quota_is_whole_again(clock: WallClock) -> None:
    limits = make_limits(clock, quota=BY_DAY)
    limits.reserve_quota(SOURCE, 100, leave_reserve=False)

    clock.pass_by(12 * 3600)

    assert limits.reserve_quota(SOURCE, leave_reserve=False) == 1
    assert stored().quota_used == 1


def test_another_key_has_a_quota_of_its_own(clock: WallClock) -> None:
    make_limits(clock, quota=Quota("%Y-%m-%d", 100, "one")).reserve_quota(
        SOURCE, 100, leave_reserve=False
    )

    other = make_limits(clock, quota=Quota("%Y-%m-%d", 100, "another"))

    assert other.reserve_quota(SOURCE, leave_reserve=False) == 1


def test_around_midnight_clocks_that_differ_do_not_start_the_count_again() -> None:
    clock = WallClock(datetime(2026, 3, 1, 23, 59, 58, tzinfo=timezone.utc))
    late = make_limits(clock, quota=BY_DAY)
    early = make_limits(lambda: clock.time + timedelta(seconds=3), quota=BY_DAY)

    granted = sum(
        limits.reserve_quota(SOURCE, leave_reserve=False)
        for _ in range(100)
        for limits in (early, late)
    )

    assert granted == 100


def test_a_count_of_a_day_in_the_future_is_over(clock: WallClock) -> None:
    store(quota_period="2027-01-01", quota_used=100)

    limits = make_limits(clock, quota=BY_DAY)

    assert limits.status(SOURCE).left == 100
    assert limits.reserve_quota(SOURCE, leave_reserve=False) == 1


def test_calls_that_were_not_made_are_returned(clock: WallClock) -> None:
    limits = make_limits(clock, quota=BY_DAY)
    limits.reserve_quota(SOURCE, 100, leave_reserve=False)

    limits.count_quota(SOURCE, -3)

    assert limits.reserve_quota(SOURCE, 100, leave_reserve=False) == 3


def test_further_attempts_are_counted(clock: WallClock) -> None:
    limits = make_limits(clock, quota=BY_DAY)
    limits.reserve_quota(SOURCE, 10, leave_reserve=False)

    limits.count_quota(SOURCE, 2)

    assert limits.status(SOURCE).used == 12


def test_calls_of_yesterday_are_not_returned_to_today(clock: WallClock) -> None:
    limits = make_limits(clock, quota=BY_DAY)
    limits.reserve_quota(SOURCE, 10, leave_reserve=False)
    clock.pass_by(86_400)

    limits.count_quota(SOURCE, -5)

    assert stored().quota_used == 10


def test_no_more_is_returned_than_was_counted(clock: WallClock) -> None:
    limits = make_limits(clock, quota=BY_DAY)
    limits.reserve_quota(SOURCE, 2, leave_reserve=False)

    limits.count_quota(SOURCE, -3)

    assert stored().quota_used == 2


def test_a_limit_of_0_is_no_limit(clock: WallClock) -> None:
    limits = make_limits(clock, quota=Quota("%Y-%m-%d", 0))

    assert limits.reserve_quota(SOURCE, 5000, leave_reserve=True) == 5000
    assert limits.status(SOURCE).left is None


def test_a_source_without_a_quota_counts_nothing(clock: WallClock) -> None:
    limits = make_limits(clock)

    limits.count_quota(SOURCE, 1)
    limits.note_account(SOURCE, 1000, 950)

    assert not UpstreamState.objects.exists()
    assert limits.status(SOURCE) == SourceStatus()


def test_a_quota_that_the_source_reports_as_used_up_stays_used_up_until_its_end(
    clock: WallClock,
) -> None:
    one, other = (make_limits(clock, quota=BY_DAY) for _ in range(2))
    one.reserve_quota(SOURCE, 10, leave_reserve=False)

    one.note_account(SOURCE, 100, 100)
    # Other calls that were reserved before, and not made.
    other.count_quota(SOURCE, -4)

    assert other.reserve_quota(SOURCE, leave_reserve=False) == 0
    clock.pass_by(12 * 3600)
    assert other.reserve_quota(SOURCE, 4, leave_reserve=False) == 4
    other.count_quota(SOURCE, -4)
    assert stored().quota_used == 0


def test_the_account_that_the_source_reports_holds_for_all_processes(clock: WallClock) -> None:
    one, other = (make_limits(clock, quota=BY_MONTH) for _ in range(2))

    one.note_account(SOURCE, 1000, 900)

    assert other.reserve_quota(SOURCE, 3, leave_reserve=True) == 0
    assert other.reserve_quota(SOURCE, 3, leave_reserve=False) == 3
    status = other.status(SOURCE)
    assert (status.limit, status.used, status.left, status.period) == (1000, 900, 100, "this month")
    one.note_account(SOURCE, 1000, 899)
    assert other.reserve_quota(SOURCE, 3, leave_reserve=True) == 3


@pytest.mark.parametrize("regions", [[], ["US"], ["US", "DE"]])
def test_the_plan_that_the_source_reports_holds_for_all_processes(
    clock: WallClock, regions: list[str]
) -> None:
    one, other = make_limits(clock), make_limits(clock)
    assert plan_of(other.read([SOURCE])[SOURCE]) is None

    one.note_plan(SOURCE, Plan(frozenset(regions), clock()))

    assert plan_of(other.read([SOURCE])[SOURCE]) == Plan(frozenset(regions), clock())


def test_a_source_that_counts_itself_is_called_until_it_refuses(clock: WallClock) -> None:
    limits = make_limits(clock, quota=BY_MONTH)

    limits.note_account(SOURCE, 1000, 1000)

    assert limits.reserve_quota(SOURCE, leave_reserve=False) == 1


def test_a_new_month_starts_with_the_whole_quota(clock: WallClock) -> None:
    limits = make_limits(clock, quota=BY_MONTH)
    limits.note_account(SOURCE, 1000, 1000)

    clock.pass_by(31 * 86_400)

    assert limits.reserve_quota(SOURCE, leave_reserve=True) == 1
    assert limits.status(SOURCE).left is None


def test_a_row_that_was_read_saves_the_query_for_the_account(
    clock: WallClock, django_assert_num_queries: Callable[[int], Any]
) -> None:
    limits = make_limits(clock, quota=BY_MONTH)
    limits.note_account(SOURCE, 1000, 950)
    row = limits.read([SOURCE])[SOURCE]

    with django_assert_num_queries(0):
        assert limits.reserve_quota(SOURCE, leave_reserve=True, row=row) == 0


# Trips


def trip_of(clock: WallClock, seconds: float, code: str = "rate_limited", count: int = 1) -> Trip:
    return Trip(clock.time + timedelta(seconds=seconds), code, count)


def row_of(limits: UpstreamLimits) -> UpstreamState:
    return limits.read([SOURCE])[SOURCE]


def test_a_source_of_which_nothing_is_known_is_fine(clock: WallClock) -> None:
    limits = make_limits(clock)

    assert limits.trip(row_of(limits)) is None
    assert limits.code_or_ok(row_of(limits)) == "ok"
    assert limits.status(SOURCE).error is None


def test_a_published_trip_is_read_by_the_other_processes(clock: WallClock) -> None:
    one, other = make_limits(clock), make_limits(clock)

    one.publish(SOURCE, trip_of(clock, 30, count=2))

    assert other.trip(row_of(other)) == trip_of(clock, 30, count=2)
    assert other.code_or_ok(row_of(other)) == "rate_limited"
    error = other.status(SOURCE).error
    assert isinstance(error, UpstreamRateLimited)
    assert (error.reason, error.retry_after) == ("circuit_open", 30)


def test_after_its_time_a_trip_is_still_read_but_the_source_is_fine(clock: WallClock) -> None:
    limits = make_limits(clock)
    limits.publish(SOURCE, trip_of(clock, 30))

    clock.pass_by(30)

    assert limits.trip(row_of(limits)) is not None
    assert limits.code_or_ok(row_of(limits)) == "ok"
    assert limits.status(SOURCE).error is None


def test_of_two_trips_the_longer_one_holds(clock: WallClock) -> None:
    limits = make_limits(clock)

    limits.publish(SOURCE, trip_of(clock, 60, "rejected"))
    limits.publish(SOURCE, trip_of(clock, 10))

    assert limits.trip(row_of(limits)) == trip_of(clock, 60, "rejected")


def test_a_source_that_answers_again_is_closed_for_all(clock: WallClock) -> None:
    limits = make_limits(clock)
    limits.publish(SOURCE, trip_of(clock, BreakerPolicy().pause))

    limits.publish(SOURCE, None)

    row = stored()
    assert (row.open_until, row.code, row.trips) == (None, "", 0)


def test_a_longer_trip_outlasts_the_success_of_a_probe(clock: WallClock) -> None:
    limits = make_limits(clock)
    limits.publish(SOURCE, trip_of(clock, 30))

    limits.publish(SOURCE, None)

    assert limits.trip(row_of(limits)) == trip_of(clock, 30)


def test_one_process_claims_the_probe(clock: WallClock) -> None:
    one, other = make_limits(clock), make_limits(clock)
    trip = trip_of(clock, 30, count=3)
    one.publish(SOURCE, trip)
    clock.pass_by(30)

    pause = BreakerPolicy().pause
    assert one.claim_probe(SOURCE, trip) == trip_of(clock, pause, count=3)
    assert other.claim_probe(SOURCE, trip) is None
    assert other.trip(row_of(other)) == trip_of(clock, pause, count=3)


def test_a_trip_that_is_longer_than_any_rule_allows_is_shortened_once(clock: WallClock) -> None:
    limits = make_limits(clock)
    store(open_until=clock.time + timedelta(days=9000), code="rejected", trips=1)

    first = limits.status(SOURCE).error
    clock.pass_by(600)
    second = limits.status(SOURCE).error

    assert first is not None
    assert second is not None
    assert (first.retry_after, second.retry_after) == (3600, 3000)
