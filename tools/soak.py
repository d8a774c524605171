"""Check rules while the sources fail at random: `make soak`.

`SOAK_SECONDS` (180) is the duration, `SOAK_SEED` (1) the seed of the random faults. The database is
of the kind that `DATABASE_URL` names, SQLite by default. Ends at the first violation of a rule.
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

from films.payload import SECTION_NAMES
from tools.harness.databases import LONG_AGO, activity, dump, execute
from tools.harness.faults import FAULTS
from tools.harness.sandbox import Sandbox, running
from tools.harness.server import BACKEND, Answer, Server, database, on_sandbox, server

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
    """Two servers, their sources, and the rules that must hold."""

    def __init__(self, url: str, sandbox: Sandbox, servers: list[Server]) -> None:
        self.url, self.sandbox, self.servers = url, sandbox, servers
        self.statuses: Counter[int] = Counter()
        self.fired: Counter[str] = Counter()
        self.longest = 0.0
        self.violations: list[str] = []
        self._lock = threading.Lock()
        self._good: dict[str, set[str]] = {}

    def read(self, seed: int, ends: float) -> None:
        """Send random requests until `ends`."""
        rng = random.Random(seed)
        while time.monotonic() < ends and not self.violations:
            path = self._path(rng)
            started = time.monotonic()
            answer = rng.choice(self.servers).get(path)
            taken = time.monotonic() - started
            with self._lock:
                self.statuses[answer.status] += 1
                self.longest = max(self.longest, taken)
            self._check(path, answer, taken)
            time.sleep(rng.random() * 0.03)

    def _path(self, rng: random.Random) -> str:
        film = rng.choice(FILMS)
        return rng.choices(
            [
                f"/api/films/{film}",
                f"/api/films/{film}/trailer",
                f"/api/films/{film}/streaming",
                f"/api/films/tt66{rng.randrange(200):05}",
                f"/api/search?q={rng.choice(['inception', 'a', 'k%C4%B1%C5%9F', 'x' * 30])}",
                rng.choice(["/api/films/abc", "/api/nope", "/api/search", "/api/films/tt%00"]),
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
            or set(answer.json) == {"error_code", "message", "reason"},
            "2: answered within the deadline": taken <= DEADLINE + 0.5,
            "3: no API key": not any(key in text for key in KEYS.values()),
            "5: a 429 of a source is not passed on": answer.status != 429,
        }
        self._check_rules(f"{path} {answer.status} {taken:.2f} s {text[:600]}", rules)

    def inject_faults(self, rng: random.Random, ends: float) -> None:
        """Inject random faults for one or two seconds at a time and check the stored rows."""
        everything = [(kind, options) for kind, options, *_ in FAULTS] + MORE_FAULTS
        turn = rng.sample(everything, len(everything))
        while time.monotonic() < ends and not self.violations:
            self.sandbox.clear_faults()
            chosen = []
            for _ in range(rng.choice([1, 1, 2, 3])):
                kind, options = turn.pop()
                turn = turn or rng.sample(everything, len(everything))
                aim = {"source": rng.choice(SOURCES), "probability": rng.choice([1, 0.5, 0.2])}
                self.sandbox.fault(kind, **options, **aim)
                chosen.insert(0, kind)
            if rng.random() < 0.7:
                execute(self.url, "DELETE FROM core_upstreamstate")
            some = "', '".join(rng.sample(FILMS, 15))
            execute(
                self.url,
                "UPDATE films_filmfetch SET retry_at = NULL, missing_until = NULL,"
                " missing_since = NULL",
                f"UPDATE films_film SET cached_at = '{LONG_AGO}' WHERE imdb_id IN ('{some}')",
            )
            time.sleep(rng.uniform(1.0, 2.5))
            for kind, fired in zip(chosen, self.sandbox.fired(), strict=True):
                self.fired[kind] += fired
            self._check_rows()
        self.sandbox.clear_faults()

    def _check_rows(self) -> None:
        rows = execute(self.url, "SELECT imdb_id, full_json FROM films_film")
        for imdb_id, payload in rows:
            stored = json.loads(payload) if isinstance(payload, str) else payload
            good = good_sections(stored)
            before = self._good.get(imdb_id, set())
            self._good[imdb_id] = good
            self._check_rules(
                f"{imdb_id} lost {before - good}",
                {
                    "4: no good section is lost": before <= good,
                    "4: a row contains its own film": stored["imdb_id"] == imdb_id,
                    "4: twelve keys": len(stored) == 12,
                },
            )
        if not self.url.startswith("sqlite"):
            idle = [query for state, query in activity(self.url) if state == "idle in transaction"]
            time.sleep(0.3 if idle else 0)
            states = [state for state, _ in activity(self.url)]
            self._check_rules(
                str(idle),
                {
                    "6: no connection is idle in a transaction": states.count("idle in transaction")
                    < 3
                },
            )

    def _check_rules(self, what: str, rules: dict[str, bool]) -> None:
        for rule, holds in rules.items():
            if not holds:
                with self._lock:
                    self.violations.append(f"{rule}: {what}")


def good_sections(payload: dict[str, Any]) -> set[str]:
    """Return the sections that hold what a source sent, now or in an earlier fetch."""
    codes = {warning["section"]: warning["code"] for warning in payload["warnings"]}
    good = {name for name in SECTION_NAMES if codes.get(name, "stale") == "stale"}
    return good if payload["metadata"] else good - {"metadata"}


def main() -> None:
    rng = random.Random(SEED)
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
            futures.append(pool.submit(soak.inject_faults, rng, ends))
            for future in futures:
                future.result()
        places = {f"log {n}": each.output for n, each in enumerate(servers)} | {"rows": dump(url)}
        soak.violations += [
            f"3: no API key: found in {place}"
            for place, text in places.items()
            if any(key in text for key in KEYS.values())
        ]
        for place, text in places.items():
            start = text.find('"unexpected')
            if start >= 0:
                soak.violations.append(
                    f"1: unexpected error in {place}: {text[start : start + 1500]}"
                )
    all_kinds = [kind for kind, *_ in [*FAULTS, *MORE_FAULTS]]
    requests = soak.statuses.total()
    print(f"{requests} requests in {SECONDS:.0f} s, seed {SEED}: {dict(soak.statuses)}")
    print(f"longest request {soak.longest:.2f} s, limit {DEADLINE + 0.5} s")
    silent = sorted({kind for kind in all_kinds if not soak.fired[kind]})
    print(f"faults fired: {sum(soak.fired.values())}; kinds that did not fire: {silent}")
    if soak.violations:
        sys.exit("\n".join(["violations:", *soak.violations[:10]]))
    print("no violations")


if __name__ == "__main__":
    main()
