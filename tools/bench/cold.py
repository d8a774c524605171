"""Films that are not stored, against their ten bare calls, and under a rate limit of the source."""

import itertools
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import psycopg2

from tools.bench.limits import BENCHMARKS, SERVERS, Bench, cpu_seconds, on_processors
from tools.bench.load import alternated, say, say_compared
from tools.bench.warm import films_with_all_sections
from tools.harness.databases import execute
from tools.harness.sandbox import Sandbox, running
from tools.harness.server import Server, database, get, on_sandbox, server

# The critical path of a film: two Watchmode calls, or one call to any other source.
CRITICAL_MS = 240
FILMS = 40
_KEYS = {
    "kinocheck": {"X-Api-Key": "sandbox-kinocheck-key"},
    "watchmode": {"X-API-Key": "sandbox-watchmode-key"},
}
_FORGET = """
DELETE FROM films_filmrendering WHERE imdb_id = %s;
DELETE FROM films_film WHERE imdb_id = %s;
DELETE FROM films_filmfetch WHERE imdb_id = %s;
INSERT INTO films_filmfetch (imdb_id, token, failure, seen_at) VALUES (%s, '', '', now())
"""
# The rate that IMDbAPI.dev accepts. The sandbox has room for one call more, because two calls can
# come a little closer together than they were sent.
_CALLS, _PER_SECONDS = 8, 5
_BUCKET = {"capacity": _CALLS + 1, "per": _PER_SECONDS * (_CALLS + 1) / _CALLS}
_LIMITED_FILMS = 8
_LIMITED_SECONDS = 90.0


def cold(bench: Bench, names: Collection[str] | None = None) -> dict[str, Any]:
    """Compare cold films with their ten calls: alone, and with 8 and 32 in flight."""
    ids = films_with_all_sections(bench.sandbox, FILMS)
    concurrency = {
        "IMDBAPI_CONCURRENCY": "224",
        "KINO_CONCURRENCY": "32",
        "WATCHMODE_CONCURRENCY": "32",
        "BLOCKING_THREADS": "48",
        "COLD_CONCURRENCY": "32",
    }
    found = {}
    with slow_sources(bench.sandbox), bench.service(**concurrency) as service:
        forget_films(bench.database, ids)
        calls = [calls_of(service, bench.sandbox, imdb_id) for imdb_id in ids[:8]]
        films_per_second(service, bench.database, ids, in_flight=8, seconds=2)

        def alone() -> float:
            forget_films(bench.database, ids)
            return statistics.median(timed(service.url, imdb_id) for imdb_id in ids[:10]) * 1000

        def bare_alone() -> float:
            bare = bare_calls(calls, in_flight=1, seconds=CRITICAL_MS / 1000 * 10)
            return statistics.median(bare["times"]) * 1000

        def cpu() -> float:
            before = cpu_seconds(service.process.pid)
            _, number = films_per_second(
                service, bench.database, ids, in_flight=8, seconds=bench.seconds
            )
            return (cpu_seconds(service.process.pid) - before) / number * 1000

        def bare_cpu() -> float:
            return bare_calls(calls, in_flight=8, seconds=bench.seconds)["cpu"] * 1000

        for name, compared in (("p50", (alone, bare_alone)), ("cpu", (cpu, bare_cpu))):
            if names is None or name in names:
                found[name] = alternated(bench.pairs, *compared, "ms")
                say_compared(f"cold film, {name}", found[name])
        if names is None or "at_32" in names:
            rates = [
                films_per_second(service, bench.database, ids, in_flight=32, seconds=bench.seconds)[
                    0
                ]
                for _ in range(bench.pairs)
            ]
            rate = statistics.median(rates)
            found["at_32"] = {"figure": rate, "value": rate, "unit": "films/s"}
            say("cold films/s, 32 in flight", rate)
    return found


