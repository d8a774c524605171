"""What a reader gets when the sources, the database or the other process fail."""

import queue
import threading
import time
from datetime import timedelta
from functools import partial

import pytest
from django.db import (
    DatabaseError,
    InterfaceError,
    InternalError,
    OperationalError,
    connection,
)
from django.test.utils import CaptureQueriesContext

from core.deadline import Deadline
from core.errors import (
    DeadlineExceeded,
    Overloaded,
    UpstreamBadAnswer,
    UpstreamNotFound,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from core.services.source import Priority
from films.models import Film, FilmFetch
from films.payload import SECTION_NAMES
from films.services import film_aggregator
from films.services.film_aggregator import Reader, _Patience, reading_as
from films.services.film_cache import FilmCacheService, Hit
from films.services.leases import FetchLeases
from films.services.refresh import Fetch
from films.tests.fakes import INCEPTION, Clock
from films.tests.service import (
    IMDB_METHODS,
    RatedSource,
    Service,
    run_beside,
    unlimited_sources,
)

pytestmark = pytest.mark.django_db
NO_SUCH_TITLE = UpstreamNotFound("imdbapi", "not_found")
SILENCE = UpstreamTimeout("imdbapi", "http_response_timeout")


@pytest.fixture
def service():
    return Service()


@pytest.fixture
def waits(monkeypatch):
    """Has an item for each request that gave back its connection, before it waits."""
    waits = queue.Queue()
    monkeypatch.setattr(film_aggregator, "release_connection", lambda: waits.put(True))
    return waits


def codes(payload) -> dict[str, str]:
    return {warning["section"]: warning["code"] for warning in payload["warnings"]}


def raises(*args, **kwargs):
    raise OperationalError("the server closed the connection unexpectedly")


class TestTitleThatDoesNotExist:
    @pytest.fixture
    def service(self, service):
        service.imdb.fail(NO_SUCH_TITLE, *IMDB_METHODS)
        return service

    def miss(self, service):
        with pytest.raises(UpstreamNotFound):
            service.fetch()

    def test_it_is_requested_once_an_hour(self, service):
        self.miss(service)
        calls = service.call_count

        service.clock.advance(minutes=59)
        self.miss(service)
        assert service.call_count == calls

        service.clock.advance(minutes=1)
        self.miss(service)
        assert service.call_count > calls

    def test_other_processes_know_it(self, service):
        self.miss(service)
        other = Service(clock=service.clock)

        self.miss(other)

        assert other.call_count == 0

    def test_a_remembered_answer_is_not_counted_as_a_miss(self, service, avoided):
        self.miss(service)
        avoided()

        with pytest.raises(UpstreamNotFound):
            service.fetch(count_miss=pytest.fail)

        assert avoided() == {("imdbapi", "negative_cache"): 1}

    def test_a_title_that_appears_is_found_after_an_hour(self, service):
        self.miss(service)
        service.repair_sources()

        service.clock.advance(hours=1)

        assert service.fetch()["title"] == "Inception"
        record = FilmFetch.objects.get()
        assert (record.missing_since, record.missing_until, record.failure) == (None, None, "")

    def test_a_source_that_fails_is_not_remembered_as_no_such_title(self, service):
        service.imdb.fail(SILENCE, *IMDB_METHODS)
        with pytest.raises(UpstreamTimeout):
            service.fetch()
        service.repair_sources()

        assert service.fetch()["title"] == "Inception"

    def test_a_reader_does_not_wait_for_the_other_sections(self):
        service = Service(deadline_seconds=60)
        service.imdb.fail(NO_SUCH_TITLE, "get_metadata")

        # A reader that waited would fail: nothing ends the silence before the block.
        with service.kinocheck.silent("get_trailer"), pytest.raises(UpstreamNotFound):
            service.fetch()


class TestUnusableMetadata:
    """IMDb answers, and nothing of it can be used: no circuit breaker limits the calls."""

    @pytest.mark.parametrize(
        ("reason", "seconds"), [("bad_shape", 60), ("http_4xx", 3600), ("other_title", 3600)]
    )
    def test_it_is_remembered_for_a_minute_or_if_it_is_about_the_title_for_an_hour(
        self, service, reason, seconds, avoided
    ):
        service.imdb.fail(UpstreamBadAnswer("imdbapi", reason), "get_metadata")
        with pytest.raises(UpstreamBadAnswer):
            service.fetch()
        calls = service.call_count

        service.clock.advance(seconds=seconds - 1)
        for _ in range(3):
            with pytest.raises(UpstreamBadAnswer):
                service.fetch(count_miss=pytest.fail)
        assert service.call_count == calls
        assert avoided() == {("imdbapi", "negative_cache"): 3}

        service.clock.advance(seconds=1)
        service.repair_sources()
        assert service.fetch()["warnings"] == []


class TestStoredFilmThatIMDbDenies:
    @pytest.fixture
    def service(self, service):
        service.fetch()
        service.clock.advance(hours=25)
        service.imdb.fail(NO_SUCH_TITLE, *IMDB_METHODS)
        return service

    def test_after_one_denial_it_is_still_returned(self, service):
        payload = service.fetch()

        assert payload["title"] == "Inception"
        assert payload["credits"] == {}
        assert codes(payload)["metadata"] == "stale"

    def test_within_an_hour_no_source_is_called_again(self, service):
        service.fetch()
        calls = service.call_count
        service.clock.advance(minutes=59)

        assert service.fetch()["title"] == "Inception"
        assert service.call_count == calls

    def test_after_two_denials_an_hour_apart_it_is_gone(self, service):
        service.fetch()
        service.clock.advance(hours=1)

        service.fetch()

        with pytest.raises(UpstreamNotFound):
            service.fetch()

    def test_its_row_is_kept_and_it_returns_when_imdb_has_it_again(self, service):
        service.fetch()
        service.clock.advance(hours=1)
        service.fetch()
        assert Film.objects.count() == 1
        service.repair_sources()

        service.clock.advance(hours=1)

        assert service.fetch()["title"] == "Inception"

    def test_an_outage_between_two_denials_is_no_denial(self, service):
        service.fetch()
        service.clock.advance(hours=1)
        service.break_sources()
        service.fetch()

        service.clock.advance(minutes=2)

        assert service.fetch()["title"] == "Inception"


class TestExpiredFilmWhileTheSourcesFail:
    @pytest.fixture
    def service(self, service):
        service.fetch()
        service.clock.advance(hours=25)
        service.break_sources()
        return service

    def test_it_is_returned_as_stale_with_the_time_of_its_fetch(self, service):
        payload = service.fetch()

        assert not payload.is_fresh
        assert payload.cached_at == service.clock.time - timedelta(hours=25)
        assert codes(payload) == dict.fromkeys(SECTION_NAMES, "stale")

    @pytest.mark.parametrize("error", [OperationalError, InternalError, InterfaceError])
    def test_it_is_returned_if_the_database_accepts_no_writes(self, service, monkeypatch, error):
        def refuse(imdb_id):
            raise error("cannot execute INSERT in a read-only transaction")

        monkeypatch.setattr(service.leases, "acquire", refuse)
        calls = service.call_count

        assert codes(service.fetch()) == dict.fromkeys(SECTION_NAMES, "stale")
        assert service.call_count == calls

    def test_the_fetch_is_repeated_after_a_minute_and_not_before(self, service):
        service.fetch()
        calls = service.call_count

        service.clock.advance(seconds=59)
        for _ in range(5):
            assert codes(service.fetch()) == dict.fromkeys(SECTION_NAMES, "stale")
        assert service.call_count == calls

        service.clock.advance(seconds=1)
        service.fetch()
        assert service.call_count > calls

    def test_the_payload_says_when_the_film_is_due_again(self, service):
        first = service.fetch()
        due = service.clock.time + timedelta(minutes=1)
        service.clock.advance(seconds=20)
        second = service.fetch()

        assert first.states["metadata"].retry_at == due
        assert {state.retry_at for state in second.states.values()} == {due}

    @pytest.mark.parametrize(
        ("error", "minutes"),
        [
            (SILENCE, [1, 2, 4, 8, 15, 15]),
            (UpstreamUnavailable("imdbapi", "circuit_open"), [1, 2, 4, 8, 15, 15]),
            (UpstreamUnavailable("imdbapi", "http_5xx"), [1, 2, 4, 8, 16, 32]),
            (UpstreamBadAnswer("imdbapi", "bad_shape"), [1, 2, 4, 8, 16, 32]),
        ],
    )
    def test_the_wait_doubles_while_the_fetch_keeps_failing(self, service, error, minutes):
        service.imdb.fail(error, *IMDB_METHODS)
        waits = []
        for _ in minutes:
            waits.append(service.fetch().states["metadata"].retry_at - service.clock.time)
            service.clock.time += waits[-1]

        assert waits == [timedelta(minutes=each) for each in minutes]

    def test_other_processes_wait_too(self, service):
        service.fetch()
        other = Service(clock=service.clock)

        other.fetch()

        assert other.call_count == 0

    def test_it_is_whole_again_after_the_cool_down(self, service):
        service.fetch()
        service.repair_sources()
        service.clock.advance(seconds=60)

        payload = service.fetch()

        assert (payload.was_fetched, payload.is_fresh, payload["warnings"]) == (True, True, [])

    def test_it_is_returned_for_as_long_as_the_sources_fail(self, service):
        for _ in range(20):
            service.clock.advance(days=7)
            assert service.fetch()["metadata"]["primaryTitle"] == "Inception"


class TestRenewalWithoutMetadata:
    """Metadata of an expired film keeps failing; the other sections can be fetched."""

    @pytest.fixture
    def service(self, service):
        service.fetch()
        service.clock.advance(hours=25)
        service.imdb.fail(UpstreamUnavailable("imdbapi", "circuit_open"), "get_metadata")
        service.fetch()
        for fake in (service.imdb, service.kinocheck, service.watchmode):
            fake.calls.clear()
        return service

    def retry(self, service):
        service.clock.time = FilmFetch.objects.get().retry_at
        return service.fetch()

    def test_a_further_attempt_fetches_only_the_metadata(self, service):
        payload = self.retry(service)

        assert service.call_count == 1
        assert codes(payload) == {"metadata": "stale"}
        assert payload["credits"]

    def test_the_other_sections_are_fetched_once_in_the_lifetime_of_a_film(self, service):
        started = service.clock.time
        while service.clock.time < started + timedelta(hours=23):
            self.retry(service)
        assert set(service.imdb.called) == {"get_metadata"}
        assert service.kinocheck.calls == service.watchmode.calls == []

        while service.clock.time < started + timedelta(hours=25):
            self.retry(service)
        assert service.imdb.called.count("get_credits") == len(service.kinocheck.calls) == 1
        assert service.watchmode.called == ["get_streaming_sources"]

    def test_a_section_that_failed_as_well_is_fetched_again(self, service):
        service.clock.advance(days=2)
        service.imdb.fail(SILENCE, "get_credits")
        service.fetch()
        service.imdb.calls.clear()

        self.retry(service)

        assert sorted(service.imdb.called) == ["get_credits", "get_metadata"]

    def test_with_metadata_the_film_is_new_without_further_calls(self, service):
        service.repair_sources()

        payload = self.retry(service)

        assert (payload.is_fresh, payload.cached_at) == (True, service.clock.time)
        assert payload["warnings"] == []
        assert service.imdb.called == ["get_metadata"]

    def test_a_command_does_not_fetch_the_other_sections_in_each_round(self, service):
        service.clock.advance(days=2)

        service.bulk(pause=60).run(INCEPTION)

        assert service.imdb.called.count("get_metadata") == 3
        assert service.imdb.called.count("get_credits") == len(service.kinocheck.calls) == 1


class TestLimits:
    def refuse(self, is_vouched_for):
        raise Overloaded("Too fast.", retry_after=30, is_callers_fault=True)

    def test_a_miss_may_be_refused(self, service):
        with pytest.raises(Overloaded) as caught:
            service.fetch(count_miss=self.refuse)

        assert caught.value.is_callers_fault
        assert service.call_count == 0

    def test_a_hit_is_not_counted(self, service):
        service.fetch()

        assert service.fetch(count_miss=pytest.fail)

    def test_a_refused_caller_gets_an_expired_film(self, service):
        service.fetch()
        service.clock.advance(hours=25)
        calls = service.call_count

        payload = service.fetch(count_miss=self.refuse)

        assert codes(payload) == dict.fromkeys(SECTION_NAMES, "stale")
        assert service.call_count == calls

    def test_without_a_free_slot_a_request_is_refused_at_once_and_is_no_miss(self, service):
        for _ in range(4):
            service.miss_slots.acquire()

        with pytest.raises(Overloaded) as caught:
            service.fetch(count_miss=pytest.fail)

        assert (caught.value.retry_after, caught.value.is_callers_fault) == (1, False)
        assert service.call_count == 0

    def test_without_a_free_slot_an_expired_film_is_returned(self, service):
        service.fetch()
        service.clock.advance(hours=25)
        for _ in range(4):
            service.miss_slots.acquire()

        assert codes(service.fetch()) == dict.fromkeys(SECTION_NAMES, "stale")

    @pytest.mark.parametrize("outcome", [None, NO_SUCH_TITLE, SILENCE, ZeroDivisionError()])
    def test_a_slot_is_released_in_any_case(self, service, outcome):
        if outcome:
            service.imdb.answers["get_metadata"] = outcome
        for number in range(10):
            try:
                service.fetch(f"tt{number}")
            except (UpstreamNotFound, UpstreamTimeout, ZeroDivisionError):
                assert outcome

        assert all(service.miss_slots.acquire(blocking=False) for _ in range(4))


class TestUnvouchedTitles:
    """Ids that nothing but the caller names."""

    def test_a_made_up_id_costs_one_call_for_metadata_and_none_to_the_scarce_sources(self, service):
        service.imdb.fail(NO_SUCH_TITLE, *IMDB_METHODS)

        for number in range(1, 101):
            with pytest.raises(UpstreamNotFound):
                service.fetch_unvouched(f"tt{number:07}")

        assert service.imdb.called == ["get_metadata"] * 100
        assert service.kinocheck.calls == service.watchmode.calls == []

    @pytest.mark.parametrize("error", [SILENCE, UpstreamBadAnswer("imdbapi", "bad_shape")])
    def test_metadata_that_fails_is_not_followed_by_other_calls(self, service, error):
        service.imdb.fail(error, "get_metadata")

        with pytest.raises(type(error)):
            service.fetch_unvouched()

        assert service.call_count == 1

    def test_once_metadata_shows_that_the_title_exists_the_rest_is_fetched(self, service):
        payload = service.fetch_unvouched()

        assert service.imdb.called[0] == "get_metadata"
        assert service.call_count == 10
        assert payload["warnings"] == []
        assert FilmFetch.objects.get().watchmode_id == 1182444

    def test_metadata_waits_behind_everything_that_is_vouched_for(self, waits):
        source = RatedSource()
        service = Service(sources={"imdbapi": source})
        waiting = run_beside(service.fetch_unvouched)
        waits.get(timeout=5)
        command = source.submit(lambda: "a command", priority=Priority.BATCH)

        source.grant(1)
        assert command.result(5) == "a command"
        assert service.call_count == 0

        source.grant(7)
        assert waiting.result(5)["warnings"] == []

    def test_all_get_metadata_before_one_gets_a_further_section(self):
        source = RatedSource()
        service = Service(sources={"imdbapi": source})
        fetches, deadline = [], Deadline(5)
        for number in range(1, 7):
            fetch, _ = service.refresher.join(f"tt{number:07}")
            lease = service.leases.acquire(fetch.imdb_id)
            service.refresher.start(fetch, lease, None, SECTION_NAMES, priority=Priority.READER)
            fetches.append(fetch)

        for waiting in (fetches[:5], fetches[5:]):
            source.grant(1)
            for fetch in waiting:
                fetch.wait_until(lambda it: len(it.calls) > 1, lambda: min(deadline.left(), 0.02))

        assert service.imdb.called == ["get_metadata_batch", "get_metadata"]

    def test_after_the_reader_left_without_metadata_no_call_follows_it(self):
        clock = Clock()
        sources = unlimited_sources(clock, concurrency=1)
        service = Service(clock=clock, sources=sources, deadline_seconds=0.05)

        with service.imdb.silent("get_metadata"), pytest.raises(DeadlineExceeded):
            service.fetch_unvouched()
        # Each source has one thread, which makes one call after the other.
        for source in sources.values():
            source.submit(lambda: None).result(5)

        assert service.call_count == 1

    @pytest.mark.parametrize("is_vouched_for", [True, False])
    def test_the_limit_of_the_caller_depends_on_it(self, service, is_vouched_for):
        counted = []
        fetch = service.fetch if is_vouched_for else service.fetch_unvouched

        fetch(count_miss=counted.append)

        assert counted == [is_vouched_for]

    @pytest.mark.parametrize(
        "known", [{"seen_at": "now"}, {"watchmode_id": 5}], ids=["search", "watchmode"]
    )
    def test_a_search_result_or_watchmode_vouches_for_a_title(self, service, known):
        now = service.clock.time
        known = {name: now if value == "now" else value for name, value in known.items()}
        FilmFetch.objects.create(imdb_id=INCEPTION, **known)
        counted = []

        service.fetch_unvouched(count_miss=counted.append)

        assert counted == [True]

    def test_a_stored_film_is_vouched_for(self, service):
        service.fetch_unvouched()
        FilmFetch.objects.all().delete()
        service.clock.advance(hours=25)
        counted = []

        service.fetch_unvouched(count_miss=counted.append)

        assert counted == [True]


class TestReaderThatLeavesEarly:
    """The rate limit or `Prefer: wait` lets a reader leave before the film is complete."""

    @pytest.fixture
    def source(self):
        return RatedSource(per_second=0.1)

    @pytest.fixture
    def service(self, source):
        return Service(sources={"imdbapi": source})

    @pytest.fixture
    def sent(self, service, source):
        """The film as a reader gets it when one call in ten seconds is allowed."""
        source.grant(1, seconds_to_next=10)
        return service.fetch()

    def test_it_waits_in_a_queue_no_longer_than_its_patience(self, source):
        service = Service(sources={"imdbapi": source}, queue_patience=0.05, deadline_seconds=60)
        source.grant(1)

        assert codes(service.fetch())["credits"] == "deadline"

    def test_its_patience_covers_sections_that_are_queued_while_it_waits(self, source, monkeypatch):
        service = Service(sources={"imdbapi": source}, queue_patience=0.05, deadline_seconds=60)
        source.grant(1)
        waits_with_metadata = threading.Event()
        wait_until, submit = Fetch.wait_until, service.fan_out.submit

        def observed_wait(fetch, is_enough, seconds_left):
            def observed_seconds():
                if fetch.has_metadata:
                    waits_with_metadata.set()
                return seconds_left()

            wait_until(fetch, is_enough, observed_seconds)

        def late_submit(imdb_id, names, **kwargs):
            assert "metadata" in names or waits_with_metadata.wait(5)
            return submit(imdb_id, names, **kwargs)

        monkeypatch.setattr(Fetch, "wait_until", observed_wait)
        monkeypatch.setattr(service.fan_out, "submit", late_submit)

        waiting = run_beside(service.fetch_unvouched)

        assert codes(waiting.result(10))["credits"] == "deadline"

    def test_it_gets_metadata_and_a_deadline_warning_for_each_section_that_is_queued(
        self, service, sent
    ):
        assert sent["metadata"]["primaryTitle"] == "Inception"
        assert sent["trailer"]
        assert sent["streaming"]
        assert codes(sent) == dict.fromkeys(
            (
                "credits",
                "images",
                "videos",
                "parents_guide",
                "certificates",
                "release_dates",
            ),
            "deadline",
        )
        assert service.imdb.called == ["get_metadata"]

    def test_what_it_got_is_stored_at_once(self, service, sent):
        stored = service.cache.get_cached(INCEPTION)

        assert (stored, stored.is_fresh, sent.is_stored) == (sent, True, True)

    def test_the_film_is_completed_in_the_background_without_a_call_made_twice(
        self, service, source, sent
    ):
        source.grant(6)
        service.background.run()

        assert service.fetch()["warnings"] == []
        assert sorted(service.imdb.called) == sorted(IMDB_METHODS)
        assert service.call_count == 10
        assert FilmFetch.objects.get().token == ""

    def test_until_then_no_other_fetch_starts(self, service, sent):
        assert service.background.start(INCEPTION) is False
        assert Service(clock=service.clock).leases.acquire(INCEPTION) is None

    def test_until_then_its_lease_is_renewed(self, service, sent):
        service.clock.advance(seconds=3)

        assert service.leases.renew_kept()
        service.clock.advance(seconds=3)
        assert Service(clock=service.clock).leases.acquire(INCEPTION) is None

    def test_sections_that_fail_in_the_background_get_their_warnings(self, service, source, sent):
        service.imdb.fail(SILENCE, "get_images")
        source.grant(6)
        service.background.run()

        assert codes(service.fetch()) == {"images": "timeout"}

    def test_a_section_that_would_come_too_late_is_not_waited_for(self):
        source = RatedSource(per_second=0.1)
        service = Service(sources={"imdbapi": source}, queue_patience=60, deadline_seconds=60)
        source.grant(1, seconds_to_next=100)

        # A reader that waited would wait for a minute.
        assert len(codes(service.fetch())) == 6

    def test_patience_is_for_queues_and_not_for_calls_that_are_under_way(self):
        service = Service(queue_patience=0, deadline_seconds=60)

        with service.kinocheck.silent("get_trailer") as trailer_call:
            with service.imdb.silent("get_metadata"):
                waiting = run_beside(service.fetch)
                assert trailer_call.wait(5)
            with pytest.raises(TimeoutError):
                waiting.result(0.05)

        assert waiting.result(5)["warnings"] == []

    def test_after_its_patience_it_does_not_wait_for_calls_that_start_later(
        self, source, monkeypatch
    ):
        service = Service(sources={"imdbapi": source}, queue_patience=0, deadline_seconds=60)
        waits_for_trailer, seconds = threading.Event(), _Patience.seconds

        def observed(patience, fetch, refresher):
            left = seconds(patience, fetch, refresher)
            if fetch.has_metadata:
                waits_for_trailer.set()
            return left

        monkeypatch.setattr(_Patience, "seconds", observed)
        with service.imdb.silent("get_credits") as credits_call:
            with service.kinocheck.silent("get_trailer") as trailer_call:
                waiting = run_beside(service.fetch)
                assert trailer_call.wait(5)
                source.grant(1)
                assert waits_for_trailer.wait(5)
                source.grant(1)
                assert credits_call.wait(5)
            payload = waiting.result(5)

        assert payload["trailer"]
        assert codes(payload)["credits"] == "deadline"

    def test_a_preference_ends_the_wait_for_calls_that_are_under_way(self):
        service = Service(deadline_seconds=60)

        with service.kinocheck.silent("get_trailer"):
            payload = service.fetch(wait=0)

        assert codes(payload)["trailer"] == "deadline"
        assert payload["metadata"]
        service.background.run()
        assert service.fetch()["warnings"] == []
        assert service.call_count == 10

    def test_metadata_is_waited_for_whatever_the_preference(self, waits):
        source = RatedSource()
        service = Service(sources={"imdbapi": source}, deadline_seconds=60)
        waiting = run_beside(partial(service.fetch, wait=0))
        waits.get(timeout=5)

        source.grant(1)

        assert waiting.result(5)["metadata"]

    def test_without_metadata_it_gets_an_error_at_the_deadline_and_its_calls_are_cancelled(self):
        source = RatedSource()
        service = Service(sources={"imdbapi": source}, deadline_seconds=0.05)

        with pytest.raises(DeadlineExceeded):
            service.fetch()

        assert source.queue_length == 0
        assert service.leases.acquire(INCEPTION)

    def test_an_expired_film_is_returned_with_what_came_in_time(self, source):
        source.grant(0, seconds_to_next=10)
        service = Service(sources={"imdbapi": source})
        Service(clock=service.clock).fetch()
        service.clock.advance(hours=25)
        service.kinocheck.answers["get_trailer"] = {"youtube_video_id": "newer"}

        payload = service.fetch()

        assert payload["trailer"] == {"youtube_video_id": "newer"}
        assert set(codes(payload).values()) == {"stale"}
        source.grant(7)
        service.background.run()
        assert service.fetch()["warnings"] == []

    def test_a_lost_lease_keeps_the_early_copy_out_of_the_database(self, service, source):
        source.grant(1, seconds_to_next=10)
        store_interim = service.refresher.store_interim

        def after_a_pause(fetch):
            FilmFetch.objects.update(token="another process")
            return store_interim(fetch)

        service.refresher.store_interim = after_a_pause

        assert service.fetch().is_stored is False
        assert not Film.objects.exists()


class TestFollowers:
    """Requests for a film that this process is fetching already."""

    def test_they_give_back_their_connection_and_share_the_result(self, service, waits, avoided):
        with service.imdb.silent("get_metadata"):
            leader = run_beside(service.fetch)
            waits.get(timeout=5)
            followers = []
            for _ in range(3):
                followers.append(run_beside(service.fetch))
                waits.get(timeout=5)

        payload = leader.result(5)
        assert all(follower.result(5) is payload for follower in followers)
        assert service.call_count == 10
        assert avoided()["kinocheck", "single_flight"] == 3

    @pytest.mark.parametrize("error", [SILENCE, NO_SUCH_TITLE, ZeroDivisionError("a bug")])
    def test_they_share_the_error(self, service, waits, error):
        service.imdb.fail(error, "get_metadata")
        with service.imdb.silent("get_metadata"):
            leader = run_beside(service.fetch)
            waits.get(timeout=5)
            follower = run_beside(service.fetch)
            waits.get(timeout=5)

        assert type(leader.exception(5)) is type(follower.exception(5)) is type(error)
        assert service.imdb.called.count("get_metadata") == 1

    def test_one_that_takes_what_there_is_gets_a_snapshot(self, service, waits):
        with service.kinocheck.silent("get_trailer"):
            leader = run_beside(service.fetch)
            waits.get(timeout=5)
            payload = service.fetch(wait=0)

        assert payload["metadata"]["primaryTitle"] == "Inception"
        assert codes(payload)["trailer"] == "deadline"
        assert payload.is_stored is False
        assert leader.result(5)["warnings"] == []
        assert service.call_count == 10

    def test_one_whose_time_is_over_before_metadata_came_gets_an_error(self, service, waits):
        with service.imdb.silent("get_metadata"):
            leader = run_beside(service.fetch)
            waits.get(timeout=5)
            service.aggregator._deadline_seconds = 0.05
            with pytest.raises(DeadlineExceeded):
                service.fetch()

        assert leader.result(5)["warnings"] == []

    def test_they_follow_a_fetch_of_the_background(self, service, waits):
        service.fetch()
        waits.get(timeout=5)
        service.clock.advance(hours=25)
        service.imdb.answers["get_credits"] = {"credits": []}
        with service.imdb.silent("get_metadata"):
            assert service.background.start(INCEPTION)
            follower = run_beside(service.fetch)
            waits.get(timeout=5)
        service.background.run()

        assert follower.result(5)["credits"] == {"credits": []}
        assert service.imdb.called.count("get_metadata") == 2


class TestDatabase:
    """A film that was fetched is returned, whatever the database does."""

    def test_a_cold_film_takes_at_most_six_statements(self, service):
        service.vouch_for(INCEPTION)

        with CaptureQueriesContext(connection) as captured:
            service.fetch_unvouched()

        statements = [
            query["sql"]
            for query in captured
            if not query["sql"].startswith(("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE"))
        ]
        assert len(statements) <= 6, statements

    def test_a_hit_takes_one_query(self, service, django_assert_num_queries):
        service.fetch()

        with django_assert_num_queries(1):
            service.fetch_unvouched()

    def test_no_connection_is_held_while_sources_are_called(self, service, waits):
        with service.imdb.silent("get_metadata"):
            waiting = run_beside(service.fetch)
            assert waits.get(timeout=5)

        assert waiting.result(5)

    def test_a_write_that_fails_once_is_repeated(self, service, monkeypatch):
        save, failures = service.cache.save_cache, [OperationalError("deadlock detected")]

        def flaky(*args, **kwargs):
            if failures:
                raise failures.pop()
            save(*args, **kwargs)

        monkeypatch.setattr(service.cache, "save_cache", flaky)

        assert service.fetch()["title"] == "Inception"

        assert service.call_count == 10
        assert Film.objects.count() == 1

    def test_a_write_that_fails_twice_does_not_cost_the_film(self, service, monkeypatch):
        monkeypatch.setattr(service.cache, "save_cache", raises)

        payload = service.fetch()

        assert payload["warnings"] == []
        assert payload.is_stored is False
        assert not Film.objects.exists()

    def test_after_the_deadline_a_write_is_not_repeated(self, monkeypatch, caplog):
        service, writes = Service(deadline_seconds=0.5), []

        def broken(*args, **kwargs):
            writes.append(1)
            raise OperationalError("lock timeout")

        monkeypatch.setattr(service.cache, "save_cache", broken)

        with service.kinocheck.silent("get_trailer"):
            assert codes(service.fetch()) == {"trailer": "deadline"}

        assert writes == [1]
        assert [line.outcome for line in caplog.records if line.message == "write failed"] == [
            "not_stored"
        ]

    def test_a_reader_learns_that_a_title_does_not_exist_even_if_it_cannot_be_stored(
        self, service, monkeypatch
    ):
        service.imdb.fail(NO_SUCH_TITLE, *IMDB_METHODS)
        monkeypatch.setattr(service.leases, "finish", raises)

        with pytest.raises(UpstreamNotFound):
            service.fetch()

    def test_a_film_is_stored_with_the_end_of_its_lease_or_not_at_all(self, service, monkeypatch):
        save = FilmCacheService.save_cache

        def fails_afterwards(*args, **kwargs):
            save(*args, **kwargs)
            raises()

        monkeypatch.setattr(FilmCacheService, "save_cache", fails_afterwards)
        service.fetch()

        assert not Film.objects.exists()
        assert FilmFetch.objects.get().token, "the lease ended without the film"

    def test_without_a_database_no_source_is_called(self, service, monkeypatch):
        monkeypatch.setattr(FetchLeases, "acquire", raises)

        with pytest.raises(OperationalError):
            service.fetch()

        assert service.call_count == 0

    def test_a_database_that_fails_after_the_lease_was_given_does_not_keep_the_lease(
        self, service, monkeypatch
    ):
        service.fetch()
        service.clock.advance(hours=25)
        with monkeypatch.context() as patched:
            patched.setattr(service.refresher._fan_out, "submit", raises)
            assert set(codes(service.fetch()).values()) == {"stale"}

        assert not service.leases.renew_kept()
        service.clock.advance(seconds=4)
        assert service.fetch()["warnings"] == []

    def test_an_error_of_the_database_during_the_calls_is_raised_as_such(self, service):
        service.imdb.answers["get_credits"] = DatabaseError("the limits cannot be read")

        with pytest.raises(DatabaseError):
            service.fetch()

        assert FilmFetch.objects.get().token == ""

    def test_a_process_that_lost_its_lease_stores_nothing(self, service, caplog):
        """It was paused for longer than its lease, and another process was not."""
        other = Service(clock=service.clock)
        finish = service.leases.finish
        service.imdb.answers["get_credits"] = {"credits": [], "totalCount": 0}

        def after_a_pause(lease, **findings):
            service.leases.finish = finish
            service.clock.advance(seconds=5)
            other.fetch()
            return finish(lease, **findings)

        service.leases.finish = after_a_pause

        payload = service.fetch()

        assert payload["credits"]["credits"] == []
        assert payload.is_stored is False
        assert Film.objects.get().full_json["credits"]["credits"] != []
        assert [record.outcome for record in caplog.records] == ["lease_lost"]


class TestOtherProcess:
    """Another process fetches the film: this one waits for the outcome."""

    def follow(self, service, meanwhile):
        """Fetch while another process has the lease; `meanwhile` runs in the first wait."""
        other = Service(clock=service.clock)
        lease = other.leases.acquire(INCEPTION)
        todo = [meanwhile]

        def sleep(seconds):
            service.clock.advance(seconds=0.1)
            if todo:
                todo.pop()(other, lease)

        service.aggregator._sleep = sleep
        try:
            return service.fetch()
        finally:
            assert todo == [], "the fetch did not wait"

    def complete(self, other, lease):
        fetch, _ = other.refresher.join(INCEPTION)
        other.refresher.start(fetch, lease, None, SECTION_NAMES, priority=Priority.READER)
        fetch.wait_until(lambda it: it.is_complete, lambda: 5.0)
        return other.refresher.finish(fetch)

    def test_what_it_stored_is_returned(self, service, avoided):
        payload = self.follow(service, self.complete)

        assert payload["title"] == "Inception"
        assert (payload.was_fetched, payload.is_fresh) == (False, True)
        assert service.call_count == 0
        assert avoided()["kinocheck", "single_flight"] == 1

    @pytest.mark.parametrize(
        ("error", "raised"),
        [
            (SILENCE, UpstreamTimeout),
            (UpstreamBadAnswer("imdbapi", "bad_json"), UpstreamBadAnswer),
            (UpstreamUnavailable("imdbapi", "http_5xx"), UpstreamUnavailable),
            (NO_SUCH_TITLE, UpstreamNotFound),
        ],
    )
    def test_its_failure_is_returned_at_once_and_nothing_is_tried_again(
        self, service, error, raised
    ):
        def fail(other, lease):
            other.imdb.fail(error, *IMDB_METHODS)
            with pytest.raises(raised):
                self.complete(other, lease)

        with pytest.raises(raised):
            self.follow(service, fail)
        assert service.call_count == 0

    def test_an_earlier_failure_is_not_the_outcome_of_this_fetch(self, service):
        service.imdb.fail(SILENCE, *IMDB_METHODS)
        with pytest.raises(UpstreamTimeout):
            service.fetch()
        service.repair_sources()
        service.clock.advance(seconds=1)

        # The other process dies, so its outcome is not known.
        assert self.follow(service, lambda other, lease: None)["title"] == "Inception"

    def test_if_it_dies_this_process_takes_over_when_the_lease_ends(self, service):
        started = service.clock.time

        payload = self.follow(service, lambda other, lease: None)

        assert payload["title"] == "Inception"
        assert service.clock.time - started <= timedelta(seconds=4.2)

    def test_a_reader_waits_no_longer_than_the_deadline(self):
        service = Service(deadline_seconds=0.05)
        Service(clock=service.clock).leases.acquire(INCEPTION)

        with pytest.raises(DeadlineExceeded):
            service.fetch()

    def test_at_the_deadline_an_expired_film_is_returned(self):
        service = Service()
        service.fetch()
        service.aggregator._deadline_seconds = 0.05
        service.clock.advance(hours=25)
        Service(clock=service.clock).leases.acquire(INCEPTION)

        assert codes(service.fetch()) == dict.fromkeys(SECTION_NAMES, "stale")

    @pytest.mark.parametrize(
        ("patience", "preferred"), [(0.05, {}), (60, {"wait": 0})], ids=["patience", "wait"]
    )
    def test_a_reader_with_an_expired_copy_waits_no_longer_than_it_wants(self, patience, preferred):
        slept = []

        def sleep(seconds):
            slept.append(seconds)
            assert sum(slept) < 1
            time.sleep(seconds)

        service = Service(deadline_seconds=60, sleep=sleep)
        service.fetch()
        # Not for the first fetch, which must be complete.
        service.aggregator._queue_patience = patience
        service.clock.advance(hours=25)
        Service(clock=service.clock).leases.acquire(INCEPTION)

        assert codes(service.fetch(**preferred)) == dict.fromkeys(SECTION_NAMES, "stale")

    def test_a_request_that_follows_one_that_waits_does_not_wait_longer_than_it_wants(self):
        service = Service(queue_patience=60, deadline_seconds=60)
        service.fetch()
        service.clock.advance(hours=25)
        lease = Service(clock=service.clock).leases.acquire(INCEPTION)
        waits, may_end = threading.Event(), threading.Event()

        def sleep(seconds):
            waits.set()
            assert may_end.wait(5)

        service.aggregator._sleep = sleep
        leader = run_beside(service.fetch)
        assert waits.wait(5)

        follower = run_beside(partial(service.fetch, wait=0))

        assert codes(follower.result(5)) == dict.fromkeys(SECTION_NAMES, "stale")
        service.leases.finish(lease)
        may_end.set()
        assert leader.result(5)["warnings"] == []

    @pytest.mark.parametrize("preferred", [{}, {"wait": 30}], ids=["default", "wait"])
    def test_a_new_film_is_returned_as_far_as_a_slow_fetch_has_come(self, monkeypatch, preferred):
        service = Service(queue_patience=0, deadline_seconds=60)
        other = Service(clock=service.clock)
        is_stored, store_interim = threading.Event(), service.refresher.store_interim

        def observed(fetch):
            store_interim(fetch)
            is_stored.set()

        monkeypatch.setattr(service.refresher, "store_interim", observed)
        with service.kinocheck.silent("get_trailer") as trailer_call:
            with service.imdb.silent("get_metadata"):
                leader = run_beside(partial(service.fetch, **preferred))
                assert trailer_call.wait(5)
            assert is_stored.wait(5)
            payload = other.fetch()

        assert payload["metadata"]
        assert codes(payload)["trailer"] == "deadline"
        assert other.call_count == 0
        assert leader.result(5)["warnings"] == []

    def test_no_connection_is_held_while_waiting(self, service, monkeypatch):
        released = []
        monkeypatch.setattr(film_aggregator, "release_connection", lambda: released.append(True))

        def meanwhile(other, lease):
            assert released
            other.leases.finish(lease)

        self.follow(service, meanwhile)


class TestSeveralFilms:
    """`fetch_many` returns what is available of some films within the time of one request."""

    FILMS = ("tt0000001", "tt0000002", "tt0000003")

    def fetch_many(self, service, *imdb_ids, **reader):
        with reading_as(Reader(**reader)):
            return service.aggregator.fetch_many(imdb_ids or self.FILMS)

    @pytest.fixture
    def service(self):
        service = Service()
        service.vouch_for(*self.FILMS)
        return service

    def test_stored_films_come_without_a_call_and_are_not_counted(self, service):
        service.fetch(self.FILMS[0])
        calls = service.call_count

        films = self.fetch_many(service, self.FILMS[0], count_miss=pytest.fail)

        assert films == service.cache.read_bodies(self.FILMS[:1])
        assert service.call_count == calls

    def test_stored_films_are_noted_as_read_and_repaired_in_the_background(self, service):
        service.imdb.fail(UpstreamTimeout("imdbapi", "http_response_timeout"), "get_credits")
        service.fetch(self.FILMS[0])
        service.imdb.answers.clear()
        service.reads.store()
        FilmFetch.objects.update(read_on=None)
        service.clock.advance(hours=1)

        self.fetch_many(service, self.FILMS[0])

        assert service.reads.store() == 1
        service.background.run()
        assert service.cache.get_cached(self.FILMS[0])["warnings"] == []

    def test_an_expired_film_comes_at_once_as_stale_and_is_fetched_in_the_background(self, service):
        service.fetch(self.FILMS[0])
        calls = service.call_count
        service.clock.advance(hours=25)

        film = self.fetch_many(service, self.FILMS[0])[self.FILMS[0]]

        assert codes(film) == dict.fromkeys(SECTION_NAMES, "stale")
        assert service.call_count == calls
        service.background.run()
        assert self.fetch_many(service, self.FILMS[0]) == service.cache.read_bodies(self.FILMS[:1])

    def test_films_that_are_not_stored_are_fetched_together(self, monkeypatch):
        source = RatedSource()
        service = Service(sources={"imdbapi": source})
        service.vouch_for(*self.FILMS)
        # The connection is released when all calls are queued: one call for the metadata of all.
        grants = iter([1 + 3 * 6])
        monkeypatch.setattr(
            film_aggregator, "release_connection", lambda: source.grant(next(grants, 0))
        )

        films = self.fetch_many(service)

        assert [films[imdb_id]["imdb_id"] for imdb_id in self.FILMS] == list(self.FILMS)
        assert [film["warnings"] for film in films.values()] == [[], [], []]
        assert service.imdb.calls[0] == ("get_metadata_batch", self.FILMS)
        assert all(film.is_stored for film in films.values())

    def test_a_title_that_does_not_exist_is_an_error_of_its_own(self, service):
        service.imdb.answers["get_metadata_batch"] = {self.FILMS[0]: {"primaryTitle": "x"}}
        service.fetch(self.FILMS[0])
        service.imdb.fail(NO_SUCH_TITLE, "get_metadata")

        films = self.fetch_many(service)

        assert isinstance(films[self.FILMS[0]], Hit)
        assert isinstance(films[self.FILMS[1]], UpstreamNotFound)
        assert isinstance(films[self.FILMS[2]], UpstreamNotFound)
        remembered = self.fetch_many(service, self.FILMS[1], count_miss=pytest.fail)
        assert isinstance(remembered[self.FILMS[1]], UpstreamNotFound)

    def test_each_film_counts_and_those_beyond_the_limit_are_errors(self, service):
        counted = []

        def count(is_vouched_for):
            counted.append(is_vouched_for)
            if len(counted) > 1:
                raise Overloaded("Too fast.", retry_after=30, is_callers_fault=True)

        films = self.fetch_many(service, count_miss=count)

        assert counted == [True] * 3
        assert films[self.FILMS[0]]["warnings"] == []
        assert [type(films[imdb_id]) for imdb_id in self.FILMS[1:]] == [Overloaded] * 2

    def test_a_film_whose_metadata_is_not_there_in_time_is_none_and_follows(self, service):
        with service.imdb.silent("get_metadata"):
            films = self.fetch_many(service, self.FILMS[0], wait=0)

        assert films == {self.FILMS[0]: None}
        service.background.run()
        assert service.fetch(self.FILMS[0])["warnings"] == []
        assert service.imdb.called.count("get_metadata") == 1

    def test_metadata_alone_is_enough_and_the_rest_follows(self):
        source = RatedSource()
        service = Service(sources={"imdbapi": source}, queue_patience=0.5)
        service.vouch_for(self.FILMS[0])
        source.grant(1)

        film = self.fetch_many(service, self.FILMS[0])[self.FILMS[0]]

        assert film["metadata"]
        assert codes(film)["credits"] == "deadline"
        assert service.cache.get_cached(self.FILMS[0]) == film
        source.grant(6)
        service.background.run()
        assert service.fetch(self.FILMS[0])["warnings"] == []
        assert service.call_count == 10

    def test_of_a_film_that_another_request_fetches_there_is_what_it_has(self, service, waits):
        with service.kinocheck.silent("get_trailer") as trailer_call:
            with service.imdb.silent("get_metadata"):
                leader = run_beside(partial(service.fetch, self.FILMS[0]))
                assert trailer_call.wait(5)
                waits.get(timeout=5)
                early = self.fetch_many(service, self.FILMS[0], wait=0)
            follower = run_beside(partial(service.fetch, self.FILMS[0], wait=0))
            assert follower.result(5)["metadata"]
            late = self.fetch_many(service, self.FILMS[0], wait=0)

        assert early == {self.FILMS[0]: None}
        assert late[self.FILMS[0]]["metadata"]
        assert codes(late[self.FILMS[0]])["trailer"] == "deadline"
        assert leader.result(5)["warnings"] == []

    @pytest.mark.parametrize(
        ("patience", "preferred"), [(0.05, {}), (60, {"wait": 0})], ids=["patience", "wait"]
    )
    def test_a_film_that_another_process_does_not_store_in_time_is_none(self, patience, preferred):
        service = Service(queue_patience=patience, deadline_seconds=60)
        service.vouch_for(*self.FILMS)
        Service(clock=service.clock).leases.acquire(self.FILMS[0])

        films = self.fetch_many(service, self.FILMS[0], **preferred)

        assert films == {self.FILMS[0]: None}

    def test_a_film_that_another_process_stores_meanwhile_is_waited_for(self, service):
        other = Service(clock=service.clock)
        lease = other.leases.acquire(self.FILMS[0])
        service.aggregator._sleep = lambda _: (
            other.leases.finish(lease) and other.fetch(self.FILMS[0])
        )

        films = self.fetch_many(service, *self.FILMS[:2])

        assert films[self.FILMS[0]] == service.cache.read_bodies(self.FILMS[:1])[self.FILMS[0]]
        assert films[self.FILMS[1]]["warnings"] == []

    def test_without_a_free_slot_only_stored_films_come(self, service):
        service.fetch(self.FILMS[0])
        while service.miss_slots.acquire(blocking=False):
            pass

        films = self.fetch_many(service, count_miss=pytest.fail)

        assert isinstance(films[self.FILMS[0]], Hit)
        assert [type(films[imdb_id]) for imdb_id in self.FILMS[1:]] == [Overloaded] * 2

    @pytest.mark.parametrize("error", [OperationalError("gone"), ZeroDivisionError("a bug")])
    def test_a_film_whose_fetch_cannot_start_can_be_fetched_later(
        self, service, monkeypatch, error
    ):
        acquire = service.leases.acquire

        def fail_for_the_second(imdb_id):
            if imdb_id == self.FILMS[1]:
                raise error
            return acquire(imdb_id)

        with monkeypatch.context() as patched:
            patched.setattr(service.leases, "acquire", fail_for_the_second)
            if isinstance(error, OperationalError):
                assert self.fetch_many(service)[self.FILMS[1]] is error
            else:
                with pytest.raises(ZeroDivisionError):
                    self.fetch_many(service)
        service.background.run()

        assert not service.leases.renew_kept()
        films = self.fetch_many(service)
        assert all(films.values())
        assert [service.fetch(imdb_id)["warnings"] for imdb_id in films] == [[], [], []]

    def test_a_slot_is_released_in_any_case(self, service):
        service.imdb.answers["get_videos"] = ZeroDivisionError("a bug")
        for _ in range(5):
            with pytest.raises(ZeroDivisionError):
                self.fetch_many(service)
            service.clock.advance(minutes=1)

        assert all(service.miss_slots.acquire(blocking=False) for _ in range(4))


def test_a_bug_in_a_section_does_not_keep_the_lease_of_a_reader_that_leaves_early(caplog):
    source = RatedSource()
    service = Service(sources={"imdbapi": source}, queue_patience=0.05, deadline_seconds=60)
    service.kinocheck.answers["get_trailer"] = ZeroDivisionError("a bug")
    source.grant(1)

    with pytest.raises(ZeroDivisionError):
        service.fetch()
    source.grant(6)
    with pytest.raises(ZeroDivisionError):
        service.background.run()

    assert FilmFetch.objects.get().token == ""
    assert not service.leases.renew_kept()
