"""Servers and commands on a PostgreSQL behind PgBouncer in transaction mode."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from django.db import connection

from tools.harness.databases import (
    execute,
    expire,
    forget_everything,
    has_pgbouncer,
    has_postgres_programs,
    pgbouncer,
    private_postgres,
    streaming_replica,
)
from tools.harness.server import get, get_patiently, manage, on_sandbox, server

FILM = "/api/films/tt1375666"
FILMS = ["tt1375666", "tt0068646", "tt0111161"]

pytestmark = [
    pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite needs no pooler"),
    pytest.mark.skipif(not has_postgres_programs, reason="PostgreSQL is not installed here"),
    pytest.mark.skipif(not has_pgbouncer, reason="PgBouncer is not installed here"),
]


@pytest.fixture(scope="module")
def pooled():
    """A server, its address behind the pooler, and what `migrate` said there."""
    with private_postgres() as postgres, pgbouncer(postgres) as url:
        yield postgres, url, manage("migrate", DATABASE_URL=url)


@pytest.fixture
def url(pooled):
    postgres, url, migrated = pooled
    assert migrated.returncode == 0, migrated.stderr
    forget_everything(postgres.url)
    return url


def options_of(sandbox, url, **settings):
    return on_sandbox(
        sandbox.url,
        DATABASE_URL=url,
        HOT_SECONDS="0",
        OMDB_BASE_URL=f"{sandbox.url}/omdb/",
        OMDB_API_KEY="5a4db0c5",
        **settings,
    )


@contextmanager
def two_servers(folder, sandbox, url, **settings):
    options = options_of(sandbox, url, **settings)
    with server(folder, **options) as one, server(folder, **options) as other:
        yield one, other


def ask(servers, paths, how=get):
    addresses = [servers[n % len(servers)].url + path for n, path in enumerate(paths)]
    with ThreadPoolExecutor(len(paths)) as pool:
        return list(pool.map(how, addresses))


def test_two_servers_fetch_a_film_once_and_refresh_it_once(url, tmp_path, sandbox):
    with two_servers(tmp_path, sandbox, url) as servers:
        answers = ask(servers, [FILM] * 60, get_patiently)
        assert {answer.status for answer, _ in answers} == {200}
        paths = [call["path"] for call in sandbox.calls()]
        assert len(paths) == len(set(paths)) == 10

        expire(url)
        sandbox.reset()
        assert {answer.status for answer in ask(servers, [FILM] * 60)} == {200}
        assert len(sandbox.paths("imdbapi")) == 7


def test_two_servers_share_a_rate_limit(url, tmp_path, sandbox):
    sandbox.set("imdbapi", bucket={"capacity": 8, "per": 5})
    with two_servers(tmp_path, sandbox, url, IMDBAPI_RATE="8/5", QUEUE_PATIENCE="1") as servers:
        answers = ask(servers, [f"/api/films/{imdb_id}" for imdb_id in FILMS])

    assert {answer.status for answer in answers} == {200}
    assert {call["status"] for call in sandbox.calls()} == {200}


def test_every_endpoint_works(url, tmp_path, sandbox):
    paths = [
        "/api/search?q=inception",
        FILM,
        f"{FILM}/credits",
        f"{FILM}/streaming?view=grouped",
        f"{FILM}?fields=title",
        f"/api/films?ids={','.join(FILMS)}",
        "/api/sources",
        "/api/v1/search/id/?id=tt1375666",
        "/api/v1/search/?query=inception",
        "/readyz",
    ]
    with server(tmp_path, **options_of(sandbox, url)) as running:
        answers = {path: running.get(path) for path in [*paths, *paths]}

    assert {path: answer.status for path, answer in answers.items() if answer.status != 200} == {}
    assert '"level": "ERROR"' not in running.output


def test_commands_work(url, tmp_path, sandbox):
    settings = options_of(sandbox, url)
    ids = tmp_path / "ids.csv"
    ids.write_text("Watchmode ID,IMDB ID\n1,tt0000001\n2,tt0000002\n")
    for arguments in (
        ("warm_films", *FILMS),
        ("refresh_films", "--older-than", "1m"),
        ("import_watchmode_ids", str(ids)),
        ("upstream_report", "--days", "1"),
        ("check_upstreams",),
        ("migrate", "--check"),
        ("prune_films", "--max-rows", "1"),
    ):
        done = manage(*arguments, **settings)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr

    assert execute(url, "SELECT count(*) FROM films_film") == [(1,)]


def test_films_are_read_from_a_replica_behind_a_pooler_of_its_own(pooled, url, tmp_path, sandbox):
    postgres, _, _ = pooled
    with (
        streaming_replica(postgres) as replica,
        pgbouncer(replica) as replica_url,
        server(tmp_path, **options_of(sandbox, url, DATABASE_REPLICA_URL=replica_url)) as running,
    ):
        answers = [running.get(FILM) for _ in range(20)]

    assert {answer.status for answer in answers} == {200}
    assert "replica_current" in running.output
    assert "replica_unavailable" not in running.output
