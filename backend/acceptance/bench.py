"""Measure the service beside its limits, all in one run: `make bench`.

Needs wrk, taskset, and PostgreSQL, named by `DATABASE_URL`. The server runs on the first processor,
load and sandbox on the second. Nothing here passes or fails: each line has a figure and what it is
to reach.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "filmosphere.settings_test")

import django

django.setup()

import httpx
import psycopg2

from core.tests.sandbox import Sandbox, running
from filmosphere.tests.house import Server, database, free_port, get, on_sandbox, server

SECONDS = int(os.environ.get("BENCH_SECONDS", "4"))
ROWS = int(os.environ.get("BENCH_ROWS", "1000000"))
FILM = "/api/films/tt4154796"
# The longest chain: two calls of Watchmode's, or one of any other source.
CRITICAL_MS = 240

BARE_APPLICATION = """
import os
from django.conf import settings
body = open(os.environ["BODY"], "rb").read()
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x" * 50, MIDDLEWARE=[])
import django
django.setup()
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
def view(request, imdb_id):
    return HttpResponse(body, content_type="application/json")
urlpatterns = [path("api/films/<str:imdb_id>", view)]
application = get_wsgi_application()
"""


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    with running() as sandbox, database(folder) as url:
        settings = on_sandbox(
            sandbox.url,
            DATABASE_URL=url,
            LOG_LEVEL="WARNING",
            IMDBAPI_CONCURRENCY="224",
            KINO_CONCURRENCY="32",
            WATCHMODE_CONCURRENCY="32",
            BLOCKING_THREADS="48",
            COLD_CONCURRENCY="32",
        )
        warm(folder, settings)
        cold(folder, settings, sandbox, url)
        growth(folder, settings, url)


def warm(folder: Path, settings: dict[str, str]) -> None:
    eight = {**settings, "BLOCKING_THREADS": "8", "COLD_CONCURRENCY": "6"}
    with (
        pinned_server(folder, **eight) as hot,
        pinned_server(folder, **eight, HOT_SECONDS="0") as row,
    ):
        body = hot.get(FILM)
        tag = body.headers["ETag"]
        (folder / "body").write_bytes(body.body)
        with bare_view(folder) as bare_url:
            bare = rate(bare_url + FILM)
            print(f"bare Django view, {len(body.body)} bytes: {bare:.0f} requests/s")
            hot_rate = rate(hot.url + FILM)
            line("hot film against the bare view", hot_rate / rate(bare_url + FILM), ">= 0.85")
            line("row read each time against the bare view", rate(row.url + FILM) / bare, ">= 0.33")
            not_modified = rate(hot.url + FILM, f"If-None-Match: {tag}")
            line("304 against the bare view", not_modified / rate(bare_url + FILM), ">= 0.85")
            gzipped = rate(hot.url + FILM, "Accept-Encoding: gzip")
            line("gzip client against identity client", gzipped / rate(hot.url + FILM), ">= 0.95")


def cold(folder: Path, settings: dict[str, str], sandbox: Sandbox, url: str) -> None:
    sandbox.set("imdbapi", latency_ms=CRITICAL_MS)
    # A series is asked for twice, so is a film whose number Watchmode was not asked for yet.
    sandbox.set("kinocheck", latency_ms=CRITICAL_MS // 2)
    sandbox.set("watchmode", latency_ms=CRITICAL_MS // 2)
    found = get(f"{sandbox.url}/imdbapi/search/titles?query=a&limit=50").json["titles"]
    ids = [title["id"] for title in found]
    with pinned_server(folder, **settings) as house:
        house.get(FILM)
        films_per_second(house, url, ids, flights=8)
        limit = statistics.median(ten_calls(sandbox.url, imdb_id) for imdb_id in ids[:20])
        forget_films(url)
        alone = statistics.median(timed(house, imdb_id) for imdb_id in ids[:20])
        print(
            f"ten calls alone, bare httpx: {limit * 1000:.0f} ms; a cold film: {alone * 1000:.0f}"
        )
        line("cold film alone, p50 against the ten calls alone", alone / limit, "<= 1.05")
        line("cold film alone, p50 against 240 ms", alone * 1000 / CRITICAL_MS, "<= 1.05")
        before = cpu_seconds(house)
        _, number = films_per_second(house, url, ids, flights=8)
        spent = cpu_seconds(house) - before
        line("CPU ms a cold film, 8 in flight", spent / number * 1000, "<= 10")
        rate_at_32, _ = films_per_second(house, url, ids, flights=32)
        line("cold films/s, 32 in flight", rate_at_32, ">= 85")
    sandbox.reset()


def ten_calls(sandbox_url: str, imdb_id: str) -> float:
    """Seconds for calls that wait like those of one film, a thread and an `httpx.Client` a chain.

    Nothing is decoded, merged or stored, and what is answered does not matter.
    """
    imdb = f"{sandbox_url}/imdbapi/titles/{imdb_id}"
    parts = ("", "/credits", "/images", "/videos", "/parentsGuide", "/certificates")
    kino = f"{sandbox_url}/kinocheck/movies?language=en&imdb_id={imdb_id}"
    watch = f"{sandbox_url}/watchmode/v1/list-sources/"
    chains = [[watch, watch], [kino, kino], *([imdb + part] for part in (*parts, "/releaseDates"))]
    clients = [httpx.Client(trust_env=False) for _ in chains]
    with ExitStack() as stack, ThreadPoolExecutor(len(chains)) as pool:
        for client in clients:
            stack.enter_context(client)
        ready = list(pool.map(lambda client: client.get(f"{sandbox_url}/control/calls"), clients))
        assert all(answer.status_code == 200 for answer in ready)
        started = time.monotonic()
        list(pool.map(lambda client, chain: [client.get(url) for url in chain], clients, chains))
        return time.monotonic() - started


def films_per_second(house: Server, url: str, ids: list[str], *, flights: int) -> tuple[float, int]:
    """Ask for cold films for some seconds, `flights` at a time; returns the rate and the number."""
    forget_films(url)
    ends = time.monotonic() + SECONDS

    def reader(number: int) -> int:
        asked = 0
        with closing(psycopg2.connect(url)) as database:
            database.autocommit = True
            while time.monotonic() < ends:
                for imdb_id in ids[number::flights]:
                    timed(house, imdb_id)
                    asked += 1
                    with database.cursor() as cursor:
                        cursor.execute(
                            "DELETE FROM films_filmbody WHERE imdb_id = %s;"
                            "DELETE FROM films_film WHERE imdb_id = %s;"
                            "DELETE FROM films_filmfetch WHERE imdb_id = %s",
                            [imdb_id] * 3,
                        )
        return asked

    started = time.monotonic()
    with ThreadPoolExecutor(flights) as pool:
        number = sum(pool.map(reader, range(flights)))
    return number / (time.monotonic() - started), number


def growth(folder: Path, settings: dict[str, str], url: str) -> None:
    with pinned_server(folder, **settings, HOT_SECONDS="0") as house:
        house.get(FILM)
        small = median_ms(house.url + FILM)
        sql = (
            "INSERT INTO films_film (id, imdb_id, title, created_at, updated_at) SELECT"
            " gen_random_uuid(), 'tt55' || n, 'A film', now(), now() FROM generate_series(1, %d) n"
        )
        execute(url, sql % ROWS, "ANALYZE films_film")
        line(
            f"warm p50 with {ROWS} rows against few", median_ms(house.url + FILM) / small, "<= 1.1"
        )


def line(what: str, figure: float, target: str) -> None:
    print(f"{what:<52} {figure:8.2f}   to reach {target}", flush=True)


def timed(house: Server, imdb_id: str) -> float:
    started = time.monotonic()
    assert house.get(f"/api/films/{imdb_id}").status == 200
    return time.monotonic() - started


def execute(url: str, *statements: str) -> None:
    with closing(psycopg2.connect(url)) as database, database, database.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def forget_films(url: str) -> None:
    execute(url, "TRUNCATE films_film, films_filmfetch CASCADE")


@contextmanager
def pinned_server(folder: Path, **settings: str) -> Iterator[Server]:
    with server(folder, **settings) as house:
        for pid in (house.process.pid, *children(house)):
            subprocess.run(
                ["taskset", "-acp", "0", str(pid)], check=True, stdout=subprocess.DEVNULL
            )
        yield house


@contextmanager
def bare_view(folder: Path) -> Iterator[str]:
    (folder / "bare.py").write_text(BARE_APPLICATION)
    port = free_port()
    command = [sys.executable, "-m", "granian", "--interface", "wsgi", "--port", str(port)]
    options = ["--blocking-threads", "8", "--log-level", "error", "bare:application"]
    process = subprocess.Popen(
        ["taskset", "-c", "0", *command, *options],
        cwd=folder,
        env={**os.environ, "BODY": str(folder / "body"), "DJANGO_SETTINGS_MODULE": ""},
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(100):
            try:
                get(url + FILM)
                break
            except OSError:
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait()


def children(house: Server) -> list[str]:
    found = subprocess.run(["pgrep", "-P", str(house.process.pid)], capture_output=True, check=True)
    return found.stdout.decode().split()


def cpu_seconds(house: Server) -> float:
    ticks = 0
    for pid in children(house):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def wrk(url: str, *headers: str) -> str:
    options = [option for header in headers for option in ("-H", header)]
    command = [
        "taskset",
        "-c",
        "1",
        "wrk",
        "-t1",
        "-c8",
        f"-d{SECONDS}s",
        "--latency",
        *options,
        url,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def rate(url: str, *headers: str) -> float:
    found = re.search(r"Requests/sec:\s+([\d.]+)", wrk(url, *headers))
    assert found
    return float(found[1])


def median_ms(url: str) -> float:
    found = re.search(r"50%\s+([\d.]+)(us|ms)", wrk(url))
    assert found
    return float(found[1]) / (1000 if found[2] == "us" else 1)


if __name__ == "__main__":
    main()
