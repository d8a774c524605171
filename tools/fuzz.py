"""Send requests that the OpenAPI document allows and requests that it forbids: `make fuzz`.

The service runs with a cold and a warm cache, with rate limits, with faulty sources and without
sources. Each response must match docs/openapi.yaml and pass all checks of schemathesis and of
`fuzz_checks`. Every run sends the same requests.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.harness.sandbox import Sandbox, running
from tools.harness.server import (
    PROJECT,
    Server,
    database,
    free_port,
    on_sandbox,
    server,
)

SCHEMATHESIS = PROJECT / ".venv-fuzz" / "bin" / "schemathesis"
MIN_CASES = 8_000
SEED = 1
# Enough for a busy machine; a hang ends the run.
LIMIT_SECONDS = 900

CANARIES = ("sandbox-kinocheck-key", "sandbox-watchmode-key", "5a4db0c5")
# Everything expires at once, so each request fetches the film again.
EXPIRED = {"CACHE_TTL_HOURS": "0.000001", "HOT_SECONDS": "0", "CACHE_TTL": "1"}
NO_SOURCES = dict.fromkeys(
    ("IMDBAPI_BASE", "KINO_BASE", "WATCHMODE_BASE", "OMDB_BASE_URL"),
    f"http://127.0.0.1:{free_port()}",
)
SHORT = ("--phases", "examples,coverage,fuzzing")
# The document describes 502 and 503 for failing sources. It does not describe 500, so
# status_code_conformance still reports it.
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
    """A server with its settings, and additional options of schemathesis.

    Each of `expected_statuses` must occur, which proves that the round tested what it names.
    """

    name: str
    expected_statuses: tuple[int, ...]
    settings: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    faults: list[dict[str, Any]] = field(default_factory=list)


ROUNDS = [
    Round("cold", (200, 304, 400, 404, 405), EXPIRED),
    # The films stored by the previous round are fresh now.
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
        SHORT,
    ),
    Round("sources are faulty", (200, 502, 503), EXPIRED, SOURCES_FAIL, FAULTS),
    Round("sources are unreachable", (200, 503), EXPIRED | NO_SOURCES, SOURCES_FAIL),
]


def main() -> None:
    cases, started = 0, time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sandbox = stack.enter_context(running())
        url = stack.enter_context(database(folder))
        # A valid id never gets 400 from the real source; here it would become a 502.
        sandbox.set("imdbapi", malformed_id_status=404)
        for round_ in ROUNDS:
            begun = time.monotonic()
            for fault in round_.faults:
                sandbox.fault(probability=0.02, **fault)
            with server(folder, **service(sandbox, url) | round_.settings) as target:
                sent = attack(target, round_, folder, limit=LIMIT_SECONDS - (begun - started))
                seen = target.get("/metrics").body.decode()
                missing = [
                    status
                    for status in round_.expected_statuses
                    if f'status="{status}"' not in seen
                ]
                assert not missing, f"no response had status {missing}"
                check_log(target.output)
            # Films are not fetched again for a minute after a failure, so some faults may not fire.
            assert sandbox.fired().count(0) <= len(round_.faults) // 5, (
                "too many faults did not fire"
            )
            sandbox.clear_faults()
            print(f"{round_.name:<25} {sent:5} cases {time.monotonic() - begun:6.1f} s", flush=True)
            cases += sent
    print(f"{cases} cases in {time.monotonic() - started:.0f} s, seed {SEED}, no failure")
    assert cases >= MIN_CASES, f"fewer than {MIN_CASES}"


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


def attack(target: Server, round_: Round, folder: Path, *, limit: float) -> int:
    """Run schemathesis against the server; return the number of cases that it sent."""
    command = [
        *(SCHEMATHESIS, "--config-file", Path(__file__).with_name("schemathesis.toml"), "run"),
        *(PROJECT / "docs" / "openapi.yaml", "--url", target.url, "--no-color"),
        *("--seed", SEED),
        *round_.options,
    ]
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT), "FUZZ_CANARIES": " ".join(CANARIES)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{round_.name}:\n{done.stdout}")
    return int(re.search(r"(\d+) generated", done.stdout)[1])


def check_log(log: str) -> None:
    for text in ("unexpected error", "Traceback", *CANARIES):
        where = log.find(text)
        assert where < 0, f"{text!r} in the log: …{log[max(0, where - 500) : where + 1500]}"


if __name__ == "__main__":
    main()
