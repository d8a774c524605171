"""Measure how many upstream calls films cost and how long clients wait for them: `make economy`.

The sources are the sandbox with 100 ms latency; IMDbAPI.dev accepts 8 calls in 5 s and the service
runs with `IMDBAPI_RATE=8/5`. The database is of the kind that `DATABASE_URL` names (PostgreSQL for
the figures of the documents). Arguments select figures by name. The exit status is 1 if a target is
missed.
"""

import csv
import io
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sandbox import catalogue
from tools.harness.sandbox import Sandbox, running
from tools.harness.server import (
    PROJECT,
    Answer,
    Server,
    database,
    manage,
    on_sandbox,
    server,
)

TITLES = 200
CALLS, SECONDS = 8, 5
LATENCY_MS = 100
# One call more than the service may send at once: two calls can come a little closer together on
# the network than they were sent.
SANDBOX_BUCKET = {"capacity": CALLS + 1, "per": SECONDS * (CALLS + 1) / CALLS}
SOURCES = ("imdbapi", "kinocheck", "watchmode")
SECTION_TTL = ",".join(
    f"{section}=720"
    for section in (
        "images",
        "videos",
        "credits",
        "certificates",
        "release_dates",
        "parents_guide",
    )
)
DAY = 24 * 3600

_films = [
    film.id
    for film in catalogue.load(titles=TITLES).films
    if film.type == "movie" and film.kinocheck and film.watchmode
]
_missed: list[str] = []


@dataclass
class Setup:
    """A sandbox, and the settings with which servers and commands use it and their database."""

    sandbox: Sandbox
    folder: Path
    settings: dict[str, str]

    def move_clock(self, seconds: float) -> None:
        """Set how far the clocks of servers and commands are ahead."""
        # Replaced at once: a process never reads a half-written file.
        new = self.folder / "clock.new"
        new.write_text(str(seconds))
        new.replace(self.folder / "clock")

    @contextmanager
    def server(self, **settings: str) -> Iterator[Server]:
        """Run a server."""
        with server(self.folder, **self.settings | settings) as one:
            yield one

    def command(self, *arguments: str, stdin: str = "", **settings: str) -> float:
        """Run a management command; return its seconds."""
        started = time.monotonic()
        done = manage(*arguments, stdin=stdin, timeout=600, **self.settings | settings)
        if done.returncode:
            sys.exit(f"{' '.join(arguments[:3])}: {done.stdout}{done.stderr}")
        return time.monotonic() - started

    def calls(self, *sources: str) -> int:
        """Return the number of calls since the last reset of the sandbox."""
        return sum(sum(self.sandbox.counts(source).values()) for source in sources or SOURCES)


@contextmanager
def setup(*, latency_ms: int = LATENCY_MS, rate: bool = True) -> Iterator[Setup]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sandbox = stack.enter_context(running("--titles", str(TITLES)))
        for source in SOURCES:
            sandbox.set(source, latency_ms=latency_ms)
        if rate:
            sandbox.set("imdbapi", bucket=SANDBOX_BUCKET)
        settings = on_sandbox(
            sandbox.url,
            DATABASE_URL=stack.enter_context(database(folder)),
            IMDBAPI_RATE=f"{CALLS}/{SECONDS}" if rate else "",
            HOT_SECONDS="0",
            LOG_LEVEL="WARNING",
            PYTHONPATH=str(PROJECT / "tools" / "harness" / "clock"),
            CLOCK_OFFSET=str(folder / "clock"),
        )
        env = Setup(sandbox, folder, settings)
        env.move_clock(0)
        yield env


def report(what: str, figure: float, target: float, unit: str = "") -> None:
    passed = figure <= target
    shown = f"{figure:.2f}" if isinstance(figure, float) else str(figure)
    bound = f"<= {target}{unit}"
    print(f"{'ok  ' if passed else 'FAIL'} {what:<74} {shown + unit:>9}   {bound}", flush=True)
    if not passed:
        _missed.append(what)


def refused(setup: Setup) -> int:
    """Return the number of calls that the rate limit of the sandbox refused."""
    return sum(call["status"] == 429 for call in setup.sandbox.calls())


# --- cold films at once --------------------------------------------------------------------------


def six_films() -> None:
    with setup() as env, env.server() as service:
        started = time.monotonic()
        waits = [wait for wait, _ in first_metadata(service, _films[:6])]
        report("six cold films at once: until each has metadata, worst", max(waits), 5.5, " s")
        _wait_until_whole(service, _films[:6], limit=60)
        whole = time.monotonic() - started
        made = env.calls("imdbapi")
        ideal = (made - CALLS) * SECONDS / CALLS
        print(f"     {made} calls, {refused(env)} refused; the rate alone takes {ideal:.1f} s")
        report("six cold films at once: until all are complete", whole, 21.0, " s")


def six_films_with_prefer() -> None:
    with setup() as env, env.server() as service:
        found = first_metadata(service, _films[:6], Prefer="wait=1")
        assert all("Preference-Applied" in answer.headers for _, answer in found)
        worst = max(wait for wait, _ in found)
        report("six cold films at once with Prefer: wait=1, worst", worst, 1.3, " s")


