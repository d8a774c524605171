"""Measure how the service behaves while its sources fail: `make acceptance`.

Two servers share one database of the kind that `DATABASE_URL` names (SQLite by default) and use the
sandbox as their sources. Arguments select figures by name. Each line shows a figure, its target
and whether it is met; the exit status is 1 if one is missed.
"""

import http.client
import itertools
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tools.harness.databases import LONG_AGO, eventually, execute, expire
from tools.harness.faults import FAULTS, body
from tools.harness.sandbox import Sandbox, running
from tools.harness.server import (
    BACKEND,
    PROJECT,
    Answer,
    Server,
    database,
    manage,
    on_sandbox,
    server,
)

FILMS = [
    film["id"]
    for film in json.loads((BACKEND / "sandbox" / "catalogue.json").read_text())["films"]
    if film["id"] != "tt9999998"
]
REQUESTS = int(os.environ.get("REQUESTS", "10000"))
INVENTED_IDS = int(os.environ.get("INVENTED_IDS", "2000"))
RETRY_AFTER = int(os.environ.get("RETRY_AFTER", "30"))
ROUNDS = int(os.environ.get("ROUNDS", "6"))
DEADLINE = 3.0

BOMBS: list[tuple[str, dict[str, Any]]] = [
    ("gzip_bomb", {}),
    ("huge", {}),
    ("endless", {}),
    ("body", {"body": '{"credits":[' + "[]," * 660_000 + "[]]}"}),
]

_failures: list[str] = []


class Service:
    """Server processes with one database and the sandbox."""

    def __init__(self, url: str, sandbox: Sandbox, servers: list[Server]) -> None:
        self.url, self.sandbox, self.servers = url, sandbox, servers

    def get(self, path: str, which: int = 0) -> Answer:
        """Send a request to one of the servers."""
        return self.servers[which % len(self.servers)].get(path)

    def film_calls(self) -> list[dict[str, Any]]:
        """Return the metadata calls; each fan-out makes one."""
        calls = self.sandbox.calls("imdbapi")
        return [call for call in calls if re.fullmatch(r"/titles/tt[0-9]+", call["path"])]


@contextmanager
def start_service(count: int = 2, **settings: str) -> Iterator[Service]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sandbox = stack.enter_context(running())
        url = stack.enter_context(database(folder))
        options = on_sandbox(sandbox.url, DATABASE_URL=url, HOT_SECONDS="0")
        servers = [stack.enter_context(server(folder, **options | settings)) for _ in range(count)]
        yield Service(url, sandbox, servers)


def report(what: str, figure: object, target: str, *, passed: bool) -> None:
    print(f"{'ok  ' if passed else 'FAIL'} {what:<66} {figure!s:>12}   target {target}", flush=True)
    if not passed:
        _failures.append(what)


def get_with_retries(service: Service, path: str, number: int) -> tuple[Answer | None, int]:
    """Request as a client behind a load balancer: retry at the other server and obey `Retry-After`.

    Return the last response and the number of 429 and 503 responses before it.
    """
    waits = 0
    for attempt in range(12):
        try:
            answer = service.get(path, number + attempt)
        # HTTPException: the process ended within its answer.
        except (OSError, http.client.HTTPException):
            time.sleep(0.2)
            continue
        if answer.status not in {429, 503}:
            return answer, waits
        waits += 1
        time.sleep(float(answer.headers["Retry-After"]))
    return None, waits


# --- 200 concurrent requests ----------------------------------------------------------------------


def stampede() -> None:
    with start_service() as service:
        service.sandbox.set("imdbapi", latency_ms=150)
        _send_200(service, "200 requests for a cold film", FILMS[0], fan_outs=1)
    with start_service() as service:
        service.sandbox.fault("delay", seconds=6, source="imdbapi", times=1)
        _send_200(service, "200 requests, the leader killed", FILMS[1], fan_outs=2, kill=True)


