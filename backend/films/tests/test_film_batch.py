"""Many films at once: what is asked for, what is waited for, and what is told in the end."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError

from core.budgets import Pace, Quota
from core.errors import (
    DeadlineExceeded,
    RegionNotCovered,
    UpstreamBadAnswer,
    UpstreamNotConfigured,
    UpstreamNotFound,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from core.models import UpstreamState
from films.models import Film
from films.services.fan_out import IN_LINE
from films.services.film_batch import BatchPolicy, BatchResult, Ending, FilmBatch, GivenUp
from films.tests.house import House

FILMS = ["tt0000001", "tt0000002", "tt0000003"]
CLOSED_TRAILER = UpstreamRateLimited("kinocheck", "rate_limited", retry_after=40)


class Batch:
    """A batch whose waits move the clock of the house and are written down."""

    def __init__(self, house: House, **policy: Any) -> None:
        self.house = house
        self.slept: list[float] = []
        self.told: list[tuple[str, float]] = []
        self.during_sleep = lambda: None
        self.batch = FilmBatch(
            cache=house.cache,
            register=house.register,
            fetcher=house.fetcher,
            budgets=house.budgets,
            policy=BatchPolicy(**{"deadline": 5, **policy}),
            sleep=self.sleep,
        )

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.house.clock.pass_by(seconds=seconds)
        self.during_sleep()

    def run(self, *imdb_ids: str, saved_since=None) -> list[BatchResult]:
        return list(
            self.batch.run(
                imdb_ids,
                saved_since=saved_since,
                on_wait=lambda reason, seconds: self.told.append((reason, seconds)),
            )
        )


@pytest.fixture
def house(db) -> House:
    return House()


@pytest.fixture
def batch(house) -> Batch:
    return Batch(house)


def endings(results: list[BatchResult]) -> dict[str, Ending]:
    return {result.imdb_id: result.ending for result in results}


def test_films_that_are_missing_become_whole(house, batch):
    results = batch.run(*FILMS)

    assert endings(results) == dict.fromkeys(FILMS, Ending.WHOLE)
    assert all(result.is_settled and result.was_fetched for result in results)
    assert all(house.cache.load(imdb_id).payload["warnings"] == [] for imdb_id in FILMS)
    assert batch.slept == []


def test_another_run_asks_only_for_what_the_first_did_not_do(house, batch):
    batch.run(*FILMS[:2])
    before = house.calls

    results = batch.run(*FILMS)

    assert house.calls == before + 10
    assert [result.was_fetched for result in results] == [False, False, True]
    assert endings(results) == dict.fromkeys(FILMS, Ending.WHOLE)


def test_of_a_film_that_is_fresh_only_the_missing_sections_are_fetched(house, batch):
    house.imdb.fail(UpstreamTimeout("imdbapi", "timeout"), "get_credits", "get_videos")
    house.fetch(FILMS[0])
    house.mend_everything()
    house.imdb.asked.clear()

    assert endings(batch.run(FILMS[0])) == {FILMS[0]: Ending.WHOLE}

    assert sorted(house.imdb.asked) == ["get_credits", "get_videos"]


def test_a_film_past_its_time_to_live_is_fetched_anew(house, batch):
    batch.run(FILMS[0])
    house.clock.pass_by(hours=25)
    before = house.calls

    batch.run(FILMS[0])

    assert house.calls == before + 9
    assert house.cache.load(FILMS[0]).is_fresh


def test_only_films_saved_before_the_moment_given_are_fetched_anew(house, batch):
    batch.run(FILMS[0])
    house.clock.pass_by(hours=13)
    batch.run(FILMS[1])
    before = house.calls

    results = batch.run(*FILMS[:2], saved_since=house.clock() - timedelta(hours=12))

    assert house.calls == before + 9
    assert [result.was_fetched for result in results] == [True, False]


def test_an_id_that_imdb_does_not_know_is_asked_for_once(house, batch):
    house.imdb.fail(UpstreamNotFound("imdbapi", "not_found"), "get_metadata")

    first = batch.run(FILMS[0])
    before = house.calls
    second = batch.run(FILMS[0])

    assert endings(first) == endings(second) == {FILMS[0]: Ending.UNKNOWN}
    assert house.calls == before
    assert first[0].is_settled


def test_sections_in_line_are_completed_before_the_next_film(house, batch):
    run = house.fan_out.run
    asked: list[tuple[str, int]] = []

    def two_at_a_time(imdb_id, sections, **options):
        asked.append((imdb_id, len(sections)))
        outcomes = run(imdb_id, list(sections)[:2], **options)
        waiting = {name: DeadlineExceeded("imdbapi", IN_LINE) for name in list(sections)[2:]}
        return outcomes | waiting

    house.fan_out.run = two_at_a_time

    results = batch.run(*FILMS[:2])

    assert endings(results) == dict.fromkeys(FILMS[:2], Ending.WHOLE)
    assert asked == [(film, left) for film in FILMS[:2] for left in (9, 7, 5, 3, 1)]
    assert batch.slept == []


def test_a_cool_down_of_the_core_source_is_waited_out_before_anybody_is_asked(house, batch):
    error = UpstreamRateLimited("imdbapi", "rate_limited", retry_after=30)
    house.budgets._gates["imdbapi"].record_failure(error)
    calls_while_waiting: list[int] = []
    batch.during_sleep = lambda: calls_while_waiting.append(house.calls)

    results = batch.run(FILMS[0])

    assert endings(results) == {FILMS[0]: Ending.WHOLE}
    assert sum(batch.slept) >= 30
    assert set(calls_while_waiting) == {0}
    assert batch.told[0] == ("rate_limited", 30)


def test_a_cool_down_that_is_too_long_is_told_instead_of_waited_for(house):
    batch = Batch(house, patience=60)
    error = UpstreamRateLimited("imdbapi", "rate_limited", retry_after=600)
    house.budgets._gates["imdbapi"].record_failure(error)

    results = batch.run(FILMS[0])

    assert results[0].ending is Ending.FAILED
    assert results[0].reasons == {"metadata": "rate_limited"}
    assert not results[0].is_settled
    assert house.calls == 0


def test_a_section_that_fails_gets_another_round_after_the_other_films(house, batch):
    house.kinocheck.fail(UpstreamUnavailable("kinocheck", "connection_refused"), "get_trailer")
    batch.during_sleep = house.mend_everything

    results = batch.run(*FILMS)

    assert endings(results) == dict.fromkeys(FILMS, Ending.WHOLE)
    assert batch.slept == [5]
    # In the second round nothing but the trailers.
    assert len(house.imdb.asked) == 7 * 3
    assert len(house.kinocheck.asked) == 2 * 3


def test_rounds_end(house, batch):
    house.kinocheck.fail(UpstreamUnavailable("kinocheck", "connection_refused"), "get_trailer")

    results = batch.run(FILMS[0])

    assert results == [
        BatchResult(FILMS[0], Ending.INCOMPLETE, {"trailer": "unavailable"}, may_heal=True)
    ]
    assert len(house.kinocheck.asked) == 3


def test_a_round_waits_for_a_source_that_is_not_the_core(house, batch):
    house.kinocheck.fail(CLOSED_TRAILER, "get_trailer")
    house.budgets._gates["kinocheck"].record_failure(CLOSED_TRAILER)
    batch.during_sleep = house.mend_everything

    assert endings(batch.run(FILMS[0])) == {FILMS[0]: Ending.WHOLE}

    assert batch.slept == [40]
    assert house.kinocheck.asked == ["get_trailer"]


@pytest.mark.parametrize(
    ("error", "is_settled"),
    [
        (UpstreamNotConfigured("watchmode", "not_configured"), True),
        (RegionNotCovered("watchmode", "region_not_covered"), True),
        (UpstreamRejected("watchmode", "bad_key"), False),
    ],
)
def test_what_time_does_not_heal_gets_no_other_round(house, batch, error, is_settled):
    house.watchmode.fail(error, "lookup_title_id")

    results = batch.run(FILMS[0])

    assert results == [
        BatchResult(FILMS[0], Ending.INCOMPLETE, {"streaming": error.code}, is_settled=is_settled)
    ]
    assert house.watchmode.asked == ["lookup_title_id"]


def test_the_reserve_of_a_quota_is_left_to_readers_also_for_stored_films(db):
    house = House(quotas={"watchmode": Quota("%Y-%m", 100)})
    UpstreamState.objects.create(source="watchmode", quota_period="2026-03", quota_used=95)
    batch = Batch(house)
    house.fetch(FILMS[0])
    house.clock.pass_by(hours=25)

    results = batch.run(*FILMS[:2])

    assert {result.reasons["streaming"] for result in results} == {"quota_exhausted"}
    assert house.watchmode.asked == []


def test_a_good_section_survives_a_refresh_that_fails(house, batch):
    batch.run(FILMS[0])
    house.clock.pass_by(hours=25)
    house.watchmode.fail(UpstreamBadAnswer("watchmode", "bad_shape"), "get_streaming_sources")

    (result,) = batch.run(FILMS[0])

    assert result.reasons == {"streaming": "bad_response"}
    assert house.cache.load(FILMS[0]).payload["streaming"] != []


def test_a_film_whose_metadata_cannot_be_had_has_failed_though_an_older_copy_stays(house, batch):
    batch.run(FILMS[0])
    house.clock.pass_by(hours=25)
    house.imdb.fail(UpstreamTimeout("imdbapi", "timeout"), "get_metadata")

    (result,) = batch.run(FILMS[0])

    assert result.ending is Ending.FAILED
    assert result.reasons == {"metadata": "timeout"}
    assert house.cache.load(FILMS[0]).payload["metadata"]


def test_a_stored_film_that_imdb_denies_is_kept_and_not_asked_for_again_and_again(house, batch):
    batch.run(FILMS[0])
    house.clock.pass_by(hours=25)
    house.imdb.fail(UpstreamNotFound("imdbapi", "not_found"), "get_metadata")
    house.imdb.asked.clear()

    (result,) = batch.run(FILMS[0])

    assert result.ending is Ending.INCOMPLETE
    assert result.reasons == {"metadata": "not_found"}
    assert result.is_settled
    assert house.imdb.asked.count("get_metadata") == 1


def test_a_dead_core_source_is_left_alone_after_some_films_in_a_row(house):
    batch = Batch(house, failures=4)
    house.break_everything()

    with pytest.raises(GivenUp, match="unavailable"):
        batch.run(*[f"tt{number:07}" for number in range(1, 50)])

    assert house.imdb.asked.count("get_metadata") == 4


def test_a_film_that_is_broken_by_itself_holds_up_nobody(house, batch):
    get_metadata = house.imdb.get_metadata

    def broken(imdb_id):
        if imdb_id == FILMS[0]:
            raise UpstreamBadAnswer("imdbapi", "bad_shape")
        return get_metadata(imdb_id)

    house.imdb.get_metadata = broken
    house.fan_out._fetches["metadata"] = broken

    results = batch.run(*FILMS)

    assert [result.imdb_id for result in results] == [*FILMS[1:], FILMS[0]]
    assert results[-1].reasons == {"metadata": "bad_response"}


def test_a_film_that_another_process_fetches_is_waited_for(house, batch):
    lease = house.register.acquire(FILMS[0])

    def other_process_is_done():
        if len(batch.slept) == 3:
            house.fetcher.fetch(lease, None)
        else:
            house.register.renew(lease)

    batch.during_sleep = other_process_is_done

    (result,) = batch.run(FILMS[0])

    assert result.ending is Ending.WHOLE
    assert not result.was_fetched
    assert house.calls == 10


def test_a_film_that_another_process_does_not_let_go_has_failed(house):
    batch = Batch(house, rounds=1)
    lease = house.register.acquire(FILMS[0])
    batch.during_sleep = lambda: house.register.renew(lease)

    (result,) = batch.run(FILMS[0])

    assert result.reasons == {"film": "busy"}
    assert house.calls == 0


def test_what_another_process_stored_in_between_is_not_overwritten(house, batch):
    house.imdb.fail(UpstreamTimeout("imdbapi", "timeout"), "get_credits", "get_images")
    house.fetch(FILMS[0])
    house.mend_everything()
    acquire = house.register.acquire

    def acquire_late(imdb_id):
        payload = house.cache.load(imdb_id).payload
        payload["credits"] = {"credits": [{"category": "newer"}]}
        payload["warnings"] = [w for w in payload["warnings"] if w["section"] != "credits"]
        house.cache.save_cache(imdb_id, payload)
        house.register.acquire = acquire
        return acquire(imdb_id)

    house.register.acquire = acquire_late

    batch.run(FILMS[0])

    payload = house.cache.load(FILMS[0]).payload
    assert payload["credits"] == {"credits": [{"category": "newer"}]}
    assert payload["warnings"] == []


def test_a_database_that_fails_for_a_moment_costs_no_film(house, batch):
    load, failures = house.cache.load, iter([OperationalError("gone")])

    def load_badly_once(imdb_id):
        for error in failures:
            raise error
        return load(imdb_id)

    house.cache.load = load_badly_once

    results = batch.run(*FILMS[:2])

    assert endings(results) == dict.fromkeys(FILMS[:2], Ending.WHOLE)


def test_a_film_that_was_fetched_and_could_not_be_written_is_no_success(house):
    batch = Batch(house, rounds=1)

    def store(*args, **kwargs):
        raise OperationalError("disk full")

    house.cache.store = store

    (result,) = batch.run(FILMS[0])

    assert result.reasons == {"film": "not_stored"}
    assert not result.is_settled


def test_the_oldest_films_come_first_and_films_at_rest_not_at_all(house, batch):
    for imdb_id in FILMS:
        batch.run(imdb_id)
        house.clock.pass_by(hours=1)
    Film.objects.create(imdb_id="tt0000009", title="never cached")
    lease = house.register.acquire(FILMS[1])
    house.register.finish(lease, retry_at=house.clock() + timedelta(minutes=1))

    moment = house.clock() - timedelta(hours=1, minutes=30)
    ids = house.cache.saved_before(moment, without=house.register.resting())

    assert ids == ["tt0000009", FILMS[0]]


def test_a_spare_call_slows_down_the_burst_and_not_the_pace(db):
    house = House(paces={"imdbapi": Pace(8, 5, spare=1)})

    assert house.budgets.take("imdbapi", 20) == (7, pytest.approx(5 / 8))
    house.clock.pass_by(seconds=2.5)
    assert house.budgets.take("imdbapi", 20)[0] == 4
    house.clock.pass_by(seconds=60)
    assert house.budgets.take("imdbapi", 20)[0] == 7
