"""What processes agree on. Two `Process`es on one database; nothing runs unless a test says so."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import DatabaseError, OperationalError
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from core.errors import (
    UpstreamError,
    UpstreamNotConfigured,
    UpstreamQuotaExhausted,
    UpstreamRateLimited,
    UpstreamUnavailable,
)
from core.models import UpstreamState
from core.services.circuit_breaker import BreakerPolicy, CircuitBreaker, Plan
from core.services.coordinator import HEARTBEAT_SECONDS, SYNC_SECONDS, Coordinator
from core.services.limits import Quota, Rate, UpstreamLimits
from core.services.source import Combined, Priority, Source
from core.tests.clock import WallClock

PAUSE = BreakerPolicy().pause
BY_DAY = Quota("%Y-%m-%d", 100)
BY_MONTH = Quota("%Y-%m", None)
pytestmark = pytest.mark.django_db


class ByHand(Coordinator):
    """A coordinator without a thread: tests call `work`."""

    wakes = 0

    def wake(self) -> None:
        self.wakes += 1


class Process:
    """A process with two sources, whose calls are made by `run` in the thread of the test."""

    def __init__(
        self,
        clock: WallClock,
        *,
        rate: Rate | None = None,
        quota: Quota | None = None,
        **options: Any,
    ) -> None:
        self.clock = clock
        self.limits = UpstreamLimits(
            rates={"imdbapi": rate} if rate else {},
            quotas={"imdbapi": quota} if quota else {},
            now=clock,
        )
        self.source = self._source("imdbapi", rate=rate, quota=quota)
        self.other_source = self._source("watchmode")
        self.coordinator = ByHand(
            sources=[self.source, self.other_source],
            limits=self.limits,
            clock=clock.monotonic,
            **options,
        )
        self.made: list[str] = []

    def _source(self, name: str, **options: Any) -> Source:
        return Source(
            name,
            concurrency=0,
            breaker=CircuitBreaker(name, shared=True, now=self.clock, jitter=lambda: 0.0),
            clock=self.clock.monotonic,
            now=self.clock,
            **options,
        )

    def submit(
        self,
        *errors: UpstreamError | None,
        name: str = "a call",
        source: Source | None = None,
        **options: Any,
    ) -> "Future[str]":
        """Queue a call whose attempts end with `errors`, None for a success (the default)."""
        at = source or self.source

        def call() -> str:
            for error in errors or (None,):
                with at.breaker.attempt():
                    self.made.append(name)
                if error is None:
                    at.breaker.record_success()
                else:
                    at.breaker.record_failure(error)
            if errors and errors[-1] is not None:
                raise errors[-1]
            return name

        return at.submit(call, **options)

    def run(self) -> int:
        """Do what may be done now; return how many calls were made."""
        before = len(self.made)
        self.coordinator.work()
        while self.source.work() or self.other_source.work():
            self.coordinator.work()
        return len(self.made) - before

    def settle(self) -> None:
        """Let the coordinator publish what was counted."""
        self.clock.pass_by(HEARTBEAT_SECONDS + 0.01)
        self.coordinator.work()

    def may_call(self) -> bool:
        """Whether a call is made now and succeeds."""
        future = self.submit()
        self.run()
        if not future.done():
            future.cancel()
            return False
        return future.exception(0) is None

    def fail(self, error: UpstreamError, source: Source | None = None) -> None:
        self.submit(error, source=source)
        self.run()
        self.settle()


@pytest.fixture
def processes(clock: WallClock) -> tuple[Process, Process]:
    return Process(clock), Process(clock)


def limited(seconds: float | None = None) -> UpstreamRateLimited:
    return UpstreamRateLimited("imdbapi", "rate_limited", retry_after=seconds)


def failed() -> UpstreamUnavailable:
    return UpstreamUnavailable("imdbapi", "http_5xx")


def stored(source: str = "imdbapi") -> UpstreamState:
    return UpstreamState.objects.get(source=source)


@contextmanager
def broken_database(monkeypatch: pytest.MonkeyPatch, *methods: str) -> Iterator[None]:
    """Let methods of all `UpstreamLimits` fail."""

    def fails(*_: Any, **__: Any) -> None:
        raise OperationalError

    with monkeypatch.context() as patched:
        for method in methods or ("read", "publish", "add_tokens", "count_quota"):
            patched.setattr(UpstreamLimits, method, fails)
        yield


# Circuit breakers


def test_a_source_of_which_nothing_is_known_is_called(processes: tuple[Process, Process]) -> None:
    assert processes[0].may_call()


def test_a_call_waits_until_the_state_of_the_source_was_read(clock: WallClock) -> None:
    process = Process(clock)
    future = process.submit()

    assert not process.source.work()
    process.coordinator.work()
    assert process.source.work()

    assert future.result(0) == "a call"


def test_what_was_read_is_current_for_half_a_second(clock: WallClock) -> None:
    process = Process(clock)
    for _ in range(4):
        process.submit()
    process.coordinator.work()

    assert process.source.work()
    clock.pass_by(SYNC_SECONDS)
    assert process.source.work()
    clock.pass_by(0.01)
    assert not process.source.work()
    process.coordinator.work()
    assert process.source.work()


def test_the_first_call_after_a_pause_knows_what_other_processes_learned_a_moment_ago(
    processes: tuple[Process, Process],
) -> None:
    one, other = processes
    assert other.may_call()
    other.clock.pass_by(0.01)
    one.submit(limited(30))
    one.run()
    one.coordinator.work()

    future = other.submit()
    other.run()

    assert isinstance(future.exception(0), UpstreamRateLimited)


def test_an_open_breaker_is_read_again_before_the_first_call_after_a_pause(
    processes: tuple[Process, Process], clock: WallClock
) -> None:
    one, other = processes
    one.fail(limited(30))
    other.may_call()
    UpstreamState.objects.update(open_until=None)
    clock.pass_by(1)

    assert other.may_call()


def test_a_429_in_one_process_holds_in_the_other_to_the_second(
    processes: tuple[Process, Process], clock: WallClock
) -> None:
    one, other = processes
    one.fail(limited(30))

    clock.pass_by(29)
    future = other.submit()
    other.run()

    assert isinstance(future.exception(0), UpstreamRateLimited)
    assert not one.may_call()
    clock.pass_by(1)
    assert other.may_call()


def test_calls_that_are_queued_fail_when_another_process_opens_the_breaker(
    clock: WallClock,
) -> None:
    one, other = Process(clock), Process(clock, rate=Rate(1, 10))
    assert other.may_call()
    queued = other.submit()
    other.run()
    assert not queued.done()

    one.fail(limited(30))
    other.settle()

    assert isinstance(queued.exception(0), UpstreamRateLimited)


def test_a_trip_of_one_source_does_not_concern_another(
    processes: tuple[Process, Process],
) -> None:
    one, other = processes
    one.fail(limited(30))

    future = other.submit(source=other.other_source)
    other.run()

    assert future.result(0) == "a call"


def test_the_longest_wait_of_all_processes_holds(
    processes: tuple[Process, Process], clock: WallClock
) -> None:
    one, other = processes
    for process in processes:
        process.may_call()
    # Neither knows yet what the other one learned.
    one.submit(limited(60))
    other.submit(limited(10))
    one.source.work()
    other.source.work()
    one.settle()
    other.settle()

    clock.pass_by(30)

    assert not one.may_call()
    assert not other.may_call()


def test_after_a_trip_one_process_of_two_probes(
    processes: tuple[Process, Process], clock: WallClock
) -> None:
    one, other = processes
    one.fail(limited(30))
    clock.pass_by(30)
    futures = [process.submit() for process in processes]

    one.coordinator.work()
    other.coordinator.work()

    assert not other.source.work()
    assert one.source.work()
    assert futures[0].result(0) == "a call"


def test_calls_beside_a_probe_of_another_process_fail(
    processes: tuple[Process, Process], clock: WallClock
) -> None:
    one, other = processes
    one.fail(limited(30))
    clock.pass_by(30)
    futures = [process.submit() for process in processes]
    one.coordinator.work()

    other.run()
    other.settle()

    assert isinstance(futures[1].exception(0), UpstreamRateLimited)


def test_a_successful_probe_closes_the_breaker_for_all(
    processes: tuple[Process, Process], clock: WallClock
) -> None:
    one, other = processes
    one.fail(limited(30))
    clock.pass_by(30)

    assert one.may_call()
    one.settle()

    assert other.may_call()
    assert stored().open_until is None


def test_a_failed_probe_keeps_it_open_for_all(
    processes: tuple[Process, Process], clock: WallClock
) -> None:
    one, other = processes
    one.fail(limited())
    clock.pass_by(30)
    one.fail(limited())

    clock.pass_by(59)

    assert not other.may_call()
    assert stored().trips == 2


def test_the_wait_doubles_whichever_process_probes(
    processes: tuple[Process, Process], clock: WallClock
) -> None:
    waits = []
    for number in range(4):
        process = processes[number % 2]
        before = clock.time
        process.fail(limited())
        until = stored().open_until
        assert until
        waits.append((until - before).total_seconds())
        clock.pass_by(waits[-1])

    assert waits == [30, 60, 120, 240]


def test_a_process_that_dies_while_it_probes_is_followed_by_another(
    processes: tuple[Process, Process], clock: WallClock
) -> None:
    one, other = processes
    one.fail(limited(30))
    clock.pass_by(30)
    one.submit()
    one.coordinator.work()

    assert not other.may_call()
    clock.pass_by(PAUSE)

    assert other.may_call()


def test_a_permission_to_probe_that_is_not_used_is_used_by_a_later_call(clock: WallClock) -> None:
    process = Process(clock)
    process.fail(limited(30))
    clock.pass_by(30)
    process.submit().cancel()
    queued = process.submit()
    process.coordinator.work()
    queued.cancel()

    clock.pass_by(100)

    assert process.may_call()


def test_a_dead_source_gets_one_probe_per_pause_from_all_processes_together(
    processes: tuple[Process, Process], clock: WallClock
) -> None:
    one, _ = processes
    for _ in range(5):
        one.fail(failed())
    probes = 0

    for _ in range(600):
        clock.pass_by(0.1)
        for process in processes:
            process.submit(failed())
            probes += process.run()

    assert 10 <= probes <= 60 / PAUSE


def test_a_refusal_during_the_probe_of_another_process_outlasts_its_success(
    processes: tuple[Process, Process], clock: WallClock
) -> None:
    one, other = processes
    # A call of the other process that is still under way when the probe is made.
    other.source.breaker.admit()
    one.fail(limited(10))
    clock.pass_by(10)
    probe = one.submit()
    one.coordinator.work()
    other.source.breaker.record_failure(limited(30))
    other.coordinator.work()

    one.source.work()
    one.settle()

    assert probe.result(0) == "a call"
    assert not one.may_call()
    assert not other.may_call()


def test_a_change_that_could_not_be_stored_is_stored_later(
    processes: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = processes
    one.may_call()
    one.submit(limited(30))
    one.source.work()
    with broken_database(monkeypatch), pytest.raises(DatabaseError):
        one.coordinator.work()

    assert not one.may_call()
    one.coordinator.work()
    assert not other.may_call()


def test_a_breaker_that_opens_is_published_at_once(clock: WallClock) -> None:
    process = Process(clock)
    process.may_call()
    process.submit(limited(30))

    wakes = process.coordinator.wakes
    process.source.work()
    assert process.coordinator.wakes > wakes
    process.coordinator.work()

    assert stored().code == "rate_limited"


def test_a_source_that_is_open_in_the_far_future_is_called_after_an_hour(
    clock: WallClock,
) -> None:
    process = Process(clock)
    UpstreamState.objects.create(
        source="imdbapi", open_until=clock.time.replace(year=2050), code="rejected", trips=1
    )

    assert not process.may_call()
    clock.pass_by(3600)

    assert process.may_call()


# Rates


def test_calls_beyond_the_burst_wait_for_their_tokens(clock: WallClock) -> None:
    process = Process(clock, rate=Rate(2, 10))
    for _ in range(4):
        process.submit()

    assert process.run() == 2
    clock.pass_by(4.9)
    assert process.run() == 0
    clock.pass_by(0.2)
    assert process.run() == 1


def test_the_coordinator_looks_again_when_the_next_token_is_due(clock: WallClock) -> None:
    process = Process(clock, rate=Rate(10, 1))
    for _ in range(11):
        process.submit()

    assert process.coordinator.work() == pytest.approx(0.1)


def test_the_processes_share_the_rate(clock: WallClock) -> None:
    processes = [Process(clock, rate=Rate(8, 5)) for _ in range(2)]
    made = 0
    for process in processes:
        for _ in range(20):
            process.submit()

    for _ in range(50):
        made += sum(process.run() for process in processes)
        clock.pass_by(0.1)

    assert 8 + 7 <= made <= 8 + 8


def test_a_token_is_not_taken_twice_for_a_call_that_is_repeated_later(clock: WallClock) -> None:
    process = Process(clock, rate=Rate(10, 10))
    process.submit(failed(), failed(), None)
    process.run()
    process.settle()

    # Three attempts, of which the bucket granted one.
    assert stored().tokens == pytest.approx(10 - 3 + HEARTBEAT_SECONDS, abs=0.25)


def test_repeated_attempts_are_taken_from_the_bucket_before_further_calls(
    clock: WallClock,
) -> None:
    process = Process(clock, rate=Rate(5, 50))
    process.submit(failed(), failed(), None)
    process.run()
    futures = [process.submit() for _ in range(5)]

    process.run()

    assert [future.done() for future in futures] == [True, True, False, False, False]


def test_a_cancelled_call_gives_its_token_back(clock: WallClock) -> None:
    process = Process(clock, rate=Rate(5, 50))
    futures = [process.submit() for _ in range(5)]
    process.coordinator.work()
    for future in futures:
        future.cancel()
    process.settle()

    for _ in range(5):
        process.submit()
    assert process.run() == 5


def test_a_call_that_makes_no_attempt_gives_its_token_back(clock: WallClock) -> None:
    process = Process(clock, rate=Rate(2, 1000))

    def call() -> None:
        raise UpstreamNotConfigured("imdbapi", "not_configured")

    for _ in range(20):
        process.source.submit(call)
        process.run()
        process.settle()

    assert process.may_call()


def test_calls_that_fail_with_an_open_breaker_give_their_tokens_back(clock: WallClock) -> None:
    process = Process(clock, rate=Rate(5, 50))
    process.submit(limited(10))
    futures = [process.submit() for _ in range(4)]
    process.coordinator.work()

    process.source.work()
    process.settle()

    assert all(future.done() for future in futures)
    assert stored().tokens == pytest.approx(4, abs=0.1)


def test_a_combined_call_takes_one_token(clock: WallClock) -> None:
    process = Process(clock, rate=Rate(2, 1000))
    batches: list[list[str]] = []

    def many(items: Any) -> dict[str, str]:
        with process.source.breaker.attempt():
            batches.append(list(items))
        process.source.breaker.record_success()
        return dict.fromkeys(items, "found")

    combined = Combined(many, most=5)
    futures = [process.submit(item=str(n), combined=combined) for n in range(10)]

    process.coordinator.work()
    assert process.source.tokens_wanted() == 0
    process.run()

    assert [len(batch) for batch in batches] == [5, 5]
    assert all(future.result(0) == "found" for future in futures)


def test_an_item_that_is_called_alone_takes_a_token_of_its_own(clock: WallClock) -> None:
    process = Process(clock, rate=Rate(2, 1000))

    def many(items: Any) -> dict[str, str]:
        with process.source.breaker.attempt():
            pass
        return {"0": "found"}

    combined = Combined(many, most=5)
    futures = [process.submit(item=str(n), combined=combined) for n in range(3)]

    process.run()

    assert [future.done() for future in futures] == [True, True, False]


def test_tokens_that_could_not_be_returned_are_returned_later(
    clock: WallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(clock, rate=Rate(5, 5000))
    futures = [process.submit() for _ in range(5)]
    process.coordinator.work()
    for future in futures:
        future.cancel()
    with broken_database(monkeypatch), pytest.raises(DatabaseError):
        process.settle()

    process.settle()

    assert stored().tokens == pytest.approx(5, abs=0.1)


# How long the queue is


def test_queue_seconds_is_nothing_without_a_rate_or_for_a_call_that_may_go(
    clock: WallClock,
) -> None:
    unlimited, rated = Process(clock), Process(clock, rate=Rate(2, 10))
    first = rated.submit()

    assert unlimited.source.queue_seconds(unlimited.submit()) == 0
    assert rated.source.queue_seconds(first) == 0
    rated.coordinator.work()
    assert rated.source.queue_seconds(first) == 0
    rated.source.work()
    assert rated.source.queue_seconds(first) == 0


def test_before_anything_is_known_of_the_bucket_it_counts_as_full(clock: WallClock) -> None:
    process = Process(clock, rate=Rate(2, 10))
    futures = [process.submit() for _ in range(4)]

    assert [process.source.queue_seconds(future) for future in futures] == [0, 0, 5, 10]


def test_queue_seconds_ignores_cancelled_calls(clock: WallClock) -> None:
    process = Process(clock, rate=Rate(2, 10))
    futures = [process.submit() for _ in range(4)]
    futures[0].cancel()

    assert process.source.queue_seconds(futures[3]) == 5


class AnyQueue(TestCase):
    @settings(deadline=None, max_examples=30)
    @given(
        rate=st.builds(Rate, st.integers(1, 10), st.sampled_from([1.0, 5.0])),
        calls=st.lists(
            st.one_of(
                st.tuples(
                    st.sampled_from(list(Priority)), st.none() | st.integers(0, 6), st.just(False)
                ),
                st.tuples(st.sampled_from(list(Priority)), st.just(0), st.just(True)),
            ),
            min_size=1,
            max_size=12,
        ),
        used=st.integers(0, 5),
    )
    def test_a_call_goes_when_queue_seconds_says(
        self, rate: Rate, calls: list[tuple[Priority, int | None, bool]], used: int
    ) -> None:
        UpstreamState.objects.all().delete()
        clock = WallClock()
        process = Process(clock, rate=rate)
        for _ in range(used):
            process.submit()
        process.run()

        def many(items: Any) -> dict[str, str]:
            with process.source.breaker.attempt():
                return dict.fromkeys(items, "found")

        combined = Combined(many, most=5)
        futures = [
            process.submit(
                priority=priority,
                turn=turn,
                item=str(number),
                combined=combined if is_combined else None,
            )
            for number, (priority, turn, is_combined) in enumerate(calls)
        ]
        process.coordinator.work()
        expected = [process.source.queue_seconds(future) for future in futures]

        started, actual = clock.monotonic(), dict[int, float]()
        while len(actual) < len(futures):
            seconds_to_next = process.coordinator.work()
            while process.source.work():
                pass
            for number, future in enumerate(futures):
                if future.done():
                    actual.setdefault(number, clock.monotonic() - started)
            clock.pass_by(seconds_to_next or 0.0)

        for number, seconds in actual.items():
            assert seconds == pytest.approx(expected[number], abs=0.05)


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(0, 1), st.integers(1, 3)),
        st.tuples(st.just("cancel"), st.integers(0, 1), st.integers(0, 9)),
        st.tuples(st.just("work"), st.integers(0, 1)),
        st.tuples(st.just("make"), st.integers(0, 1)),
        st.tuples(st.just("pass"), st.floats(0, 3)),
    ),
    max_size=60,
)


def play(processes: list[Process], clock: WallClock, events: list[tuple[Any, ...]]) -> list[float]:
    """Let the events happen; return the times of the calls."""
    futures: list[list[Future[str]]] = [[] for _ in processes]
    times: list[float] = []

    def submit(which: int, count: int) -> None:
        futures[which] += [processes[which].submit(turn=turn) for turn in range(count)]

    def cancel(which: int, number: int) -> None:
        for future in futures[which][number : number + 1]:
            future.cancel()

    def make(which: int) -> None:
        if processes[which].source.work():
            times.append(clock.monotonic())

    happen: dict[str, Callable[..., object]] = {
        "submit": submit,
        "cancel": cancel,
        "work": lambda which: processes[which].coordinator.work(),
        "make": make,
        "pass": clock.pass_by,
    }
    for event, *arguments in events:
        happen[event](*arguments)
    return times


class AnyTraffic(TestCase):
    @settings(deadline=None, max_examples=60)
    @given(
        rate=st.builds(Rate, st.integers(1, 8), st.sampled_from([1.0, 5.0, 20.0])), events=EVENTS
    )
    def test_over_any_span_no_more_than_burst_and_rate_allow(
        self, rate: Rate, events: list[tuple[Any, ...]]
    ) -> None:
        UpstreamState.objects.all().delete()
        clock = WallClock()

        times = play([Process(clock, rate=rate) for _ in range(2)], clock, events)

        for first, start in enumerate(times):
            for count, end in enumerate(times[first:], 1):
                assert count <= rate.burst + (end - start) * rate.per_second + 1e-3

    @settings(deadline=None, max_examples=60)
    @given(burst=st.integers(1, 8), events=EVENTS)
    def test_no_token_is_lost(self, burst: int, events: list[tuple[Any, ...]]) -> None:
        UpstreamState.objects.all().delete()
        clock = WallClock()
        processes = [Process(clock, rate=Rate(burst, 1e9)) for _ in range(2)]

        made = len(play(processes, clock, events))
        for process in processes:
            process.source.fail_queued(failed())
            process.settle()

        left, _ = processes[0].limits.take_tokens("imdbapi", 100)
        assert made + left == burst


# Quotas


def test_a_call_waits_until_the_quota_granted_it(clock: WallClock) -> None:
    process = Process(clock, quota=BY_DAY)
    process.may_call()
    process.submit()

    assert not process.source.work()
    process.coordinator.work()
    assert process.source.work()
    assert stored().quota_used == 2


def test_a_call_that_finds_the_quota_used_up_fails_and_others_go_on(clock: WallClock) -> None:
    process = Process(clock, quota=Quota("%Y-%m-%d", 10))
    stored_films = [process.submit() for _ in range(2)]
    new_films = [process.submit(leave_reserve=True) for _ in range(10)]
    more_stored = [process.submit() for _ in range(2)]

    assert process.run() == 9

    # One call is kept for films that are stored.
    assert all(future.exception(0) is None for future in stored_films + more_stored)
    errors = [type(future.exception(0)) for future in new_films]
    assert errors == [type(None)] * 5 + [UpstreamQuotaExhausted] * 5
    assert not process.source.is_waiting
    assert process.may_call()
    last = process.submit()
    process.run()
    error = last.exception(0)
    assert isinstance(error, UpstreamQuotaExhausted)
    assert error.retry_after == 12 * 3600


def test_the_next_day_calls_are_made_again(clock: WallClock) -> None:
    process = Process(clock, quota=Quota("%Y-%m-%d", 1))
    assert process.may_call()
    assert not process.may_call()

    clock.pass_by(12 * 3600)

    assert process.may_call()


def test_further_attempts_of_a_call_count_and_unmade_calls_do_not(clock: WallClock) -> None:
    process = Process(clock, quota=BY_DAY)
    process.submit(failed(), failed(), None)
    process.submit().cancel()
    reserved = process.submit()
    process.coordinator.work()
    reserved.cancel()

    process.run()
    process.settle()

    assert stored().quota_used == 3


def test_a_call_that_is_cancelled_while_the_quota_is_asked_gives_it_back(
    clock: WallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(clock, quota=BY_DAY)
    future = process.submit()
    reserve = UpstreamLimits.reserve_quota

    def reserve_and_cancel(*arguments: Any, **options: Any) -> int:
        granted = reserve(*arguments, **options)
        future.cancel()
        assert process.source.queue_length == 0
        return granted

    monkeypatch.setattr(UpstreamLimits, "reserve_quota", reserve_and_cancel)
    process.coordinator.work()
    process.settle()

    assert stored().quota_used == 0


def test_calls_that_fail_with_an_open_breaker_give_their_quota_back(clock: WallClock) -> None:
    process = Process(clock, quota=BY_DAY)
    process.submit(limited(10))
    for _ in range(4):
        process.submit()
    process.coordinator.work()

    process.source.work()
    process.settle()

    assert stored().quota_used == 1


def test_a_combined_call_counts_once(clock: WallClock) -> None:
    process = Process(clock, quota=BY_DAY)

    def many(items: Any) -> dict[str, str]:
        with process.source.breaker.attempt():
            pass
        process.source.breaker.record_success()
        return {item: "found" for item in items if item != "2"}

    combined = Combined(many, most=5)
    futures = [process.submit(item=str(n), combined=combined) for n in range(4)]

    process.run()
    process.settle()

    # One for the combined call, one for the item that was missing.
    assert stored().quota_used == 2
    assert all(future.done() for future in futures)


def test_counts_that_could_not_be_stored_are_stored_later(
    clock: WallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(clock, quota=BY_DAY)
    process.submit(failed(), None)
    process.run()
    process.source.breaker.usage.note_account(1000, 42)
    with broken_database(monkeypatch), pytest.raises(DatabaseError):
        process.settle()

    process.settle()

    assert (stored().quota_limit, stored().quota_used) == (1000, 42)


def test_a_source_that_reports_a_used_up_quota_is_not_called_until_its_end(
    clock: WallClock,
) -> None:
    one, other = Process(clock, quota=BY_DAY), Process(clock, quota=BY_DAY)
    queued = [other.submit() for _ in range(3)]
    other.coordinator.work()

    def call() -> None:
        with one.source.breaker.attempt():
            pass
        # As OMDb's client does, which leaves the quota to this class.
        one.source.breaker.record_success()
        raise UpstreamQuotaExhausted("imdbapi", "quota")

    refused = one.source.submit(call)
    one.run()
    one.settle()
    for future in queued:
        future.cancel()
    other.settle()

    error = refused.exception(0)
    assert isinstance(error, UpstreamQuotaExhausted)
    assert error.retry_after == pytest.approx(12 * 3600, abs=1)
    assert not one.may_call()
    assert not other.may_call()
    clock.pass_by(11.9 * 3600)
    assert not other.may_call()
    clock.pass_by(0.1 * 3600)
    assert other.may_call()


@pytest.mark.parametrize("quota", [None, Quota("%Y-%m-%d", 0), BY_MONTH])
def test_a_used_up_quota_that_is_not_counted_here_opens_the_breaker(
    clock: WallClock, quota: Quota | None
) -> None:
    process = Process(clock, quota=quota)

    def call() -> None:
        with process.source.breaker.attempt():
            pass
        process.source.breaker.record_success()
        raise UpstreamQuotaExhausted("imdbapi", "quota")

    refused = process.source.submit(call)
    process.run()

    error = refused.exception(0)
    assert isinstance(error, UpstreamQuotaExhausted)
    assert error.retry_after == 3600
    assert not process.may_call()
    clock.pass_by(3600)
    assert process.may_call()


def test_the_account_that_a_source_reports_is_stored_for_all(clock: WallClock) -> None:
    one, other = Process(clock, quota=BY_MONTH), Process(clock, quota=BY_MONTH)
    one.source.breaker.usage.note_account(1000, 950)
    one.may_call()

    row = stored()
    assert (row.quota_limit, row.quota_used, row.quota_period) == (1000, 950, "2026-03")
    new_film, stored_film = other.submit(leave_reserve=True), other.submit()
    other.run()
    assert isinstance(new_film.exception(0), UpstreamQuotaExhausted)
    assert stored_film.result(0) == "a call"


def test_the_plan_that_a_process_read_is_known_to_others_before_they_call(
    clock: WallClock,
) -> None:
    one, other = Process(clock), Process(clock)
    plan = Plan(frozenset(["DE", "US"]), clock())
    one.source.breaker.usage.note_plan(plan)
    one.settle()

    other.may_call()

    assert other.source.breaker.usage.plan == plan
    assert other.other_source.breaker.usage.plan is None


def test_a_plan_that_could_not_be_stored_is_stored_later(
    clock: WallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(clock)
    process.source.breaker.usage.note_plan(Plan(frozenset(["US"]), clock()))
    with broken_database(monkeypatch, "note_plan"), pytest.raises(DatabaseError):
        process.settle()
    # What is stored, and older, does not replace it meanwhile.
    process.source.breaker.usage.adopt_plan(Plan(frozenset(["TR"]), clock()))

    process.settle()

    assert stored().plan_regions == "US"


def test_a_source_that_reports_that_only_the_reserve_is_left_is_believed_at_once(
    clock: WallClock,
) -> None:
    process = Process(clock, quota=BY_MONTH)
    process.may_call()
    process.source.breaker.usage.note_account(1000, 899)
    process.may_call()
    assert process.source.breaker.usage.account

    process.source.breaker.usage.note_account(1000, 900)
    new_film = process.submit(leave_reserve=True)
    process.run()

    assert isinstance(new_film.exception(0), UpstreamQuotaExhausted)


def test_a_call_to_a_source_that_counts_by_itself_needs_no_query(
    clock: WallClock, django_assert_num_queries: Callable[[int], Any]
) -> None:
    process = Process(clock, quota=BY_MONTH)
    process.submit(failed(), None)
    process.run()
    process.source.breaker.usage.note_account(1000, 2)

    with django_assert_num_queries(0):
        assert process.may_call()


class AnyQuota(TestCase):
    @settings(deadline=None, max_examples=60)
    @given(limit=st.integers(1, 12), events=EVENTS)
    def test_the_quota_is_exact_across_processes(
        self, limit: int, events: list[tuple[Any, ...]]
    ) -> None:
        UpstreamState.objects.all().delete()
        clock = WallClock()
        processes = [Process(clock, quota=Quota("%Y", limit)) for _ in range(2)]

        play(processes, clock, events)
        for process in processes:
            process.source.fail_queued(failed())
            process.settle()

        # What is left can be used to the last call.
        made = sum(len(process.made) for process in processes)
        assert made <= limit
        for _ in range(made, limit):
            assert processes[made % 2].may_call()
        assert not processes[0].may_call()
        assert not processes[1].may_call()


# The database fails


def test_calls_that_wait_for_the_database_fail_with_its_error_and_the_next_one_is_made(
    clock: WallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(clock, rate=Rate(8, 5))
    futures = [process.submit() for _ in range(3)]
    with broken_database(monkeypatch):
        process.coordinator._work_safely()

    assert [type(future.exception(0)) for future in futures] == [OperationalError] * 3
    assert process.may_call()


def test_a_database_that_fails_once_fails_no_call(
    clock: WallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(clock)
    future = process.submit()
    read, calls = UpstreamLimits.read, list[int]()

    def fails_once(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise OperationalError
        return read(*arguments)

    monkeypatch.setattr(UpstreamLimits, "read", fails_once)
    process.coordinator._work_safely()

    process.source.work()
    assert future.result(0) == "a call"


def test_a_bug_fails_the_queued_calls_and_is_logged(
    clock: WallClock, monkeypatch: pytest.MonkeyPatch, log: Any
) -> None:
    process = Process(clock)
    future = process.submit()

    def fails(*_: Any) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(UpstreamLimits, "read", fails)
        process.coordinator._work_safely()

    assert isinstance(future.exception(0), ZeroDivisionError)
    assert [line["outcome"] for line in log.of("unexpected error")] == ["unexpected"]
    assert process.may_call()


def test_an_outage_is_logged_once_per_second(
    clock: WallClock, monkeypatch: pytest.MonkeyPatch, log: Any
) -> None:
    process = Process(clock)
    with broken_database(monkeypatch):
        for _ in range(20):
            process.submit()
            process.coordinator._work_safely()
            clock.pass_by(0.1)

    assert len(log.of("database failed")) == 2


# Economy


def test_while_a_source_is_busy_its_calls_without_limits_need_no_query(
    clock: WallClock, django_assert_num_queries: Callable[[int], Any]
) -> None:
    process = Process(clock)

    def call() -> None:
        with django_assert_num_queries(0):
            clock.pass_by(0.1)
            for _ in range(5):
                process.may_call()

    future = process.source.submit(call)
    process.coordinator.work()
    process.source.work()

    assert future.exception(0) is None
    assert len(process.made) == 5


def test_a_queued_call_of_each_kind_costs_one_query_to_read_and_one_for_each_limit(
    clock: WallClock, django_assert_num_queries: Callable[[int], Any]
) -> None:
    process = Process(clock, rate=Rate(8, 5), quota=BY_DAY)
    process.may_call()
    clock.pass_by(1)
    process.coordinator.work()
    for _ in range(5):
        process.submit()

    with django_assert_num_queries(3):
        assert process.run() == 5


@pytest.mark.parametrize(
    ("is_idle", "is_allowed", "wakes"),
    [(True, True, 1), (True, False, 1), (False, False, 1), (False, True, 0)],
)
def test_a_queued_call_wakes_the_thread_if_it_is_idle_or_the_call_is_not_allowed_yet(
    clock: WallClock, *, is_idle: bool, is_allowed: bool, wakes: int
) -> None:
    process = Process(clock)
    process.submit()
    if is_allowed:
        process.coordinator.work()
    process.coordinator._is_idle = is_idle
    process.coordinator.wakes = 0

    process.submit()

    assert process.coordinator.wakes == wakes


def test_only_a_call_that_may_be_made_wakes_a_thread_of_the_source(
    clock: WallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(clock, rate=Rate(1, 1))
    process.submit()
    process.coordinator.work()
    woken: list[bool] = []
    monkeypatch.setattr(process.source._changed, "notify", lambda: woken.append(True))

    process.submit()
    assert woken == [True]

    process.source.work()
    process.submit()
    assert woken == [True]


def test_while_calls_are_under_way_and_none_is_queued_nothing_is_queried(
    clock: WallClock, django_assert_num_queries: Callable[[int], Any]
) -> None:
    process = Process(clock)
    seconds: list[float | None] = []

    def call() -> None:
        with django_assert_num_queries(0):
            for _ in range(10):
                clock.pass_by(HEARTBEAT_SECONDS)
                seconds.append(process.coordinator.work())

    future = process.source.submit(call)
    process.coordinator.work()
    process.source.work()

    assert future.exception(0) is None
    assert seconds == [HEARTBEAT_SECONDS] * 10
    assert process.coordinator.work() is None


def test_leases_are_renewed_while_any_is_held(clock: WallClock) -> None:
    held = [True, True, False]
    process = Process(clock, renew_leases=lambda: held.pop(0))

    assert process.coordinator.work() == HEARTBEAT_SECONDS
    assert process.coordinator.work() == HEARTBEAT_SECONDS
    assert process.coordinator.work() is None


def test_a_command_stores_what_it_learned_before_it_ends(clock: WallClock) -> None:
    process = Process(clock, quota=BY_DAY)
    process.submit(failed(), limited(30))
    process.run()

    process.coordinator.publish()

    assert (stored().quota_used, stored().code) == (2, "rate_limited")


# The thread


class LimitsWithoutDatabase:
    """Limits of one process, kept in memory."""

    def __init__(self) -> None:
        self.reads = 0
        self.used = 0
        self.lock = threading.Lock()

    def read(self, sources: Any) -> dict[str, UpstreamState]:
        self.reads += 1
        return {source: UpstreamState(source=source) for source in sources}

    def trip(self, row: UpstreamState) -> None:
        return None

    def reserve_quota(self, _: str, calls: int, **__: Any) -> int:
        with self.lock:
            granted = min(calls, 1000 - self.used)
            self.used += granted
        return granted

    def quota_error(self, source: str) -> UpstreamQuotaExhausted:
        return UpstreamQuotaExhausted(source, "quota", retry_after=1.0)

    def count_quota(self, _: str, calls: int) -> None:
        with self.lock:
            self.used += calls


def with_thread(limits: Any, **options: Any) -> Source:
    source = Source("a-source", concurrency=8, quota=BY_DAY, **options)
    Coordinator(sources=[source], limits=limits)
    return source


def call_of(source: Source, made: list[int]) -> Callable[[], None]:
    def call() -> None:
        with source.breaker.attempt():
            made.append(1)
        source.breaker.record_success()

    return call


def test_the_thread_lets_calls_go_and_sleeps_when_idle() -> None:
    limits, made = LimitsWithoutDatabase(), list[int]()
    source = with_thread(limits)

    for _ in range(3):
        source.submit(call_of(source, made)).result(5)

    assert len(made) == 3
    assert limits.used == 3


def test_of_a_quota_of_a_thousand_a_thousand_calls_are_made() -> None:
    limits, made = LimitsWithoutDatabase(), list[int]()
    sources = [with_thread(limits) for _ in range(2)]

    def submit_some(number: int) -> list[BaseException | None]:
        source = sources[number % 2]
        futures = [source.submit(call_of(source, made)) for _ in range(100)]
        return [future.exception(10) for future in futures]

    with ThreadPoolExecutor(16) as pool:
        errors = [error for found in pool.map(submit_some, range(16)) for error in found]

    assert len(made) == 1000
    assert sum(isinstance(error, UpstreamQuotaExhausted) for error in errors) == 600
