import threading

import pytest

from core.deadline import Deadline, deadline_of
from core.errors import DeadlineExceeded
from core.single_flight import SingleFlight


def together(flights, key, work, threads=5):
    """Runs `work` in as many threads, all of which ask before the work goes on."""
    started, go_on = threading.Event(), threading.Event()
    outcomes = []

    def slowly():
        started.set()
        assert go_on.wait(5)
        return work()

    def ask():
        try:
            outcomes.append(flights.run(key, slowly))
        except Exception as exc:  # noqa: BLE001
            outcomes.append(exc)

    askers = [threading.Thread(target=ask) for _ in range(threads)]
    askers[0].start()
    assert started.wait(5)
    for asker in askers[1:]:
        asker.start()
    go_on.set()
    for asker in askers:
        asker.join(5)
    return outcomes


def test_identical_work_is_done_once_and_everybody_gets_its_result():
    done = []
    flights = SingleFlight("omdb")
    started, go_on = threading.Event(), threading.Event()
    results = []

    def work():
        done.append(1)
        started.set()
        assert go_on.wait(5)
        return "result"

    leader = threading.Thread(target=lambda: results.append(flights.run("a", work)))
    leader.start()
    assert started.wait(5)
    flight = flights._flights["a"]
    followers = [
        threading.Thread(target=lambda: results.append(flights.run("a", work))) for _ in range(4)
    ]
    for follower in followers:
        follower.start()
    wait_for_waiters(flight, 4)
    go_on.set()
    for thread in [leader, *followers]:
        thread.join(5)

    assert results == ["result"] * 5
    assert done == [1]


def wait_for_waiters(flight, count):
    """Until so many threads wait for the flight."""
    for _ in range(100_000):
        with flight._condition:
            if len(flight._condition._waiters) == count:
                return
    raise AssertionError("they never came")


def test_an_error_reaches_everybody_and_is_forgotten():
    flights = SingleFlight("omdb")

    def fail():
        raise LookupError

    outcomes = together(flights, "a", fail)

    assert [type(outcome) for outcome in outcomes] == [LookupError] * 5
    assert flights.run("a", lambda: "again") == "again"


def test_different_work_does_not_wait():
    flights = SingleFlight("omdb")

    assert flights.run("a", lambda: flights.run("b", lambda: "inner")) == "inner"


def test_who_has_no_time_left_stops_waiting_and_spoils_nothing():
    flights = SingleFlight("omdb")
    started, go_on = threading.Event(), threading.Event()
    results = []

    def work():
        started.set()
        assert go_on.wait(5)
        return "result"

    leader = threading.Thread(target=lambda: results.append(flights.run("a", work)))
    leader.start()
    assert started.wait(5)
    with deadline_of(Deadline(0)), pytest.raises(DeadlineExceeded):
        flights.run("a", work)
    go_on.set()
    leader.join(5)

    assert results == ["result"]
