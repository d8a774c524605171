"""All sections of a film at once: who goes first, who waits in line, what is given up."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import DatabaseError

from core.budgets import Pace, UpstreamBudgets
from core.deadline import Deadline, deadline_of
from core.errors import DeadlineExceeded, UpstreamRateLimited, UpstreamUnavailable
from core.models import UpstreamState
from films.services.fan_out import IN_LINE, WatchmodeNumber
from films.services.film_fetcher import ALL_SECTIONS
from films.tests.fakes import INCEPTION, Clock, bulkheads
from films.tests.house import IMDB_METHODS, House

pytestmark = pytest.mark.django_db


class Pacing:
    """A clock that moves on by what somebody sleeps, so that a line moves without real waiting."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.slept = 0.0

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.clock.pass_by(seconds=seconds + 1e-6)


def paced_house(calls=8, seconds=5, **options) -> House:
    pacing = Pacing()
    house = House(
        clock=pacing.clock, sleep=pacing.sleep, paces={"imdbapi": Pace(calls, seconds)}, **options
    )
    house.pacing = pacing
    return house


def run(house, sections=ALL_SECTIONS, *, seconds=5.0, known_film=True, **options):
    with deadline_of(Deadline(seconds)):
        return house.fan_out.run(
            INCEPTION,
            sections,
            number=options.pop("number", WatchmodeNumber(is_known=True, value=1)),
            known_film=known_film,
            **options,
        )


def failed(outcomes) -> dict:
    return {
        name: (type(outcome), outcome.reason)
        for name, outcome in outcomes.items()
        if isinstance(outcome, Exception)
    }


class TestLine:
    def test_a_source_without_pace_gets_all_calls_at_once(self):
        house = paced_house()
        house.fan_out._budgets = House().budgets

        run(house)

        assert house.pacing.slept == 0

    def test_what_the_bucket_holds_is_called_at_once(self):
        house = paced_house(calls=8)

        assert not failed(run(house))
        assert house.pacing.slept == 0

    def test_what_it_does_not_hold_waits_for_its_turn(self):
        house = paced_house(calls=4, seconds=2)

        assert not failed(run(house))
        assert sorted(house.imdb.asked) == sorted(IMDB_METHODS)
        assert house.pacing.slept == pytest.approx(3 / 2, rel=0.01)

    def test_metadata_is_the_first_call(self):
        house = paced_house(calls=1, seconds=1)

        run(house, ["credits", "images", "metadata"])

        assert house.imdb.asked[0] == "get_metadata"

    def test_what_is_still_in_line_at_the_deadline_is_told_so_and_never_called(self):
        house = paced_house(calls=2, seconds=3600)
        house.fan_out._sleep = lambda seconds: threading.Event().wait(seconds)

        outcomes = run(house, seconds=0.2)

        late = failed(outcomes)
        assert set(late.values()) == {(DeadlineExceeded, IN_LINE)}
        assert len(late) == 5
        assert len(house.imdb.asked) == 2
        assert outcomes["metadata"]["primaryTitle"] == "Inception"
        assert outcomes["trailer"]

    def test_a_source_that_closes_meanwhile_ends_the_waiting(self):
        house = paced_house(calls=1, seconds=3600)
        gate = house.budgets._gates["imdbapi"]
        house.fan_out._sleep = lambda _: gate.record_failure(
            UpstreamRateLimited("imdbapi", "rate_limited", retry_after=30)
        )

        run(house, ["metadata", "credits"], seconds=5)

        # The call is made all the same: its gate refuses it, with the right error.
        assert house.imdb.asked == ["get_metadata", "get_credits"]

    def test_a_database_that_fails_in_line_holds_up_nobody_else(self, monkeypatch):
        house = paced_house()
        with monkeypatch.context() as patched:
            patched.setattr(UpstreamBudgets, "take", _fails)
            with pytest.raises(DatabaseError):
                run(house)

        assert not failed(run(house))

    def test_readers_go_before_the_background(self):
        house = paced_house()
        line = house.fan_out._lines["imdbapi"]
        holder = line.ticket(0)
        line.enter(holder, 0)
        behind = line.ticket(2)
        seen = []

        def look(_):
            seen.append(line._tickets[0][0])

        house.fan_out._release_connection = lambda: look(None)
        line.give_up(holder)
        line.leave()
        run(house, ["metadata"])
        line.give_up(behind)

        assert 0 in seen


