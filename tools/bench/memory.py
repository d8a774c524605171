"""Memory of a worker: at rest, after a million requests for ten thousand films, and over time."""

import time
from pathlib import Path
from typing import Any

from tools.bench.limits import FILM, FILM_ID, Bench, children_of
from tools.bench.load import Target, say, wrk
from tools.harness.databases import execute
from tools.harness.server import Server

FILMS = 10_000
REQUESTS = 1_000_000
_SLICE_SECONDS = 10
# For how much longer it is watched if there were fewer requests.
_LONGER = 1.2
_COPIES = f"SELECT 'tt' || 66000000 + n AS copy FROM generate_series(1, {FILMS}) n"
# The film's row and its bytes, under other ids. The hash in front of the parts includes the id.
_COPY_FILM = f"""
INSERT INTO films_film (id, imdb_id, title, year, full_json, cached_at, created_at, updated_at)
SELECT gen_random_uuid(), copy, title, year, full_json, cached_at, created_at, updated_at
FROM films_film, ({_COPIES}) copies WHERE imdb_id = '{FILM_ID}'
ON CONFLICT DO NOTHING
"""
_COPY_BYTES = f"""
INSERT INTO films_filmrendering
  (imdb_id, rendered_for, version, body, gzipped_version, gzipped, parts, extras)
SELECT copy, rendered_for, version, body, gzipped_version, gzipped,
  left(encode(sha256(convert_to(concat_ws(' ', copy, version, substr(parts, 33)), 'UTF8')), 'hex'),
       32) || substr(parts, 33), extras
FROM films_filmrendering, ({_COPIES}) copies WHERE imdb_id = '{FILM_ID}'
ON CONFLICT DO NOTHING
"""


def memory(bench: Bench) -> dict[str, Any]:
    """Read ten thousand films at random for `memory_minutes`, in both codings by turns."""
    with bench.service(BLOCKING_THREADS="32", COLD_CONCURRENCY="24") as service:
        at_rest = megabytes(service)
        say("worker at rest", at_rest, "MB")
        assert service.get(FILM).status == 200
        execute(bench.database, _COPY_FILM, _COPY_BYTES)
        execute(bench.database, "ANALYZE films_film, films_filmrendering")
        copy = service.get("/api/films/tt66000001")
        assert copy.status == 200, copy.body
        assert "hit" in copy.headers["Cache-Status"], "the copies are not taken for films"
        listed = bench.folder / "films"
        listed.write_text(
            "".join(f"/api/films/tt{66_000_000 + number}\n" for number in range(1, FILMS + 1))
        )
        curve, requests, minutes = [{"minute": 0.0, "mb": at_rest, "requests": 0}], 0, 0.0
        codings = ("identity", "gzip")
        started = time.monotonic()
        longest = bench.memory_minutes * _LONGER
        while minutes < (bench.memory_minutes if requests >= REQUESTS else longest):
            seconds = max(1, min(_SLICE_SECONDS, round((longest - minutes) * 60)))
            headers = (f"Accept-Encoding: {codings[len(curve) % 2]}",)
            target = Target(service, headers=headers, paths=listed)
            requests += wrk(target, seconds=seconds, connections=32).requests
            minutes = (time.monotonic() - started) / 60
            curve.append({"minute": minutes, "mb": megabytes(service), "requests": requests})
            say("minute, MB, requests", list(curve[-1].values()))
    return {
        "rest": {"value": at_rest, "figure": at_rest, "unit": "MB"},
        "after": _after(curve),
        "curve": curve,
        "minutes": minutes,
    }


def _after(curve: list[dict[str, float]]) -> dict[str, Any]:
    """Return the memory at the first sample after `REQUESTS`, at the last if there were fewer."""
    at = next((point for point in curve if point["requests"] >= REQUESTS), curve[-1])
    found = {"value": at["mb"], "figure": at["mb"], "unit": "MB", "requests": at["requests"]}
    if at["requests"] < REQUESTS:
        found["missing"] = f"only {at['requests']:,} requests were made in the time"
    return found


def megabytes(service: Server) -> float:
    """Return the resident memory of the workers."""
    kilobytes = 0
    for pid in children_of(service.process.pid):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                kilobytes += int(line.split()[1])
    return kilobytes / 1000
