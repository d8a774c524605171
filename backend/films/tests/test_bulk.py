"""Many films: what is fetched, what is waited for, and how each film ends."""

import threading
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db import OperationalError

from core.errors import (
    RegionNotCovered,
    UpstreamBadAnswer,
    UpstreamNotConfigured,
    UpstreamNotFound,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from core.services.circuit_breaker import Trip
from films.services import bulk as bulk_module
from films.services.bulk import BulkResult, GivenUp, Status
from films.tests.fakes import INCEPTION
from films.tests.service import Bulk, RatedSource, Service, run_beside

FILMS = ["tt0000001", "tt0000002", "tt0000003"]


@pytest.fixture
def service(db) -> Service:
    service = Service()
    service.vouch_for(*FILMS)
    return service


@pytest.fixture
def bulk(service) -> Bulk:
    return service.bulk()


def statuses(results: list[BulkResult]) -> dict[str, Status]:
    return {result.imdb_id: result.status for result in results}


def metadata_calls(service: Service) -> list[str]:
    """The films whose metadata was requested, alone or together with others."""
    calls = service.imdb.calls
    alone = [film for method, film in calls if method == "get_metadata"]
    together = [film for method, ids in calls if method == "get_metadata_batch" for film in ids]
    return sorted(alone + together)


def open_breaker(service: Service, source: str, seconds: float) -> None:
    until = service.clock.time + timedelta(seconds=seconds)
    service.limits.publish(source, Trip(until, "rate_limited"))


class TestWhatIsFetched:
    def test_films_that_are_not_stored_become_whole(self, service, bulk):
        results = bulk.run(*FILMS)

        assert statuses(results) == dict.fromkeys(FILMS, Status.WHOLE)
        assert all(result.is_settled and result.was_fetched for result in results)
        assert all(service.cache.get_cached(imdb_id)["warnings"] == [] for imdb_id in FILMS)
        assert bulk.slept == []

    def test_another_run_fetches_only_what_the_first_did_not(self, service, bulk):
        bulk.run(*FILMS[:2])
        before = service.call_count

        results = bulk.run(*FILMS)

        assert service.call_count == before + 10
        assert [result.was_fetched for result in results] == [False, False, True]
        assert statuses(results) == dict.fromkeys(FILMS, Status.WHOLE)

    def test_of_a_fresh_film_only_the_missing_sections_are_fetched(self, service, bulk):
        service.imdb.fail(UpstreamTimeout("imdbapi", "timeout"), "get_credits", "get_videos")
        service.fetch(FILMS[0])
        service.repair_sources()

        assert statuses(bulk.run(FILMS[0])) == {FILMS[0]: Status.WHOLE}

        assert sorted(service.imdb.called) == ["get_credits", "get_videos"]
        assert service.call_count == 2

    def test_an_expired_film_is_fetched_anew(self, service, bulk):
        bulk.run(FILMS[0])
        service.clock.advance(hours=25)
        before = service.call_count

        bulk.run(FILMS[0])

        assert service.call_count == before + 9
        assert service.cache.get_cached(FILMS[0]).is_fresh

    def test_only_films_saved_before_the_given_moment_are_fetched_anew(self, service, bulk):
        bulk.run(FILMS[0])
        service.clock.advance(hours=13)
        bulk.run(FILMS[1])
        before = service.call_count

        saved_since = service.clock.time - timedelta(hours=12)
        results = bulk.run(*FILMS[:2], saved_since=saved_since)

        assert service.call_count == before + 9
        assert [result.was_fetched for result in results] == [True, False]

    def test_a_film_saved_by_a_clock_that_was_ahead_is_fetched_anew(self, service, bulk):
        bulk.run(FILMS[0])
        service.clock.advance(days=-3000)

        bulk.run(FILMS[0], saved_since=service.clock.time - timedelta(hours=12))

        film = service.cache.get_cached(FILMS[0])
        assert (film.cached_at, film.is_fresh) == (service.clock.time, True)

    def test_sections_younger_than_their_lifetime_are_carried_over(self, db):
        service = Service(lifetimes={"images": timedelta(days=30)})
        service.fetch(FILMS[0])
        service.clock.advance(hours=25)
        service.imdb.calls.clear()

        assert statuses(service.bulk().run(FILMS[0])) == {FILMS[0]: Status.WHOLE}

        called = set(service.imdb.called)
        assert "get_credits" in called
        assert "get_images" not in called

    def test_an_id_that_imdb_does_not_know_is_requested_once(self, service, bulk):
        service.imdb.fail(UpstreamNotFound("imdbapi", "not_found"), "get_metadata")

        first = bulk.run(FILMS[0])
        before = service.call_count
        second = bulk.run(FILMS[0])

        assert first == [BulkResult(FILMS[0], Status.UNKNOWN, is_settled=True)]
        assert second == [BulkResult(FILMS[0], Status.UNKNOWN, is_settled=True, was_fetched=False)]
        assert service.call_count == before

    def test_made_up_ids_make_no_call_to_the_scarce_sources(self, db):
        service = Service()
        service.imdb.fail(UpstreamNotFound("imdbapi", "not_found"), "get_metadata")
        service.imdb.answers["get_metadata_batch"] = {}

        service.bulk().run(*FILMS)

        assert set(metadata_calls(service)) == set(FILMS)
        assert set(service.imdb.called) <= {"get_metadata", "get_metadata_batch"}
        assert service.kinocheck.calls == service.watchmode.calls == []

    def test_the_metadata_of_films_is_fetched_together(self, db, monkeypatch):
        source = RatedSource()
        service = Service(sources={"imdbapi": source})
        films = [f"tt000000{number}" for number in range(1, 8)]
        service.vouch_for(*films)
        # The connection is released when the calls of some films are queued: one call for their
        # metadata, and six more of each film.
        calls = iter([1 + 5 * 6, 1 + 2 * 6])
        monkeypatch.setattr(bulk_module, "release_connection", lambda: source.grant(next(calls)))

        results = service.bulk(together=5).run(*films)

        assert statuses(results) == dict.fromkeys(films, Status.WHOLE)
        batches = [ids for method, ids in service.imdb.calls if method == "get_metadata_batch"]
        assert batches == [tuple(films[:5]), tuple(films[5:])]
        assert "get_metadata" not in service.imdb.called

    def test_a_reader_gets_a_new_film_with_its_metadata_before_the_command_has_the_rest(
        self, db, monkeypatch
    ):
        source = RatedSource()
        service, server = Service(sources={"imdbapi": source}), Service()
        service.vouch_for(INCEPTION)
        is_stored, store_interim = threading.Event(), service.refresher.store_interim

        def observed(fetch):
            store_interim(fetch)
            is_stored.set()

        monkeypatch.setattr(service.refresher, "store_interim", observed)
        source.grant(1)
        command = run_beside(partial(service.bulk().run, INCEPTION))
        assert is_stored.wait(5)

        assert server.fetch()["metadata"]
        assert server.call_count == 0
        source.grant(6)
        assert statuses(command.result(5)) == {INCEPTION: Status.WHOLE}
        assert server.fetch()["warnings"] == []


class TestWaiting:
    def test_a_cool_down_of_the_core_source_is_waited_for_before_any_call(self, service, bulk):
        open_breaker(service, "imdbapi", 30)
        calls_while_waiting: list[int] = []
        bulk.during_sleep = lambda: calls_while_waiting.append(service.call_count)

        results = bulk.run(FILMS[0])

        assert statuses(results) == {FILMS[0]: Status.WHOLE}
        assert sum(bulk.slept) >= 30
        assert set(calls_while_waiting) == {0}
        assert bulk.waits[0] == ("rate_limited", 30)

    def test_a_cool_down_that_is_too_long_is_reported_and_not_waited_for(self, service):
        open_breaker(service, "imdbapi", 600)

        results = service.bulk(patience=60).run(FILMS[0])

        assert results[0].status is Status.FAILED
        assert results[0].reasons == {"metadata": "rate_limited"}
        assert not results[0].is_settled
        assert service.call_count == 0

    def test_the_core_source_is_not_waited_for_if_it_is_not_needed(self, service, bulk):
        service.kinocheck.fail(UpstreamUnavailable("kinocheck", "x"), "get_trailer")
        service.fetch(FILMS[0])
        service.repair_sources()
        open_breaker(service, "imdbapi", 600)

        assert statuses(bulk.run(FILMS[0])) == {FILMS[0]: Status.WHOLE}
        assert bulk.slept == []

    def test_a_section_that_fails_gets_another_round_after_the_other_films(self, service, bulk):
        error = UpstreamUnavailable("kinocheck", "connection_refused")
        service.kinocheck.fail(error, "get_trailer")
        bulk.during_sleep = service.kinocheck.answers.clear

        results = bulk.run(*FILMS)

        assert statuses(results) == dict.fromkeys(FILMS, Status.WHOLE)
        assert bulk.slept == [5]
        assert bulk.waits == [("next round", 5)]
        assert metadata_calls(service) == FILMS
        assert service.imdb.called.count("get_credits") == 3
        assert service.kinocheck.called.count("get_trailer") == 2 * 3

    def test_the_rounds_end(self, service, bulk):
        error = UpstreamUnavailable("kinocheck", "connection_refused")
        service.kinocheck.fail(error, "get_trailer")

        results = bulk.run(FILMS[0])

        assert results == [
            BulkResult(FILMS[0], Status.INCOMPLETE, {"trailer": "unavailable"}, may_heal=True)
        ]
        assert len(service.kinocheck.calls) == 3

    def test_a_further_round_waits_for_a_source_that_is_not_the_core(self, service, bulk):
        error = UpstreamRateLimited("kinocheck", "rate_limited", retry_after=40)
        service.kinocheck.fail(error, "get_trailer")
        open_breaker(service, "kinocheck", 40)
        bulk.during_sleep = service.kinocheck.answers.clear

        assert statuses(bulk.run(FILMS[0])) == {FILMS[0]: Status.WHOLE}

        assert bulk.slept == [40]

    def test_a_cool_down_that_is_too_long_does_not_delay_the_next_round(self, service):
        bulk = service.bulk(patience=60)
        service.kinocheck.fail(UpstreamRateLimited("kinocheck", "x"), "get_trailer")
        open_breaker(service, "kinocheck", 600)

        bulk.run(FILMS[0])

        assert bulk.slept == []

    @pytest.mark.parametrize(
        ("error", "is_settled"),
        [
            (UpstreamNotConfigured("watchmode", "not_configured"), True),
            (RegionNotCovered("watchmode", "region_not_covered"), True),
            (UpstreamRejected("watchmode", "bad_key"), False),
        ],
    )
    def test_what_time_does_not_heal_gets_no_other_round(self, service, bulk, error, is_settled):
        service.watchmode.fail(error, "lookup_title_id")

        results = bulk.run(FILMS[0])

        assert results == [
            BulkResult(
                FILMS[0], Status.INCOMPLETE, {"streaming": error.code}, is_settled=is_settled
            )
        ]
        assert service.watchmode.called == ["lookup_title_id"]

    def test_a_film_that_is_not_complete_at_the_deadline_is_stored_as_far_as_it_came(self, service):
        bulk = service.bulk(deadline=0.5, rounds=1)

        with service.kinocheck.silent("get_trailer"):
            results = bulk.run(FILMS[0])

        assert results[0].reasons == {"trailer": "deadline"}
        assert results[0].may_heal
        assert service.cache.get_cached(FILMS[0]).warning_codes == {"trailer": "deadline"}


class TestFailures:
    def test_a_good_section_survives_a_refresh_that_fails(self, service, bulk):
        bulk.run(FILMS[0])
        service.clock.advance(hours=25)
        error = UpstreamBadAnswer("watchmode", "bad_shape")
        service.watchmode.fail(error, "get_streaming_sources")

        (result,) = bulk.run(FILMS[0])

        assert result.reasons == {"streaming": "bad_response"}
        assert service.cache.get_cached(FILMS[0])["streaming"] != []

    def test_a_film_without_new_metadata_has_failed_and_its_older_copy_is_kept(self, service, bulk):
        bulk.run(FILMS[0])
        service.clock.advance(hours=25)
        service.imdb.fail(UpstreamTimeout("imdbapi", "timeout"), "get_metadata")

        (result,) = bulk.run(FILMS[0])

        assert result.status is Status.FAILED
        assert result.reasons == {"metadata": "timeout"}
        assert service.cache.get_cached(FILMS[0])["metadata"]

    def test_a_stored_film_that_imdb_denies_is_kept_and_requested_once(self, service, bulk):
        bulk.run(FILMS[0])
        service.clock.advance(hours=25)
        service.imdb.fail(UpstreamNotFound("imdbapi", "not_found"), "get_metadata")
        service.imdb.calls.clear()

        (result,) = bulk.run(FILMS[0])

        assert result.status is Status.INCOMPLETE
        assert result.reasons == {"metadata": "not_found"}
        assert result.is_settled
        assert service.imdb.called.count("get_metadata") == 1

    @pytest.mark.parametrize("together", [1, 3])
    def test_a_run_is_given_up_after_some_films_in_a_row_for_which_the_core_source_failed(
        self, service, together
    ):
        bulk = service.bulk(failures=6, together=together)
        service.break_sources()

        with pytest.raises(GivenUp, match="unavailable"):
            bulk.run(*[f"tt{number:07}" for number in range(1, 50)])

        assert len(metadata_calls(service)) == 6

    def test_failures_that_are_not_in_a_row_do_not_end_a_run(self, service):
        bulk = service.bulk(failures=2, rounds=1, together=1)
        get_metadata = service.imdb.get_metadata

        def fail_for_odd_films(imdb_id):
            if int(imdb_id[2:]) % 2:
                raise UpstreamTimeout("imdbapi", "timeout")
            return get_metadata(imdb_id)

        service.fan_out._methods["metadata"] = fail_for_odd_films

        results = bulk.run(*[f"tt{number:07}" for number in range(1, 11)])

        assert [result.status for result in results] == [Status.FAILED, Status.WHOLE] * 5

    def test_a_film_with_unusable_metadata_does_not_hold_up_the_others(self, service, bulk):
        get_metadata = service.imdb.get_metadata

        def broken(imdb_id):
            if imdb_id == FILMS[0]:
                raise UpstreamBadAnswer("imdbapi", "bad_shape")
            return get_metadata(imdb_id)

        service.fan_out._methods["metadata"] = broken
        service.imdb.answers["get_metadata_batch"] = {}

        results = bulk.run(*FILMS)

        assert [result.imdb_id for result in results] == [*FILMS[1:], FILMS[0]]
        assert results[-1].reasons == {"metadata": "bad_response"}


class TestOtherProcess:
    def test_a_film_that_another_process_fetches_gets_another_round(self, service, bulk):
        lease = service.leases.acquire(FILMS[0])
        other = Service(clock=service.clock)

        def after_a_while():
            if len(bulk.slept) == 2:
                service.leases.finish(lease)
                other.fetch(FILMS[0])
            else:
                service.leases.is_held(lease)

        bulk.during_sleep = after_a_while

        (result,) = bulk.run(FILMS[0])

        assert result.status is Status.WHOLE
        assert not result.was_fetched
        assert service.call_count == 0

    def test_a_film_that_another_process_fetches_for_too_long_has_failed(self, service):
        service.leases.acquire(FILMS[0])

        (result,) = service.bulk(rounds=1).run(FILMS[0])

        assert result == BulkResult(FILMS[0], Status.FAILED, {"film": "busy"}, may_heal=True)
        assert service.call_count == 0

    def test_what_another_process_stored_in_between_is_not_overwritten(self, service, bulk):
        error = UpstreamTimeout("imdbapi", "timeout")
        service.imdb.fail(error, "get_credits", "get_images")
        service.fetch(FILMS[0])
        service.repair_sources()
        acquire = service.leases.acquire

        def acquire_late(imdb_id):
            payload: Any = service.cache.get_cached(imdb_id)
            payload["credits"] = {"credits": [{"category": "newer"}]}
            payload["warnings"] = [w for w in payload["warnings"] if w["section"] != "credits"]
            service.cache.save_cache(imdb_id, payload)
            return acquire(imdb_id)

        service.leases.acquire = acquire_late

        bulk.run(FILMS[0])

        payload = service.cache.get_cached(FILMS[0])
        assert payload["credits"] == {"credits": [{"category": "newer"}]}
        assert payload["warnings"] == []
        assert service.imdb.called == ["get_images"]

    def test_a_film_that_another_process_completed_in_between_is_not_fetched(self, service, bulk):
        acquire = service.leases.acquire
        other = Service(clock=service.clock)

        def acquire_late(imdb_id):
            other.fetch(imdb_id)
            return acquire(imdb_id)

        service.leases.acquire = acquire_late

        (result,) = bulk.run(FILMS[0])

        assert result == BulkResult(FILMS[0], Status.WHOLE, is_settled=True, was_fetched=False)
        assert service.call_count == 0


class TestDatabase:
    @pytest.mark.parametrize("failing_read", [1, 2])
    def test_a_database_that_fails_for_a_moment_costs_no_film(
        self, service, bulk, monkeypatch, failing_read
    ):
        get_cached, reads = service.cache.get_cached, []

        def get_cached_badly(imdb_id):
            reads.append(imdb_id)
            if len(reads) == failing_read:
                raise OperationalError("gone")
            return get_cached(imdb_id)

        monkeypatch.setattr(service.cache, "get_cached", get_cached_badly)

        results = bulk.run(*FILMS[:2])

        assert statuses(results) == dict.fromkeys(FILMS[:2], Status.WHOLE)

    def test_a_film_that_was_fetched_and_could_not_be_stored_is_no_success(
        self, service, monkeypatch
    ):
        def fail(*args):
            raise OperationalError("disk full")

        monkeypatch.setattr(service.cache, "save_cache", fail)

        (result,) = service.bulk(rounds=1).run(FILMS[0])

        assert result.reasons == {"film": "not_stored"}
        assert not result.is_settled
