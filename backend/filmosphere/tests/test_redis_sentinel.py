"""A server whose Redis is the master that a sentinel watches, and which fails over."""

import json
import shutil
import subprocess
import sys
from contextlib import ExitStack, contextmanager

import pytest
import redis

from core.redis import ping
from tools.harness.databases import eventually
from tools.harness.server import (
    BACKEND,
    bare_environment,
    database,
    free_port,
    server,
)

MOVIES = ["tt1375666", "tt0068646"]

pytestmark = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="needs a redis-server to start and kill"
)


@contextmanager
def redis_process(folder, *lines, sentinel=False):
    port = free_port()
    configuration = folder / f"redis-{port}.conf"
    configuration.write_text("\n".join([f"port {port}", "bind 127.0.0.1", 'save ""', *lines]))
    process = subprocess.Popen(
        ["redis-server", configuration, *(["--sentinel"] if sentinel else [])],
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )
    try:
        login = {} if sentinel else {"password": "secret", "db": 2}
        with redis.Redis(port=port, **login) as client:
            eventually(lambda: answers(client))
            yield port, client, process
    finally:
        process.kill()
        process.wait()


def answers(client):
    try:
        return client.ping()
    except redis.RedisError:
        return False


@pytest.fixture
def watched(tmp_path):
    """The master, its replica, and the address through their sentinel."""
    with ExitStack() as stack:
        login = ["requirepass secret", "masterauth secret"]
        port, master, process = stack.enter_context(redis_process(tmp_path, *login))
        _, replica, _ = stack.enter_context(
            redis_process(tmp_path, *login, f"replicaof 127.0.0.1 {port}")
        )
        eventually(lambda: replica.info("replication")["master_link_status"] == "up")
        asked, sentinel, _ = stack.enter_context(
            redis_process(
                tmp_path,
                f"sentinel monitor films 127.0.0.1 {port} 1",
                "sentinel auth-pass films secret",
                "sentinel down-after-milliseconds films 500",
                "sentinel failover-timeout films 2000",
                sentinel=True,
            )
        )
        eventually(lambda: sentinel.sentinel_master("films")["num-slaves"] == 1, seconds=20)
        # A sentinel that is gone costs a moment, and no more.
        url = f"redis+sentinel://:secret@127.0.0.1:{free_port()},127.0.0.1:{asked}/films/2"
        yield process, master, replica, url


def test_the_service_goes_on_through_a_failover_and_uses_the_new_master(watched, tmp_path):
    process, master, replica, url = watched
    settings = {"REDIS_URL": url, "MAX_THRESHOLD": "100000"}
    with (
        database(tmp_path) as store,
        server(tmp_path, DATABASE_URL=store, LOG_FORMAT="json", **settings) as running,
    ):
        path = "/api/v1/search/id/?id="
        assert running.get(path + MOVIES[0]).status == 200
        assert master.exists(f"movie_{MOVIES[0]}")
        statuses = []

        process.kill()

        def has_moved():
            statuses.append(running.get(path + MOVIES[0]).status)
            return '"outcome": "cache_up"' in running.output

        eventually(has_moved, seconds=30)
        statuses.append(running.get(path + MOVIES[1]).status)

    assert set(statuses) == {200}
    assert len(statuses) > 10
    assert replica.exists(f"movie_{MOVIES[1]}")
    assert "secret" not in running.output


def test_a_master_that_the_sentinels_do_not_know_stops_the_start(watched):
    _, _, _, url = watched
    assert ping(url) == "standalone"

    ended = subprocess.run(
        [sys.executable, "-c", "import filmosphere.wsgi"],
        cwd=BACKEND,
        env=bare_environment(LOG_FORMAT="json", REDIS_URL=url.replace("/films/", "/others/")),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    line = json.loads(ended.stderr)
    assert (ended.returncode, line["outcome"]) == (3, "redis_unreachable")
    assert line["error"] == "MasterNotFoundError"
