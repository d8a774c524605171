"""Which films are deleted, and what happens to those that are used meanwhile."""

import threading
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.models import F

from films.models import Film, FilmFetch, FilmRendering
from films.services import pruning
from films.services.pruning import FilmPruner, Pruned
from films.tests.fakes import INCEPTION, Clock
from films.tests.service import Service

OTHER = "tt0111161"


@pytest.fixture
def service() -> Service:
    return Service(clock=Clock())


@pytest.fixture
def pruner(service) -> FilmPruner:
    return FilmPruner(now=service.clock)


def all_of(pruner: FilmPruner):
    return pruner.beyond(0)


def prune(pruner: FilmPruner, chosen) -> Pruned:
    return sum(pruner.delete(chosen), Pruned())


def ids() -> list[str]:
    return sorted(Film.objects.values_list("imdb_id", flat=True))


@pytest.mark.django_db
class TestChoice:
    def stored(self, imdb_id: str, clock: Clock, *, read_days_ago: float | None, days: float):
        moment = clock.time - timedelta(days=days)
        Film.objects.create(imdb_id=imdb_id, full_json={}, cached_at=moment)
        Film.objects.filter(imdb_id=imdb_id).update(created_at=moment)
        if read_days_ago is not None:
            day = (clock.time - timedelta(days=read_days_ago)).date()
            FilmFetch.objects.create(imdb_id=imdb_id, read_on=day)

    def test_a_film_that_was_never_read_counts_from_its_first_day(self, pruner, service):
        self.stored("tt0000001", service.clock, read_days_ago=None, days=91)
        self.stored("tt0000002", service.clock, read_days_ago=None, days=89)
        self.stored("tt0000003", service.clock, read_days_ago=1, days=91)

        chosen = pruner.unread_since((service.clock.time - timedelta(days=90)).date())

        assert list(chosen.values_list("imdb_id", flat=True)) == ["tt0000001"]

    def test_a_film_read_on_the_day_of_the_limit_stays(self, pruner, service):
        self.stored("tt0000001", service.clock, read_days_ago=90, days=200)

        chosen = pruner.unread_since((service.clock.time - timedelta(days=90)).date())

        assert not chosen.exists()

    def test_the_age_is_that_of_the_payload(self, pruner, service):
        self.stored("tt0000001", service.clock, read_days_ago=0, days=31)
        self.stored("tt0000002", service.clock, read_days_ago=0, days=29)
        Film.objects.create(imdb_id="tt0000003")

        chosen = pruner.saved_before(service.clock.time - timedelta(days=30))

        assert sorted(chosen.values_list("imdb_id", flat=True)) == ["tt0000001", "tt0000003"]

    def test_of_too_many_films_the_last_read_remain(self, pruner, service):
        self.stored("tt0000001", service.clock, read_days_ago=3, days=9)
        self.stored("tt0000002", service.clock, read_days_ago=1, days=9)
        self.stored("tt0000003", service.clock, read_days_ago=None, days=2)
        self.stored("tt0000004", service.clock, read_days_ago=3, days=8)

        chosen = pruner.beyond(2)

        assert sorted(chosen.values_list("imdb_id", flat=True)) == ["tt0000001", "tt0000004"]


@pytest.mark.django_db
class TestDeletion:
    def test_a_film_goes_with_its_bytes_and_its_record(self, pruner, service):
        service.fetch()

        assert prune(pruner, all_of(pruner)) == Pruned(deleted=1)

        for model in (Film, FilmRendering, FilmFetch):
            assert not model.objects.exists()

    def test_a_pruned_film_is_fetched_again(self, pruner, service):
        service.fetch()
        prune(pruner, all_of(pruner))
        calls = service.call_count

        assert service.fetch()["title"] == "Inception"
        assert service.call_count > calls

    def test_more_films_than_one_transaction_takes(self, pruner, monkeypatch):
        monkeypatch.setattr(pruning, "_BATCH", 3)
        for number in range(10):
            Film.objects.create(imdb_id=f"tt{number:07}")

        counts = list(pruner.delete(pruner.beyond(2)))

        assert [each.deleted for each in counts] == [3, 3, 2]
        assert len(ids()) == 2

    def test_a_film_that_is_being_fetched_is_kept(self, pruner, service):
        service.fetch()
        service.fetch(OTHER)
        service.leases.acquire(INCEPTION)

        assert prune(pruner, all_of(pruner)) == Pruned(deleted=1, kept=1)
        assert ids() == [INCEPTION]

    def test_the_lease_of_a_dead_process_keeps_no_film(self, pruner, service):
        service.fetch()
        lease = service.leases.acquire(INCEPTION)
        service.clock.advance(seconds=5)

        assert prune(pruner, all_of(pruner)) == Pruned(deleted=1)
        # If the process lives after all, it stores nothing for a record that is gone.
        assert not service.leases.finish(lease)

    @pytest.mark.parametrize("is_read", [False, True])
    def test_a_film_that_was_used_since_it_was_chosen_is_kept(self, pruner, service, is_read):
        service.fetch()
        service.fetch(OTHER)
        deletions = pruner.delete(all_of(pruner))
        original = pruner._delete

        def used_meanwhile(batch):
            if is_read:
                service.reads.note(INCEPTION)
                service.reads.store()
            else:
                Film.objects.filter(imdb_id=INCEPTION).update(
                    updated_at=F("updated_at") + timedelta(seconds=1)
                )
            return original(batch)

        pruner._delete = used_meanwhile

        assert sum(deletions, Pruned()) == Pruned(deleted=1, kept=1)
        assert ids() == [INCEPTION]


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer at a time")
@pytest.mark.django_db(transaction=True)
def test_a_prune_waits_for_no_fetch_that_is_being_stored(pruner, service):
    service.fetch()
    service.fetch(OTHER)
    is_locked, is_done = threading.Event(), threading.Event()

    def store() -> None:
        with transaction.atomic():
            FilmFetch.objects.filter(imdb_id=INCEPTION).update(failure="")
            is_locked.set()
            is_done.wait(10)
        connection.close()

    storing = threading.Thread(target=store)
    storing.start()
    is_locked.wait(10)
    try:
        assert prune(pruner, all_of(pruner)) == Pruned(deleted=1, kept=1)
        assert ids() == [INCEPTION]
    finally:
        is_done.set()
        storing.join()
