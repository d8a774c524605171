"""Repair and refresh that no reader waits for."""

import threading
import time
from collections import Counter
from datetime import timedelta

import pytest

from core.budgets import Pace
from core.errors import UpstreamNotFound, UpstreamTimeout, UpstreamUnavailable
from films.models import Film, FilmFetch
from films.services.upkeep import Upkeep, refresh_age
from films.tests.fakes import INCEPTION
from films.tests.house import IMDB_METHODS, House

MUTE = UpstreamTimeout("imdbapi", "http_response_timeout")


@pytest.fixture
def house(db):
    return House()


@pytest.fixture
def upkeep(house):
    return house.make_upkeep()


@pytest.fixture
def partial_film(house):
    """A film without credits, stored a moment ago."""
    house.imdb.fail(MUTE, "get_credits")
    house.fetch()
    for fake in (house.imdb, house.kinocheck, house.watchmode):
        fake.answers.clear()
        fake.asked.clear()


class TestRepair:
    def test_only_what_failed_is_fetched_again(self, house, upkeep, partial_film):
        house.clock.pass_by(minutes=5)

        upkeep.tend(INCEPTION, is_due=False)

        assert house.imdb.asked == ["get_credits"]
        assert house.calls == 1
        assert house.fetch()["warnings"] == []

    def test_not_before_its_time(self, house, upkeep, partial_film):
        house.clock.pass_by(minutes=4, seconds=59)

        upkeep.tend(INCEPTION, is_due=False)

        assert house.calls == 0

    def test_what_stood_in_line_is_fetched_at_once(self, house, upkeep, partial_film):
        upkeep.tend(INCEPTION, is_due=True)

        assert house.imdb.asked == ["get_credits"]

    def test_it_does_not_make_the_film_younger(self, house, upkeep, partial_film):
        before = Film.objects.get().cached_at
        house.clock.pass_by(minutes=5)

        upkeep.tend(INCEPTION, is_due=False)

        assert Film.objects.get().cached_at == before

    def test_a_repair_that_fails_waits_as_long_again(self, house, upkeep, partial_film):
        house.imdb.fail(MUTE, "get_credits")
        house.clock.pass_by(minutes=5)
        upkeep.tend(INCEPTION, is_due=False)
        house.clock.pass_by(minutes=4)

        upkeep.tend(INCEPTION, is_due=False)

        assert house.imdb.asked == ["get_credits"]

    def test_a_repair_that_fails_loses_nothing(self, house, upkeep, partial_film):
        before = house.fetch()
        house.break_everything()
        house.clock.pass_by(minutes=5)

        upkeep.tend(INCEPTION, is_due=False)

        assert {**house.fetch(), "warnings": []} == {**before, "warnings": []}

    def test_a_film_that_another_process_fetches_is_left_to_it(self, house, upkeep, partial_film):
        house.clock.pass_by(minutes=5)
        House(clock=house.clock).register.acquire(INCEPTION)

        assert upkeep.tend(INCEPTION, is_due=False) is False
        assert house.calls == 0

    def test_a_film_that_is_gone_is_left_alone(self, house, upkeep):
        assert upkeep.tend(INCEPTION, is_due=True) is False
        assert house.calls == 0

    def test_what_is_still_in_line_is_told(self, house, partial_film):
        paced = House(clock=house.clock, paces={"imdbapi": Pace(1, 3600)})
        paced.budgets.take("imdbapi", 1)
        upkeep = paced.make_upkeep(deadline_seconds=0.1)

        assert upkeep.tend(INCEPTION, is_due=True) is True


