from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.db.migrations.executor import MigrationExecutor
from django.test import Client
from django.utils import timezone

from core.models import UpstreamState


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


@pytest.mark.django_db
def test_a_closed_source_is_told_and_decides_nothing(client: Client) -> None:
    until = timezone.now() + timedelta(seconds=30)
    UpstreamState.objects.create(source="kinocheck", closed_until=until, code="rate_limited")

    answer = client.get("/readyz")

    assert answer.status_code == 200
    assert answer.json()["upstreams"] == {
        "imdbapi": "open",
        "kinocheck": "rate_limited",
        "watchmode": "open",
    }


@pytest.mark.django_db
def test_a_process_with_a_pending_migration_is_not_ready(client: Client) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'films'")

    answer = client.get("/readyz")

    assert answer.status_code == 503
    assert answer["Retry-After"] == "5"
    assert "migrat" in answer.json()["message"]
    assert "films" not in answer.json()["message"]


def test_a_process_without_database_is_not_ready(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*args: object) -> None:
        raise OperationalError("connection to server at 10.0.0.1 failed")

    monkeypatch.setattr(MigrationExecutor, "__init__", unreachable)

    answer = client.get("/readyz")

    assert answer.status_code == 503
    assert answer.json() == {"error_code": "503", "message": "The database cannot be reached."}
