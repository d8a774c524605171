"""Minutes of random misbehaviour of the sources, under which rules must hold: `make soak`.

`SOAK_SECONDS` (180) says how long, `SOAK_SEED` (1) which run of luck. The database is of the kind
that `DATABASE_URL` names, SQLite without it. Ends at the first answer that breaks a rule.
"""

import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "filmosphere.settings_test")

import django

django.setup()

from core.tests.sandbox import Sandbox, running
from filmosphere.tests.databases import LONG_AGO, activity, dump, execute
from filmosphere.tests.faults import FAULTS
from filmosphere.tests.house import BACKEND, Answer, Server, database, on_sandbox, server
from films.services.sections import SECTIONS, has_good

SECONDS = float(os.environ.get("SOAK_SECONDS", "180"))
SEED = int(os.environ.get("SOAK_SEED", "1"))
DEADLINE = 2.0
READERS = 10
KEYS = {"KINO_API_KEY": "canary-kino-4f1d", "WATCHMODE_API_KEY": "canary-watch-77ab"}
FILMS = [
    film["id"] for film in json.loads((BACKEND / "sandbox" / "catalogue.json").read_text())["films"]
]
SOURCES = ("*", "imdbapi", "kinocheck", "watchmode")
MORE_FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("nul", {}),
    ("surrogate", {}),
    ("delay", {"seconds": 0.5}),
    ("status", {"status": 404}),
    ("patch", {"patch": {"primaryTitle": "x" * 600, "startYear": 10**30}}),
]


class Soak:
    """Two servers, their sources, and the rules."""

    def __init__(self, url: str, sandbox: Sandbox, servers: list[Server]) -> None:
        self.url, self.sandbox, self.servers = url, sandbox, servers
        self.statuses: Counter[int] = Counter()
        self.fired: Counter[str] = Counter()
        self.longest = 0.0
        self.broken: list[str] = []
        self._lock = threading.Lock()
        self._good: dict[str, set[str]] = {}

    def read(self, seed: int, ends: float) -> None:
        """Ask for one thing after the other."""
        dice = random.Random(seed)
        while time.monotonic() < ends and not self.broken:
            path = self._path(dice)
            started = time.monotonic()
            answer = dice.choice(self.servers).get(path)
            taken = time.monotonic() - started
            with self._lock:
                self.statuses[answer.status] += 1
                self.longest = max(self.longest, taken)
            self._check(path, answer, taken)
            time.sleep(dice.random() * 0.03)

    def _path(self, dice: random.Random) -> str:
        film = dice.choice(FILMS)
        return dice.choices(
            [
                f"/api/films/{film}",
                f"/api/films/{film}/trailer",
                f"/api/films/{film}/streaming",
                f"/api/films/tt66{dice.randrange(200):05}",
                f"/api/search?q={dice.choice(['inception', 'a', 'k%C4%B1%C5%9F', 'x' * 30])}",
                dice.choice(["/api/films/abc", "/api/nope", "/api/search", "/api/films/tt%00"]),
            ],
            [60, 10, 10, 10, 8, 2],
        )[0]

    def _check(self, path: str, answer: Answer, taken: float) -> None:
        text = f"{answer.headers}{answer.body.decode(errors='replace')}"
        rules = {
            "1: no 500": answer.status in {200, 400, 404, 502, 503},
            "1: JSON": answer.headers["Content-Type"] == "application/json",
            "1: nosniff": answer.headers["X-Content-Type-Options"] == "nosniff",
            "1: correlation id": bool(answer.headers["X-Correlation-ID"]),
            "1: one error shape": answer.status == 200
            or set(answer.json) == {"error_code", "message"},
            "2: in time": taken <= DEADLINE + 0.5,
            "3: no key": not any(key in text for key in KEYS.values()),
            "5: a 429 of theirs is none of ours": answer.status != 429,
        }
        self._note(f"{path} {answer.status} {taken:.2f} s {text[:600]}", rules)

    def misbehave(self, dice: random.Random, ends: float) -> None:
        """Order faults for a second or two, let time pass, look at the rows, and again."""
        everything = [(kind, options) for kind, options, *_ in FAULTS] + MORE_FAULTS
        turn = dice.sample(everything, len(everything))
        while time.monotonic() < ends and not self.broken:
            self.sandbox.clear_faults()
            chosen = []
            for _ in range(dice.choice([1, 1, 2, 3])):
                kind, options = turn.pop()
                turn = turn or dice.sample(everything, len(everything))
                aim = {"source": dice.choice(SOURCES), "probability": dice.choice([1, 0.5, 0.2])}
                self.sandbox.fault(kind, **options, **aim)
                chosen.insert(0, kind)
            if dice.random() < 0.7:
                execute(self.url, "DELETE FROM core_upstreamstate")
            some = "', '".join(dice.sample(FILMS, 15))
            execute(
                self.url,
                "UPDATE films_filmfetch SET retry_at = NULL, missing_until = NULL,"
                " missing_since = NULL",
                f"UPDATE films_film SET cached_at = '{LONG_AGO}' WHERE imdb_id IN ('{some}')",
            )
            time.sleep(dice.uniform(1.0, 2.5))
            for kind, fired in zip(chosen, self.sandbox.fired(), strict=True):
                self.fired[kind] += fired
            self._check_rows()
        self.sandbox.clear_faults()

    def _check_rows(self) -> None:
        rows = execute(self.url, "SELECT imdb_id, full_json FROM films_film")
        for imdb_id, payload in rows:
            stored = json.loads(payload) if isinstance(payload, str) else payload
            good = {section.name for section in SECTIONS if has_good(stored, section)}
            before = self._good.get(imdb_id, set())
            self._good[imdb_id] = good
            self._note(
                f"{imdb_id} lost {before - good}",
                {
                    "4: nothing good is lost": before <= good,
                    "4: a row is about its film": stored["imdb_id"] == imdb_id,
                    "4: twelve keys": len(stored) == 12,
                },
            )
        if not self.url.startswith("sqlite"):
            idle = [query for state, query in activity(self.url) if state == "idle in transaction"]
            time.sleep(0.3 if idle else 0)
            states = [state for state, _ in activity(self.url)]
            self._note(
                str(idle),
                {"6: nobody waits in a transaction": states.count("idle in transaction") < 3},
            )

    def _note(self, what: str, rules: dict[str, bool]) -> None:
        for rule, holds in rules.items():
            if not holds:
                with self._lock:
                    self.broken.append(f"{rule}: {what}")


