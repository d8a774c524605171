"""Servers on a PostgreSQL with a streaming replica."""

import time

import pytest
from django.db import connection

from core.replica import COOL_DOWN_SECONDS
from tools.harness.databases import (
    eventually,
    execute,
    expire,
    forget_everything,
    gateway,
    has_postgres_programs,
    migrated_postgres,
    streaming_replica,
)
from tools.harness.server import get, on_sandbox, server

FILM = "/api/films/tt1375666"
OTHER = "/api/films/tt0068646"

pytestmark = [
    pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no replica"),
    pytest.mark.skipif(not has_postgres_programs, reason="PostgreSQL is not installed here"),
]


@pytest.fixture(scope="module")
def primary():
    with migrated_postgres() as running:
        yield running


@pytest.fixture
def replica(primary):
    forget_everything(primary.url)
    with streaming_replica(primary) as running:
        yield running


def options(sandbox, primary_url, replica_url, **settings):
    return on_sandbox(
        sandbox.url,
        DATABASE_URL=primary_url,
        DATABASE_REPLICA_URL=replica_url,
        **{"HOT_SECONDS": "0", **settings},
    )


def last_read(url):
    """When a film was last read on a server."""
    (row,) = execute(
        url,
        "SELECT max(query_start) FROM pg_stat_activity"
        " WHERE application_name = 'filmosphere' AND query LIKE '%films_filmrendering%'",
    )
    return row[0]


def read_on(running, *servers):
    """On which of the servers the next request reads the film."""
    before = [last_read(each.url) for each in servers]
    assert running.get(FILM).status == 200
    after = [last_read(each.url) for each in servers]
    return [
        each
        for each, old, new in zip(servers, before, after, strict=True)
        if new is not None and (old is None or new > old)
    ]


def wait_until_same(primary, replica, imdb_id="tt1375666"):
    """Until the replica has the film as the primary has it."""
    query = f"SELECT updated_at, cached_at FROM films_film WHERE imdb_id = '{imdb_id}'"
    eventually(lambda: execute(replica.url, query) == execute(primary.url, query) != [])


def timed(url, **headers):
    started = time.monotonic()
    answer = get(url, **headers)
    return answer, time.monotonic() - started


def outcomes(running):
    return [line for line in running.output.splitlines() if '"outcome": "replica_' in line]


def test_hits_are_read_from_the_replica_and_go_on_when_the_primary_stops(
    replica, tmp_path, sandbox
):
    # The server of the other tests must not stop.
    primary = replica
    primary.promote()
    with (
        streaming_replica(primary) as follower,
        server(tmp_path, **options(sandbox, primary.url, follower.url)) as running,
    ):
        assert running.get(FILM).status == 200
        wait_until_same(primary, follower)
        first = running.get(FILM)
        for _ in range(10):
            assert read_on(running, primary, follower) == [follower]

        primary.kill()
        calls = len(sandbox.calls())
        answers = [timed(running.url + FILM) for _ in range(50)]
        known = running.get(FILM, If_None_Match=first.headers["ETag"])
        section = running.get(f"{FILM}/trailer")
        missing = running.get(OTHER)
        # After a while it is not known whether the replica has everything.
        eventually(lambda: running.get(FILM).status == 200 and "replica_lagging" in running.output)
        answers += [timed(running.url + FILM) for _ in range(50)]

    assert {answer.status for answer, _ in answers} == {200}
    assert {answer.body for answer, _ in answers} == {first.body}
    assert max(seconds for _, seconds in answers) < 0.5
    assert (known.status, section.status) == (304, 200)
    assert (missing.status, missing.json["reason"]) == (503, "database_unavailable")
    assert len(sandbox.calls()) == calls


def test_a_film_that_was_just_stored_is_found_although_the_replica_lacks_it(
    primary, replica, tmp_path, sandbox
):
    with server(tmp_path, **options(sandbox, primary.url, replica.url)) as running:
        assert running.get(FILM).status == 200
        expire(primary.url)
        wait_until_same(primary, replica)
        execute(replica.url, "SELECT pg_wal_replay_pause()")
        # The replica has one film as expired, and the other one not at all.
        stored = [running.get(path) for path in (FILM, OTHER)]
        calls = len(sandbox.calls())

        again = [running.get(path) for path in (FILM, OTHER)]

    assert [answer.status for answer in stored] == [200, 200]
    assert stored[0].json["warnings"] == []
    assert [answer.body for answer in again] == [answer.body for answer in stored]
    assert len(sandbox.calls()) == calls


def test_a_replica_that_lags_is_not_read_until_it_has_caught_up(
    primary, replica, tmp_path, sandbox
):
    with server(tmp_path, **options(sandbox, primary.url, replica.url)) as running:
        assert running.get(FILM).status == 200
        wait_until_same(primary, replica)
        assert running.get(FILM).status == 200
        execute(replica.url, "SELECT pg_wal_replay_pause()")
        execute(primary.url, "CREATE TABLE something_new ()")

        def lags():
            assert running.get(FILM).status == 200
            return "replica_lagging" in running.output

        eventually(lags, seconds=15)
        for _ in range(10):
            assert read_on(running, primary, replica) == [primary]
        execute(replica.url, "SELECT pg_wal_replay_resume()")
        eventually(lambda: read_on(running, primary, replica) == [replica])


@pytest.mark.parametrize("mode", ["closed", "silent"])
def test_a_replica_that_fails_costs_readers_at_most_a_second_and_is_left_alone(
    primary, replica, tmp_path, sandbox, mode
):
    with (
        gateway(replica.url) as way,
        server(tmp_path, **options(sandbox, primary.url, way.url)) as running,
    ):
        assert running.get(FILM).status == 200
        wait_until_same(primary, replica)
        assert running.get(FILM).status == 200
        way.mode = mode
        way.cut()
        first, seconds = timed(running.url + FILM)
        answers = [timed(running.url + FILM) for _ in range(50)]
        way.mode = "open"
        eventually(
            lambda: running.get(FILM).status == 200 and "replica_current" in outcomes(running)[-1],
            seconds=COOL_DOWN_SECONDS + 5,
        )

    assert (first.status, seconds < 1.5) == (200, True)
    assert {answer.status for answer, _ in answers} == {200}
    assert max(seconds for _, seconds in answers) < 0.5
    assert [line.split('"replica_')[1].split('"')[0] for line in outcomes(running)] == [
        "current",
        "unavailable",
        "current",
    ]


def test_a_server_starts_without_its_replica(primary, tmp_path, sandbox):
    absent = "postgres://films:a-secret-of-ours@127.0.0.1:1/films"
    with server(tmp_path, **options(sandbox, primary.url, absent)) as running:
        assert [running.get(FILM).status for _ in range(3)] == [200] * 3
        assert running.get("/readyz").status == 200

    assert "replica_unavailable" in running.output
    assert "a-secret-of-ours" not in running.output
