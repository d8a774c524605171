import json
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import pytest

from tools import audit
from tools.harness.server import PROJECT

NOW = datetime(2026, 11, 25, tzinfo=timezone.utc)


def answering(stdout="", stderr="", status=0):
    """A `run` that answers every command with this, and notes the commands."""

    def run(command, folder):
        run.commands.append(command)
        return subprocess.CompletedProcess(command, status, stdout, stderr)

    run.commands = []
    return run


def pip_audit(*packages):
    return answering(json.dumps({"dependencies": packages, "fixes": []}))


CLEAN = {"name": "django", "version": "5.2.19", "vulns": []}
FLAWED = {
    "name": "httpx",
    "version": "0.1",
    "vulns": [{"id": "PYSEC-2021-1", "fix_versions": ["0.2", "0.3"], "aliases": []}],
}
SKIPPED = {"name": "ours", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("packages", "problems"),
    [
        ([CLEAN], ()),
        ([CLEAN, FLAWED], ("  httpx 0.1: PYSEC-2021-1, fixed in 0.2, 0.3",)),
        ([CLEAN, SKIPPED], ("  ours: Dependency not found on PyPI",)),
    ],
)
def test_an_advisory_about_a_python_package_is_a_problem(packages, problems):
    report = audit.python_advisories("pins.txt", run=pip_audit(*packages))

    assert report.problems == problems
    assert not report.not_reachable


@pytest.mark.parametrize(
    "run",
    [
        pip_audit(SKIPPED, SKIPPED),
        answering(stderr="Traceback\nConnectionError: no route", status=1),
    ],
    ids=["an index without advisories", "no network"],
)
def test_a_source_of_advisories_that_cannot_be_reached_is_reported_as_such(run):
    report = audit.python_advisories("pins.txt", run=run)

    assert report.problems == ()
    assert "NOT REACHABLE, nothing was checked" in report.lines()[0]


def test_a_check_that_fails_for_another_reason_is_a_problem():
    run = answering(stderr="usage: pip-audit\npip-audit: error: unrecognized arguments", status=2)

    report = audit.python_advisories("pins.txt", run=run)

    assert report.problems[-1] == "  pip-audit: error: unrecognized arguments"


@pytest.mark.parametrize(
    ("run", "problems", "is_reached"),
    [
        (answering('{"vulnerabilities": {}}'), (), True),
        (
            answering('{"vulnerabilities": {"lodash": {"severity": "high"}}}', status=1),
            ("  lodash: high",),
            True,
        ),
        (
            answering('{"statusCode": 405}', "npm error audit endpoint returned an error", 1),
            (),
            False,
        ),
    ],
)
def test_an_advisory_about_a_node_package_is_a_problem(run, problems, is_reached):
    report = audit.node_advisories(Path(), run=run)

    assert (report.problems, not report.not_reachable) == (problems, is_reached)


def test_an_update_is_overdue_once_it_is_a_quarter_old():
    run = answering("django==5.2.17\nlibrary-a==2.0\n")

    report = audit.overdue_updates(
        "pins.txt",
        "Django==5.2.19\nLibrary_A==1.9  # why\n",
        "Django>=5.2,<5.3  # x",
        now=NOW,
        run=run,
    )

    assert report.problems == ("  library-a 1.9: 2.0 was there before 2026-08-26",)
    assert "--exclude-newer=2026-08-26T00:00:00Z" in run.commands[0]


def test_updates_agree_with_the_bounds_of_the_requirements():
    wanted = []

    def run(command, folder):
        wanted.append(Path(command[-1]).read_text())
        return subprocess.CompletedProcess(command, 0, "", "")

    audit.overdue_updates(
        "x", "Django==5.2.19", "# a\nDjango>=5.2,<5.3 # b\nhttpx\n", now=NOW, run=run
    )

    assert [line.strip() for line in wanted[0].splitlines()] == ["django", "Django>=5.2,<5.3"]


def test_of_two_pins_the_one_for_the_oldest_python_counts():
    pins = 'library==1.9; python_version < "3.11"\nlibrary==3.0; python_version >= "3.11"\n'

    report = audit.overdue_updates("pins.txt", pins, "", now=NOW, run=answering("library==2.0\n"))

    assert report.problems == ("  library 1.9: 2.0 was there before 2026-08-26",)


def test_an_index_that_cannot_be_reached_is_reported_as_such():
    run = answering(stderr="error: Failed to fetch: `https://index.example/simple/`", status=2)

    report = audit.overdue_updates("x", "Django==5.2.19", "", now=NOW, run=run)

    assert report.not_reachable


@pytest.mark.parametrize("name", audit.PINNED)
def test_the_audited_files_pin_every_line(name):
    lines = (PROJECT / name).read_text().splitlines()

    assert [line for line in lines if line and line[0] != "#" and "==" not in line] == []
