"""A server whose database cannot be reached: the films in memory are the answer."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection

from tools.harness.databases import eventually, gateway
from tools.harness.server import database, get, on_sandbox, server

FILM = "/api/films/tt1375666"
OTHER = "/api/films/tt0068646"

pytestmark = pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no server")


def timed(url):
    started = time.monotonic()
    answer = get(url)
    return answer, time.monotonic() - started


@pytest.mark.parametrize("mode", ["closed", "silent", "full"])
def test_films_in_memory_are_served_as_stale_until_the_database_is_back(tmp_path, sandbox, mode):
    with database(tmp_path) as url, gateway(url) as way:
        options = on_sandbox(sandbox.url, DATABASE_URL=way.url, HOT_SECONDS="0.1")
        with server(tmp_path, **options) as running, ThreadPoolExecutor(16) as pool:
            # The first answer comes from the sources, the second one from the row.
            fresh = [running.get(FILM) for _ in range(2)][1]
            calls = len(sandbox.calls())
            way.mode = mode
            way.cut()
            eventually(lambda: running.get(FILM).headers["Cache-Status"].endswith("detail=stale"))

            # Long after its time in memory.
            started = time.monotonic()
            answers = []
            while time.monotonic() < started + 2:
                answers += pool.map(timed, [running.url + FILM] * 16)
            stale = answers[0][0]
            known = running.get(FILM, If_None_Match=stale.headers["ETag"])
            section = running.get(f"{FILM}/trailer")
            chosen = running.get(f"{FILM}?fields=title")
            missing = running.get(OTHER)
            several = running.get("/api/films?ids=tt1375666")
            assert len(sandbox.calls()) == calls
            way.mode = "open"
            eventually(lambda: running.get(FILM).body == fresh.body)
            again = running.get(FILM)

    assert {answer.status for answer, _ in answers} == {200}
    # One reader tries the database, for as long as a query may take.
    assert max(seconds for _, seconds in answers) < 2.5
    ages = {answer.headers["Cache-Control"].split(",")[1] for answer, _ in answers}
    assert ages <= {" max-age=29", " max-age=30"}
    assert {each["code"] for each in stale.json["warnings"]} == {"stale"}
    assert stale.json | {"warnings": []} == fresh.json
    assert (known.status, section.status, chosen.status) == (304, 200, 200)
    assert several.json["reason"] == "database_unavailable"
    assert section.json["trailer"] == fresh.json["trailer"]
    assert (missing.status, missing.json["reason"]) == (503, "database_unavailable")
    assert again.headers["ETag"] == fresh.headers["ETag"]
    lines = [line for line in running.output.splitlines() if '"cache": "stale"' in line]
    assert lines
    assert all('"reason": "database_unavailable"' in line for line in lines)
    assert '"outcome": "db_unavailable"' in running.output
