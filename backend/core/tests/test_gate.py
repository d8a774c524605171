"""When a source may be called, as one process sees it; time stands until it is moved."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.deadline import Deadline, deadline_of
from core.errors import (
    DeadlineExceeded,
    UpstreamError,
    UpstreamQuotaExhausted,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from core.services.gate import Closure, Gate, GatePolicy
from core.tests.support import at_most
from core.utils.decorators import in_callers_context

FAILED = UpstreamUnavailable("a-source", "http_5xx")
TIMED_OUT = UpstreamTimeout("a-source", "http_response_timeout")


class Clock:
    def __init__(self) -> None:
        self.time = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)

    def __call__(self) -> datetime:
        return self.time

    def pass_by(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(clock: Clock) -> Gate:
    return make_gate(clock)


def make_gate(clock: Clock, **options: Any) -> Gate:
    return Gate("a-source", now=clock, jitter=lambda: 0.0, **options)


def limited(retry_after: float | None = None) -> UpstreamRateLimited:
    return UpstreamRateLimited("a-source", "rate_limited", retry_after=retry_after)


def fail(gate: Gate, error: UpstreamError) -> None:
    gate.admit()
    gate.record_failure(error)


def in_other_thread(work: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(5)


def seconds_closed(gate: Gate, clock: Clock) -> float:
    """How long the gate stays closed from now on, to the second, without being asked for a call."""
    seconds = 0
    while gate.error():
        clock.pass_by(1)
        seconds += 1
        assert seconds < 100_000
    return seconds


# What closes it


def test_it_is_open_at_first(gate: Gate) -> None:
    assert gate.error() is None
    assert gate.admit() is False


@pytest.mark.parametrize("seconds", [1.0, 30.0, 900.0])
def test_a_429_closes_it_for_as_long_as_the_source_asks(
    gate: Gate, clock: Clock, seconds: float
) -> None:
    fail(gate, limited(seconds))

    error = gate.error()
    assert isinstance(error, UpstreamRateLimited)
    assert (error.reason, error.retry_after) == ("closed", seconds)
    assert seconds_closed(gate, clock) == seconds


def test_a_503_with_retry_after_closes_it_for_that_long(gate: Gate, clock: Clock) -> None:
    fail(gate, UpstreamUnavailable("a-source", "http_5xx", retry_after=3))

    assert seconds_closed(gate, clock) == 3


def test_a_429_without_a_wait_closes_it_longer_each_time_up_to_a_quarter_of_an_hour(
    gate: Gate, clock: Clock
) -> None:
    waits = []
    for _ in range(8):
        fail(gate, limited())
        waits.append(seconds_closed(gate, clock))

    assert waits == [30, 60, 120, 240, 480, 900, 900, 900]


def test_the_wait_after_a_429_is_spread_upwards(clock: Clock) -> None:
    gate = Gate("a-source", now=clock, jitter=lambda: 1.0)

    fail(gate, limited())

    assert seconds_closed(gate, clock) == 33


def test_after_an_answer_the_waits_begin_anew(gate: Gate, clock: Clock) -> None:
    for _ in range(3):
        fail(gate, limited())
        seconds_closed(gate, clock)
    gate.admit()
    gate.record_success()

    fail(gate, limited())

    assert seconds_closed(gate, clock) == 30


def test_a_run_of_failures_closes_it_and_says_why(gate: Gate, clock: Clock) -> None:
    for _ in range(4):
        fail(gate, TIMED_OUT)
    assert gate.error() is None

    fail(gate, TIMED_OUT)

    assert isinstance(gate.error(), UpstreamTimeout)
    assert seconds_closed(gate, clock) == GatePolicy().pause


def test_an_answer_ends_the_run_of_failures(gate: Gate) -> None:
    for _ in range(20):
        for _ in range(4):
            fail(gate, FAILED)
        gate.admit()
        gate.record_success()

    assert gate.error() is None


@pytest.mark.parametrize("reason", ["tls_certificate_error", "tls_protocol_error"])
def test_a_certificate_that_is_no_good_closes_it_at_once(gate: Gate, reason: str) -> None:
    fail(gate, UpstreamUnavailable("a-source", reason))

    assert gate.error() is not None


@pytest.mark.parametrize(
    ("error", "code", "seconds"),
    [
        (UpstreamRejected("a-source", "bad_key"), "rejected", 600),
        (UpstreamRejected("a-source", "bad_key", retry_after=5), "rejected", 600),
        (UpstreamQuotaExhausted("a-source", "quota"), "quota_exhausted", 3600),
        (UpstreamQuotaExhausted("a-source", "quota", retry_after=5), "quota_exhausted", 3600),
        (UpstreamQuotaExhausted("a-source", "quota", retry_after=9000), "quota_exhausted", 9000),
    ],
)
def test_a_refused_key_and_a_used_up_quota_close_it_for_long(
    gate: Gate, clock: Clock, error: UpstreamError, code: str, seconds: float
) -> None:
    fail(gate, error)

    closed = gate.error()
    assert closed is not None
    assert (closed.code, closed.source) == (code, "a-source")
    assert seconds_closed(gate, clock) == seconds


def test_of_several_refusals_the_longest_wait_stands(gate: Gate, clock: Clock) -> None:
    for _ in range(3):
        gate.admit()
    for seconds in (10.0, 40.0, 20.0):
        gate.record_failure(limited(seconds))

    assert seconds_closed(gate, clock) == 40


def test_seven_calls_refused_together_are_one_refusal(gate: Gate, clock: Clock) -> None:
    for _ in range(7):
        gate.admit()
    for _ in range(7):
        gate.record_failure(limited())
    seconds_closed(gate, clock)

    fail(gate, limited())

    assert seconds_closed(gate, clock) == 60


def test_the_caller_is_never_told_to_come_back_at_once(gate: Gate, clock: Clock) -> None:
    fail(gate, limited(10.0))
    clock.pass_by(9.9)

    error = gate.error()

    assert error is not None
    assert error.retry_after == 1.0


# The probe


@pytest.fixture
def due(gate: Gate, clock: Clock) -> Gate:
    """A gate whose closure is over."""
    fail(gate, limited(10.0))
    clock.pass_by(10)
    return gate


def test_while_it_is_closed_no_call_is_admitted(gate: Gate) -> None:
    fail(gate, limited(10.0))

    with pytest.raises(UpstreamRateLimited):
        gate.admit()


def test_when_the_time_is_over_one_call_may_try(due: Gate) -> None:
    assert due.error() is None
    assert due.admit() is True


def test_a_probe_that_is_answered_opens_it(due: Gate) -> None:
    due.admit()
    due.record_success()

    assert due.admit() is False
    assert due.error() is None


def test_a_probe_that_fails_closes_it_again(due: Gate, clock: Clock) -> None:
    due.admit()
    due.record_failure(FAILED)

    assert isinstance(due.error(), UpstreamRateLimited)
    assert seconds_closed(due, clock) == GatePolicy().pause


def test_a_probe_that_says_nothing_leaves_it_closed_for_the_next_one(due: Gate) -> None:
    due.admit()
    due.abandon()

    assert due.admit() is True


def test_only_the_probe_opens_it(gate: Gate, clock: Clock) -> None:
    gate.admit()
    fail(gate, limited(10.0))

    # The answer to the first call, made before the second was refused.
    gate.record_success()

    assert gate.error() is not None


def test_another_thread_that_answers_late_does_not_open_it(due: Gate) -> None:
    due.admit()
    in_other_thread(due.record_success)

    with deadline_of(Deadline(0.05)), pytest.raises(DeadlineExceeded):
        in_other_thread(in_callers_context(due.admit))


def test_others_wait_for_the_probe_and_go_on_when_it_was_answered(due: Gate) -> None:
    due.admit()
    with ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(due.admit) for _ in range(5)]
        assert not [future for future in waiting if future.done()]

        due.record_success()

        assert [future.result(5) for future in waiting] == [False] * 5


def test_others_learn_that_the_probe_failed(due: Gate) -> None:
    due.admit()
    with ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(due.admit) for _ in range(5)]

        due.record_failure(limited(30.0))

        errors = [future.exception(5) for future in waiting]
    assert [type(error) for error in errors] == [UpstreamRateLimited] * 5


def test_who_waits_for_a_probe_gives_up_at_the_deadline(due: Gate) -> None:
    in_other_thread(due.admit)

    with at_most(0.05), deadline_of(Deadline(0.05)), pytest.raises(DeadlineExceeded):
        due.admit()


# Shared with other processes


@pytest.fixture
def shared(clock: Clock) -> Gate:
    return make_gate(clock, shared=True)


def closed_for(clock: Clock, seconds: float) -> Closure:
    return Closure(clock.time + timedelta(seconds=seconds), "rate_limited")


def test_a_shared_one_does_not_probe_of_its_own_accord(shared: Gate, clock: Clock) -> None:
    fail(shared, limited(10.0))
    clock.pass_by(100)

    with pytest.raises(UpstreamRateLimited):
        shared.admit()


def test_what_happened_is_told_once(shared: Gate, clock: Clock) -> None:
    fail(shared, limited(10.0))
    shared.note_account(1000, 42)
    assert shared.has_news

    news = shared.take_news()
    shared.told(news)

    assert news.is_new
    assert news.closure == closed_for(clock, 10)
    assert (news.attempts, news.account) == (1, (1000, 42))
    again = shared.take_news()
    assert (again.is_new, again.attempts, again.account) == (False, 0, None)
    assert not shared.has_news


def test_what_could_not_be_told_is_told_the_next_time(shared: Gate) -> None:
    fail(shared, limited(10.0))
    shared.note_account(1000, 42)

    shared.untold(shared.take_news())
    again = shared.take_news()

    assert again.is_new
    assert (again.attempts, again.account) == (1, (1000, 42))


def test_what_others_found_out_holds_here_too(shared: Gate, clock: Clock) -> None:
    shared.adopt(closed_for(clock, 30), probe=False, seen=shared.revision)

    with pytest.raises(UpstreamRateLimited):
        shared.admit()


def test_that_others_opened_it_holds_here_too(shared: Gate, clock: Clock) -> None:
    shared.adopt(closed_for(clock, 30), probe=False, seen=shared.revision)
    shared.adopt(None, probe=False, seen=shared.revision)

    assert shared.admit() is False


def test_who_got_the_right_to_probe_keeps_it_until_it_is_used(shared: Gate, clock: Clock) -> None:
    closure = closed_for(clock, 5)
    shared.adopt(closure, probe=True, seen=shared.revision)
    shared.adopt(closure, probe=False, seen=shared.revision)

    assert shared.error() is None
    assert shared.admit() is True


def test_what_the_others_said_before_they_knew_does_not_open_it(shared: Gate) -> None:
    seen = shared.revision
    fail(shared, limited(30.0))

    shared.adopt(None, probe=False, seen=seen)
    shared.told(shared.take_news())
    shared.adopt(None, probe=False, seen=seen)

    assert shared.error() is not None


def test_nor_what_they_said_while_they_were_told(shared: Gate) -> None:
    fail(shared, limited(30.0))
    news, seen = shared.take_news(), shared.revision
    shared.told(news)

    shared.adopt(None, probe=False, seen=seen)

    assert shared.error() is not None


def test_during_a_probe_nothing_is_taken_over(shared: Gate, clock: Clock) -> None:
    shared.adopt(closed_for(clock, 5), probe=True, seen=shared.revision)
    shared.admit()

    shared.adopt(None, probe=False, seen=shared.revision)

    shared.record_failure(FAILED)
    assert shared.error() is not None


# Whatever happens

steps = st.lists(
    st.one_of(
        st.sampled_from(["admit", "success", "abandon"]),
        st.sampled_from([FAILED, TIMED_OUT, limited(), limited(7.0), limited(40.0)]),
        st.just(UpstreamRejected("a-source", "bad_key")),
        st.floats(0, 700),
    ),
    max_size=60,
)


@given(steps)
def test_it_admits_nobody_while_it_is_closed_but_for_one_probe(steps: list[Any]) -> None:
    clock = Clock()
    gate = make_gate(clock)
    probes = 0
    for step in steps:
        if isinstance(step, float):
            clock.pass_by(step)
        elif step == "admit":
            if probes:
                # A second call would wait for the probe; nobody may be let in beside it.
                continue
            closure = gate._closure
            try:
                is_probe = gate.admit()
            except UpstreamError:
                assert closure is not None
                assert clock.time < closure.until
            else:
                assert is_probe is (closure is not None)
                assert closure is None or closure.until <= clock.time
                probes = int(is_probe)
        elif step == "success":
            was_closed = gate._closure is not None
            gate.record_success()
            assert (gate._closure is None) or (was_closed and not probes)
            probes = 0
        elif step == "abandon":
            gate.abandon()
            probes = 0
        else:
            before = gate._closure
            gate.record_failure(step)
            after = gate._closure
            # The longest wait stands, except that a probe tells the newest state.
            assert probes or before is None or (after is not None and after.until >= before.until)
            probes = 0


@given(threads=st.integers(2, 12), answered=st.booleans())
def test_of_many_threads_one_probes(threads: int, *, answered: bool) -> None:
    clock = Clock()
    gate = make_gate(clock)
    fail(gate, limited(10.0))
    clock.pass_by(10)
    probes: list[bool] = []
    refused: list[bool] = []
    start = threading.Barrier(threads)

    def call() -> None:
        start.wait(5)
        try:
            is_probe = gate.admit()
        except UpstreamRateLimited:
            refused.append(True)
            return
        probes.append(is_probe)
        if answered:
            gate.record_success()
        else:
            gate.record_failure(limited(30.0))

    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(call) for _ in range(threads)]:
            future.result(5)

    assert probes.count(True) == 1
    assert len(refused) == (0 if answered else threads - 1)