@contextmanager
def slow_sources(sandbox: Sandbox) -> Any:
    """Give the sources the latencies of `CRITICAL_MS`."""
    sandbox.set("imdbapi", latency_ms=CRITICAL_MS)
    sandbox.set("kinocheck", latency_ms=CRITICAL_MS)
    sandbox.set("watchmode", latency_ms=CRITICAL_MS // 2)
    try:
        yield
    finally:
        sandbox.reset()


def calls_of(service: Server, sandbox: Sandbox, imdb_id: str) -> list[list[Any]]:
    """Fetch a film; return the calls that it took, as chains for `bare_calls.py`."""
    name = f"bench-{imdb_id}"
    assert service.get(f"/api/films/{imdb_id}", X_Correlation_ID=name).status == 200
    calls = [call for call in sandbox.calls() if call["correlation_id"] == name]
    assert len(calls) == 10, calls
    chains: dict[str, list[Any]] = {}
    for call in calls:
        source = call["source"]
        url = f"{sandbox.url}/{source}{call['path']}?{call['query']}".removesuffix("?")
        chain = url if source == "imdbapi" else source
        chains.setdefault(chain, []).append([url, _KEYS.get(source, {})])
    return list(chains.values())


def bare_calls(films: list[Any], *, in_flight: int, seconds: float) -> dict[str, Any]:
    """Make the calls with httpx and nothing else, in a process on the processor of the servers."""
    given = {"films": films, "in_flight": in_flight, "seconds": seconds}
    with on_processors(SERVERS):
        done = subprocess.run(
            [sys.executable, BENCHMARKS / "bare_calls.py"],
            input=json.dumps(given),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def films_per_second(
    service: Server, url: str, ids: list[str], *, in_flight: int, seconds: float
) -> tuple[float, int]:
    """Request cold films, each forgotten afterwards; return films per second and their number."""
    forget_films(url, ids)
    ends = time.monotonic() + seconds

    def reader(number: int) -> int:
        requested = 0
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            for imdb_id in itertools.cycle(ids[number::in_flight]):
                if time.monotonic() > ends:
                    break
                timed(service.url, imdb_id)
                requested += 1
                cursor.execute(_FORGET, [imdb_id] * 4)
        return requested

    started = time.monotonic()
    with ThreadPoolExecutor(in_flight) as pool:
        number = sum(pool.map(reader, range(in_flight)))
    return number / (time.monotonic() - started), number


def timed(url: str, imdb_id: str) -> float:
    """Request a film; return the seconds."""
    started = time.monotonic()
    assert get(f"{url}/api/films/{imdb_id}").status == 200
    return time.monotonic() - started


def forget_films(url: str, ids: list[str]) -> None:
    """Remove all films; the ids stay known from a search, so that all calls start at once."""
    known = ", ".join(f"('{imdb_id}', '', '', now())" for imdb_id in ids)
    execute(
        url,
        "TRUNCATE films_film, films_filmfetch CASCADE",
        f"INSERT INTO films_filmfetch (imdb_id, token, failure, seen_at) VALUES {known}",
    )


def limited(bench: Bench) -> dict[str, Any]:
    """Request films at once while IMDbAPI.dev accepts eight calls in five seconds.

    Without `Prefer`, and with `Prefer: wait=0`, at the same time, each with sources of its own.
    """
    with ThreadPoolExecutor(2) as pool:
        without, with_prefer = pool.map(lambda prefer: _limited(bench, prefer), ("", "wait=0"))
    for name, curve in (("without Prefer", without), ("with Prefer: wait=0", with_prefer)):
        say(f"8/5, {name}: last film with metadata, complete", [curve[key][-1] for key in curve])
    return {"without": without, "with_prefer": with_prefer, "films": _LIMITED_FILMS}


def _limited(bench: Bench, prefer: str) -> dict[str, list[float]]:
    """Return the seconds at which films were first answered, and were complete, sorted."""
    folder = bench.folder / f"limited-{prefer}"
    folder.mkdir()
    with running("--titles", "100") as sandbox, database(folder) as url:
        for source in ("imdbapi", "kinocheck", "watchmode"):
            sandbox.set(source, latency_ms=100)
        sandbox.set("imdbapi", bucket=_BUCKET)
        settings = on_sandbox(
            sandbox.url,
            DATABASE_URL=url,
            LOG_LEVEL="WARNING",
            IMDBAPI_RATE=f"{_CALLS}/{_PER_SECONDS}",
        )
        with server(folder, **settings) as service:
            started, headers = time.monotonic(), {"Prefer": prefer} if prefer else {}

            def read(imdb_id: str) -> tuple[float, float]:
                first = None
                while time.monotonic() - started < _LIMITED_SECONDS:
                    answer = service.get(f"/api/films/{imdb_id}", **headers)
                    if answer.status == 200 and answer.json["metadata"]:
                        first = first or time.monotonic() - started
                        if not answer.json["warnings"]:
                            return first, time.monotonic() - started
                    # A stored film costs no call. One that is not is asked for as told.
                    wait = 0.2 if answer.status == 200 else float(answer.headers["Retry-After"])
                    threading.Event().wait(min(wait, 1.0))
                raise AssertionError(f"{imdb_id} is not complete after {_LIMITED_SECONDS} s")

            ids = films_with_all_sections(sandbox, _LIMITED_FILMS)
            with ThreadPoolExecutor(_LIMITED_FILMS) as pool:
                times = list(pool.map(read, ids))
    answered, complete = (sorted(each) for each in zip(*times, strict=True))
    return {"answered": answered, "complete": complete}