def main() -> None:
    dice = random.Random(SEED)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sandbox = stack.enter_context(running())
        sandbox.set("kinocheck", keys=[KEYS["KINO_API_KEY"]])
        sandbox.set("watchmode", keys=[KEYS["WATCHMODE_API_KEY"]])
        url = stack.enter_context(database(folder))
        options = on_sandbox(sandbox.url, DATABASE_URL=url, HOT_SECONDS="0", LOG_LEVEL="DEBUG")
        options |= KEYS | {
            "FETCH_DEADLINE": str(DEADLINE),
            "HTTP_TIMEOUT": "0.7",
            "HTTP_RETRIES": "2",
            "PARTIAL_RETRY_SECONDS": "2",
        }
        servers = [stack.enter_context(server(folder, **options)) for _ in range(2)]
        soak = Soak(url, sandbox, servers)
        ends = time.monotonic() + SECONDS
        with ThreadPoolExecutor(READERS + 1) as pool:
            futures = [pool.submit(soak.read, SEED * 1000 + n, ends) for n in range(READERS)]
            futures.append(pool.submit(soak.misbehave, dice, ends))
            for future in futures:
                future.result()
        places = {f"log {n}": each.output for n, each in enumerate(servers)} | {"rows": dump(url)}
        soak.broken += [
            f"3: no key: in {place}"
            for place, text in places.items()
            if any(key in text for key in KEYS.values())
        ]
        for place, text in places.items():
            start = text.find('"unexpected')
            if start >= 0:
                soak.broken.append(
                    f"1: an unexpected error in {place}: {text[start : start + 1500]}"
                )
    asked, all_kinds = sum(soak.statuses.values()), [kind for kind, *_ in [*FAULTS, *MORE_FAULTS]]
    print(f"{asked} answers in {SECONDS:.0f} s, seed {SEED}: {dict(soak.statuses)}")
    print(f"longest wait {soak.longest:.2f} s of {DEADLINE + 0.5} s")
    silent = sorted({kind for kind in all_kinds if not soak.fired[kind]})
    print(f"faults fired: {sum(soak.fired.values())}; kinds that never did: {silent}")
    if soak.broken:
        sys.exit("\n".join(["broken:", *soak.broken[:10]]))
    print("all rules held")


if __name__ == "__main__":
    main()
