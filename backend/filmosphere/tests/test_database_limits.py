"""Servers on a PostgreSQL that stops answering, and on few connections."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection

from tools.harness.databases import (
    activity,
    eventually,
    execute,
    has_pgbouncer,
    has_postgres_programs,
    locked,
    migrated_postgres,
    pgbouncer,
)
from tools.harness.server import get, manage, on_sandbox, server

FILM = "/api/films/tt1375666"
OTHER = "/api/films/tt0068646"

pytestmark = [
    pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no server"),
    pytest.mark.skipif(not has_postgres_programs, reason="PostgreSQL is not installed here"),
]


@pytest.fixture(scope="module")
def postgres():
    with migrated_postgres() as running:
        yield running


def timed(url):
    started = time.monotonic()
    answer = get(url)
    return answer.status, time.monotonic() - started


def test_a_frozen_database_costs_readers_the_query_limit_and_nothing_else(
    postgres, tmp_path, sandbox
):
    options = on_sandbox(sandbox.url, DATABASE_URL=postgres.url, HOT_SECONDS="0")
    with server(tmp_path, **options) as running, ThreadPoolExecutor(64) as pool:
        for path in (FILM, OTHER):
            assert running.get(path).status == 200
        warm = list(pool.map(timed, [running.url + FILM] * 64))
        assert {status for status, _ in warm} == {200}
        calls = len(sandbox.calls())

        postgres.freeze()
        try:
            asked = [pool.submit(timed, running.url + FILM) for _ in range(64)]
            health = [timed(f"{running.url}/healthz") for _ in range(5)]
            frozen = [future.result() for future in asked]
            later = timed(running.url + OTHER)
        finally:
            postgres.thaw()

        assert {status for status, _ in frozen} == {503}
        assert max(seconds for _, seconds in frozen) < 2.0
        assert [status for status, _ in health] == [200] * 5
        assert max(seconds for _, seconds in health) < 1.0
        # Those who come later do not wait for what is known not to answer.
        assert later[0] == 503
        assert later[1] < 0.5
        assert len(sandbox.calls()) == calls
        assert eventually(lambda: running.get(FILM).status == 200, seconds=5)
        assert {running.get(path).json["imdb_id"] for path in (FILM, OTHER)} == {
            "tt1375666",
            "tt0068646",
        }


def test_a_film_in_memory_is_answered_while_the_database_is_frozen(postgres, tmp_path, sandbox):
    options = on_sandbox(sandbox.url, DATABASE_URL=postgres.url, HOT_SECONDS="10")
    with server(tmp_path, **options) as running:
        for _ in range(2):
            assert running.get(FILM).status == 200
        postgres.freeze()
        try:
            answers = [timed(running.url + FILM) for _ in range(5)]
        finally:
            postgres.thaw()

    assert {status for status, _ in answers} == {200}
    assert max(seconds for _, seconds in answers) < 0.5


def test_four_processes_of_32_threads_answer_a_burst_over_few_connections(
    postgres, tmp_path, sandbox
):
    options = on_sandbox(
        sandbox.url, DATABASE_URL=postgres.url, HOT_SECONDS="0", WORKERS="2", BLOCKING_THREADS="32"
    )
    with (
        server(tmp_path, **options) as one,
        server(tmp_path, **options) as other,
        ThreadPoolExecutor(160) as clients,
    ):
        urls = [running.url + FILM for running in (one, other)]
        assert [get(url).status for url in urls] == [200, 200]
        open_connections = []

        answers = [clients.submit(get, urls[number % 2]) for number in range(800)]
        while not all(answer.done() for answer in answers):
            open_connections.append(len(activity(postgres.url)))
            time.sleep(0.05)

        assert {answer.result().status for answer in answers} == {200}
        assert max(open_connections) <= 4 * 8


# PgBouncer in transaction mode refuses start-up options, or ignores them if configured so.
needs_pgbouncer = pytest.mark.skipif(not has_pgbouncer, reason="PgBouncer is not installed here")
POOLERS = [{}, {"ignore_startup_parameters": "options"}]
SHOW_LIMITS = """
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute("SHOW statement_timeout")
    print(cursor.fetchone()[0])
    cursor.execute("SHOW synchronous_commit")
    print(cursor.fetchone()[0])
"""


@needs_pgbouncer
@pytest.mark.parametrize("options", POOLERS)
def test_behind_pgbouncer_films_are_stored_and_limits_hold_without_reaching_other_clients(
    postgres, tmp_path, sandbox, options
):
    execute(postgres.url, "DELETE FROM films_filmrendering", "DELETE FROM films_film")
    with pgbouncer(postgres, **options) as url:
        settings = on_sandbox(sandbox.url, DATABASE_URL=url, HOT_SECONDS="0")
        with server(tmp_path, **settings) as running, ThreadPoolExecutor(32) as pool:
            assert running.get(FILM).status == 200
            calls = len(sandbox.calls())
            assert {a.status for a in pool.map(get, [running.url + FILM] * 200)} == {200}
            assert len(sandbox.calls()) == calls
            assert running.get("/readyz").status == 200

            with locked(postgres.url, "LOCK TABLE films_film IN ACCESS EXCLUSIVE MODE"):
                assert timed(running.url + FILM)[0] == 503
                # The server itself ended the statements: none of them waits on.
                assert eventually(lambda: not waiting_for_locks(postgres.url), seconds=3)
            assert eventually(lambda: running.get(FILM).status == 200)

            shown = manage("shell", "-v0", "-c", SHOW_LIMITS, DATABASE_URL=url)
            assert shown.stdout.split() == ["0", "on"], shown.stderr


@needs_pgbouncer
def test_limits_of_the_role_make_those_of_the_statements_unnecessary(postgres, tmp_path, sandbox):
    execute(postgres.url, "ALTER ROLE films SET statement_timeout = '300ms'")
    try:
        with pgbouncer(postgres) as url:
            settings = on_sandbox(sandbox.url, DATABASE_URL=url, HOT_SECONDS="0")
            with server(tmp_path, **settings) as running:
                assert running.get(FILM).status == 200
                with locked(postgres.url, "LOCK TABLE films_film IN ACCESS EXCLUSIVE MODE"):
                    status, seconds = timed(running.url + FILM)
                queries = [query for _, query in activity(postgres.url)]
    finally:
        execute(postgres.url, "ALTER ROLE films RESET statement_timeout")

    assert (status, seconds < 0.9) == (503, True)
    assert queries
    assert not [query for query in queries if "SET LOCAL" in query]


def waiting_for_locks(url):
    return execute(
        url,
        "SELECT pid FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND datname = current_database()",
    )
