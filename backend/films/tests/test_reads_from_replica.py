"""Whether the bytes of a film come from the replica or from the primary."""

from datetime import timedelta

import pytest
from django.db import OperationalError

from core.db import fetch_row
from films.models import Film, FilmRendering
from films.services import film_cache
from films.services.film_cache import FilmCacheService
from films.tests.fakes import INCEPTION, Clock, film_payload

pytestmark = pytest.mark.django_db


class FakeReplica:
    """Gives `row` for every query."""

    def __init__(self) -> None:
        self.is_current = True
        self.is_trusted = False
        self.row = None
        self.reads = 0

    def trust(self) -> None:
        self.is_trusted = True

    def fetch_row(self, query, params):
        self.reads += 1
        return self.row(query, params) if callable(self.row) else self.row


class Stored:
    """A film in the primary, and a replica that is made to differ."""

    def __init__(self, monkeypatch) -> None:
        self.clock, self.replica = Clock(), FakeReplica()
        self.primary_reads = 0
        self.primary_fails = False
        self.cache = FilmCacheService(
            ttl=timedelta(hours=24),
            offers_max_age=timedelta(days=30),
            replica=self.replica,
            now=self.clock,
        )
        self.cache.save_cache(INCEPTION, film_payload())
        monkeypatch.setattr(film_cache, "fetch_row", self._fetch_row)

    def read(self):
        return self.cache.read_body(INCEPTION, is_gzipped=False)

    def _fetch_row(self, query, params):
        self.primary_reads += 1
        if self.primary_fails:
            raise OperationalError
        return fetch_row(query, params)


@pytest.fixture
def stored(monkeypatch) -> Stored:
    return Stored(monkeypatch)


def test_a_current_replica_is_read_and_nothing_else(stored):
    stored.replica.row = fetch_row

    assert stored.read() is not None
    assert (stored.replica.reads, stored.primary_reads) == (1, 0)


def test_what_the_replica_does_not_have_is_read_from_the_primary(stored):
    assert stored.read() is not None
    assert (stored.replica.reads, stored.primary_reads) == (1, 1)


@pytest.mark.parametrize("column", [1, 4])
def test_a_damaged_copy_on_the_replica_is_read_from_the_primary_which_keeps_its_row(stored, column):
    def damaged(query, params):
        row = list(fetch_row(query, params))
        row[column] = "damaged"
        return row

    stored.replica.row = damaged

    assert stored.read() is not None
    assert FilmRendering.objects.count() == 1


def test_offers_that_are_too_old_are_not_read_from_the_replica(stored):
    stored.replica.row = fetch_row
    Film.objects.update(cached_at=stored.clock.time + timedelta(days=31))
    stored.clock.advance(days=31)

    assert stored.read() is None
    assert stored.primary_reads == 1


def test_a_replica_that_is_not_current_is_not_read_while_the_primary_answers(stored):
    stored.replica.is_current = False
    stored.replica.row = fetch_row

    assert stored.read() is not None
    assert (stored.replica.reads, stored.replica.is_trusted) == (0, False)


def test_a_replica_that_is_not_current_is_read_when_the_primary_fails(stored):
    stored.replica.is_current = False
    stored.replica.row = fetch_row
    stored.primary_fails = True

    assert stored.read() is not None
    assert stored.replica.is_trusted


@pytest.mark.parametrize("is_current", [True, False])
def test_the_failure_of_the_primary_is_raised_if_the_replica_does_not_have_the_film(
    stored, is_current
):
    stored.replica.is_current = is_current
    stored.primary_fails = True

    with pytest.raises(OperationalError):
        stored.read()
