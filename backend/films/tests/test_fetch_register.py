"""Who fetches which film."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection

from films.models import Film, FilmFetch
from films.services.fetch_register import FetchRegister
from films.tests.fakes import INCEPTION, Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def register(clock):
    return FetchRegister(lease_time=timedelta(seconds=4), now=clock)


@pytest.mark.skipif(
    connection.vendor == "sqlite",
    reason="threads of a test share one SQLite in memory, which refuses instead of waiting",
)
def test_of_40_threads_at_once_one_gets_the_lease(register, transactional_db):
    start = threading.Barrier(40)

    def acquire():
        start.wait(10)
        try:
            return register.acquire(INCEPTION)
        finally:
            connection.close()

    with ThreadPoolExecutor(40) as pool:
        leases = [future.result(30) for future in [pool.submit(acquire) for _ in range(40)]]

    assert len([lease for lease in leases if lease]) == 1
    assert FilmFetch.objects.count() == 1


@pytest.mark.django_db
class TestLease:
    def test_the_second_who_asks_gets_none(self, register):
        assert register.acquire(INCEPTION)
        assert register.acquire(INCEPTION) is None

    def test_films_are_leased_one_by_one(self, register):
        register.acquire(INCEPTION)

        assert register.acquire("tt0111161")

    def test_when_it_is_given_back_the_next_one_gets_it(self, register):
        lease = register.acquire(INCEPTION)
        register.finish(lease)

        assert register.acquire(INCEPTION)

    def test_one_that_is_not_renewed_is_over_after_its_time(self, register, clock):
        register.acquire(INCEPTION)

        clock.pass_by(seconds=3.9)
        assert register.acquire(INCEPTION) is None
        clock.pass_by(seconds=0.1)
        assert register.acquire(INCEPTION)

    def test_one_that_is_renewed_holds_on(self, register, clock):
        lease = register.acquire(INCEPTION)

        for _ in range(10):
            clock.pass_by(seconds=3)
            assert register.renew(lease)
            assert register.acquire(INCEPTION) is None

    def test_who_was_paused_for_too_long_can_neither_renew_nor_finish(self, register, clock):
        paused = register.acquire(INCEPTION)
        clock.pass_by(seconds=5)
        current = register.acquire(INCEPTION)

        assert not register.renew(paused)
        assert not register.finish(paused, failure="timeout")

        assert register.entry(INCEPTION).failure == ""
        assert register.renew(current)

    def test_who_comes_late_but_before_anybody_else_may_still_finish(self, register, clock):
        lease = register.acquire(INCEPTION)
        clock.pass_by(seconds=60)

        assert register.finish(lease)

    def test_findings_are_noted_with_the_end(self, register, clock):
        lease = register.acquire(INCEPTION)

        register.finish(lease, failure="timeout", watchmode_id=5)

        entry = register.entry(INCEPTION)
        assert (entry.failure, entry.watchmode_id, entry.ended_at) == ("timeout", 5, clock.time)
        assert (entry.token, entry.leased_until) == ("", None)

    def test_what_was_found_out_survives_the_next_lease(self, register):
        register.finish(register.acquire(INCEPTION), watchmode_id=5)
        register.acquire(INCEPTION)

        assert register.entry(INCEPTION).watchmode_id == 5

    def test_nothing_is_known_of_a_film_that_nobody_asked_for(self, register):
        entry = register.entry(INCEPTION)

        assert (entry.imdb_id, entry.token, entry.missing_until) == (INCEPTION, "", None)
        assert not FilmFetch.objects.exists()


@pytest.mark.django_db
class TestForgetting:
    def missing(self, register, clock, imdb_id=INCEPTION, **findings):
        until = clock.time + timedelta(hours=1)
        register.finish(
            register.acquire(imdb_id), missing_since=clock.time, missing_until=until, **findings
        )

    def forgotten(self, register, clock):
        return register.forget_unstored(clock.time - timedelta(days=1), stored=Film.objects.all())

    def test_made_up_ids_are_forgotten_when_nobody_asks_any_more(self, register, clock):
        # Watchmode was asked at the same time, and did not know it either.
        self.missing(register, clock, watchmode_id=None, watchmode_at=clock.time)
        clock.pass_by(days=2)

        assert self.forgotten(register, clock) == 1
        assert not FilmFetch.objects.exists()

    def test_ids_whose_fetch_failed_or_died_are_forgotten_too(self, register, clock):
        register.finish(register.acquire(INCEPTION), failure="timeout")
        register.acquire("tt0068646")
        clock.pass_by(days=2)

        assert self.forgotten(register, clock) == 2

    def test_those_asked_for_lately_are_kept(self, register, clock):
        self.missing(register, clock)
        register.finish(register.acquire("tt0111161"), failure="timeout")
        register.acquire("tt0068646")
        clock.pass_by(hours=23)

        assert self.forgotten(register, clock) == 0

    def test_stored_films_are_kept(self, register, clock):
        register.finish(register.acquire(INCEPTION), watchmode_id=5, watchmode_at=clock.time)
        Film.objects.create(imdb_id=INCEPTION, title="Inception")
        clock.pass_by(days=2)

        assert self.forgotten(register, clock) == 0