def _fails(*_, **__):
    raise DatabaseError


class TestSources:
    def test_a_closed_source_is_not_called_and_its_sections_say_why(self):
        house = House()
        house.budgets._gates["imdbapi"].record_failure(
            UpstreamRateLimited("imdbapi", "rate_limited", retry_after=30)
        )

        outcomes = run(house)

        assert house.imdb.asked == []
        assert len(failed(outcomes)) == 7
        assert {type(outcomes[name]) for name in failed(outcomes)} == {UpstreamRateLimited}

    def test_only_the_sections_that_are_wanted_are_called(self):
        house = House()

        outcomes = run(house, ["images", "trailer"])

        assert set(outcomes) == {"images", "trailer"}
        assert house.calls == 2

    def test_a_mute_source_costs_its_own_sections_only(self):
        never = threading.Event()
        house = House()
        house.fan_out._fetches["trailer"] = lambda _: never.wait(5)

        outcomes = run(house, seconds=0.1)
        never.set()

        assert failed(outcomes) == {"trailer": (DeadlineExceeded, "deadline")}

    def test_a_full_line_at_one_source_is_told_as_the_deadline(self):
        lines, never = bulkheads(), threading.Event()
        for _ in range(4):
            lines["kinocheck"].submit(lambda: never.wait(5))
        house = House(sources=lines)

        outcomes = run(house, seconds=0.1)
        never.set()

        assert failed(outcomes) == {"trailer": (DeadlineExceeded, "deadline")}
        assert house.kinocheck.asked == []


class TestDatabase:
    def test_no_connection_is_held_while_a_source_is_asked(self):
        house = House()
        released, asked = threading.Event(), threading.Event()

        def ask(_):
            # Waits for the thread that asked for it, which has work of its own before it waits.
            assert released.wait(5)
            asked.set()

        house.fan_out._release_connection = released.set
        house.fan_out._fetches["trailer"] = ask

        run(house, ["trailer"])

        assert asked.is_set()

    def test_life_is_told_about_twice_a_second(self):
        house = House()
        beats = []
        house.fan_out._fetches["trailer"] = lambda _: threading.Event().wait(1.2)

        run(house, ["trailer"], heartbeat=lambda: beats.append(1))

        assert len(beats) in {1, 2}

    def test_a_database_that_fails_meanwhile_costs_no_answer(self):
        house = House()
        house.fan_out._fetches["trailer"] = lambda _: threading.Event().wait(0.7) or {"id": 1}

        outcomes = run(house, ["trailer"], heartbeat=_fails)

        assert outcomes == {"trailer": {"id": 1}}

    def test_what_was_learned_is_told_to_other_processes(self):
        house = House()

        def refused(_):
            error = UpstreamUnavailable("kinocheck", "http_5xx", retry_after=30)
            house.budgets._gates["kinocheck"].record_failure(error)
            raise error

        house.fan_out._fetches["trailer"] = refused

        run(house, ["trailer"])

        assert UpstreamState.objects.get(source="kinocheck").closed_until


class TestNumber:
    def test_a_known_number_is_not_looked_up(self):
        house = House()

        run(house, ["streaming"])

        assert house.watchmode.asked == ["get_streaming_sources"]

    def test_one_that_is_not_known_is_looked_up_and_noted(self):
        number = WatchmodeNumber(is_known=False, value=None)

        run(House(), ["streaming"], number=number)

        assert (number.value, number.is_new) == (1182444, True)


def test_two_films_share_one_line(django_db_blocker):
    """Nobody starves: each gets its metadata before anybody gets everything."""
    house = paced_house(calls=2, seconds=1)
    order = []
    lock = threading.Lock()
    take = house.budgets.take

    # One connection serves both threads here: a test is one transaction.
    def granted(source, wanted):
        with lock:
            order.append(wanted)
            return min(1, wanted), 0.0

    house.budgets.take = granted
    house.budgets.sync = lambda *_, **__: {}
    house.fan_out._release_connection = lambda: None
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(run, house, seconds=5) for _ in range(2)]:
            assert not failed(future.result(10))
    house.budgets.take = take

    assert len(order) == 14
    assert house.imdb.asked.count("get_metadata") == 2
