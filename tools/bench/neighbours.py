"""The service beside HTTP caches, bare views, and what people would build instead."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import redis

from tools.bench.cold import forget_films, slow_sources, timed
from tools.bench.limits import FILM, FILM_ID, TITLES, Bench, Missing, redis_url
from tools.bench.load import Serving, Target, rates_alternated, say, wrk
from tools.bench.warm import films_with_all_sections

Start = Callable[[], AbstractContextManager[Serving]]
Measure = Callable[[Bench, Serving], dict[str, Any]]
_ALONE = 5


def neighbours(bench: Bench) -> dict[str, Any]:
    """Measure warm requests of all of them, and cold films of those that fetch."""
    with bench.service() as hot, bench.service(HOT_SECONDS="0") as row:
        body = hot.get(FILM).body
        with bench.wsgi(body) as bare, _in_redis(body):
            data = {"DATABASE_URL": bench.database, "SANDBOX": bench.sandbox.url}
            starting: dict[str, Start] = {
                "nginx, proxy_cache": lambda: bench.nginx(bare.url),
                "Varnish": lambda: bench.varnish(bare.url),
                "bare Django view": lambda: bench.wsgi(body, "bare_django:application"),
                "bare WSGI, row read with psycopg2": lambda: bench.granian(
                    "bare_row:application", **data
                ),
                "ORM JSONField, REST framework": lambda: bench.granian(
                    "orm_jsonfield_drf:application", **data
                ),
                "FastAPI, Redis, pydantic": bench.fastapi,
                "sequential fan-out": lambda: bench.granian(
                    "sequential_fan_out:application", **data
                ),
                "aiohttp, dictionary": bench.aiohttp,
            }
            found = {
                "Filmosphere, from memory": _warm(bench, hot),
                "Filmosphere, row read": _warm(bench, row),
                "bare WSGI": _warm(bench, bare),
                **{name: _of_started(start, _warm, bench) for name, start in starting.items()},
            }
            against_fastapi = _of_started(bench.fastapi, _against(hot), bench)
    for name, each in found.items():
        say(name, [each["rate"], each["p50"]] if "rate" in each else [], each.get("missing", ""))
    return {"warm": found, "fastapi": against_fastapi, "cold": _cold(bench)}


def _of_started(start: Start, measure: Measure, bench: Bench) -> dict[str, Any]:
    """Measure a program, if it can be started."""
    try:
        with start() as limit:
            return measure(bench, limit)
    except Missing as exc:
        return {"missing": str(exc)}


def _warm(bench: Bench, server: Serving) -> dict[str, Any]:
    timed(server.url, FILM_ID)
    load = wrk(Target(server, FILM), seconds=bench.seconds)
    return {"rate": load.rate, "p50": load.p50, "p99": load.p99}


def _against(hot: Serving) -> Measure:
    """Return what compares the service with another program."""
    return lambda bench, other: rates_alternated(
        Target(hot, FILM), Target(other, FILM), pairs=bench.pairs, seconds=bench.seconds
    )


@contextmanager
def _in_redis(body: bytes) -> Iterator[None]:
    """Keep a film in Redis; nothing if there is no Redis."""
    with redis.Redis.from_url(redis_url()) as client:
        with suppress(redis.ConnectionError):
            client.set(f"benchmark:{FILM_ID}", body)
        try:
            yield
        finally:
            with suppress(redis.ConnectionError):
                client.delete(f"benchmark:{FILM_ID}")


def _cold(bench: Bench) -> dict[str, Any]:
    """Measure films that are not stored: alone, and with 32 in flight."""
    threads = {"BLOCKING_THREADS": "48", "COLD_CONCURRENCY": "32"}
    concurrency = {
        "IMDBAPI_CONCURRENCY": "224",
        "KINO_CONCURRENCY": "32",
        "WATCHMODE_CONCURRENCY": "32",
    }
    data = {"DATABASE_URL": bench.database, "SANDBOX": bench.sandbox.url}
    found: dict[str, Any] = {}
    with slow_sources(bench.sandbox):
        for name, start in {
            "Filmosphere": lambda: bench.service(**threads, **concurrency),
            "sequential fan-out": lambda: bench.granian(
                "sequential_fan_out:application", threads=32, **data
            ),
            "aiohttp, dictionary": bench.aiohttp,
        }.items():
            found[name] = _of_started(start, _cold_films, bench)
    for name, each in found.items():
        say(f"cold, {name}", [each["p50"], each["rate"]] if "rate" in each else [])
    return found


def _cold_films(bench: Bench, server: Serving) -> dict[str, Any]:
    url = server.url
    known = films_with_all_sections(bench.sandbox, TITLES - 50)
    forget_films(bench.database, known)
    ids = iter(known)
    # The first one opens connections.
    timed(url, next(ids))
    alone = [timed(url, imdb_id) for imdb_id in itertools.islice(ids, _ALONE)]
    ends = time.monotonic() + bench.seconds

    def reader(_: int) -> int:
        number = 0
        while time.monotonic() < ends:
            imdb_id = next(ids, None)
            if imdb_id is None:
                break
            timed(url, imdb_id)
            number += 1
        return number

    started = time.monotonic()
    with ThreadPoolExecutor(32) as pool:
        number = sum(pool.map(reader, range(32)))
    seconds = time.monotonic() - started
    return {"p50": statistics.median(alone) * 1000, "rate": number / seconds}