def _send_200(service: Service, what: str, film: str, *, fan_outs: int, kill: bool = False) -> None:
    with ThreadPoolExecutor(200) as pool:
        first = [pool.submit(get_with_retries, service, f"/api/films/{film}", 0)]
        if kill:
            # The first server is the leader: only it has received a request.
            eventually(lambda: service.sandbox.fired()[0] > 0)
        futures = first + [
            pool.submit(get_with_retries, service, f"/api/films/{film}", number)
            for number in range(1, 200)
        ]
        if kill:
            time.sleep(0.5)
            os.kill(service.servers[0].worker, signal.SIGKILL)
        answers = [future.result() for future in futures]
    good = sum(answer is not None and answer.status == 200 for answer, _ in answers)
    bodies = {answer.body for answer, _ in answers if answer}
    report(f"{what}: status 200", good, "200 of 200", passed=good == 200)
    report(f"{what}: different bodies", len(bodies), "1", passed=len(bodies) == 1)
    # One second each; the lease of a killed leader expires after four.
    waits, most = max(waits for _, waits in answers), 6 if kill else 3
    report(f"{what}: most refusals of a request", waits, f"<= {most}", passed=waits <= most)
    made = len(service.film_calls())
    report(f"{what}: fan-outs", made, f"<= {fan_outs}", passed=made <= fan_outs)


# --- every fault ----------------------------------------------------------------------------------


def faults() -> None:
    rng = random.Random(4)
    with start_service(FETCH_DEADLINE="1.5", HTTP_TIMEOUT="0.4", HTTP_RETRIES="2") as service:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda film: service.get(f"/api/films/{film}"), FILMS))
        good = {film: service.get(f"/api/films/{film}").json for film in FILMS}
        statuses: Counter[int] = Counter()
        silent = 0
        lock = threading.Lock()

        def ask(number: int) -> None:
            answer = service.get(f"/api/films/{rng.choice(FILMS)}", number)
            with lock:
                statuses[answer.status] += 1

        each = -(-REQUESTS // len(FAULTS))
        for kind, options, _, _ in FAULTS:
            service.sandbox.clear_faults()
            execute(service.url, "DELETE FROM core_upstreamstate")
            chosen = "', '".join(rng.sample(FILMS, 10))
            execute(
                service.url,
                "UPDATE films_filmfetch SET retry_at = NULL",
                f"UPDATE films_film SET cached_at = '{LONG_AGO}' WHERE imdb_id IN ('{chosen}')",
            )
            # For Watchmode, an empty list is a valid response.
            is_answer = options == body(b"[]")
            service.sandbox.fault(kind, **options, source="imdbapi" if is_answer else "*")
            with ThreadPoolExecutor(16) as pool:
                list(pool.map(ask, range(each)))
            silent += service.sandbox.fired()[0] == 0
        service.sandbox.clear_faults()
        asked = sum(statuses.values())
        other = asked - statuses[200]
        report(
            f"{asked} requests under {len(FAULTS)} faults: statuses other than 200",
            other,
            "0",
            passed=not other,
        )
        report("faults that never fired", silent, "0", passed=not silent)
        degraded = sum(
            _is_degraded(service.get(f"/api/films/{film}").json, good[film]) for film in FILMS
        )
        report("films with lost data", degraded, "0", passed=not degraded)


def _is_degraded(now: dict[str, Any], good: dict[str, Any]) -> bool:
    warnings = {"warnings": None}
    return {**now, **warnings} != {**good, **warnings} or any(
        warning["code"] != "stale" for warning in now["warnings"]
    )


# --- warm films while all sources are silent ------------------------------------------------------


def warm() -> None:
    with start_service(1, FETCH_DEADLINE=str(DEADLINE), COLD_CONCURRENCY="12") as service:
        service.get(f"/api/films/{FILMS[0]}")
        times: dict[str, list[float]] = {"healthy": [], "silent": []}
        longest = 0.0
        for number in range(ROUNDS):
            for state in ("healthy", "silent") if number % 2 else ("silent", "healthy"):
                service.sandbox.clear_faults()
                execute(service.url, "DELETE FROM core_upstreamstate")
                if state == "silent":
                    service.sandbox.fault("hang")
                warm_times, cold_longest = _mixed_load(service, seconds=4.0)
                times[state] += warm_times
                longest = max(longest, cold_longest)
        p99 = {
            state: statistics.quantiles(found, n=100)[98] * 1000 for state, found in times.items()
        }
        print(f"     warm p99 ms: {p99['healthy']:.1f} healthy, {p99['silent']:.1f} silent")
        ratio = p99["silent"] / p99["healthy"]
        report(
            "warm p99, silent / healthy sources",
            f"{ratio:.2f}",
            "<= 1.5",
            passed=ratio <= 1.5,
        )
        report(
            "longest wait for a cold film, s",
            f"{longest:.2f}",
            f"<= {DEADLINE + 0.5}",
            passed=longest <= DEADLINE + 0.5,
        )


_ids = itertools.count(1)


def _mixed_load(service: Service, *, seconds: float) -> tuple[list[float], float]:
    """Send 10 cold and 50 warm requests a second; return warm times and the longest cold time."""
    ends = time.monotonic() + seconds
    warm_times: list[float] = []
    with ThreadPoolExecutor(48) as pool:
        waits = []

        def cold() -> None:
            while time.monotonic() < ends:
                waits.append(pool.submit(_timed, service, f"/api/films/tt77{next(_ids):06}"))
                time.sleep(0.1)

        cold_thread = threading.Thread(target=cold)
        cold_thread.start()
        address = urlsplit(service.servers[0].url).netloc

        def read_warm() -> list[float]:
            connection, found = HTTPConnection(address), []
            while time.monotonic() < ends:
                started = time.monotonic()
                connection.request("GET", f"/api/films/{FILMS[0]}")
                response = connection.getresponse()
                response.read()
                assert response.status == 200
                found.append(time.monotonic() - started)
                time.sleep(0.08)
            connection.close()
            return found

        for future in [pool.submit(read_warm) for _ in range(4)]:
            warm_times += future.result()
        cold_thread.join()
        return warm_times, max(future.result() for future in waits)


def _timed(service: Service, path: str) -> float:
    started = time.monotonic()
    answer = service.get(path)
    assert answer.status in {404, 503}, answer.status
    return time.monotonic() - started


# --- memory ---------------------------------------------------------------------------------------


def bombs() -> None:
    concurrency = {"IMDBAPI_CONCURRENCY": "20", "COLD_CONCURRENCY": "24"}
    with start_service(1, **concurrency) as service, ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda film: service.get(f"/api/films/{film}"), FILMS[:20]))
        process = Path(f"/proc/{service.servers[0].worker}")
        before = _peak_mb(process)
        for kind, options in BOMBS:
            service.sandbox.clear_faults()
            service.sandbox.fault(kind, source="imdbapi", **options)
            execute(service.url, "DELETE FROM core_upstreamstate")
            expire(service.url)
            list(pool.map(lambda film: service.get(f"/api/films/{film}"), FILMS[:20]))
            assert service.sandbox.fired()[0] >= 20
        grown = _peak_mb(process) - before
    report(
        "memory growth of a worker during 20 oversized responses, MB",
        round(grown),
        "<= 150",
        passed=grown <= 150,
    )