class TestRefreshAhead:
    def age(self, house, age):
        """Let the stored film get to `age`, a part of its time to live."""
        house.clock.pass_by(hours=24 * age)

    def test_everything_is_fetched_again_in_the_last_part_of_its_time(self, house, upkeep):
        house.fetch()
        calls = house.calls
        self.age(house, refresh_age(INCEPTION))

        upkeep.tend(INCEPTION, is_due=False)

        assert house.calls == calls + 9  # without the look-up of Watchmode's number
        assert Film.objects.get().cached_at == house.clock.time

    def test_not_before(self, house, upkeep):
        house.fetch()
        calls = house.calls
        self.age(house, refresh_age(INCEPTION) - 0.01)

        upkeep.tend(INCEPTION, is_due=False)

        assert house.calls == calls

    def test_one_that_fails_is_not_repeated_at_once(self, house, upkeep):
        house.fetch()
        house.break_everything()
        self.age(house, refresh_age(INCEPTION))
        upkeep.tend(INCEPTION, is_due=False)
        calls = house.calls

        house.clock.pass_by(minutes=4)
        upkeep.tend(INCEPTION, is_due=False)

        assert house.calls == calls

    def test_one_that_imdb_denies_is_not_asked_for_again_within_the_hour(self, house, upkeep):
        house.fetch()
        house.imdb.fail(UpstreamNotFound("imdbapi", "not_found"), "get_metadata")
        self.age(house, refresh_age(INCEPTION))
        upkeep.tend(INCEPTION, is_due=False)
        calls = house.calls

        for _ in range(11):
            house.clock.pass_by(minutes=5)
            upkeep.tend(INCEPTION, is_due=False)
        assert house.calls == calls

        house.clock.pass_by(minutes=6)
        upkeep.tend(INCEPTION, is_due=False)
        assert house.calls > calls

    def test_films_stored_together_are_refreshed_apart(self):
        ages = [refresh_age(f"tt{number:07}") for number in range(1, 1001)]

        assert min(ages) >= 0.8
        assert max(ages) <= 1.0
        # 1,000 films of a day: in 20 slices of a quarter of an hour, none has thrice its share.
        slices = Counter(min(19, int((age - 0.8) / 0.2 * 20)) for age in ages)
        assert max(slices.values()) / (sum(slices.values()) / 20) <= 3

    def test_the_point_of_a_film_is_the_same_everywhere(self):
        # In each process: a hash that is salted anew at each start would tell another one.
        assert refresh_age(INCEPTION) == pytest.approx(0.8314)


class Jobs(Upkeep):
    """Upkeep that only notes which films it would tend."""

    def __init__(self, **options):
        super().__init__(**options)
        self.noted = []

    def _offer(self, job):
        self.noted.append(job.imdb_id)


class TestConsidering:
    @pytest.fixture
    def jobs(self, house):
        self.time = [0.0]
        return Jobs(
            cache=house.cache,
            register=house.register,
            fetcher=house.fetcher,
            repair_after=timedelta(seconds=300),
            deadline_seconds=5,
            clock=lambda: self.time[0],
        )

    def test_a_whole_young_film_needs_nothing(self, jobs):
        for _ in range(10):
            jobs.consider(INCEPTION, age=0.5, needs_repair=False)

        assert jobs.noted == []

    def test_a_film_with_failed_sections_is_noted_once_in_a_while(self, jobs):
        for _ in range(10):
            jobs.consider(INCEPTION, age=0.5, needs_repair=True)
        assert jobs.noted == [INCEPTION]

        self.time[0] += 30
        jobs.consider(INCEPTION, age=0.5, needs_repair=True)

        assert jobs.noted == [INCEPTION] * 2

    def test_near_its_end_only_a_film_that_is_read_is_noted(self, jobs):
        jobs.consider(INCEPTION, age=0.999, needs_repair=False)
        jobs.consider(INCEPTION, age=0.999, needs_repair=False)
        assert jobs.noted == []

        jobs.consider(INCEPTION, age=0.999, needs_repair=False)

        assert jobs.noted == [INCEPTION]

    def test_memory_for_films_is_bounded(self, jobs):
        for number in range(10_100):
            jobs.consider(f"tt{number}", age=0.9999, needs_repair=True)

        assert len(jobs._offered) == len(jobs._reads) == 10_000


