"""One fetch of a film at a time, and what is known of its fetches."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from films.models import Film, FilmFetch
from films.services.leases import MISSING_TIME, FetchLeases
from films.tests.fakes import INCEPTION, Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def leases(clock):
    return FetchLeases(lease_time=timedelta(seconds=4), now=clock)


@pytest.mark.skipif(
    connection.vendor == "sqlite",
    reason="threads of a test share one SQLite in memory, which refuses instead of waiting",
)
def test_of_40_threads_at_once_one_gets_the_lease(leases, transactional_db):
    start = threading.Barrier(40)

    def acquire():
        start.wait(10)
        try:
            return leases.acquire(INCEPTION)
        finally:
            connection.close()

    with ThreadPoolExecutor(40) as pool:
        acquired = [future.result(30) for future in [pool.submit(acquire) for _ in range(40)]]

    assert len([lease for lease in acquired if lease]) == 1
    assert FilmFetch.objects.count() == 1


@pytest.mark.django_db
class TestLease:
    def test_while_one_is_given_there_is_no_other(self, leases):
        assert leases.acquire(INCEPTION)
        assert leases.acquire(INCEPTION) is None

    def test_each_film_has_its_own(self, leases):
        leases.acquire(INCEPTION)

        assert leases.acquire("tt0111161")

    def test_a_finished_lease_can_be_acquired_again(self, leases):
        lease = leases.acquire(INCEPTION)
        leases.finish(lease)

        assert leases.acquire(INCEPTION)

    def test_a_lease_that_is_not_renewed_ends_after_its_time(self, leases, clock):
        leases.acquire(INCEPTION)

        clock.advance(seconds=3.9)
        assert leases.acquire(INCEPTION) is None
        clock.advance(seconds=0.1)
        assert leases.acquire(INCEPTION)

    def test_a_kept_lease_is_renewed_until_it_is_finished(self, leases, clock):
        lease = leases.acquire(INCEPTION)
        leases.keep(lease)

        for _ in range(10):
            clock.advance(seconds=3)
            assert leases.renew_kept()
            assert leases.acquire(INCEPTION) is None

        leases.finish(lease)
        assert not leases.renew_kept()

    def test_a_lease_is_not_renewed_more_often_than_necessary(
        self, leases, clock, django_assert_num_queries
    ):
        leases.keep(leases.acquire(INCEPTION))

        clock.advance(seconds=0.9)
        with django_assert_num_queries(0):
            assert leases.renew_kept()
        clock.advance(seconds=0.1)
        with django_assert_num_queries(1):
            leases.renew_kept()
        clock.advance(seconds=0.9)
        with django_assert_num_queries(0):
            leases.renew_kept()

    def test_a_lease_that_was_acquired_and_not_kept_is_not_renewed(self, leases):
        leases.acquire(INCEPTION)

        assert not leases.renew_kept()

    def test_a_lease_that_another_process_took_over_is_not_renewed(self, leases, clock):
        lease = leases.acquire(INCEPTION)
        leases.keep(lease)
        clock.advance(seconds=5)
        other = FetchLeases(lease_time=timedelta(seconds=4), now=clock)
        assert other.acquire(INCEPTION)
        clock.advance(seconds=3)

        leases.renew_kept()

        clock.advance(seconds=1)
        assert leases.acquire(INCEPTION), "the lease of the other process was renewed"

    def test_after_a_pause_of_its_process_a_lease_can_neither_be_renewed_nor_finished(
        self, leases, clock
    ):
        paused = leases.acquire(INCEPTION)
        clock.advance(seconds=5)
        current = leases.acquire(INCEPTION)

        assert not leases.is_held(paused)
        assert not leases.finish(paused, failure="timeout")

        assert leases.record(INCEPTION).failure == ""
        assert leases.is_held(current)

    def test_is_held_renews(self, leases, clock):
        lease = leases.acquire(INCEPTION)
        clock.advance(seconds=3)

        assert leases.is_held(lease)

        clock.advance(seconds=3)
        assert leases.acquire(INCEPTION) is None

    def test_a_lease_that_ended_and_that_nobody_took_over_can_still_be_finished(
        self, leases, clock
    ):
        lease = leases.acquire(INCEPTION)
        clock.advance(seconds=60)

        assert leases.finish(lease)

    def test_findings_are_stored_with_the_end(self, leases, clock):
        lease = leases.acquire(INCEPTION)

        assert leases.finish(lease, failure="timeout", watchmode_id=5)

        record = leases.record(INCEPTION)
        assert (record.failure, record.watchmode_id, record.ended_at) == ("timeout", 5, clock.time)
        assert (record.token, record.leased_until) == ("", None)

    def test_findings_outlive_the_next_lease_and_come_with_it(self, leases):
        leases.finish(leases.acquire(INCEPTION), watchmode_id=5)

        lease = leases.acquire(INCEPTION)

        assert leases.record(INCEPTION).watchmode_id == 5
        assert lease.record.watchmode_id == 5

    def test_the_record_of_a_film_that_was_never_requested_is_empty_and_not_stored(self, leases):
        record = leases.record(INCEPTION)

        assert (record.imdb_id, record.token, record.missing_until) == (INCEPTION, "", None)
        assert not FilmFetch.objects.exists()


@pytest.mark.django_db
class TestClockThatWasAhead:
    """Moments that no rule explains are shortened, in the row too."""

    def test_a_lease_ends_at_once(self, leases, clock):
        FilmFetch.objects.create(
            imdb_id=INCEPTION, token="x", leased_until=clock.time + timedelta(days=300)
        )

        assert leases.acquire(INCEPTION)

    @pytest.mark.parametrize("seconds", [0.1, 4, 13])
    def test_a_lease_of_another_clock_within_the_tolerance_is_respected(
        self, leases, clock, seconds
    ):
        until = clock.time + timedelta(seconds=seconds)
        FilmFetch.objects.create(imdb_id=INCEPTION, token="x", leased_until=until)

        assert leases.acquire(INCEPTION) is None

    @pytest.mark.parametrize(
        ("name", "longest"),
        [
            ("missing_until", timedelta(hours=1)),
            ("retry_at", timedelta(days=1)),
            ("ended_at", timedelta()),
            ("watchmode_at", timedelta()),
            ("missing_since", timedelta()),
            ("seen_at", timedelta()),
        ],
    )
    def test_a_moment_is_at_most_its_longest_span_away_and_does_not_move_with_the_clock(
        self, leases, clock, name, longest
    ):
        limit = clock.time + longest
        FilmFetch.objects.create(imdb_id=INCEPTION, **{name: clock.time + timedelta(days=3000)})

        assert getattr(leases.record(INCEPTION), name) == limit
        clock.advance(minutes=1)
        assert getattr(leases.record(INCEPTION), name) == limit
        assert getattr(leases.acquire(INCEPTION).record, name) == limit

    @settings(
        max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
    )
    @given(
        st.fixed_dictionaries(
            {},
            optional=dict.fromkeys(
                (
                    "leased_until",
                    "missing_since",
                    "missing_until",
                    "retry_at",
                    "ended_at",
                    "watchmode_at",
                    "seen_at",
                ),
                st.timedeltas(min_value=timedelta(days=-5000), max_value=timedelta(days=5000)),
            ),
        )
    )
    def test_no_stored_moment_keeps_a_film_for_longer_than_a_day(self, leases, clock, spans):
        FilmFetch.objects.all().delete()
        moments = {name: clock.time + span for name, span in spans.items()}
        FilmFetch.objects.create(imdb_id=INCEPTION, token="x", **moments)
        now = clock.time

        record = leases.record(INCEPTION)
        clock.time = now + timedelta(hours=1, seconds=20)
        assert not leases.is_missing(record, is_stored=False)
        clock.time = now + timedelta(days=1, seconds=20)
        assert INCEPTION not in leases.cooling_down().values_list("imdb_id", flat=True)
        clock.time = now
        if spans.get("leased_until", timedelta()) > timedelta(seconds=15):
            assert leases.acquire(INCEPTION)


@pytest.mark.django_db
class TestMissing:
    def record(self, clock, since: timedelta, until: timedelta) -> FilmFetch:
        return FilmFetch(missing_since=clock.time + since, missing_until=clock.time + until)

    def test_a_new_title_is_missing_for_an_hour(self, leases, clock):
        record = self.record(clock, timedelta(), MISSING_TIME)

        assert leases.is_missing(record, is_stored=False)
        clock.advance(minutes=59, seconds=59)
        assert leases.is_missing(record, is_stored=False)
        clock.advance(seconds=1)
        assert not leases.is_missing(record, is_stored=False)

    @pytest.mark.parametrize(("minutes", "is_missing"), [(0, False), (59, False), (60, True)])
    def test_a_stored_film_is_missing_after_two_denials_an_hour_apart(
        self, leases, clock, minutes, is_missing
    ):
        record = self.record(clock, -timedelta(minutes=minutes), MISSING_TIME)

        assert leases.is_missing(record, is_stored=True) is is_missing

    def test_a_title_that_was_never_denied_is_not_missing(self, leases):
        assert not leases.is_missing(FilmFetch(), is_stored=False)


@pytest.mark.django_db
class TestSeen:
    def test_titles_that_were_found_are_vouched_for(self, leases, clock):
        leases.note_seen([INCEPTION, "tt0111161"])

        assert leases.record(INCEPTION).seen_at == clock.time
        assert leases.is_vouched_for(leases.record("tt0111161"))

    def test_the_same_title_twice_in_one_result_is_noted(self, leases):
        leases.note_seen([INCEPTION, INCEPTION])

        assert leases.is_vouched_for(leases.record(INCEPTION))

    def test_what_is_known_already_is_kept(self, leases, clock):
        lease = leases.acquire(INCEPTION)
        leases.finish(lease, watchmode_id=5)

        leases.note_seen([INCEPTION])

        record = leases.record(INCEPTION)
        assert (record.watchmode_id, record.seen_at) == (5, clock.time)

    def test_an_id_that_only_its_caller_names_is_not_vouched_for(self, leases):
        leases.finish(leases.acquire(INCEPTION), failure="timeout")

        assert not leases.is_vouched_for(leases.record(INCEPTION))


@pytest.mark.django_db
class TestForgetting:
    def missing(self, leases, clock, imdb_id=INCEPTION, **findings):
        until = clock.time + timedelta(hours=1)
        leases.finish(
            leases.acquire(imdb_id), missing_since=clock.time, missing_until=until, **findings
        )

    def forgotten(self, leases, clock):
        return leases.forget_unstored(clock.time - timedelta(days=1), stored=Film.objects.all())

    def test_made_up_ids_that_are_no_longer_requested_are_deleted(self, leases, clock):
        self.missing(leases, clock, watchmode_id=None, watchmode_at=clock.time)
        clock.advance(days=2)

        assert self.forgotten(leases, clock) == 1
        assert not FilmFetch.objects.exists()

    def test_ids_whose_fetch_failed_or_never_ended_are_deleted(self, leases, clock):
        leases.finish(leases.acquire(INCEPTION), failure="timeout")
        leases.acquire("tt0068646")
        clock.advance(days=2)

        assert self.forgotten(leases, clock) == 2

    def test_ids_requested_lately_are_kept(self, leases, clock):
        self.missing(leases, clock)
        leases.finish(leases.acquire("tt0111161"), failure="timeout")
        leases.acquire("tt0068646")
        clock.advance(hours=23)

        assert self.forgotten(leases, clock) == 0

    @pytest.mark.parametrize(("days", "deleted"), [(29, 0), (31, 1)])
    def test_titles_that_a_search_found_are_kept_for_30_days(self, leases, clock, days, deleted):
        leases.note_seen([INCEPTION])
        clock.advance(days=days)

        assert self.forgotten(leases, clock) == deleted

    def test_records_of_stored_films_are_kept(self, leases, clock):
        leases.finish(leases.acquire(INCEPTION), watchmode_id=5, watchmode_at=clock.time)
        Film.objects.create(imdb_id=INCEPTION, title="Inception")
        clock.advance(days=2)

        assert self.forgotten(leases, clock) == 0

    def test_only_films_whose_last_fetch_failed_and_is_not_due_cool_down(self, leases, clock):
        for imdb_id, seconds in (("tt0000001", 60), ("tt0000002", 0), ("tt0000003", -60)):
            retry_at = clock.time + timedelta(seconds=seconds)
            leases.finish(leases.acquire(imdb_id), retry_at=retry_at)
        leases.finish(leases.acquire("tt0000004"))

        assert [row["imdb_id"] for row in leases.cooling_down()] == ["tt0000001"]