def _peak_mb(process: Path) -> float:
    found = re.search(r"VmHWM:\s+([0-9]+) kB", (process / "status").read_text())
    assert found
    return int(found[1]) / 1024


# --- outages --------------------------------------------------------------------------------------


def outage() -> None:
    with start_service() as service:
        service.sandbox.fault("status", status=500)
        films, started = iter(FILMS), time.monotonic()
        while time.monotonic() < started + 20:
            service.get(f"/api/films/{FILMS[0]}", which=int(time.monotonic() * 10))
            time.sleep(0.1)
        # The circuit breaker is open after the first seconds.
        at = [call["at"] for call in service.sandbox.calls("imdbapi")]
        probes = [moment for moment in at if moment > started + 3]
        closest = min(
            (later - earlier for earlier, later in itertools.pairwise(probes)), default=99.0
        )
        report(
            "calls of two processes to a failing source in 17 s",
            len(probes),
            "<= 4",
            passed=len(probes) <= 4,
        )
        report(
            "shortest time between two probes, s",
            f"{closest:.1f}",
            ">= 4.9",
            passed=closest >= 4.9,
        )
        service.sandbox.clear_faults()
        back = time.monotonic()
        for number in itertools.count():
            answer = service.get(f"/api/films/{next(films)}", number)
            if answer.status == 200 and not answer.json["warnings"]:
                break
            assert time.monotonic() < back + 60
            time.sleep(0.25)
            films = itertools.chain(films, [FILMS[0]])
        taken = time.monotonic() - back
        report(
            "first complete response after an outage, s",
            f"{taken:.1f}",
            "<= 10",
            passed=taken <= 10,
        )


