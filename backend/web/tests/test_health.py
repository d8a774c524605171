"""Liveness and readiness."""

from datetime import timedelta
from threading import Event

import pytest
from django.db import InterfaceError, OperationalError, connection
from django.test import Client, RequestFactory
from django.utils import timezone

from core.models import UpstreamState
from filmosphere import wiring
from filmosphere.startup import process
from web.health import ReadinessView, migrations_applied


@pytest.fixture(autouse=True)
def _migrations_are_unknown_at_first():
    migrations_applied.clear()
    yield
    migrations_applied.clear()


def remove_a_migration() -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'films'")


@pytest.mark.parametrize("path", ["/healthz", "/healthz/"])
def test_a_process_that_answers_is_alive_without_a_database(client: Client, path: str) -> None:
    answer = client.get(path)

    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert answer["Cache-Control"] == "no-store"


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/readyz", "/readyz/"])
def test_a_process_with_a_migrated_database_is_ready(client: Client, path: str) -> None:
    answer = client.get(path)

    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"
    assert answer["Cache-Control"] == "no-store"


@pytest.mark.django_db
def test_an_unavailable_source_is_reported_and_does_not_decide() -> None:
    until = timezone.now() + timedelta(seconds=30)
    UpstreamState.objects.create(source="kinocheck", open_until=until, code="rate_limited")

    view = ReadinessView.as_view(get_upstreams=wiring.source_states)
    answer = view(RequestFactory().get("/readyz"))

    assert answer.status_code == 200
    assert answer.data["upstreams"] == {
        "imdbapi": "ok",
        "kinocheck": "rate_limited",
        "watchmode": "ok",
    }


@pytest.mark.django_db
def test_the_states_of_the_sources_are_read_once_for_many_probes(
    client: Client, django_assert_max_num_queries
) -> None:
    client.get("/readyz")

    with django_assert_max_num_queries(5):
        states = [client.get("/readyz").json()["upstreams"] for _ in range(5)]

    assert states[0].keys() == {"imdbapi", "kinocheck", "watchmode"}


@pytest.mark.django_db
def test_a_process_with_a_pending_migration_is_not_ready_until_it_is_applied(
    client: Client,
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT app, name, applied FROM django_migrations WHERE app = 'films'")
        rows = cursor.fetchall()
    remove_a_migration()

    answers = [client.get("/readyz"), client.get("/readyz")]
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO django_migrations (app, name, applied) VALUES (%s, %s, %s)", rows
        )
    after = client.get("/readyz")

    assert [answer.status_code for answer in answers] == [503, 503]
    assert answers[0]["Retry-After"] == "5"
    assert answers[0].json()["reason"] == "database_unavailable"
    assert "migrat" in answers[0].json()["message"]
    assert "films" not in answers[0].json()["message"]
    assert after.status_code == 200


@pytest.mark.django_db
def test_migrations_are_read_until_they_are_complete_and_not_again(client: Client) -> None:
    client.get("/readyz")
    remove_a_migration()

    assert client.get("/readyz").status_code == 200


@pytest.mark.django_db
@pytest.mark.parametrize("error", [OperationalError, InterfaceError])
def test_a_process_that_lost_its_database_is_not_ready(
    client: Client, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(*args: object) -> None:
        raise error("connection to server at 10.0.0.1 failed")

    assert client.get("/readyz").status_code == 200
    monkeypatch.setattr("web.health.fetch_row", fail)

    answer = client.get("/readyz")

    assert answer.status_code == 503
    assert answer["Cache-Control"] == "no-store"
    assert answer.json() == {
        "error_code": "503",
        "message": "The database cannot be reached.",
        "reason": "database_unavailable",
    }


def test_a_process_that_is_about_to_stop_is_not_ready(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "stopping", Event())
    process.stopping.set()

    answer = client.get("/readyz")

    assert (answer.status_code, answer.json()["reason"]) == (503, "shutting_down")
