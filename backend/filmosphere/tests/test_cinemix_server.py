"""Cinemix over HTTP: server processes, a real Redis that is killed, and the sandbox."""

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest
import redis

from core.tests.redis_doubles import REDIS_URL, needs_redis
from tools.harness.server import (
    BACKEND,
    bare_environment,
    database,
    free_port,
    get,
    on_sandbox,
    server,
)

INCEPTION = "/api/v1/search/id/?id=tt1375666"
SANDBOX_KEY = "5a4db0c5"
# A database of its own in that Redis.
OTHER_DB = "13"
SECRET_KEY = "only-for-tests-" + "0123456789" * 5
OURS = ["movie_tt1375666", "movie_tt1375666_expires_at", "rate_limit:60:10:127.0.0.1"]

needs_redis_server = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="needs a redis-server to start and kill"
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with database(tmp_path_factory.mktemp("cinemix")) as url:
        yield url


@pytest.fixture
def shared():
    """A client of a Redis database that has none of the keys of these tests."""
    options = redis.connection.parse_url(REDIS_URL) | {"db": int(OTHER_DB)}
    with redis.Redis(connection_pool=redis.ConnectionPool(**options)) as client:
        client.delete(*OURS)
        yield client
        client.delete(*OURS)


def test_both_endpoints_answer_without_settings_and_the_key_stays_secret(store, tmp_path):
    with server(tmp_path, DATABASE_URL=store, LOG_LEVEL="DEBUG", LOG_FORMAT="json") as running:
        search = running.get("/api/v1/search/?query=batman")
        answers = [running.get(INCEPTION) for _ in range(10)]
        metrics = running.get("/metrics").body.decode()

        log = running.output

    assert search.status == 200
    assert [answer.status for answer in answers] == [200] * 9 + [429]
    assert 60 < int(answers[-1].headers["Retry-After"]) <= 70
    assert 'filmosphere_movie_cache_total{outcome="hit"} 8.0' in metrics
    assert 'filmosphere_movie_cache_total{outcome="miss"} 1.0' in metrics
    assert 'filmosphere_upstream_calls_total{outcome="ok",source="omdb"} 2.0' in metrics
    assert "movie cache hit" in log
    assert SANDBOX_KEY not in log + metrics


@needs_redis
def test_processes_share_cache_limit_and_metrics_across_a_restart(store, shared, tmp_path):
    settings = {
        "DATABASE_URL": store,
        "REDIS_URL": REDIS_URL,
        "REDIS_DB": OTHER_DB,
        "WORKERS": "2",
        # Both runs need the same key.
        "DJANGO_SECRET_KEY": SECRET_KEY,
    }
    with server(tmp_path, **settings) as running:
        first = running.get(INCEPTION)
        kept = shared.get("movie_tt1375666")
        ttl = shared.ttl("movie_tt1375666")
    with server(tmp_path, **settings) as running:
        rest = [running.get(INCEPTION) for _ in range(10)]
        metrics = running.get("/metrics").body.decode()

    assert first.status == 200
    assert json.loads(kept) == first.json["data"]
    assert 0 < ttl <= 3600
    assert [answer.status for answer in rest] == [200] * 9 + [429]
    assert first.headers["Cache-Control"] == "public, max-age=3600"
    assert all(0 < max_age(answer) <= ttl for answer in rest[:9])
    assert {answer.body for answer in rest[:9]} == {first.body}
    assert 'filmosphere_movie_cache_total{outcome="hit"} 9.0' in metrics
    # The second run did not call OMDb.
    assert not re.search(r'filmosphere_upstream_calls_total\{.*source="omdb"\} [1-9]', metrics)


SPEND = """
import django
django.setup()
from core.services.limits import Quota, UpstreamLimits
limits, spent = UpstreamLimits(rates={}, quotas={"omdb": Quota("%Y-%m-%d", 50)}), 0
input()
while limits.reserve_quota("omdb", leave_reserve=False):
    spent += 1
print(spent)
"""


def test_processes_with_one_database_never_exceed_the_daily_limit(store):
    environment = bare_environment(
        DATABASE_URL=store,
        DJANGO_SETTINGS_MODULE="filmosphere.settings",
        DJANGO_SECRET_KEY=SECRET_KEY,
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SPEND],
            cwd=BACKEND,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]

    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    spent = [int(process.communicate(timeout=30)[0]) for process in processes]

    assert sum(spent) == 50


def test_a_silent_omdb_does_not_delay_films(store, sandbox, tmp_path):
    sandbox.fault("hang", source="omdb")
    titles = get(f"{sandbox.url}/imdbapi/search/titles?query=a&limit=20").json["titles"]
    films = [f"/api/films/{title['id']}" for title in titles[:15]]
    searches = [f"/api/search?q={quote(title['primaryTitle'])}" for title in titles[:15]]
    settings = {
        "DATABASE_URL": store,
        "MAX_THRESHOLD": "1000000",
        "OMDB_BASE_URL": f"{sandbox.url}/omdb",
        "OMDB_API_KEY": SANDBOX_KEY,
        "HTTP_TIMEOUT": "4",
        "FETCH_DEADLINE": "4",
    }
    with (
        server(tmp_path, **on_sandbox(sandbox.url, **settings)) as running,
        ThreadPoolExecutor(40) as movies,
        ThreadPoolExecutor(4) as readers,
    ):
        waiting = [
            movies.submit(running.get, f"/api/v1/search/id/?id=tt{number:07}")
            for number in range(1, 41)
        ]
        until(lambda: any(request.done() for request in waiting))
        statuses = [answer.status for answer in readers.map(running.get, [*films, *searches])]

        assert statuses == [200] * 30
        assert {request.result().status for request in waiting} == {503}


@needs_redis_server
def test_no_request_fails_when_redis_is_killed_and_it_is_used_again(store, tmp_path):
    port = free_port()
    settings = {
        "DATABASE_URL": store,
        "REDIS_URL": f"redis://127.0.0.1:{port}",
        "MAX_THRESHOLD": "1000000",
    }
    dies = start_redis(port)
    try:
        with server(tmp_path, **settings) as running:
            statuses, stop = [], threading.Event()

            def ask():
                while not stop.is_set():
                    statuses.append(running.get(INCEPTION).status)

            askers = [threading.Thread(target=ask) for _ in range(4)]
            for asker in askers:
                asker.start()
            until(lambda: len(statuses) > 50)
            dies.send_signal(signal.SIGKILL)
            dies.wait()
            before = len(statuses)
            until(lambda: len(statuses) > before + 100)
            comes_back = start_redis(port)
            try:
                with redis.Redis(port=port) as client:
                    until(lambda: client.get("movie_tt1375666"), seconds=5)
            finally:
                stop.set()
                for asker in askers:
                    asker.join()
                comes_back.kill()
                comes_back.wait()
            log = running.output
    finally:
        dies.kill()
        dies.wait()

    # The lines of the server say why, if a request failed.
    assert set(statuses) == {200}, [line for line in log.splitlines() if '"status": 503' in line]
    assert "redis is unavailable" in log
    assert "redis is back" in log


def max_age(answer):
    return int(answer.headers["Cache-Control"].removeprefix("public, max-age="))


def start_redis(port):
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    client = redis.Redis(port=port)

    def answers():
        try:
            return client.ping()
        except redis.ConnectionError:
            return False

    until(answers)
    client.close()
    return process


def until(fact, seconds=20.0):
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if fact():
            return
        time.sleep(0.02)
    raise AssertionError("the condition was never met")
