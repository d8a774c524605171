"""What the wiring has the service do for its own tables, and how they are laid out."""

from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from core.models import UpstreamUsage
from core.services.usage import tally
from filmosphere import wiring
from films.models import Film, FilmFetch

pytestmark = pytest.mark.django_db


@pytest.fixture
def housekeeper(monkeypatch):
    reads = wiring.FilmReads()
    monkeypatch.setattr(wiring, "film_reads", lambda: reads)
    return wiring.housekeeper.__wrapped__()


def test_counts_of_calls_are_stored_also_if_nothing_else_happens(housekeeper):
    tally.cache_hit(("of-this-test",))

    housekeeper.work()

    assert UpstreamUsage.objects.get(source="of-this-test").calls == 1


def test_reads_are_noted_and_what_is_no_longer_needed_is_deleted(housekeeper):
    now = timezone.now()
    Film.objects.create(imdb_id="tt0000001")
    for imdb_id in ("tt0000001", "tt9000001"):
        FilmFetch.objects.create(imdb_id=imdb_id, ended_at=now - timedelta(days=2))
    FilmFetch.objects.create(imdb_id="tt9000002", ended_at=now - timedelta(hours=1))
    for days in (1, 2000):
        UpstreamUsage.objects.create(
            source="of-this-test", day=now.date() - timedelta(days=days), kind="made"
        )
    wiring.film_reads().note("tt0000001")

    housekeeper.work()

    assert dict(FilmFetch.objects.values_list("imdb_id", "read_on")) == {
        "tt0000001": now.date(),
        "tt9000002": None,
    }
    # Threads of other tests may store counts too.
    assert UpstreamUsage.objects.filter(source="of-this-test").count() == 1


@pytest.mark.skipif(connection.vendor == "sqlite", reason="the layout is for PostgreSQL")
def test_tables_of_many_films_have_no_unused_index_and_room_for_updates():
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT indexname FROM pg_indexes"
            " WHERE tablename LIKE 'films_%%' AND indexdef LIKE '%%pattern_ops%%'"
        )
        assert cursor.fetchall() == []
        cursor.execute("SELECT reloptions FROM pg_class WHERE relname = 'films_filmfetch'")
        assert "fillfactor=70" in cursor.fetchone()[0]
