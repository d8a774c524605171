import threading
import weakref
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any

import pytest

from core.deadline import Deadline, deadline_of, time_left
from core.errors import DeadlineExceeded, UpstreamNotFound
from core.services.bulkhead import Bulkhead, outcome_of
from core.tests.support import at_most
from core.utils.logging import correlation_id

PATIENCE = 5
variable: ContextVar[str] = ContextVar("variable", default="nobody's")


class Worker:
    """Work that begins, and ends when it is told to."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.may_end.wait(PATIENCE)
        return "done"


def threads_of(source: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"{source}-")]


def results(futures: list[Future[Any]]) -> list[Any]:
    return [future.result(PATIENCE) for future in futures]


def test_the_work_is_done_and_its_result_arrives() -> None:
    future = Bulkhead("a-source", concurrency=1).submit(lambda: 42)

    assert outcome_of(future, "a-source") == 42


@pytest.mark.parametrize(
    "error", [UpstreamNotFound("a-source", "not_found"), TimeoutError("its own"), SystemExit(3)]
)
def test_what_the_work_raises_arrives(error: BaseException) -> None:
    def work() -> None:
        raise error

    future = Bulkhead("a-source", concurrency=1).submit(work)

    with pytest.raises(type(error)) as caught:
        outcome_of(future, "a-source")
    assert caught.value is error


def test_a_thread_outlives_what_the_work_raises() -> None:
    bulkhead = Bulkhead("a-source", concurrency=1)
    failed: Future[Any] = bulkhead.submit(lambda: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        outcome_of(failed, "a-source")

    assert outcome_of(bulkhead.submit(lambda: "next"), "a-source") == "next"


def test_no_more_works_at_once_than_allowed() -> None:
    bulkhead = Bulkhead("a-source", concurrency=3)
    lock, now, most = threading.Lock(), 0, 0
    all_busy = threading.Barrier(3)

    def work() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        all_busy.wait(PATIENCE)
        with lock:
            now -= 1

    results([bulkhead.submit(work) for _ in range(30)])

    assert most == 3


def test_the_lower_number_goes_first_and_equals_in_order_of_arrival() -> None:
    bulkhead, blocker, done = Bulkhead("a-source", concurrency=1), Worker(), []
    blocked = bulkhead.submit(blocker)
    assert blocker.begun.wait(PATIENCE)

    futures = [
        bulkhead.submit(lambda name=name: done.append(name), priority=priority)
        for name, priority in [("a", 1), ("b", 2), ("c", 1), ("d", 0)]
    ]
    blocker.may_end.set()
    results([blocked, *futures])

    assert done == ["d", "a", "c", "b"]


def test_context_variables_travel_with_the_work() -> None:
    bulkhead = Bulkhead("a-source", concurrency=1)
    token, id_token = variable.set("the caller's"), correlation_id.set("abc-3")

    with deadline_of(Deadline(5)):
        seen = bulkhead.submit(lambda: (variable.get(), correlation_id.get(), time_left(99)))
        mine, identifier, seconds = outcome_of(seen, "a-source")
    variable.reset(token)
    correlation_id.reset(id_token)

    assert (mine, identifier) == ("the caller's", "abc-3")
    assert 0 < seconds <= 5


def test_what_the_work_sets_stays_with_it() -> None:
    bulkhead = Bulkhead("a-source", concurrency=1)

    results([bulkhead.submit(lambda: variable.set("leaked"))])

    assert results([bulkhead.submit(variable.get)]) == ["nobody's"]
    assert variable.get() == "nobody's"


def test_work_whose_deadline_passed_in_line_is_not_begun() -> None:
    bulkhead, blocker, begun, clock = Bulkhead("a-source", concurrency=1), Worker(), [], [0.0]
    blocked = bulkhead.submit(blocker)
    with deadline_of(Deadline(1, clock=lambda: clock[0])):
        late = bulkhead.submit(lambda: begun.append("late"))

    clock[0] = 2.0
    blocker.may_end.set()
    results([blocked])

    with pytest.raises(DeadlineExceeded):
        late.result(PATIENCE)
    assert begun == []


def test_who_waits_gives_up_at_the_deadline() -> None:
    bulkhead, stuck = Bulkhead("a-source", concurrency=1), Worker()

    with at_most(0.1), deadline_of(Deadline(0.1)):
        future = bulkhead.submit(stuck)
        with pytest.raises(DeadlineExceeded) as caught:
            outcome_of(future, "a-source")
    stuck.may_end.set()

    assert (caught.value.source, caught.value.reason) == ("a-source", "deadline")


def test_what_nobody_waits_for_any_more_never_begins() -> None:
    bulkhead, blocker, begun = Bulkhead("a-source", concurrency=1), Worker(), []
    blocked = bulkhead.submit(blocker)
    assert blocker.begun.wait(PATIENCE)
    waiting = bulkhead.submit(lambda: begun.append("too late"))

    with deadline_of(Deadline(0)), pytest.raises(DeadlineExceeded):
        outcome_of(waiting, "a-source")
    blocker.may_end.set()
    results([blocked, bulkhead.submit(lambda: None)])

    assert waiting.cancelled()
    assert begun == []


def test_a_result_that_is_there_is_taken_after_the_deadline_too() -> None:
    future = Bulkhead("a-source", concurrency=1).submit(lambda: "in time")
    results([future])

    with deadline_of(Deadline(0)):
        assert outcome_of(future, "a-source") == "in time"


def test_no_thread_is_started_before_there_is_work() -> None:
    Bulkhead("idle-source", concurrency=4)

    assert threads_of("idle-source") == []


def test_there_are_never_more_threads_than_allowed_and_all_end_with_the_process() -> None:
    bulkhead = Bulkhead("counted-source", concurrency=4)

    for _ in range(5):
        results([bulkhead.submit(lambda: None) for _ in range(20)])

    assert 1 <= len(threads_of("counted-source")) <= 4
    assert all(thread.daemon for thread in threads_of("counted-source"))


def test_one_thread_is_enough_for_work_that_comes_one_by_one() -> None:
    bulkhead = Bulkhead("single-source", concurrency=4)
    first_alone = Worker()
    first = bulkhead.submit(first_alone)
    first_alone.may_end.set()
    results([first])

    assert len(threads_of("single-source")) == 1


def test_a_stuck_source_holds_up_no_other() -> None:
    stuck, worker = Bulkhead("stuck-source", concurrency=1), Worker()
    blocked = [stuck.submit(worker) for _ in range(3)]

    with at_most(0.1):
        answer = outcome_of(Bulkhead("other-source", concurrency=1).submit(lambda: 1), "other")
    worker.may_end.set()
    results(blocked)

    assert answer == 1


class Body:
    """Something large that failing work held."""


def test_an_error_holds_nothing_of_what_the_work_held() -> None:
    held: list[weakref.ref[Body]] = []

    def read() -> None:
        body = Body()
        held.append(weakref.ref(body))
        raise ValueError

    def work() -> None:
        body = Body()
        held.append(weakref.ref(body))
        try:
            read()
        except ValueError as exc:
            raise UpstreamNotFound("a-source", "not_found") from exc

    future: Future[Any] = Bulkhead("a-source", concurrency=1).submit(work)

    error = future.exception(PATIENCE)
    assert error is not None
    assert error.__traceback__ is not None
    assert [body() for body in held] == [None, None]
