"""Send all that the OpenAPI document allows, and what it forbids: `make fuzz`.

The service runs cold, warm, with limits for callers, with sources that answer nonsense, and without
any source. Each answer must be one that docs/openapi.yaml tells of, with every check of
schemathesis and those of `fuzz_checks`; what is sent is the same in every run.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "filmosphere.settings_test")

import django

django.setup()

from core.tests.sandbox import Sandbox, running
from filmosphere.tests.house import (
    BACKEND,
    PROJECT,
    Server,
    database,
    free_port,
    on_sandbox,
    server,
)

SCHEMATHESIS = PROJECT / ".venv-fuzz" / "bin" / "schemathesis"
LEAST_CASES = 5_000
LIMIT_SECONDS = 240

CANARIES = ("sandbox-kinocheck-key", "sandbox-watchmode-key", "5a4db0c5")
# Everything is out of date at once: each film is fetched anew.
EXPIRED = {"CACHE_TTL_HOURS": "0.000001", "HOT_SECONDS": "0", "CACHE_TTL": "1"}
NOBODY_THERE = dict.fromkeys(
    ("IMDBAPI_BASE", "KINO_BASE", "WATCHMODE_BASE", "OMDB_BASE_URL"),
    f"http://127.0.0.1:{free_port()}",
)
SHORT = ("--phases", "examples,coverage,fuzzing")
# 502 and 503 are what the document has for these; of 500 it knows nothing, so that
# status_code_conformance still finds it.
SOURCES_FAIL = (*SHORT, "--exclude-checks", "not_a_server_error")

FAULTS: list[dict[str, Any]] = [
    {"kind": "status", "status": 500},
    {"kind": "status", "status": 503, "headers": {"Retry-After": "1"}},
    {"kind": "status", "status": 400},
    {"kind": "status", "status": 418},
    {"kind": "rate_limited", "retry_after": "1"},
    {"kind": "redirect", "location": "http://127.0.0.1:9/"},
    {"kind": "html"},
    {"kind": "empty"},
    {"kind": "malformed_json"},
    {"kind": "nan"},
    {"kind": "nul"},
    {"kind": "surrogate"},
    {"kind": "echo_key", "status": 500},
    {"kind": "body", "body": "null"},
    {"kind": "body", "body": '[[], 1, "x", {"a": null}]'},
    {"kind": "patch", "patch": {"primaryTitle": 5, "genres": "x", "totalCount": "many"}},
    {"kind": "patch", "patch": {"genres": "x", "startYear": "1999", "rating": [], "plot": 7}},
    {"kind": "patch", "patch": {"images": {}, "credits": [7], "videos": None, "titles": "x"}},
    {"kind": "patch", "patch": {"trailer": 7, "Title": "N/A", "Search": [1], "totalResults": "x"}},
    {"kind": "reset"},
    {"kind": "truncate"},
    {"kind": "many_headers"},
]


@dataclass
class Round:
    """One server with its settings, and what schemathesis is told beyond its own settings.

    `sees` are statuses without which the round would not have been what its name says.
    """

    name: str
    sees: tuple[int, ...]
    settings: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    faults: list[dict[str, Any]] = field(default_factory=list)


ROUNDS = [
    Round("cold", (200, 304, 400, 404, 405), EXPIRED),
    # What the round before stored is fresh now.
    Round("warm", (200, 304, 400, 404, 405)),
    Round(
        "with limits",
        (200, 429),
        {
            "SEARCH_THROTTLE_RATE": "5/second",
            "FILM_MISS_THROTTLE_RATE": "5/second",
            "MAX_THRESHOLD": "20",
            "WINDOW_SIZE": "2",
            "BUCKET_SIZE": "1",
        }
        | EXPIRED,
        (*SHORT, "--max-examples", "30"),
    ),
    Round("sources answer nonsense", (200, 502, 503), EXPIRED, SOURCES_FAIL, FAULTS),
    Round("sources are away", (200, 503), EXPIRED | NOBODY_THERE, SOURCES_FAIL),
]


def main() -> None:
    folder, cases, started = Path(tempfile.mkdtemp()), 0, time.monotonic()
    with running() as sandbox, database(folder) as url:
        # 400, which a real id never gets, would be a 502.
        sandbox.set("imdbapi", malformed_id_status=404)
        for each in ROUNDS:
            begun = time.monotonic()
            for fault in each.faults:
                sandbox.fault(probability=0.02, **fault)
            with server(folder, **service(sandbox, url) | each.settings) as house:
                sent = attack(house, each, folder, limit=LIMIT_SECONDS - (begun - started))
                seen = house.get("/metrics").body.decode()
                missing = [status for status in each.sees if f'status="{status}"' not in seen]
                assert not missing, f"no answer was {missing}"
                look_at_log(house.output)
            # Films whose fetch failed are left alone for a minute, so chance may leave one out.
            assert sandbox.fired().count(0) <= len(each.faults) // 5, "too few faults fired"
            sandbox.clear_faults()
            print(f"{each.name:<25} {sent:5} cases {time.monotonic() - begun:6.1f} s", flush=True)
            cases += sent
    print(f"{cases} cases in {time.monotonic() - started:.0f} s, no failure")
    assert cases >= LEAST_CASES, f"fewer than {LEAST_CASES}"


def service(sandbox: Sandbox, database_url: str) -> dict[str, str]:
    return on_sandbox(
        sandbox.url,
        DATABASE_URL=database_url,
        OMDB_BASE_URL=f"{sandbox.url}/omdb/",
        OMDB_API_KEY="5a4db0c5",
        OMDB_DAILY_LIMIT="1000000",
        KINO_DAILY_LIMIT="0",
        MAX_THRESHOLD="1000000",
        HTTP_TIMEOUT="1",
        HTTP_RETRIES="2",
        FETCH_DEADLINE="2",
        LOG_LEVEL="WARNING",
        LOG_FORMAT="json",
    )


def attack(house: Server, each: Round, folder: Path, *, limit: float) -> int:
    """Run schemathesis against the server; returns how many cases it sent."""
    command = [
        *(SCHEMATHESIS, "--config-file", Path(__file__).with_name("schemathesis.toml"), "run"),
        *(PROJECT / "docs" / "openapi.yaml", "--url", house.url, "--checks", "all", "--no-color"),
        *each.options,
    ]
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(BACKEND), "FUZZ_CANARIES": " ".join(CANARIES)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{each.name}:\n{done.stdout}")
    return int(re.search(r"(\d+) generated", done.stdout)[1])


def look_at_log(log: str) -> None:
    for told in ("unexpected error", "Traceback", *CANARIES):
        where = log.find(told)
        assert where < 0, f"{told!r} in the log: …{log[max(0, where - 500) : where + 1500]}"


if __name__ == "__main__":
    main()
