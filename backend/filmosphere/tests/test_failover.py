"""Servers whose database moves to another machine: two hosts in `DATABASE_URL`."""

import time
from threading import Event, Thread

import pytest
from django.db import connection

from tools.harness.databases import (
    eventually,
    execute,
    forget_everything,
    gateway,
    has_postgres_programs,
    migrated_postgres,
    streaming_replica,
)
from tools.harness.server import manage, on_sandbox, server

FILM = "/api/films/tt1375666"
OTHER = "/api/films/tt0068646"

pytestmark = [
    pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no replica"),
    pytest.mark.skipif(not has_postgres_programs, reason="PostgreSQL is not installed here"),
]


@pytest.fixture(scope="module")
def migrated():
    with migrated_postgres() as running:
        yield running


@pytest.fixture
def pair(migrated):
    """A primary that may end, and its replica."""
    forget_everything(migrated.url)
    with streaming_replica(migrated) as primary:
        primary.promote()
        with streaming_replica(primary) as standby:
            yield primary, standby


def address(*urls):
    hosts = ",".join(url.partition("@")[2].partition("/")[0] for url in urls)
    return f"postgres://films@{hosts}/films?target_session_attrs=read-write"


class Readers:
    """Ask for a film all the time, and note why answers fail."""

    def __init__(self, running):
        self._running = running
        self.failures = []
        self.answers_since_failure = 0
        self._ended = Event()
        self._thread = Thread(target=self._ask, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()

    def _ask(self):
        while not self._ended.wait(0.02):
            answer = self._running.get(FILM)
            self.answers_since_failure += 1
            if answer.status != 200:
                self.failures.append(answer.json["reason"])
                self.answers_since_failure = 0


@pytest.mark.parametrize("is_silent", [False, True])
def test_the_service_finds_the_new_primary_by_itself(pair, tmp_path, sandbox, is_silent):
    primary, standby = pair
    query = "SELECT count(*) FROM films_filmrendering"
    with gateway(primary.url) as way:
        url = address(way.url if is_silent else primary.url, standby.url)
        options = on_sandbox(sandbox.url, DATABASE_URL=url, HOT_SECONDS="0")
        with server(tmp_path, **options) as running:
            assert running.get(FILM).status == 200
            eventually(lambda: execute(standby.url, query) == [(1,)])
            calls = len(sandbox.calls())

            with Readers(running) as readers:
                # Like a machine that is gone: it neither answers nor refuses.
                way.mode = "silent"
                way.cut()
                primary.kill()
                eventually(lambda: readers.failures)
                standby.promote()
                promoted = time.monotonic()
                eventually(lambda: running.get(FILM).status == 200)
                seconds = time.monotonic() - promoted
                eventually(lambda: readers.answers_since_failure > 20)
            assert len(sandbox.calls()) == calls
            assert running.get(OTHER).status == 200

    assert set(readers.failures) == {"database_unavailable"}
    assert seconds < 5
    assert execute(standby.url, query) == [(2,)]


def test_a_server_and_commands_start_while_the_first_host_is_gone(pair, tmp_path, sandbox):
    primary, standby = pair
    primary.kill()
    standby.promote()
    url = address(primary.url, standby.url)

    assert manage("migrate", "--verbosity", "0", DATABASE_URL=url).returncode == 0
    with server(tmp_path, **on_sandbox(sandbox.url, DATABASE_URL=url)) as running:
        assert running.get("/readyz").status == 200
        assert running.get(FILM).status == 200
