"""Several `migrate` at once, as when several containers start."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
from django.db import connection

from tools.harness.databases import (
    execute,
    has_pgbouncer,
    has_postgres_programs,
    pgbouncer,
    private_postgres,
)
from tools.harness.server import manage

pytestmark = [
    pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no server"),
    pytest.mark.skipif(not has_postgres_programs, reason="PostgreSQL is not installed here"),
]


@pytest.mark.parametrize("is_pooled", [False, True])
def test_three_at_once_migrate_one_after_the_other(is_pooled):
    if is_pooled and not has_pgbouncer:
        pytest.skip("PgBouncer is not installed here")
    with private_postgres() as postgres:
        way = pgbouncer(postgres) if is_pooled else nullcontext(postgres.url)
        with way as url, ThreadPoolExecutor(3) as pool:
            runs = [pool.submit(manage, "migrate", DATABASE_URL=url) for _ in range(3)]
            done = [run.result() for run in runs]

            assert [(each.returncode, each.stderr) for each in done] == [(0, "")] * 3
            assert sum("Applying films.0001_initial" in each.stdout for each in done) == 1
            assert manage("migrate", "--check", DATABASE_URL=url).returncode == 0
        assert execute(postgres.url, "SELECT count(*) FROM films_film") == [(0,)]
