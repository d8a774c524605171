"""Cinemix as its users meet it: server processes, a Redis that lives and dies, and the sandbox."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import redis

from core.tests.redis_doubles import REDIS_URL, needs_redis
from filmosphere.tests.house import BACKEND, bare_environment, database, free_port, server

INCEPTION = "/api/v1/search/id/?id=tt1375666"
SANDBOX_KEY = "5a4db0c5"
# Apart from what else is in that Redis.
OTHER_DB = "13"
SECRET_KEY = "only-for-tests-" + "0123456789" * 5
OURS = ["movie_tt1375666", "rate_limit:60:10:127.0.0.1"]

needs_redis_server = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="needs a redis-server to start and to kill"
)


@pytest.fixture(scope="module")
def store(tmp_path_factory, django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), database(tmp_path_factory.mktemp("cinemix")) as url:
        yield url


@pytest.fixture
def shared():
    """A database of the real Redis without our keys, and a client to look into it."""
    options = redis.connection.parse_url(REDIS_URL) | {"db": int(OTHER_DB)}
    with redis.Redis(connection_pool=redis.ConnectionPool(**options)) as client:
        client.delete(*OURS)
        yield client
        client.delete(*OURS)


def test_without_anything_both_endpoints_answer_and_the_key_stays_secret(store, tmp_path):
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
def test_two_processes_share_cache_limit_and_metrics_and_a_restart_forgets_nothing(
    store, shared, tmp_path
):
    house = {
        "DATABASE_URL": store,
        "REDIS_URL": REDIS_URL,
        "REDIS_DB": OTHER_DB,
        "WORKERS": "2",
        # As the first run has it, so that the second one reads the same settings.
        "DJANGO_SECRET_KEY": SECRET_KEY,
    }
    with server(tmp_path, **house) as running:
        first = running.get(INCEPTION)
        kept = shared.get("movie_tt1375666")
        ttl = shared.ttl("movie_tt1375666")
    with server(tmp_path, **house) as running:
        rest = [running.get(INCEPTION) for _ in range(10)]
        metrics = running.get("/metrics").body.decode()

    assert first.status == 200
    assert json.loads(kept) == first.json["data"]
    assert 0 < ttl <= 3600
    assert [answer.status for answer in rest] == [200] * 9 + [429]
    assert {answer.body for answer in rest[:9]} == {first.body}
    assert 'filmosphere_movie_cache_total{outcome="hit"} 9.0' in metrics
    assert "source=" not in metrics


SPEND = """
import django
django.setup()
from cinemix.quota import OmdbQuota
from core.errors import UpstreamQuotaExhausted
quota, spent = OmdbQuota(api_key="a key", limit=50), 0
input()
try:
    while True:
        quota.spend()
        spent += 1
except UpstreamQuotaExhausted:
    print(spent)
"""


def test_processes_that_share_the_database_never_make_more_calls_than_the_limit(store):
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


@needs_redis_server
def test_killing_redis_under_load_loses_no_request_and_it_is_used_again(store, tmp_path):
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

    assert set(statuses) == {200}
    assert "redis is away" in log
    assert "redis is back" in log


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
    raise AssertionError("it never came true")
