import os
import re
import subprocess
import sys

import pytest

from tools.harness.server import PROJECT


@pytest.mark.parametrize("arguments", [[], ["--short"]])
def test_the_trace_shows_functions_statements_calls_and_counts(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.trace", *arguments],
        cwd=PROJECT,
        env={**os.environ, "DATABASE_URL": "", "REDIS_URL": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    cold, hit = done.stdout.split("Hit: ")
    assert re.search(r"films/views\.py  FilmView\.get$", cold, re.MULTILINE)
    assert re.search(r"SQL SELECT films_film", cold)
    assert re.search(r"→ GET /imdbapi/titles/tt1375666$", cold, re.MULTILINE)
    assert re.search(r"^functions entered +[1-9]", cold, re.MULTILINE)
    assert re.search(r"^upstream calls +(9|10)$", cold, re.MULTILINE)
    assert re.search(
        r"^objects between the view and httpx +[1-9].* → HttpClient$", cold, re.MULTILINE
    )
    assert re.search(r"^upstream calls +0$", hit, re.MULTILINE)
