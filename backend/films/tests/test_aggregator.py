"""What a reader gets when the sources, the database or the other process fail."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import pytest
from django.db import DatabaseError, InterfaceError, InternalError, OperationalError

from core.deadline import time_left
from core.errors import (
    DeadlineExceeded,
    Overloaded,
    UpstreamBadAnswer,
    UpstreamNotFound,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from films.models import Film, FilmFetch
from films.services.fetch_register import FetchRegister
from films.services.film_answer import Origin
from films.services.film_cache import FilmCacheService
from films.tests.fakes import INCEPTION
from films.tests.house import IMDB_METHODS, House

pytestmark = pytest.mark.django_db
NO_SUCH_TITLE = UpstreamNotFound("imdbapi", "not_found")
MUTE = UpstreamTimeout("imdbapi", "http_response_timeout")


@pytest.fixture
def house():
    return House()


def codes(payload) -> dict[str, str]:
    return {warning["section"]: warning["code"] for warning in payload["warnings"]}


class TestNegativeAnswers:
    @pytest.fixture
    def house(self, house):
        house.imdb.fail(NO_SUCH_TITLE, *IMDB_METHODS)
        return house

    def miss(self, house):
        with pytest.raises(UpstreamNotFound):
            house.fetch()

    def test_no_such_title_is_asked_for_once_an_hour(self, house):
        self.miss(house)
        calls = house.calls

        house.clock.pass_by(minutes=59)
        self.miss(house)
        assert house.calls == calls

        house.clock.pass_by(minutes=1)
        self.miss(house)
        assert house.calls > calls

    def test_other_processes_know_it_too(self, house):
        self.miss(house)
        other = House(clock=house.clock)

        self.miss(other)

        assert other.calls == 0

    def test_it_counts_as_no_miss(self, house):
        self.miss(house)

        with pytest.raises(UpstreamNotFound):
            house.aggregator.answer(INCEPTION, before_fetch=pytest.fail)

    def test_a_title_that_appears_is_there_within_the_hour(self, house):
        self.miss(house)
        house.mend_everything()

        house.clock.pass_by(hours=1)

        assert house.fetch()["title"] == "Inception"
        entry = FilmFetch.objects.get()
        assert (entry.missing_since, entry.missing_until, entry.failure) == (None, None, "")

    def test_could_not_look_is_not_remembered_as_no_such_title(self, house):
        house.imdb.fail(MUTE, *IMDB_METHODS)
        with pytest.raises(UpstreamTimeout):
            house.fetch()
        house.mend_everything()

        assert house.fetch()["title"] == "Inception"


class TestUnusableMetadata:
    """IMDb answers for a new film, and none of it can be used: no breaker ends that."""

    @pytest.fixture
    def house(self, house):
        house.imdb.fail(UpstreamBadAnswer("imdbapi", "bad_shape"), "get_metadata")
        return house

    def test_it_is_asked_for_once_a_minute(self, house):
        with pytest.raises(UpstreamBadAnswer):
            house.fetch()
        calls = house.calls

        house.clock.pass_by(seconds=59)
        for _ in range(3):
            with pytest.raises(UpstreamBadAnswer):
                house.fetch()
        assert house.calls == calls

        house.clock.pass_by(seconds=1)
        house.mend_everything()
        assert house.fetch()["warnings"] == []


def test_nobody_waits_for_the_rest_of_a_film_that_is_none():
    house, mute = House(deadline_seconds=60), threading.Event()
    house.imdb.fail(UpstreamNotFound("imdbapi", "not_found"), "get_metadata")
    house.fan_out._fetches["trailer"] = lambda _: mute.wait(60)

    with pytest.raises(UpstreamNotFound):
        house.fetch()

    # Who waited would have been let go by this alone.
    assert not mute.is_set()
    mute.set()


class TestStoredFilmThatIMDbDenies:
    @pytest.fixture
    def house(self, house):
        self.good = house.fetch()
        house.clock.pass_by(hours=25)
        house.imdb.fail(NO_SUCH_TITLE, *IMDB_METHODS)
        return house

    def test_after_one_denial_it_is_still_shown(self, house):
        payload = house.fetch()

        assert payload["title"] == "Inception"
        assert payload["credits"] == {}
        assert codes(payload)["metadata"] == "stale"

    def test_within_the_hour_nobody_is_asked_again(self, house):
        house.fetch()
        calls = house.calls
        house.clock.pass_by(minutes=59)

        assert house.fetch()["title"] == "Inception"
        assert house.calls == calls

    def test_after_two_denials_an_hour_apart_it_is_gone(self, house):
        house.fetch()
        house.clock.pass_by(hours=1)

        house.fetch()

        with pytest.raises(UpstreamNotFound):
            house.fetch()

    def test_its_row_is_kept_and_it_comes_back_when_imdb_has_it_again(self, house):
        house.fetch()
        house.clock.pass_by(hours=1)
        house.fetch()
        assert Film.objects.count() == 1
        house.mend_everything()

        house.clock.pass_by(hours=1)

        assert house.fetch()["title"] == "Inception"

    def test_an_outage_between_two_denials_is_no_denial(self, house):
        house.fetch()
        house.clock.pass_by(hours=1)
        house.break_everything()
        house.fetch()

        house.clock.pass_by(minutes=2)

        assert house.fetch()["title"] == "Inception"


class TestExpiredFilmWhileTheSourcesFail:
    @pytest.fixture
    def house(self, house):
        house.fetch()
        house.clock.pass_by(hours=25)
        house.break_everything()
        return house

    def test_it_is_shown_as_stale(self, house):
        answer = house.aggregator.answer(INCEPTION)

        assert answer.origin is Origin.STALE
        assert answer.age == 25 * 3600
        assert set(codes(answer.payload).values()) == {"stale"}

    @pytest.mark.parametrize("error", [OperationalError, InternalError, InterfaceError])
    def test_it_is_shown_where_the_database_takes_no_writes(self, house, monkeypatch, error):
        def refuse(imdb_id):
            raise error("cannot execute INSERT in a read-only transaction")

        monkeypatch.setattr(house.register, "acquire", refuse)
        calls = house.calls

        assert set(codes(house.fetch()).values()) == {"stale"}
        assert house.calls == calls

    def test_the_fetch_is_not_repeated_on_every_request(self, house):
        house.fetch()
        calls = house.calls

        house.clock.pass_by(seconds=59)
        for _ in range(5):
            assert set(codes(house.fetch()).values()) == {"stale"}
        assert house.calls == calls

        house.clock.pass_by(seconds=1)
        house.fetch()
        assert house.calls > calls

    def test_other_processes_wait_with_it(self, house):
        house.fetch()
        other = House(clock=house.clock)

        other.fetch()

        assert other.calls == 0

    def test_it_is_whole_again_after_the_cool_down(self, house):
        house.fetch()
        house.mend_everything()
        house.clock.pass_by(seconds=60)

        answer = house.aggregator.answer(INCEPTION)

        assert (answer.origin, answer.payload["warnings"]) == (Origin.FETCHED, [])

    def test_for_as_long_as_it_takes(self, house):
        for _ in range(20):
            house.clock.pass_by(days=7)
            assert house.fetch()["metadata"]["primaryTitle"] == "Inception"


class TestLimits:
    def refuse(self):
        raise Overloaded("Too fast.", retry_after=30, is_callers_fault=True)

    def test_a_miss_may_be_refused(self, house):
        with pytest.raises(Overloaded):
            house.aggregator.answer(INCEPTION, before_fetch=self.refuse)

        assert house.calls == 0

    def test_a_hit_is_never_refused(self, house):
        house.fetch()

        assert house.aggregator.answer(INCEPTION, before_fetch=self.refuse)

    def test_an_expired_film_is_shown_to_who_is_refused(self, house):
        house.fetch()
        house.clock.pass_by(hours=25)
        calls = house.calls

        answer = house.aggregator.answer(INCEPTION, before_fetch=self.refuse)

        assert answer.origin is Origin.STALE
        assert house.calls == calls

    def test_over_the_limit_of_cold_requests_who_comes_is_sent_away_at_once(self, house):
        for _ in range(4):
            house.cold_slots.acquire()

        with pytest.raises(Overloaded) as caught:
            house.fetch()

        assert (caught.value.retry_after, caught.value.is_callers_fault) == (1, False)
        assert house.calls == 0

    def test_over_the_limit_an_expired_film_is_shown(self, house):
        house.fetch()
        house.clock.pass_by(hours=25)
        for _ in range(4):
            house.cold_slots.acquire()

        assert set(codes(house.fetch()).values()) == {"stale"}

    @pytest.mark.parametrize("outcome", [None, NO_SUCH_TITLE, MUTE, ZeroDivisionError()])
    def test_a_slot_is_given_back_whatever_happens(self, house, outcome):
        if outcome:
            house.imdb.answers["get_metadata"] = outcome
        for number in range(10):
            try:
                house.fetch(f"tt{number}")
            except (UpstreamNotFound, UpstreamTimeout, ZeroDivisionError):
                assert outcome

        assert all(house.cold_slots.acquire(blocking=False) for _ in range(4))


class TestWrites:
    """The film is in hand: the reader gets it, whatever the database does."""

    def test_a_write_that_fails_once_is_tried_again(self, house, monkeypatch):
        store, failures = FilmCacheService.store, [OperationalError("deadlock detected")]

        def flaky(*args, **kwargs):
            if failures:
                raise failures.pop()
            store(*args, **kwargs)

        monkeypatch.setattr(FilmCacheService, "store", flaky)

        assert house.fetch()["title"] == "Inception"

        assert house.calls == 10
        assert Film.objects.count() == 1

    def test_what_could_not_be_stored_is_not_said_to_be(self, house, monkeypatch):
        def fail(*args, **options):
            raise OperationalError("disk full")

        monkeypatch.setattr(house.cache, "store", fail)

        assert house.aggregator.answer(INCEPTION).origin is Origin.UNSTORED

    def test_a_write_that_fails_twice_still_gives_the_film(self, house, monkeypatch):
        def broken(*args, **kwargs):
            raise OperationalError("lock timeout")

        monkeypatch.setattr(FilmCacheService, "store", broken)

        assert house.fetch()["warnings"] == []
        assert not Film.objects.exists()

    def test_a_write_is_not_tried_again_past_the_deadline(self, monkeypatch, caplog):
        house, tries, mute = House(deadline_seconds=1), [], threading.Event()
        house.fan_out._fetches["trailer"] = lambda _: mute.wait(5)

        def broken(*args, **kwargs):
            tries.append(1)
            raise OperationalError("lock timeout")

        monkeypatch.setattr(FilmCacheService, "store", broken)

        assert codes(house.fetch()) == {"trailer": "deadline"}
        mute.set()
        assert tries == [1]
        assert [line.outcome for line in caplog.records if line.message == "a write failed"] == [
            "not_stored"
        ]

    def test_that_there_is_no_such_title_is_told_though_it_cannot_be_noted(
        self, house, monkeypatch
    ):
        def broken(*args, **kwargs):
            raise DatabaseError

        house.imdb.fail(NO_SUCH_TITLE, *IMDB_METHODS)
        monkeypatch.setattr(FetchRegister, "finish", broken)

        with pytest.raises(UpstreamNotFound):
            house.fetch()

    def test_a_half_written_film_is_not_there(self, house, monkeypatch):
        store = FilmCacheService.store

        def dies_afterwards(*args, **kwargs):
            store(*args, **kwargs)
            raise OperationalError("server closed the connection unexpectedly")

        monkeypatch.setattr(FilmCacheService, "store", dies_afterwards)
        house.fetch()

        assert not Film.objects.exists()
        assert FilmFetch.objects.get().token, "the lease was not given back with what was lost"

    def test_a_database_that_is_gone_asks_nobody(self, house, monkeypatch):
        def gone(*args, **kwargs):
            raise OperationalError("connection refused")

        monkeypatch.setattr(FetchRegister, "acquire", gone)

        with pytest.raises(OperationalError):
            house.fetch()

        assert house.calls == 0

    def test_who_lost_the_lease_writes_nothing(self, house):
        """A process that was paused for longer than its lease, and another one that was not."""
        other = House(clock=house.clock)

        def while_it_is_paused(_):
            house.clock.pass_by(seconds=5)
            other.fetch()
            return {"credits": [], "totalCount": 0}

        house.fan_out._fetches = {
            **house.fan_out._fetches,
            "images": house.imdb.get_images,
        }
        # In this thread, which owns the connection of the test.
        fetched = []
        run = house.fan_out.run

        def paused_run(*args, **kwargs):
            outcomes = run(*args, **kwargs)
            outcomes["credits"] = while_it_is_paused(None)
            return outcomes

        house.fan_out.run = paused_run
        fetched.append(house.fetch())

        assert fetched[0]["credits"]["credits"] == []
        assert Film.objects.get().full_json["credits"]["credits"] != []


class TestOtherProcess:
    """Another process fetches: this one waits and takes over what comes of it."""

    def follow(self, house, leads):
        """Ask for the film while `other` has the lease; `leads` runs in the first wait."""
        other = House(clock=house.clock)
        lease = other.register.acquire(INCEPTION)
        todo = [leads]

        def sleep(seconds):
            house.clock.pass_by(seconds=0.1)
            if todo:
                todo.pop()(other, lease)

        house.aggregator._sleep = sleep
        return house.fetch()

    def test_what_it_stored_is_taken(self, house):
        def leads(other, lease):
            other.fetcher.fetch(lease, None)

        assert self.follow(house, leads)["title"] == "Inception"
        assert house.calls == 0

    @pytest.mark.parametrize(
        ("error", "raised"),
        [
            (MUTE, UpstreamTimeout),
            (UpstreamBadAnswer("imdbapi", "bad_json"), UpstreamBadAnswer),
            (UpstreamUnavailable("imdbapi", "http_5xx"), UpstreamUnavailable),
            (NO_SUCH_TITLE, UpstreamNotFound),
        ],
    )
    def test_that_it_failed_is_told_at_once_and_not_tried_again(self, house, error, raised):
        def leads(other, lease):
            other.imdb.fail(error, *IMDB_METHODS)
            with pytest.raises(raised):
                other.fetcher.fetch(lease, None)

        with pytest.raises(raised):
            self.follow(house, leads)
        assert house.calls == 0

    def test_a_failure_from_before_is_none_of_this_fetch(self, house):
        house.imdb.fail(MUTE, *IMDB_METHODS)
        with pytest.raises(UpstreamTimeout):
            house.fetch()
        house.mend_everything()
        house.clock.pass_by(seconds=1)

        # The other process dies: nothing is known of what it found out.
        assert self.follow(house, lambda other, lease: None)["title"] == "Inception"

    def test_when_it_dies_this_one_takes_over_at_the_end_of_the_lease(self, house):
        started = house.clock.time

        payload = self.follow(house, lambda other, lease: None)

        assert payload["title"] == "Inception"
        assert house.clock.time - started <= timedelta(seconds=4.2)

    def test_a_reader_whose_time_is_over_is_told(self):
        house = House(deadline_seconds=0.1)
        House(clock=house.clock).register.acquire(INCEPTION)
        house.aggregator._sleep = time.sleep
        started = time.monotonic()

        with pytest.raises(DeadlineExceeded):
            house.fetch()

        assert time.monotonic() - started < 0.6

    def test_an_expired_film_is_shown_to_a_reader_whose_time_is_over(self):
        house = House()
        house.fetch()
        house.aggregator._deadline_seconds = 0.1
        house.clock.pass_by(hours=25)
        House(clock=house.clock).register.acquire(INCEPTION)

        assert set(codes(house.fetch()).values()) == {"stale"}

    def test_no_connection_is_held_while_waiting(self, house, monkeypatch):
        released = []
        monkeypatch.setattr(
            FilmCacheService, "release_connection", lambda self: released.append(True)
        )

        def leads(other, lease):
            assert released
            other.register.finish(lease)

        self.follow(house, leads)


def test_who_asks_in_the_same_process_meanwhile_shares_what_comes_of_it():
    """Without a database: what is tested is who waits for whom."""
    house = House()
    go, begun, led = threading.Event(), threading.Event(), []

    def lead(imdb_id, *_):
        led.append(imdb_id)
        begun.set()
        assert go.wait(time_left(5))
        raise UpstreamUnavailable("imdbapi", "http_5xx")

    house.aggregator._lead = lead
    with ThreadPoolExecutor(4) as pool:
        ask = partial(house.aggregator._fetch_once, INCEPTION, None, house.clock.time)
        futures = [pool.submit(ask) for _ in range(4)]
        assert begun.wait(5)
        while house.cold_slots._value:
            time.sleep(0.001)
        go.set()
        errors = [future.exception(5) for future in futures]

    assert led == [INCEPTION]
    assert {type(error) for error in errors} == {UpstreamUnavailable}
