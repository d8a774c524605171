"""When a source may be called, as one process sees it. Time passes only when a test says so."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.deadline import Deadline, deadline_of
from core.errors import (
    DeadlineExceeded,
    UpstreamBadAnswer,
    UpstreamError,
    UpstreamQuotaExhausted,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from core.services.circuit_breaker import BreakerPolicy, CircuitBreaker, Trip, Usage
from core.tests.clock import WallClock
from core.tests.support import at_most
from core.utils.decorators import in_callers_context

FAILED = UpstreamUnavailable("a-source", "http_5xx")
TIMED_OUT = UpstreamTimeout("a-source", "http_response_timeout")


@pytest.fixture
def breaker(clock: WallClock) -> CircuitBreaker:
    return make_breaker(clock)


def make_breaker(clock: WallClock, **options: Any) -> CircuitBreaker:
    return CircuitBreaker("a-source", now=clock, **{"jitter": lambda: 0.0, **options})


def limited(retry_after: float | None = None) -> UpstreamRateLimited:
    return UpstreamRateLimited("a-source", "rate_limited", retry_after=retry_after)


def fail(breaker: CircuitBreaker, error: UpstreamError) -> None:
    breaker.admit()
    breaker.record_failure(error)


def succeed(breaker: CircuitBreaker) -> None:
    breaker.admit()
    breaker.record_success()


def in_other_thread(work: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(5)


def seconds_open(breaker: CircuitBreaker, clock: WallClock) -> float:
    """How long calls fail from now on, to the second."""
    seconds = 0
    while breaker.error():
        clock.pass_by(1)
        seconds += 1
        assert seconds < 100_000
    return seconds


# What opens it


def test_it_is_closed_at_first(breaker: CircuitBreaker) -> None:
    assert breaker.error() is None
    assert breaker.may_call
    breaker.admit()


@pytest.mark.parametrize("seconds", [1.0, 30.0, 900.0])
def test_a_429_opens_it_for_as_long_as_the_source_asks(
    breaker: CircuitBreaker, clock: WallClock, seconds: float
) -> None:
    fail(breaker, limited(seconds))

    error = breaker.error()
    assert isinstance(error, UpstreamRateLimited)
    assert (error.reason, error.retry_after) == ("circuit_open", seconds)
    assert seconds_open(breaker, clock) == seconds


def test_a_503_with_retry_after_opens_it_for_that_long(
    breaker: CircuitBreaker, clock: WallClock
) -> None:
    fail(breaker, UpstreamUnavailable("a-source", "http_5xx", retry_after=3))

    assert seconds_open(breaker, clock) == 3


def test_a_429_without_a_wait_opens_it_longer_each_time_up_to_a_quarter_of_an_hour(
    breaker: CircuitBreaker, clock: WallClock
) -> None:
    waits = []
    for _ in range(8):
        fail(breaker, limited())
        waits.append(seconds_open(breaker, clock))

    assert waits == [30, 60, 120, 240, 480, 900, 900, 900]


def test_the_wait_after_a_429_is_lengthened_by_up_to_a_tenth_at_random(clock: WallClock) -> None:
    breaker = make_breaker(clock, jitter=lambda: 1.0)

    fail(breaker, limited())

    assert seconds_open(breaker, clock) == 33


def test_after_a_success_the_waits_start_again(breaker: CircuitBreaker, clock: WallClock) -> None:
    for _ in range(3):
        fail(breaker, limited())
        seconds_open(breaker, clock)
    succeed(breaker)

    fail(breaker, limited())

    assert seconds_open(breaker, clock) == 30


def test_a_429_after_another_kind_of_trip_starts_with_the_first_wait(
    breaker: CircuitBreaker, clock: WallClock
) -> None:
    fail(breaker, UpstreamRejected("a-source", "bad_key"))
    seconds_open(breaker, clock)

    fail(breaker, limited())

    assert seconds_open(breaker, clock) == 30


def test_five_consecutive_failures_open_it_with_the_last_error(
    breaker: CircuitBreaker, clock: WallClock
) -> None:
    for _ in range(4):
        fail(breaker, FAILED)
    assert breaker.error() is None

    fail(breaker, TIMED_OUT)

    assert isinstance(breaker.error(), UpstreamTimeout)
    assert seconds_open(breaker, clock) == BreakerPolicy().pause


def test_a_success_ends_a_run_of_failures(breaker: CircuitBreaker) -> None:
    for _ in range(20):
        for _ in range(4):
            fail(breaker, FAILED)
        succeed(breaker)

    assert breaker.error() is None


@pytest.mark.parametrize("reason", ["tls_certificate_error", "tls_protocol_error"])
def test_a_tls_error_opens_it_at_once(breaker: CircuitBreaker, reason: str) -> None:
    fail(breaker, UpstreamUnavailable("a-source", reason))

    assert breaker.error() is not None


@pytest.mark.parametrize(
    ("error", "code", "seconds"),
    [
        (UpstreamRejected("a-source", "bad_key"), "rejected", 600),
        (UpstreamRejected("a-source", "bad_key", retry_after=5), "rejected", 600),
        (UpstreamQuotaExhausted("a-source", "quota"), "quota_exhausted", 3600),
        (UpstreamQuotaExhausted("a-source", "quota", retry_after=5), "quota_exhausted", 3600),
        (UpstreamQuotaExhausted("a-source", "quota", retry_after=9000), "quota_exhausted", 3600),
    ],
)
def test_a_rejected_key_and_a_used_up_quota_open_it_for_long(
    breaker: CircuitBreaker, clock: WallClock, error: UpstreamError, code: str, seconds: float
) -> None:
    fail(breaker, error)

    open_error = breaker.error()
    assert open_error is not None
    assert (open_error.code, open_error.source) == (code, "a-source")
    assert seconds_open(breaker, clock) == seconds


def test_of_several_refusals_the_longest_wait_holds(
    breaker: CircuitBreaker, clock: WallClock
) -> None:
    for _ in range(3):
        breaker.admit()
    for seconds in (10.0, 40.0, 20.0):
        breaker.record_failure(limited(seconds))

    assert seconds_open(breaker, clock) == 40


def test_seven_calls_refused_together_count_as_one_refusal(
    breaker: CircuitBreaker, clock: WallClock
) -> None:
    for _ in range(7):
        breaker.admit()
    for _ in range(7):
        breaker.record_failure(limited())
    seconds_open(breaker, clock)

    fail(breaker, limited())

    assert seconds_open(breaker, clock) == 60


def test_its_error_asks_to_wait_for_at_least_a_second(
    breaker: CircuitBreaker, clock: WallClock
) -> None:
    fail(breaker, limited(10.0))
    clock.pass_by(9.9)

    error = breaker.error()

    assert error is not None
    assert error.retry_after == 1.0


def test_a_trip_in_the_far_future_is_shortened_once_when_the_clock_goes_back(
    breaker: CircuitBreaker, clock: WallClock
) -> None:
    fail(breaker, limited(10.0))
    clock.pass_by(-86_400)

    first = breaker.error()
    clock.pass_by(1000)
    second = breaker.error()

    assert first is not None
    assert second is not None
    assert (first.retry_after, second.retry_after) == (3600, 2600)


# The probe


@pytest.fixture
def due(breaker: CircuitBreaker, clock: WallClock) -> CircuitBreaker:
    """A breaker whose trip is over."""
    fail(breaker, limited(10.0))
    clock.pass_by(10)
    return breaker


def test_while_it_is_open_no_call_is_admitted(breaker: CircuitBreaker) -> None:
    fail(breaker, limited(10.0))

    assert not breaker.may_call
    assert not breaker.is_due_for_probe
    with pytest.raises(UpstreamRateLimited):
        breaker.admit()


def test_when_the_time_is_over_one_call_probes(due: CircuitBreaker) -> None:
    assert due.error() is None
    assert due.is_due_for_probe
    assert due.may_call

    due.admit()

    assert not due.is_due_for_probe
    assert not due.may_call
    assert due.error() is None


def test_a_successful_probe_closes_it(due: CircuitBreaker) -> None:
    succeed(due)

    assert due.may_call
    assert due.take_unpublished() == (True, None)


def test_a_failed_probe_opens_it_again_for_the_same_reason(
    due: CircuitBreaker, clock: WallClock
) -> None:
    fail(due, FAILED)

    assert isinstance(due.error(), UpstreamRateLimited)
    assert seconds_open(due, clock) == BreakerPolicy().pause


def test_after_a_probe_without_a_verdict_the_next_call_probes(due: CircuitBreaker) -> None:
    due.admit()
    due.abandon()

    assert due.is_due_for_probe
    succeed(due)
    assert due.take_unpublished() == (True, None)


def test_only_the_probe_closes_it(breaker: CircuitBreaker) -> None:
    breaker.admit()
    fail(breaker, limited(10.0))

    # The reply to the first call, which was made before the second one was refused.
    breaker.record_success()

    assert breaker.error() is not None


def test_a_late_reply_in_another_thread_does_not_close_it(due: CircuitBreaker) -> None:
    due.admit()
    in_other_thread(due.record_success)

    with deadline_of(Deadline(0.05)), pytest.raises(DeadlineExceeded):
        in_other_thread(in_callers_context(due.admit))


def test_a_late_failure_in_another_thread_does_not_end_the_probe(due: CircuitBreaker) -> None:
    due.admit()
    in_other_thread(lambda: due.record_failure(FAILED))
    in_other_thread(due.abandon)

    assert not due.may_call
    due.record_success()
    assert due.may_call


def test_a_refusal_during_a_probe_outlasts_its_success(
    due: CircuitBreaker, clock: WallClock
) -> None:
    due.admit()
    in_other_thread(lambda: due.record_failure(limited(30.0)))

    due.record_success()

    assert seconds_open(due, clock) == 30


def test_other_calls_wait_for_the_probe_and_are_admitted_after_its_success(
    due: CircuitBreaker,
) -> None:
    due.admit()
    with ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(due.admit) for _ in range(5)]
        assert not [future for future in waiting if future.done()]

        due.record_success()

        assert [future.exception(5) for future in waiting] == [None] * 5


def test_other_calls_get_the_error_of_a_failed_probe(due: CircuitBreaker) -> None:
    due.admit()
    with ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(due.admit) for _ in range(5)]

        due.record_failure(limited(30.0))

        errors = [future.exception(5) for future in waiting]
    assert [type(error) for error in errors] == [UpstreamRateLimited] * 5


def test_a_call_waits_for_a_probe_no_longer_than_its_deadline(due: CircuitBreaker) -> None:
    in_other_thread(due.admit)

    with at_most(0.05), deadline_of(Deadline(0.05)), pytest.raises(DeadlineExceeded):
        due.admit()


# Attempts


def test_an_attempt_is_counted_and_judged_by_the_caller(breaker: CircuitBreaker) -> None:
    with breaker.attempt():
        pass
    with breaker.attempt():
        pass

    assert breaker.usage.take_attempts() == 2
    assert breaker.usage.take_attempts() == 0


def test_an_attempt_that_raises_is_a_failure(breaker: CircuitBreaker) -> None:
    for _ in range(5):
        with pytest.raises(UpstreamUnavailable), breaker.attempt():
            raise FAILED

    assert breaker.error() is not None
    assert breaker.usage.take_attempts() == 5


def test_an_unusable_answer_says_nothing_about_the_source(due: CircuitBreaker) -> None:
    with pytest.raises(UpstreamBadAnswer), due.attempt():
        raise UpstreamBadAnswer("a-source", "bad_json")

    assert due.is_due_for_probe


def test_an_attempt_that_is_not_admitted_is_not_counted(breaker: CircuitBreaker) -> None:
    fail(breaker, limited(10.0))

    with pytest.raises(UpstreamRateLimited), breaker.attempt():
        pytest.fail("it was admitted")

    assert breaker.usage.take_attempts() == 0


def test_each_thread_has_its_own_count_of_attempts() -> None:
    usage = Usage()
    usage.count()

    in_other_thread(usage.count)

    assert usage.take_attempts() == 1


def test_the_newest_account_is_taken_once() -> None:
    usage = Usage()
    usage.note_account(1000, 41)
    usage.note_account(1000, 42)

    assert usage.take_account() == (1000, 42)
    assert usage.take_account() is None


def test_an_account_that_is_put_back_does_not_replace_a_newer_one() -> None:
    usage = Usage()
    usage.put_back((1000, 41))
    assert usage.take_account() == (1000, 41)

    usage.note_account(1000, 42)
    usage.put_back((1000, 41))

    assert usage.take_account() == (1000, 42)


# Shared with other processes


@pytest.fixture
def shared(clock: WallClock) -> CircuitBreaker:
    return make_breaker(clock, shared=True)


def trip_of(clock: WallClock, seconds: float) -> Trip:
    return Trip(clock.time + timedelta(seconds=seconds), "rate_limited")


def test_a_shared_one_does_not_probe_without_permission(
    shared: CircuitBreaker, clock: WallClock
) -> None:
    fail(shared, limited(10.0))
    clock.pass_by(100)

    assert shared.is_due_for_probe
    assert not shared.may_call
    with deadline_of(Deadline(0.05)), pytest.raises(DeadlineExceeded):
        shared.admit()


def test_a_call_that_left_the_queue_waits_for_permission_to_probe(
    shared: CircuitBreaker, clock: WallClock
) -> None:
    fail(shared, limited(10.0))
    clock.pass_by(100)
    _, trip = shared.take_unpublished()

    with ThreadPoolExecutor(1) as pool:
        admitted = pool.submit(shared.admit)
        while not shared.is_waited_for:
            assert not admitted.done()
        shared.adopt(trip, may_probe=True)

        assert admitted.result(5) is None
    assert not shared.is_waited_for


def test_calls_do_not_fail_any_more_when_a_shared_one_is_due(
    shared: CircuitBreaker, clock: WallClock
) -> None:
    fail(shared, limited(10.0))
    clock.pass_by(10)

    assert shared.error() is None


def test_a_change_is_published_once(shared: CircuitBreaker, clock: WallClock) -> None:
    fail(shared, limited(10.0))
    assert shared.is_unpublished

    assert shared.take_unpublished() == (True, trip_of(clock, 10))

    assert not shared.is_unpublished
    assert shared.take_unpublished() == (False, trip_of(clock, 10))


def test_a_change_that_could_not_be_published_is_published_later(shared: CircuitBreaker) -> None:
    fail(shared, limited(10.0))
    shared.take_unpublished()

    shared.put_back()

    assert shared.take_unpublished()[0]


def test_a_trip_of_another_process_holds(shared: CircuitBreaker, clock: WallClock) -> None:
    shared.adopt(trip_of(clock, 30), may_probe=False)

    with pytest.raises(UpstreamRateLimited):
        shared.admit()
    assert not shared.is_unpublished


def test_that_another_process_closed_it_holds_and_ends_a_run_of_failures(
    shared: CircuitBreaker, clock: WallClock
) -> None:
    for _ in range(4):
        fail(shared, FAILED)
    shared.adopt(trip_of(clock, 30), may_probe=False)

    shared.adopt(None, may_probe=False)

    for _ in range(4):
        fail(shared, FAILED)
    assert shared.may_call


def test_that_it_is_still_closed_does_not_end_a_run_of_failures(shared: CircuitBreaker) -> None:
    for _ in range(4):
        fail(shared, FAILED)

    shared.adopt(None, may_probe=False)

    fail(shared, FAILED)
    assert shared.error() is not None


def test_the_permission_to_probe_is_kept_until_it_is_used(
    shared: CircuitBreaker, clock: WallClock
) -> None:
    trip = trip_of(clock, 5)
    shared.adopt(trip, may_probe=True)
    shared.adopt(trip, may_probe=False)

    assert shared.error() is None
    assert shared.may_call
    shared.admit()
    assert not shared.may_call


def test_the_permission_to_probe_ends_with_a_trip_of_another_process(
    shared: CircuitBreaker, clock: WallClock
) -> None:
    shared.adopt(trip_of(clock, 5), may_probe=True)

    shared.adopt(trip_of(clock, 10), may_probe=False)

    assert not shared.may_call


def test_a_state_that_is_older_than_an_unpublished_change_is_not_adopted(
    shared: CircuitBreaker,
) -> None:
    fail(shared, limited(30.0))

    shared.adopt(None, may_probe=False)

    assert shared.error() is not None


def test_during_a_probe_no_state_is_adopted(shared: CircuitBreaker, clock: WallClock) -> None:
    shared.adopt(trip_of(clock, 5), may_probe=True)
    shared.admit()

    shared.adopt(None, may_probe=False)

    shared.record_failure(FAILED)
    assert shared.error() is not None


# Any sequence of events

STEPS = st.lists(
    st.one_of(
        st.sampled_from(["admit", "success", "abandon"]),
        st.sampled_from([FAILED, TIMED_OUT, limited(), limited(7.0), limited(40.0)]),
        st.just(UpstreamRejected("a-source", "bad_key")),
        st.floats(0, 700),
    ),
    max_size=60,
)


@given(STEPS)
def test_while_it_is_open_it_admits_nothing_but_one_probe(steps: list[Any]) -> None:
    clock = WallClock()
    breaker = make_breaker(clock)
    is_probing = False
    for step in steps:
        before = breaker._trip
        if isinstance(step, float):
            clock.pass_by(step)
        elif step == "admit":
            if is_probing:
                # A second call would wait for the probe.
                continue
            may_call = breaker.may_call
            try:
                breaker.admit()
            except UpstreamError:
                assert not may_call
                assert before is not None
                assert clock.time < before.until
            else:
                assert may_call
                assert before is None or before.until <= clock.time
                is_probing = before is not None
        elif step == "success":
            breaker.record_success()
            assert (breaker._trip is None) == (before is None or is_probing)
            is_probing = False
        elif step == "abandon":
            breaker.abandon()
            is_probing = False
        else:
            breaker.record_failure(step)
            after = breaker._trip
            # The longest wait holds, except that a probe shows the newest state.
            assert is_probing or before is None or (after and after.until >= before.until)
            is_probing = False


@given(threads=st.integers(2, 12), is_success=st.booleans())
def test_of_many_threads_one_probes(threads: int, *, is_success: bool) -> None:
    clock = WallClock()
    breaker = make_breaker(clock)
    fail(breaker, limited(10.0))
    clock.pass_by(10)
    probes: list[bool] = []
    start = threading.Barrier(threads)

    def call() -> bool:
        start.wait(5)
        try:
            breaker.admit()
        except UpstreamRateLimited:
            return False
        if breaker._is_probe():
            probes.append(True)
        if is_success:
            breaker.record_success()
        else:
            breaker.record_failure(limited(30.0))
        return True

    with ThreadPoolExecutor(threads) as pool:
        admitted = [future.result(5) for future in [pool.submit(call) for _ in range(threads)]]

    assert len(probes) == 1
    assert sum(admitted) == (threads if is_success else 1)