class Slow(Upkeep):
    """Upkeep whose work can be held up, and fails where told to."""

    def __init__(self, house, **options):
        super().__init__(
            cache=house.cache,
            register=house.register,
            fetcher=house.fetcher,
            repair_after=timedelta(seconds=300),
            deadline_seconds=5,
            **options,
        )
        self.go = threading.Event()
        self.done: list[str] = []
        self.errors: dict[str, BaseException] = {}

    def tend(self, imdb_id, *, is_due):
        assert self.go.wait(5)
        self.done.append(imdb_id)
        if imdb_id in self.errors:
            raise self.errors.pop(imdb_id)
        return False

    def wait_until_idle(self):
        limit = time.monotonic() + 5
        while self._waiting and time.monotonic() < limit:
            time.sleep(0.001)
        assert not self._waiting


class TestThreads:
    @pytest.fixture
    def slow(self, house):
        slow = Slow(house, threads=1, capacity=3)
        yield slow
        slow.go.set()
        slow.wait_until_idle()

    def test_a_film_is_in_line_once(self, slow):
        for _ in range(5):
            slow.complete(INCEPTION)
        slow.go.set()
        slow.wait_until_idle()

        assert slow.done == [INCEPTION]

    def test_it_can_be_put_in_line_again_afterwards(self, slow):
        slow.go.set()
        for _ in range(2):
            slow.complete(INCEPTION)
            slow.wait_until_idle()

        assert slow.done == [INCEPTION] * 2

    def test_what_is_too_much_is_dropped_and_told(self, slow, caplog):
        caplog.set_level("INFO")

        for number in range(20):
            slow.complete(f"tt{number}")

        assert len(slow._waiting) <= 4
        assert "too much upkeep" in caplog.text

    def test_no_more_threads_than_allowed_and_all_end_with_the_process(self, slow):
        for number in range(3):
            slow.complete(f"tt{number}")

        threads = [thread for thread in threading.enumerate() if thread.name.startswith("upkeep-")]
        assert slow._threads == 1
        assert all(thread.daemon for thread in threads)

    @pytest.mark.parametrize(
        "error", [UpstreamUnavailable("imdbapi", "http_5xx"), ZeroDivisionError("a bug")]
    )
    def test_a_film_that_fails_is_told_and_the_next_one_is_tended(self, slow, caplog, error):
        slow.errors["tt1"] = error
        slow.complete("tt1")
        slow.complete("tt2")

        slow.go.set()
        slow.wait_until_idle()

        assert slow.done == ["tt1", "tt2"]
        assert [record.levelname for record in caplog.records] in (["WARNING"], ["ERROR"])

    def test_a_film_still_in_line_for_its_source_is_put_in_line_again(self, house):
        class CutOffOnce(Slow):
            def tend(self, imdb_id, *, is_due):
                super().tend(imdb_id, is_due=is_due)
                return len(self.done) < 3

        slow = CutOffOnce(house)
        slow.go.set()
        slow.complete(INCEPTION)
        limit = time.monotonic() + 5
        while len(slow.done) < 3 and time.monotonic() < limit:
            time.sleep(0.001)

        assert slow.done == [INCEPTION] * 3


def test_a_hit_on_a_partial_film_is_answered_at_once_and_leaves_word(house, partial_film):
    payload = house.fetch()

    assert payload["credits"] == {}
    assert house.calls == 0
    assert house.upkeep.considered == [INCEPTION]


def test_sections_for_which_a_reader_could_not_wait_are_left_to_the_background(db):
    house = House(deadline_seconds=1.0, paces={"imdbapi": Pace(2, 3600)})

    payload = house.fetch()

    assert {w["code"] for w in payload["warnings"]} == {"deadline"}
    assert len(payload["warnings"]) == len(IMDB_METHODS) - 2
    assert house.upkeep.completed == [INCEPTION]
    assert FilmFetch.objects.get().token == ""
