import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.deadline import Deadline, deadline_of
from core.errors import DeadlineExceeded
from core.services.single_flight import SingleFlight


class Work:
    """Runs until it is released, then returns or raises `outcome`."""

    def __init__(self, outcome):
        self.outcome = outcome
        self.runs = 0
        self.started = threading.Event()
        self.released = threading.Event()

    def __call__(self):
        self.runs += 1
        self.started.set()
        self.released.wait(10)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


@pytest.fixture
def pool():
    with ThreadPoolExecutor(5) as executor:
        yield executor


@pytest.mark.parametrize("outcome", [{"title": "Inception"}, None, ValueError(), SystemExit()])
def test_concurrent_callers_share_one_run_and_its_outcome(pool, outcome, avoided):
    waiting = threading.Semaphore(0)
    flights = SingleFlight("imdbapi", before_wait=waiting.release)
    work = Work(outcome)

    calls = [pool.submit(flights.run, "film", work)]
    work.started.wait(10)
    for _ in range(4):
        calls.append(pool.submit(flights.run, "film", work))
        waiting.acquire(timeout=10)
    work.released.set()

    assert all((call.exception() or call.result()) is outcome for call in calls)
    assert work.runs == 1
    assert avoided() == {("imdbapi", "single_flight"): 4}


@pytest.mark.parametrize("outcome", [1, ValueError()])
def test_a_later_caller_runs_the_work_again(pool, outcome):
    flights = SingleFlight("imdbapi")
    work = Work(outcome)
    work.released.set()

    pool.submit(flights.run, "film", work).exception()
    pool.submit(flights.run, "film", work).exception()

    assert work.runs == 2


def test_different_keys_do_not_wait_for_each_other():
    flights = SingleFlight("imdbapi")

    assert flights.run("one", lambda: flights.run("two", lambda: 2)) == 2


def test_a_waiting_caller_gives_up_at_its_deadline(pool):
    flights = SingleFlight("imdbapi")
    work = Work(1)
    first = pool.submit(flights.run, "film", work)
    work.started.wait(10)

    with deadline_of(Deadline(0)), pytest.raises(DeadlineExceeded) as caught:
        flights.run("film", work)
    work.released.set()

    assert (caught.value.source, caught.value.reason) == ("imdbapi", "deadline")
    assert first.result() == 1
