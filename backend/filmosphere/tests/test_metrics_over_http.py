"""What `/metrics` of a running service shows."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.db import connection
from prometheus_client.parser import text_string_to_metric_families

from core.tests.redis_doubles import odd_redis
from tools.harness.databases import eventually, forget_everything, locked
from tools.harness.server import on_sandbox, server

FILM = "/api/films/tt1375666"
SOURCES = ("imdbapi", "kinocheck", "watchmode", "omdb")


@pytest.fixture
def options(url, sandbox):
    forget_everything(url)
    return on_sandbox(
        sandbox.url,
        DATABASE_URL=url,
        OMDB_BASE_URL=f"{sandbox.url}/omdb/",
        OMDB_API_KEY="5a4db0c5",
        HTTP_RETRIES="1",
        FETCH_DEADLINE="4",
    )


class Metrics(dict):
    """The samples of one scrape: values by name and labels."""

    def __init__(self, running):
        super().__init__()
        text = running.get("/metrics").body.decode()
        for family in text_string_to_metric_families(text):
            for found in family.samples:
                self[found.name, frozenset(found.labels.items())] = found.value

    def value(self, name, **labels):
        """The sample with these labels, None without one."""
        return self.get((f"filmosphere_{name}", frozenset(labels.items())))

    def count(self, name):
        """How many samples there are of a metric, whatever their labels are."""
        return sum(found == f"filmosphere_{name}" for found, _ in self)


def test_calls_that_a_hit_avoids_are_in_the_metrics_at_once(options, tmp_path):
    film = "/api/films/tt1375666"
    with server(tmp_path, **options) as running:
        running.get(film)
        for query in ("", "?image_width=200"):
            running.get(film + query)
        metrics = Metrics(running)

    calls = {"imdbapi": 14, "kinocheck": 2, "watchmode": 2, "omdb": 0}
    for source in SOURCES:
        labels = {"source": source, "why": "cache_hit"}
        assert metrics.value("upstream_calls_avoided_total", **labels) == calls[source]


def test_what_can_be_known_in_advance_is_there_from_the_start(options, tmp_path):
    with server(tmp_path, **options, APP_REVISION="abc123") as running:
        metrics = Metrics(running)

    for source in SOURCES:
        assert metrics.value("upstream_threads_busy", source=source) == 0
        assert metrics.value("upstream_queue_length", source=source, priority="batch") == 0
        assert metrics.value("circuit_breaker_open", source=source, code="rejected") == 0
        assert metrics.value("upstream_calls_total", source=source, outcome="dns_error") == 0
        labels = {"source": source, "outcome": "ok"}
        assert metrics.value("upstream_request_duration_seconds_count", **labels) == 0
        assert metrics.value("upstream_calls_avoided_total", source=source, why="combined") == 0
    assert metrics.value("miss_slots_in_use", surface="films") == 0
    assert metrics.value("miss_slots_in_use", surface="cinemix") == 0
    assert metrics.value("requests_in_progress", route="api/films/<str:imdb_id>") == 0
    assert metrics.value("requests_in_progress", route="films/fast") == 0
    assert metrics.value("requests_in_progress", route="unknown") == 0
    hit = {"route": "films/fast", "status": "200", "cache": "memory"}
    assert metrics.value("request_duration_seconds_count", **hit) == 0
    assert metrics.value("background_queue_length") == 0
    assert metrics.value("background_jobs_total", outcome="dropped") == 0
    assert metrics.value("db_query_duration_seconds_count", query="lease") == 0
    assert metrics.value("db_connections_in_use", database="primary") == 0
    assert metrics.value("database_up") == 1
    assert metrics.value("log_lines_dropped_total") == 0
    assert metrics.value("movie_cache_total", outcome="hit") == 0
    assert metrics.value("build_info", version="1.0.0", revision="abc123") == 1
    assert metrics.value("redis_up") is None


def test_while_a_source_is_silent_it_can_be_seen_who_waits_for_it(options, tmp_path, sandbox):
    sandbox.fault("hang", source="imdbapi")
    with server(tmp_path, **options) as running, ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(running.get, f"/api/search?q=film{n}") for n in range(5)]

        def seen():
            metrics = Metrics(running)
            return (
                metrics.value("requests_in_progress", route="api/search"),
                metrics.value("miss_slots_in_use", surface="films"),
                metrics.value("upstream_threads_busy", source="imdbapi"),
                metrics.value("upstream_queue_length", source="imdbapi", priority="reader"),
            )

        eventually(lambda: seen() == (5, 5, 3, 2))
        assert {future.result().status for future in asked} == {503}
        after = Metrics(running)
        assert after.value("miss_slots_in_use", surface="films") == 0
        assert after.value("requests_in_progress", route="api/search") == 0


def test_a_source_that_is_not_called_is_shown_with_the_reason(options, tmp_path, sandbox):
    sandbox.fault("status", status=401, source="imdbapi")
    with server(tmp_path, **options) as running:
        assert running.get("/api/search?q=film").status == 503

        metrics = Metrics(running)

    assert metrics.value("circuit_breaker_open", source="imdbapi", code="rejected") == 1
    assert metrics.value("circuit_breaker_open", source="imdbapi", code="timeout") == 0
    assert metrics.value("circuit_breaker_open", source="omdb", code="rejected") == 0
    labels = {"source": "imdbapi", "outcome": "http_4xx"}
    assert metrics.value("upstream_request_duration_seconds_count", **labels) == 1


def test_what_is_left_of_a_quota_is_shown_where_the_limit_is_known(options, tmp_path):
    with server(tmp_path, **options, OMDB_DAILY_LIMIT="500", KINO_DAILY_LIMIT="0") as running:
        assert running.get("/api/v1/search/id/?id=tt1375666").status == 200

        eventually(lambda: Metrics(running).value("upstream_quota_remaining", source="omdb") == 499)

        assert Metrics(running).count("upstream_quota_remaining") == 1


def test_queries_are_timed_under_names_of_ours(options, tmp_path):
    with server(tmp_path, **options, HOT_SECONDS="0") as running:
        for _ in range(2):
            assert running.get(FILM).status == 200
        running.get("/readyz")
        # The counts of calls are stored later.
        names = {"film_body", "film_row", "store", "lease", "limits", "ready"}
        eventually(lambda: timed_queries(running) - {"usage"} == names)


def timed_queries(running):
    return {
        dict(labels)["query"]
        for (name, labels), value in Metrics(running).items()
        if name == "filmosphere_db_query_duration_seconds_count" and value
    }


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no connections")
def test_a_connection_is_in_use_while_a_query_runs(options, tmp_path, url):
    with server(tmp_path, **options) as running:
        assert running.get(FILM).status == 200
        lock = locked(url, "LOCK TABLE films_film IN ACCESS EXCLUSIVE MODE")
        with lock, ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(running.get, f"{FILM}/trailer?n={n}") for n in range(2)]
            eventually(
                lambda: Metrics(running).value("db_connections_in_use", database="primary") == 2
            )
            assert {future.result().status for future in asked} == {503}


def test_a_redis_that_fails_is_down_at_the_second_look(options, tmp_path):
    with odd_redis() as redis:
        redis.answer = b"+PONG\r\n"
        with server(tmp_path, **options, REDIS_URL=redis.url) as running:
            assert Metrics(running).value("redis_up") == 1

            redis.answer = b""

            eventually(lambda: Metrics(running).value("redis_up") == 0)


def test_several_workers_are_summed_with_their_processor_time_and_memory(options, tmp_path):
    with server(tmp_path, **options, WORKERS="2") as running:
        eventually(lambda: Metrics(running).value("workers") == 2)
        used = sum(cpu_seconds(pid) for pid in running.workers.values())
        metrics = Metrics(running)
        memory = sum(resident_bytes(pid) for pid in running.workers.values())

    assert metrics["process_resident_memory_bytes", frozenset()] == pytest.approx(memory, rel=0.2)
    # The kernel counts in hundredths of a second, and sums of those are rounded.
    assert metrics["process_cpu_seconds_total", frozenset()] >= used - 0.005 > 0
    assert metrics.value("build_info", version="1.0.0", revision="unknown") == 1
    assert metrics.value("circuit_breaker_open", source="omdb", code="timeout") == 0


def resident_bytes(pid):
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
