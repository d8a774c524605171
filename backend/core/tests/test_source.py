"""One source without a coordinator: its threads, its queue and its circuit breaker."""

import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.deadline import Deadline, deadline_of, time_left
from core.errors import (
    DeadlineExceeded,
    UpstreamError,
    UpstreamNotFound,
    UpstreamQuotaExhausted,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)
from core.services.circuit_breaker import CircuitBreaker
from core.services.source import Combined, Priority, Source, outcome_of
from core.tests.clock import WallClock
from core.tests.support import at_most
from core.utils.logging import correlation_id

PATIENCE = 5
variable: ContextVar[str] = ContextVar("variable", default="unset")


class Worker:
    """A call that starts, and ends when a test says so."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.may_end = threading.Event()

    def __call__(self) -> str:
        self.started.set()
        assert self.may_end.wait(PATIENCE)
        return "done"


def threads_of(source: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"{source}-")]


def results(futures: list[Future[Any]]) -> list[Any]:
    return [future.result(PATIENCE) for future in futures]


def without_threads(**options: Any) -> Source:
    """A source whose calls are made by `work`, in the thread of the test."""
    return Source("a-source", concurrency=0, **options)


def work_off(source: Source) -> None:
    while source.work():
        pass


# Threads


def test_a_call_is_made_and_its_result_arrives() -> None:
    future = Source("a-source", concurrency=1).submit(lambda: 42)

    assert outcome_of(future, "a-source") == 42


@pytest.mark.parametrize(
    "error", [UpstreamNotFound("a-source", "not_found"), TimeoutError("its own"), SystemExit(3)]
)
def test_what_a_call_raises_arrives(error: BaseException) -> None:
    def call() -> None:
        raise error

    future = Source("a-source", concurrency=1).submit(call)

    with pytest.raises(type(error)) as caught:
        outcome_of(future, "a-source")
    assert caught.value is error


def test_a_thread_survives_what_a_call_raises() -> None:
    source = Source("a-source", concurrency=1)
    failed: Future[Any] = source.submit(lambda: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        outcome_of(failed, "a-source")

    assert outcome_of(source.submit(lambda: "next"), "a-source") == "next"


def test_no_more_calls_are_made_at_once_than_allowed() -> None:
    source = Source("a-source", concurrency=3)
    lock, now, most = threading.Lock(), 0, 0
    all_busy = threading.Barrier(3)

    def call() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        all_busy.wait(PATIENCE)
        with lock:
            now -= 1

    results([source.submit(call) for _ in range(30)])

    assert most == 3


def test_no_thread_is_started_before_the_first_call() -> None:
    Source("idle-source", concurrency=4)

    assert threads_of("idle-source") == []


def test_there_are_never_more_threads_than_allowed_and_all_are_daemons() -> None:
    source = Source("counted-source", concurrency=4)

    for _ in range(5):
        results([source.submit(lambda: None) for _ in range(20)])

    assert 1 <= len(threads_of("counted-source")) <= 4
    assert all(thread.daemon for thread in threads_of("counted-source"))


def test_one_thread_is_enough_for_calls_that_come_one_by_one() -> None:
    source = Source("single-source", concurrency=4)

    for _ in range(5):
        results([source.submit(lambda: None)])

    assert len(threads_of("single-source")) == 1


def test_a_stuck_source_does_not_delay_another_one() -> None:
    stuck, worker = Source("stuck-source", concurrency=1), Worker()
    blocked = [stuck.submit(worker) for _ in range(3)]

    with at_most(0.1):
        answer = outcome_of(Source("other-source", concurrency=1).submit(lambda: 1), "other")
    worker.may_end.set()
    results(blocked)

    assert answer == 1


def test_every_call_of_many_threads_is_made() -> None:
    source = Source("a-source", concurrency=4)

    def submit_some(number: int) -> list[int]:
        return results([source.submit(lambda n=n: n) for n in range(number, number + 100)])

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(submit_some, range(8)))

    assert made == [list(range(number, number + 100)) for number in range(8)]
    assert source.queue_length == 0


# Context and deadline


def test_a_call_sees_the_context_variables_of_its_caller() -> None:
    source = Source("a-source", concurrency=1)
    token, id_token = variable.set("the caller's"), correlation_id.set("abc-3")

    seen = source.submit(lambda: (variable.get(), correlation_id.get()))
    found = outcome_of(seen, "a-source")
    variable.reset(token)
    correlation_id.reset(id_token)

    assert found == ("the caller's", "abc-3")


def test_what_a_call_sets_is_not_seen_by_others() -> None:
    source = Source("a-source", concurrency=1)

    results([source.submit(lambda: variable.set("leaked"))])

    assert results([source.submit(variable.get)]) == ["unset"]
    assert variable.get() == "unset"


def test_a_call_has_its_own_time_from_when_it_leaves_the_queue() -> None:
    source = without_threads(call_seconds=7.0)
    with deadline_of(Deadline(0.5)):
        future = source.submit(lambda: time_left(99))

    source.work()

    assert future.result(0) == pytest.approx(7.0, abs=0.5)


def test_a_caller_waits_no_longer_than_its_deadline() -> None:
    source, stuck = Source("a-source", concurrency=1), Worker()

    with at_most(0.1), deadline_of(Deadline(0.1)):
        future = source.submit(stuck)
        with pytest.raises(DeadlineExceeded) as caught:
            outcome_of(future, "a-source")
    stuck.may_end.set()

    assert (caught.value.source, caught.value.reason) == ("a-source", "deadline")


def test_a_queued_call_is_cancelled_when_its_caller_gives_up() -> None:
    source, made = without_threads(), []
    waiting = source.submit(lambda: made.append("too late"))

    with deadline_of(Deadline(0)), pytest.raises(DeadlineExceeded):
        outcome_of(waiting, "a-source")
    work_off(source)

    assert waiting.cancelled()
    assert made == []


def test_a_result_that_is_there_is_returned_after_the_deadline_too() -> None:
    future = Source("a-source", concurrency=1).submit(lambda: "in time")
    results([future])

    with deadline_of(Deadline(0)):
        assert outcome_of(future, "a-source") == "in time"


class Body:
    """Something large that a failed call held."""


def test_an_error_keeps_nothing_that_the_call_held() -> None:
    held: list[weakref.ref[Body]] = []

    def read() -> None:
        body = Body()
        held.append(weakref.ref(body))
        raise ValueError

    def call() -> None:
        body = Body()
        held.append(weakref.ref(body))
        try:
            read()
        except ValueError as exc:
            raise UpstreamNotFound("a-source", "not_found") from exc

    future: Future[Any] = Source("a-source", concurrency=1).submit(call)

    error = future.exception(PATIENCE)
    assert error is not None
    assert error.__traceback__ is not None
    assert [body() for body in held] == [None, None]


# Order


def order_of(calls: list[tuple[str, dict[str, Any]]]) -> list[str]:
    source, made = without_threads(), list[str]()
    for name, options in calls:
        source.submit(lambda name=name: made.append(name), **options)
    work_off(source)
    return made


def test_calls_of_equal_rank_are_made_in_order_of_arrival() -> None:
    assert order_of([("a", {}), ("b", {}), ("c", {})]) == ["a", "b", "c"]


def test_readers_go_before_background_before_batch_before_unvouched() -> None:
    in_reverse = [(priority.name, {"priority": priority}) for priority in reversed(Priority)]

    assert order_of(in_reverse) == ["READER", "BACKGROUND", "BATCH", "UNVOUCHED"]


def test_all_films_get_their_first_call_before_any_gets_a_second_one() -> None:
    calls = [(f"{film}{turn}", {"turn": turn}) for film in "abc" for turn in (0, 1)]

    assert order_of(calls) == ["a0", "b0", "c0", "a1", "b1", "c1"]


def test_further_calls_alternate_between_films_in_order_of_their_turns() -> None:
    calls = [(f"{film}{turn}", {"turn": turn}) for film in "abc" for turn in (3, 1, 2)]

    assert order_of(calls) == ["a1", "b1", "c1", "a2", "b2", "c2", "a3", "b3", "c3"]


def test_a_film_that_comes_later_takes_turns_with_those_that_are_under_way() -> None:
    source, made = without_threads(), list[str]()

    def submit(film: str) -> None:
        for turn in range(5):
            source.submit(lambda turn=turn: made.append(f"{film}{turn}"), turn=turn)

    submit("a")
    for _ in range(3):
        source.work()
    submit("b")
    work_off(source)

    assert made == ["a0", "a1", "a2", "b0", "a3", "b1", "a4", "b2", "b3", "b4"]


def test_films_that_keep_coming_do_not_keep_a_film_waiting_for_its_last_call() -> None:
    source = without_threads()
    *_, last = [source.submit(lambda: None, turn=turn) for turn in range(1, 7)]

    steps = 0
    while not last.done():
        steps += 1
        for _ in range(6):
            source.submit(lambda: None, turn=1)
        for _ in range(6):
            source.work()

    # Six rounds of at most seven calls.
    assert steps <= 7


def test_single_calls_come_before_further_calls_of_films_and_then_take_turns_with_them() -> None:
    calls: list[tuple[str, dict[str, Any]]] = [(f"search {number}", {}) for number in (1, 2, 3)]
    calls += [(f"film {turn}", {"turn": turn}) for turn in (0, 1, 2)]

    assert order_of(calls) == ["search 1", "film 0", "film 1", "search 2", "film 2", "search 3"]


def test_single_calls_do_not_give_way_to_films_of_a_lower_priority() -> None:
    film = {"turn": 1, "priority": Priority.BACKGROUND}

    assert order_of([("a", {}), ("b", {}), ("film", film)]) == ["a", "b", "film"]


def test_single_calls_that_keep_coming_do_not_keep_a_film_waiting() -> None:
    source = without_threads()
    *_, last = [source.submit(lambda: None, turn=turn) for turn in range(1, 7)]

    for _ in range(12):
        source.submit(lambda: None)
        source.work()

    assert last.done()


TURNS = st.none() | st.integers(0, 6)


@given(turn=TURNS, others=st.lists(TURNS, min_size=1, max_size=8))
def test_no_call_waits_forever_while_others_keep_coming(
    turn: int | None, others: list[int | None]
) -> None:
    """One arrives with each call that is made; at most every other one is for metadata."""
    source = without_threads()
    for each in range(7):
        source.submit(lambda: None, turn=each)
    future = source.submit(lambda: None, turn=turn)

    steps, last = 0, turn
    while not future.done() and steps < 300:
        steps += 1
        following = others[steps % len(others)]
        last = None if following == last == 0 else following
        source.submit(lambda: None, turn=last)
        source.work()

    assert future.done()


PLAN = st.lists(
    st.tuples(
        st.sampled_from(list(Priority)), st.lists(st.integers(0, 6), max_size=7, unique=True)
    ),
    max_size=12,
)


@given(PLAN)
def test_priority_comes_first_then_first_calls_then_fair_turns(
    films: list[tuple[Priority, list[int]]],
) -> None:
    source, made = without_threads(), list[tuple[Priority, int, int]]()
    for film, (priority, turns) in enumerate(films):
        for turn in turns:
            name = (priority, turn, film)
            source.submit(lambda name=name: made.append(name), priority=priority, turn=turn)

    work_off(source)

    assert made == sorted(made)
    assert len(made) == sum(len(turns) for _, turns in films)


# Queue


def test_a_cancelled_call_leaves_the_queue() -> None:
    source, made = without_threads(), []
    kept, gone = (source.submit(lambda n=n: made.append(n)) for n in (1, 2))

    gone.cancel()

    assert source.queue_length == 1
    assert source.is_waiting
    work_off(source)
    assert made == [1]
    assert kept.done()
    assert not source.is_waiting


def test_a_source_is_busy_while_a_call_is_queued_or_under_way() -> None:
    source = without_threads()
    assert not source.is_busy

    seen = source.submit(lambda: source.is_busy)
    assert source.is_busy
    source.work()

    assert seen.result(0) is True
    assert not source.is_busy


def test_a_full_queue_drops_the_last_call_in_order() -> None:
    source = without_threads(capacity=2)
    batch = source.submit(lambda: "batch", priority=Priority.BATCH)
    reader = source.submit(lambda: "reader")

    unvouched = source.submit(lambda: "unvouched", priority=Priority.UNVOUCHED)
    another = source.submit(lambda: "another")
    work_off(source)

    assert results([reader, another]) == ["reader", "another"]
    for future in (unvouched, batch):
        error = future.exception(0)
        assert isinstance(error, UpstreamRateLimited)
        assert error.reason == "queue_full"
        assert error.retry_after


def test_cancelled_calls_do_not_fill_the_queue() -> None:
    source = without_threads(capacity=2)
    for _ in range(5):
        source.submit(lambda: None).cancel()

    kept = [source.submit(lambda: 1), source.submit(lambda: 2)]
    work_off(source)

    assert results(kept) == [1, 2]


# Combined calls


class Batch:
    """A combined call that knows some items, and calls for single ones."""

    def __init__(self, *known: str, error: Exception | None = None) -> None:
        self.known = known
        self.error = error
        self.calls: list[list[str] | str] = []
        self.combined = Combined(self.many, most=5)

    def many(self, items: Any) -> dict[str, str]:
        self.calls.append(list(items))
        if self.error:
            raise self.error
        return {item: f"{item} in a batch" for item in items if item in self.known}

    def submit(self, source: Source, item: str, **options: Any) -> Future[str]:
        return source.submit(lambda: self.one(item), item=item, combined=self.combined, **options)

    def one(self, item: str) -> str:
        self.calls.append(item)
        return f"{item} alone"


def test_queued_calls_of_one_kind_are_made_as_one_call() -> None:
    source, batch = without_threads(), Batch("a", "b", "c")
    futures = [batch.submit(source, item) for item in "abc"]

    work_off(source)

    assert batch.calls == [["a", "b", "c"]]
    assert results(futures) == ["a in a batch", "b in a batch", "c in a batch"]


def test_a_call_without_another_one_of_its_kind_is_made_alone() -> None:
    source, batch = without_threads(), Batch("a")
    future = batch.submit(source, "a")
    source.submit(lambda: None)

    work_off(source)

    assert batch.calls == ["a"]
    assert results([future]) == ["a alone"]


def test_at_most_five_calls_are_combined() -> None:
    source, batch = without_threads(), Batch(*"abcdefg")
    futures = [batch.submit(source, item) for item in "abcdefg"]

    work_off(source)

    assert batch.calls == [list("abcde"), ["f", "g"]]
    assert all(future.done() for future in futures)


def test_calls_of_lower_priority_are_combined_with_one_that_goes_now() -> None:
    source, batch = without_threads(), Batch("a", "b")
    batch.submit(source, "b", priority=Priority.BATCH)
    source.submit(lambda: batch.calls.append("other"), turn=1)
    batch.submit(source, "a")

    work_off(source)

    assert batch.calls == [["a", "b"], "other"]


def test_a_call_of_another_kind_is_not_combined() -> None:
    source, one, other = without_threads(), Batch("a"), Batch("b")
    one.submit(source, "a")
    other.submit(source, "b")

    work_off(source)

    assert (one.calls, other.calls) == (["a"], ["b"])


def test_an_item_that_is_missing_from_the_result_is_called_alone_and_next() -> None:
    source, batch = without_threads(), Batch("a", "c")
    futures = [batch.submit(source, item) for item in "abc"]
    source.submit(lambda: batch.calls.append("another"))

    work_off(source)

    assert batch.calls == [["a", "b", "c"], "b", "another"]
    assert results(futures) == ["a in a batch", "b alone", "c in a batch"]


def test_an_equal_item_is_called_once_for_both() -> None:
    source, batch = without_threads(), Batch("a", "b")
    futures = [batch.submit(source, item) for item in "aba"]

    work_off(source)

    assert batch.calls == [["a", "b"]]
    assert results(futures) == ["a in a batch", "b in a batch", "a in a batch"]


@pytest.mark.parametrize(
    "error", [UpstreamUnavailable("a-source", "http_5xx"), ZeroDivisionError("a bug")]
)
def test_an_error_of_a_combined_call_reaches_every_future(error: Exception) -> None:
    source, batch = without_threads(), Batch(error=error)
    futures = [batch.submit(source, item) for item in "abc"]

    work_off(source)

    assert [future.exception(0) for future in futures] == [error] * 3


def test_after_an_error_of_a_combined_call_the_source_makes_other_calls() -> None:
    source, batch = without_threads(), Batch(error=ZeroDivisionError("a bug"))
    batch.submit(source, "a")
    next_one = source.submit(lambda: "made")

    work_off(source)

    assert next_one.result(0) == "made"


def test_a_combined_call_that_returns_nonsense_fails_its_calls_only() -> None:
    source = without_threads()
    nonsense = Combined(lambda _: None, most=5)  # type: ignore[arg-type,return-value]
    futures = [source.submit(str, item=item, combined=nonsense) for item in "ab"]

    work_off(source)

    assert [type(future.exception(0)) for future in futures] == [TypeError, TypeError]
    assert not source.is_busy


def test_a_cancelled_call_is_left_out_of_a_combined_one() -> None:
    source, batch = without_threads(), Batch(*"abc")
    futures = [batch.submit(source, item) for item in "abc"]
    futures[0].cancel()

    work_off(source)

    assert batch.calls == [["b", "c"]]
    assert results(futures[1:]) == ["b in a batch", "c in a batch"]


def test_calls_cancelled_at_the_last_moment_are_not_made() -> None:
    source, batch = without_threads(), Batch(*"abc")
    futures = [batch.submit(source, item) for item in "abc"]
    with source._changed:
        calls = source._take()

    futures[0].cancel()
    futures[1].cancel()
    source._make(calls)

    assert batch.calls == ["c"]
    assert not source.is_busy


# Circuit breaker


@pytest.fixture
def source(clock: WallClock) -> Source:
    return without_threads(breaker=CircuitBreaker("a-source", now=clock, jitter=lambda: 0.0))


def refused(source: Source) -> None:
    """A call that the source answers with a 429."""
    with source.breaker.attempt():
        pass
    error = UpstreamRateLimited("a-source", "rate_limited", retry_after=10)
    source.breaker.record_failure(error)
    raise error


def accepted(source: Source) -> str:
    with source.breaker.attempt():
        pass
    source.breaker.record_success()
    return "accepted"


def test_while_the_breaker_is_open_a_call_fails_at_once(source: Source) -> None:
    source.submit(lambda: refused(source))
    source.work()

    future = source.submit(lambda: accepted(source))

    error = future.exception(0)
    assert isinstance(error, UpstreamRateLimited)
    assert (error.reason, error.retry_after) == ("circuit_open", 10)


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (UpstreamRejected("a-source", "bad_key", retry_after=30), 600),
        (UpstreamQuotaExhausted("a-source", "quota", retry_after=5), 3600),
        (UpstreamQuotaExhausted("a-source", "quota", retry_after=9000), 3600),
        (UpstreamRateLimited("a-source", "rate_limited", retry_after=10), 10),
    ],
)
def test_an_error_says_how_long_no_call_is_made_whatever_the_source_says(
    source: Source, error: UpstreamError, seconds: float
) -> None:
    def refuse() -> None:
        source.breaker.record_failure(error)
        raise error

    first, second = source.submit(refuse), source.submit(refuse)
    source.work()

    assert first.exception(0) is error
    assert (error.retry_after, second.exception(0).retry_after) == (seconds, seconds)


def test_when_the_breaker_opens_the_queued_calls_fail(source: Source) -> None:
    source.submit(lambda: refused(source))
    queued = [source.submit(lambda: accepted(source)) for _ in range(3)]

    source.work()

    assert [type(future.exception(0)) for future in queued] == [UpstreamRateLimited] * 3
    assert not source.is_waiting


def test_after_the_trip_calls_are_queued_and_made(source: Source, clock: WallClock) -> None:
    source.submit(lambda: refused(source))
    source.work()
    clock.pass_by(10)

    futures = [source.submit(lambda: accepted(source)) for _ in range(2)]
    work_off(source)

    assert results(futures) == ["accepted", "accepted"]


def test_while_the_probe_is_under_way_the_other_calls_stay_queued(
    source: Source, clock: WallClock
) -> None:
    source.submit(lambda: refused(source))
    source.work()
    clock.pass_by(10)

    def in_probe() -> bool:
        with source.breaker.attempt():
            made = source.work()
        source.breaker.record_success()
        return made

    probe = source.submit(in_probe)
    source.submit(lambda: accepted(source))
    work_off(source)

    assert probe.result(0) is False
    assert not source.is_waiting


def test_a_probe_that_ends_without_a_verdict_lets_the_next_call_probe(
    source: Source, clock: WallClock
) -> None:
    source.submit(lambda: refused(source))
    source.work()
    clock.pass_by(10)

    def gives_no_verdict() -> None:
        with source.breaker.attempt():
            pass
        raise ZeroDivisionError

    source.submit(gives_no_verdict)
    future = source.submit(lambda: accepted(source))
    work_off(source)

    assert results([future]) == ["accepted"]


def test_an_error_says_when_the_breaker_closes_if_the_source_does_not(source: Source) -> None:
    def fails() -> None:
        with source.breaker.attempt():
            raise UpstreamUnavailable("a-source", "http_5xx")

    waits = []
    for _ in range(5):
        future = source.submit(fails)
        source.work()
        error = future.exception(0)
        assert isinstance(error, UpstreamError)
        waits.append(error.retry_after)

    assert waits == [None, None, None, None, source.breaker.policy.pause]


def test_a_call_that_opens_the_breaker_does_not_leave_a_call_of_another_thread_behind() -> None:
    source = Source("a-source", concurrency=2)

    def fails() -> None:
        with source.breaker.attempt():
            raise UpstreamUnavailable("a-source", "tls_certificate_error")

    with ThreadPoolExecutor(4) as pool:
        submitted = [pool.submit(source.submit, fails) for _ in range(200)]
        errors = [future.result(PATIENCE).exception(PATIENCE) for future in submitted]

    assert all(isinstance(error, UpstreamUnavailable) for error in errors)
    assert source.queue_length == 0


# Futures


def test_no_lock_is_held_while_the_callbacks_of_a_future_run(source: Source) -> None:
    seen: list[int] = []

    def submit_another(_: object) -> None:
        seen.append(source.queue_length)
        source.submit(lambda: accepted(source))

    source.submit(lambda: accepted(source)).add_done_callback(submit_another)
    source.submit(lambda: refused(source)).add_done_callback(submit_another)
    source.submit(lambda: accepted(source)).add_done_callback(submit_another)
    source.work()
    source.work()

    assert len(seen) == 3
