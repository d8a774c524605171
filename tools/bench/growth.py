"""What becomes of hits when rows, payloads, readers and processes grow."""

from contextlib import ExitStack
from typing import Any

from tools.bench.limits import BOTH, FILM, FILM_ID, Bench
from tools.bench.load import Target, alternated, say, say_compared, wrk
from tools.harness.databases import execute
from tools.harness.server import database

FEW = 1000
PAYLOAD_KB = (20, 50, 100, 200, 500)
READERS = (1, 4, 16, 32, 64, 128, 256)
PROCESSES = (1, 2, 3, 4)
_ADD_ROWS = """
INSERT INTO films_film (id, imdb_id, title, created_at, updated_at)
SELECT gen_random_uuid(), 'tt55' || n, 'A film', now(), now() FROM generate_series({0}, {1} - 1) n
"""
# Stores the film again with so many credits that its body has the size.
_RESIZE = """
from filmosphere import wiring
film = wiring.film_cache().get_cached("{0}")
old = film["credits"]["credits"]
size = len(str(old)) / len(old)
number = max(1, int(({1} - 12) * 1000 / size))
film["credits"]["credits"] = [old[n % len(old)] for n in range(number)]
film.body = None
wiring.film_cache().save_cache("{0}", film)
"""


def rows(bench: Bench) -> dict[str, Any]:
    """Compare the latency of row hits in a database that grows with one that does not."""
    with ExitStack() as stack:
        small, growing = (stack.enter_context(database(bench.folder)) for _ in range(2))
        few, many = (
            stack.enter_context(bench.service(DATABASE_URL=url, HOT_SECONDS="0"))
            for url in (small, growing)
        )
        for service, url in ((few, small), (many, growing)):
            assert service.get(FILM).status == 200
            execute(url, _ADD_ROWS.format(1, FEW), "ANALYZE films_film")
        curve, stored = [], FEW
        while True:
            found = alternated(
                bench.pairs if stored == bench.rows else 1,
                lambda: wrk(Target(many, FILM), seconds=bench.seconds).p50,
                lambda: wrk(Target(few, FILM), seconds=bench.seconds).p50,
                "ms",
            )
            curve.append({"rows": stored, **found})
            say_compared(f"{stored:,} rows: p50, with {FEW}, ratio", found)
            if stored >= bench.rows:
                return {"curve": curve, "most": {**found, "rows": stored}}
            more = min(stored * 10, bench.rows)
            execute(growing, _ADD_ROWS.format(stored, more))
            execute(growing, "ANALYZE films_film")
            stored = more


def payload(bench: Bench) -> dict[str, Any]:
    """Measure hits of films of several sizes, from memory and from the row, and bare WSGI."""
    curve = []
    with ExitStack() as stack:
        url = stack.enter_context(database(bench.folder))
        hot = stack.enter_context(bench.service(DATABASE_URL=url))
        row = stack.enter_context(bench.service(DATABASE_URL=url, HOT_SECONDS="0"))
        assert hot.get(FILM).status == 200
        for size in PAYLOAD_KB:
            bench.in_django(_RESIZE.format(FILM_ID, size), url=url)
            body = row.get(FILM).body
            with bench.wsgi(body) as bare:
                targets = {"memory": hot, "row": row, "bare": bare}
                rates = {
                    name: wrk(Target(server, FILM), seconds=bench.seconds).rate
                    for name, server in targets.items()
                }
            curve.append({"kb": len(body) / 1000, **rates})
            say(f"{len(body) / 1000:.0f} KB: memory, row, bare WSGI", list(rates.values()))
    return {"curve": curve}


def readers(bench: Bench) -> dict[str, Any]:
    """Measure hits with a growing number of connections, and the 32 threads of the default."""
    curve = []
    threads = {"BLOCKING_THREADS": "32", "COLD_CONCURRENCY": "24"}
    with bench.service(**threads) as hot, bench.service(**threads, HOT_SECONDS="0") as row:
        for service in (hot, row):
            assert service.get(FILM).status == 200
        for number in READERS:
            point: dict[str, float] = {"readers": number}
            for name, service in (("memory", hot), ("row", row)):
                load = wrk(Target(service, FILM), seconds=bench.seconds, connections=number)
                point |= {
                    f"{name}_rate": load.rate,
                    f"{name}_p50": load.p50,
                    f"{name}_p99": load.p99,
                }
            curve.append(point)
            say(f"{number} readers: memory, row", [point["memory_rate"], point["row_rate"]])
    return {"curve": curve}


def processes(bench: Bench) -> dict[str, Any]:
    """Measure row hits with several processes on both processors, which the load also uses."""
    curve = []
    for number in PROCESSES:
        point: dict[str, float] = {"processes": number}
        for name, seconds in (("memory", "1"), ("row", "0")):
            settings = {"WORKERS": str(number), "HOT_SECONDS": seconds}
            with bench.service(processors=BOTH, **settings) as service:
                assert service.get(FILM).status == 200
                target = Target(service, FILM)
                point[name] = wrk(target, seconds=bench.seconds, connections=32).rate
        curve.append(point)
        say(f"{number} processes: memory, row", [point["memory"], point["row"]])
    return {"curve": curve}
