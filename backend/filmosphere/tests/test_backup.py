"""The commands of docs/operations/backup.md, and a service on what they restore."""

import os
import re
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from django.db import connection

from tools.harness.databases import (
    connect,
    eventually,
    execute,
    has_pgbouncer,
    has_postgres_programs,
    migrated_postgres,
    pgbouncer,
    postgres_program,
)
from tools.harness.server import PROJECT, manage, on_sandbox, server

FILM = "/api/films/tt1375666"
COMMANDS = re.findall(
    r"^(?:pg_dump|pg_restore) .*$",
    (PROJECT / "docs" / "operations" / "backup.md").read_text(),
    re.MULTILINE,
)
LEFT_OUT = "--exclude-table-data=films_filmrendering"

pytestmark = [
    pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no server"),
    pytest.mark.skipif(not has_postgres_programs, reason="PostgreSQL is not installed here"),
]


@pytest.fixture
def postgres():
    with migrated_postgres() as running:
        yield running


@pytest.mark.parametrize("option", ["", LEFT_OUT])
def test_a_restored_database_serves_a_film_without_an_upstream_call(
    postgres, tmp_path, sandbox, option
):
    assert LEFT_OUT in (PROJECT / "docs" / "operations" / "backup.md").read_text()
    dump, restore = COMMANDS
    with server(tmp_path, **on_sandbox(sandbox.url, DATABASE_URL=postgres.url)) as running:
        before = running.get(FILM)
    assert before.status == 200

    run(f"{dump} {option}", postgres.url, tmp_path)
    url = f"{postgres.url}_restored"
    run(f"createdb --maintenance-db={postgres.url} films_restored", url, tmp_path)
    run(restore, url, tmp_path)

    assert manage("migrate", "--check", DATABASE_URL=url).returncode == 0
    sandbox.reset()
    with server(tmp_path, **on_sandbox(sandbox.url, DATABASE_URL=url)) as running:
        after = running.get(FILM)
    assert (after.status, after.json) == (200, before.json)
    assert sandbox.calls() == []
    assert execute(url, "SELECT count(*) FROM films_filmrendering") == [(1,)]


@pytest.mark.skipif(not has_pgbouncer, reason="PgBouncer is not installed here")
def test_a_dump_changes_no_connection_that_a_pooler_gives_to_the_service(postgres, tmp_path):
    dump, _ = COMMANDS
    connected = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    # Each transaction uses another one of four connections.
    pool = {"default_pool_size": "4", "min_pool_size": "4", "server_round_robin": "1"}
    # They are opened while there is a client.
    with pgbouncer(postgres, **pool) as pooled, closing(connect(pooled)):
        eventually(lambda: execute(pooled, connected) == [(4,)])

        run(dump, postgres.url, tmp_path, pooled_url=pooled)

        paths = {execute(pooled, "SHOW search_path")[0] for _ in range(8)}
        assert paths == {('"$user", public',)}


def run(command: str, url: str, folder, *, pooled_url: str = "") -> None:
    # `pg_dump` must not be older than the server.
    programs = Path(postgres_program("initdb")).parent
    subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env={
            **os.environ,
            "POSTGRES_URL": url,
            "DATABASE_URL": pooled_url,
            "PATH": f"{programs}:{os.environ['PATH']}",
        },
        check=True,
    )