def cool_down() -> None:
    with start_service() as service:
        service.sandbox.fault(
            "rate_limited", source="imdbapi", retry_after=str(RETRY_AFTER), times=1
        )
        service.get(f"/api/films/{FILMS[0]}")
        refused = next(c["at"] for c in service.sandbox.calls() if c["status"] == 429)
        statuses: Counter[int] = Counter()
        for number in itertools.count():
            statuses[service.get(f"/api/films/{FILMS[number % 20 + 1]}", number).status] += 1
            if time.monotonic() > refused + RETRY_AFTER + 1:
                break
            time.sleep(0.05)
        # Calls in flight at that moment were sent before the 429 was known.
        calls = [
            call["at"] - refused
            for call in service.sandbox.calls("imdbapi")
            if call["at"] > refused + 0.5
        ]
        early = sum(seconds < RETRY_AFTER - 0.1 for seconds in calls)
        report(
            f"calls within {RETRY_AFTER} s after a 429 with Retry-After",
            early,
            "0",
            passed=early == 0,
        )
        report("responses with status 429 meanwhile", statuses[429], "0", passed=not statuses[429])
        report("calls resume afterwards", bool(calls), "True", passed=bool(calls))


# --- crawls ---------------------------------------------------------------------------------------


def crawl() -> None:
    per_minute = 20
    for rate in ("", f"{per_minute}/min"):
        limits = {"FILM_MISS_THROTTLE_RATE": "", "UNKNOWN_ID_THROTTLE_RATE": rate}
        with start_service(1, **limits) as service:
            started = time.monotonic()
            with ThreadPoolExecutor(8) as pool:
                ids = (f"/api/films/tt88{number:06}" for number in range(INVENTED_IDS))
                statuses = Counter(answer.status for answer in pool.map(service.get, ids))
            minutes = (time.monotonic() - started) / 60
            what = f"{INVENTED_IDS} invented ids, {rate or 'no limit'}"
            print(f"     {what}: {minutes * 60:.0f} s, {dict(statuses)}")
            paths = service.sandbox.paths
            scarce = len(paths("kinocheck")) + len(paths("watchmode"))
            report(f"{what}: calls to KinoCheck and Watchmode", scarce, "0", passed=scarce == 0)
            if rate:
                made, allowed = len(service.film_calls()), per_minute * (int(minutes) + 1)
                report(f"{what}: metadata calls", made, f"<= {allowed}", passed=made <= allowed)


def warm_films() -> None:
    with start_service(0) as service:
        service.sandbox.set("imdbapi", bucket={"capacity": 8, "per": 5}, latency_ms=120)
        options = on_sandbox(service.sandbox.url, DATABASE_URL=service.url, IMDBAPI_RATE="8/5")
        started = time.monotonic()
        done = manage("warm_films", *FILMS[:20], timeout=600, **options)
        taken = time.monotonic() - started
        refused = sum(call["status"] == 429 for call in service.sandbox.calls("imdbapi"))
        rows = execute(service.url, "SELECT full_json FROM films_film")
        payloads = [json.loads(row) if isinstance(row, str) else row for (row,) in rows]
        whole = sum(not payload["warnings"] for payload in payloads)
        print("     " + done.stdout.strip().replace("\n", "\n     "))
        report("warm_films for 20 cold films: complete", whole, "20", passed=whole == 20)
        report("warm_films: seconds", f"{taken:.1f}", "<= 105", passed=taken <= 105)
        report("warm_films: 429 responses of the source", refused, "<= 5", passed=refused <= 5)


def canaries() -> None:
    test = "backend/filmosphere/tests/test_faults_end_to_end.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", test, "-k", "keys_are_seen"],
        cwd=PROJECT,
        env={k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"},
        capture_output=True,
        text=True,
        check=False,
    )
    passed = done.returncode == 0 and "1 passed" in done.stdout
    report("API keys are exposed nowhere", passed, "True", passed=passed)


FIGURES: dict[str, Callable[[], None]] = {
    figure.__name__: figure
    for figure in (stampede, faults, warm, bombs, outage, cool_down, crawl, warm_films, canaries)
}


def main() -> None:
    chosen = sys.argv[1:] or list(FIGURES)
    for name in chosen:
        print(f"== {name}", flush=True)
        FIGURES[name]()
    if _failures:
        sys.exit(f"{len(_failures)} targets missed: {'; '.join(_failures)}")


if __name__ == "__main__":
    main()
