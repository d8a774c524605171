"""On which day films were last read."""

from datetime import timedelta

import pytest
from django.db import OperationalError
from django.test.utils import CaptureQueriesContext

from films.models import FilmFetch
from films.services.reads import FilmReads
from films.tests.fakes import INCEPTION, Clock
from films.tests.service import Service

pytestmark = pytest.mark.django_db


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reads(clock) -> FilmReads:
    FilmFetch.objects.create(imdb_id=INCEPTION)
    return FilmReads(now=clock)


def read_on(imdb_id: str = INCEPTION):
    return FilmFetch.objects.get(imdb_id=imdb_id).read_on


def updates(queries: CaptureQueriesContext) -> int:
    return sum(query["sql"].startswith("UPDATE") for query in queries.captured_queries)


def test_reads_are_noted_with_one_write_per_film_and_day(
    reads, clock, django_assert_num_queries, django_assert_max_num_queries
):
    with django_assert_num_queries(0):
        for _ in range(100):
            reads.note(INCEPTION)
    reads.store()
    assert read_on() == clock.time.date()

    reads.note(INCEPTION)
    with django_assert_max_num_queries(10) as queries:
        reads.store()
    assert updates(queries) == 0

    clock.advance(days=1)
    reads.note(INCEPTION)
    reads.store()
    assert read_on() == clock.time.date()


def test_a_day_of_a_clock_that_was_ahead_is_replaced(reads, clock):
    FilmFetch.objects.update(read_on=(clock.time + timedelta(days=400)).date())

    reads.note(INCEPTION)
    reads.store()

    assert read_on() == clock.time.date()


def test_without_reads_there_is_no_query(reads, django_assert_num_queries):
    with django_assert_num_queries(0):
        reads.store()


def test_reads_that_could_not_be_stored_are_stored_later(reads, clock, monkeypatch):
    def fail(imdb_ids):
        raise OperationalError("the server closed the connection")

    reads.note(INCEPTION)
    with monkeypatch.context() as patch:
        patch.setattr(reads, "_store", fail)
        with pytest.raises(OperationalError):
            reads.store()

    reads.store()

    assert read_on() == clock.time.date()


def test_many_ids_in_a_minute_do_not_fill_the_memory(clock):
    for number in range(20):
        FilmFetch.objects.create(imdb_id=f"tt{number:07}")
    reads = FilmReads(capacity=10, now=clock)

    for number in range(20):
        reads.note(f"tt{number:07}")
    reads.store()

    assert FilmFetch.objects.filter(read_on__isnull=False).count() == 10


def test_fresh_and_expired_films_count_as_read_and_failed_ones_do_not(clock):
    service = Service(clock=clock)
    service.fetch()
    service.reads.store()
    assert read_on() is None

    service.fetch()
    service.reads.store()
    assert read_on() == clock.time.date()

    clock.advance(days=2)
    service.aggregator.fetch_many([INCEPTION])
    service.reads.store()
    assert read_on() == clock.time.date()