def first_metadata(service: Server, films: list[str], **headers: str) -> list[tuple[float, Answer]]:
    """Request films at the same time; return the seconds until each had metadata."""

    def wait(film: str) -> tuple[float, Answer]:
        started = time.monotonic()
        while True:
            answer = service.get(f"/api/films/{film}", **headers)
            if answer.status == 200 and answer.json["metadata"]:
                return time.monotonic() - started, answer
            time.sleep(min(1.0, float(answer.headers.get("Retry-After", "1"))))

    with ThreadPoolExecutor(len(films)) as pool:
        return list(pool.map(wait, films))


def _wait_until_whole(service: Server, films: list[str], *, limit: float) -> None:
    """Read stored films, which costs no calls, until none has a warning."""
    ends = time.monotonic() + limit
    left = list(films)
    while left:
        answers = [service.get(f"/api/films/{film}", Prefer="wait=0") for film in left]
        left = [
            film
            for film, answer in zip(left, answers, strict=True)
            if answer.status != 200 or answer.json["warnings"]
        ]
        if time.monotonic() > ends:
            sys.exit(f"not complete after {limit} s: {left}")
        time.sleep(0.2)


# --- many films ----------------------------------------------------------------------------------


def warm_films() -> None:
    with setup() as env:
        seconds = env.command("warm_films", *_films[:20])
        made = env.calls("imdbapi")
        ideal = (made - CALLS) * SECONDS / CALLS
        at = [call["at"] for call in env.sandbox.calls("imdbapi")]
        called = max(at) - min(at)
        print(f"     {seconds:.1f} s, {called:.1f} s of it calls, {refused(env)} calls refused")
        report("20 cold films through warm_films: IMDbAPI.dev calls", made, 126)
        # The start of the command takes as long as the machine is busy.
        report("20 cold films through warm_films: time / time of the rate", called / ideal, 1.05)


def refresh_after_a_day() -> None:
    with setup(rate=False) as env:
        env.command("warm_films", "-", stdin="\n".join(_films[:100]))
        env.sandbox.reset()
        env.move_clock(DAY + 60)
        lifetimes = {"SECTION_TTL_HOURS": SECTION_TTL}
        # At the full rate, waiting metadata calls are combined.
        limited = {"IMDBAPI_RATE": f"{CALLS}/{SECONDS}"}
        env.command("refresh_films", "--older-than", "24h", **lifetimes, **limited)
        by_path = {source: env.sandbox.counts(source) for source in SOURCES}
        print(f"     {by_path}")
        report("100 films refreshed after a day, SECTION_TTL_HOURS set: calls", env.calls(), 340)


def new_films_with_known_ids() -> None:
    with setup(rate=False) as env:
        env.command("import_watchmode_ids", "-", stdin=id_map())
        env.command("warm_films", "-", stdin="\n".join(_films[:100]))
        credits_used = env.sandbox.settings()["watchmode"]["quota_used"]
        report("100 new films after import_watchmode_ids: Watchmode credits", credits_used, 100)


def id_map() -> str:
    """Return Watchmode's public id map for the catalogue."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["Watchmode ID", "IMDB ID", "TMDB ID", "TMDB Type", "Title", "Year"])
    for film in catalogue.load(titles=TITLES).films:
        if film.watchmode:
            row = [film.watchmode["id"], film.id, film.tmdb or "", "movie", film.title, film.year]
            writer.writerow(row)
    return text.getvalue()


# --- a day, and typing ---------------------------------------------------------------------------


def a_day_of_bad_responses() -> None:
    with setup(latency_ms=0, rate=False) as env, env.server() as service:
        env.sandbox.fault("malformed_json", source="kinocheck")
        before = 0
        for minute in range(DAY // 60):
            env.move_clock(minute * 60)
            assert service.get(f"/api/films/{_films[0]}").status == 200
            time.sleep(0.02)  # a background job starts
            made = env.calls("kinocheck")
            if made != before:
                # Its deadline would pass with the next minute: let it end.
                time.sleep(1)
                before = env.calls("kinocheck")
        made = env.calls("kinocheck")
        report("a day of reads each minute, a source sends invalid data: calls to it", made, 12)


def searches_then_a_film() -> None:
    text = "inception"
    with setup(latency_ms=250) as env, env.server() as service:
        with ThreadPoolExecutor(len(text)) as pool:
            searches = []
            for typed in itertools.accumulate(text):
                searches.append(pool.submit(service.get, f"/api/search?q={quote(typed)}"))
                time.sleep(0.05)
            assert {search.result().status for search in searches} == {200}
        ((seconds, answer),) = first_metadata(service, _films[:1], Prefer="wait=1")
        assert "Preference-Applied" in answer.headers
        report("nine searches, then a cold film with Prefer: wait=1, 250 ms", seconds, 1.5, " s")


FIGURES: dict[str, Callable[[], Any]] = {
    figure.__name__: figure
    for figure in (
        six_films,
        six_films_with_prefer,
        warm_films,
        refresh_after_a_day,
        new_films_with_known_ids,
        a_day_of_bad_responses,
        searches_then_a_film,
    )
}


def main() -> None:
    for name in sys.argv[1:] or FIGURES:
        FIGURES[name]()
    if _missed:
        sys.exit(f"{len(_missed)} targets missed: {'; '.join(_missed)}")


if __name__ == "__main__":
    main()
