"""Compare the predictions of `tools.capacity` with a service that runs: `make capacity-check`.

Readers choose films of the sandbox by Zipf's law, in two scenarios. In the first one days pass in a
minute or two: before each request the clock of the service is set to the moment of that request,
and while the service works in the background the clock is not set. The second one, in which calls
to IMDbAPI.dev are scarce, runs in real time with a short time to live. The exit status is 1 if a
figure is more than 10 % off.
"""

import random
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

from sandbox import catalogue
from tools.capacity import DAY, HOUR, Result, Scenario, simulate
from tools.economy import SOURCES, TITLES, Setup, setup
from tools.harness.databases import eventually
from tools.harness.server import Answer, Server

ALLOWED = 0.10
PREDICTIONS = 10
DAYS = Scenario(
    films=120,
    requests=500 / DAY,
    days=6,
    warm_up=0,
    section_ttl="images=72,videos=72,streaming=48",
    imdb_rate="",
    kino=60,
    watchmode=0,
)
SCARCE = Scenario(
    films=120,
    requests=10,
    days=180 / DAY,
    warm_up=0,
    ttl=60 / HOUR,
    imdb_rate="10/1",
    kino=0,
    watchmode=0,
)


def requests_of(scenario: Scenario) -> Iterator[tuple[float, str]]:
    """Yield the seconds and the path of each request."""
    films = [
        film.id
        for film in catalogue.load(titles=TITLES).films
        if film.type == "movie" and film.kinocheck and film.watchmode
    ][: scenario.films]
    if len(films) < scenario.films:
        sys.exit(f"the sandbox has {len(films)} such films only")
    numbers, rates, at = random.Random(scenario.seed), scenario.read_rates(), 0.0
    while (at := at + numbers.expovariate(scenario.requests)) < scenario.days * DAY:
        yield at, f"/api/films/{numbers.choices(films, rates)[0]}"


@contextmanager
def service_for(scenario: Scenario) -> Iterator[tuple[Setup, Server]]:
    """Run a service with one process and the settings of the scenario."""
    with (
        setup(latency_ms=0, rate=False) as env,
        env.server(
            CACHE_TTL_HOURS=f"{scenario.ttl:.6f}",
            SECTION_TTL_HOURS=scenario.section_ttl,
            IMDBAPI_RATE=scenario.imdb_rate,
            KINO_DAILY_LIMIT=str(scenario.kino),
            WORKERS="1",
        ) as service,
    ):
        yield env, service


def days_measured(scenario: Scenario) -> Result:
    """Return what comes of the scenario; its days pass as fast as requests are answered."""
    result = Result()
    with service_for(scenario) as (env, service):
        # From midnight on, because quotas are counted by days (UTC).
        started = time.monotonic() + DAY - time.time() % DAY
        for at, path in requests_of(scenario):
            env.move_clock(at - (time.monotonic() - started))
            answer = service.get(path)
            assert answer.status == 200, answer
            count(answer, result)
            if not is_hit(answer):
                continue
            seconds_left = float(answer.headers["Cache-Status"].partition("ttl=")[2])
            # Late in its life, or with a failed section, a film may be fetched now.
            if seconds_left < scenario.ttl * HOUR / 5 or answer.json["warnings"]:
                eventually(lambda: _is_idle(service))
        result.calls = {source: env.calls(source) for source in SOURCES}
    return result


def real_time_measured(scenario: Scenario) -> Result:
    """Return what comes of the scenario in its own time."""
    result = Result()
    with service_for(scenario) as (env, service), ThreadPoolExecutor(64) as pool:
        started = time.monotonic()
        answers = []
        for at, path in requests_of(scenario):
            time.sleep(max(0.0, started + at - time.monotonic()))
            answers.append(pool.submit(service.get, path))
        result.calls = {source: env.calls(source) for source in SOURCES}
        for answer in answers:
            count(answer.result(), result)
    return result


def count(answer: Answer, result: Result) -> None:
    """Count an answer as a hit or not."""
    if is_hit(answer):
        result.hits += 1
    else:
        result.misses += 1


def is_hit(answer: Answer) -> bool:
    """Whether a film was answered without a fetch that its reader waited for."""
    return "; hit; ttl=" in answer.headers.get("Cache-Status", "")


def _is_idle(service: Server) -> bool:
    """Whether the background has nothing to do, and did not begin anything meanwhile."""
    names = ("filmosphere_background_queue_length", "filmosphere_upstream_threads_busy")
    for _ in range(2):
        time.sleep(0.015)
        for line in service.get("/metrics").body.decode().splitlines():
            if line.startswith(names) and not line.endswith(" 0.0"):
                return False
    return True


def predicted(scenario: Scenario) -> dict[str, float]:
    """Return the mean of several simulations."""
    figures = [figures_of(simulate(replace(scenario, seed=seed))) for seed in range(PREDICTIONS)]
    return {name: statistics.mean(each[name] for each in figures) for name in figures[0]}


def figures_of(result: Result) -> dict[str, float]:
    """Return what is compared."""
    calls = {f"calls to {source}": float(number) for source, number in result.calls.items()}
    return {"hit ratio": result.hits / result.requests, **calls}


def main() -> None:
    """Measure and compare both scenarios."""
    print(f"{'':<34}{'predicted':>11}{'measured':>11}{'off':>8}")
    is_off = False
    for words, scenario, measure in (
        ("six days", DAYS, days_measured),
        ("scarce calls", SCARCE, real_time_measured),
    ):
        found, expected = figures_of(measure(scenario)), predicted(scenario)
        for name, figure in found.items():
            off = figure / expected[name] - 1
            is_off |= abs(off) > ALLOWED
            what = f"{words}: {name}"
            print(f"{what:<34}{expected[name]:11.2f}{figure:11.2f}{off:8.1%}", flush=True)
    if is_off:
        sys.exit(f"more than {ALLOWED:.0%} off")


if __name__ == "__main__":
    main()
