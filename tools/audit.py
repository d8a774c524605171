"""Look for known vulnerabilities and for overdue updates of all that is pinned: `make audit`.

Needs the registries. A source of advisories that cannot be reached is reported and is no failure; a
vulnerability and an overdue update are. An update is overdue if it has been available for a
quarter of a year and runs on the oldest supported Python.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from packaging.markers import Marker
from packaging.utils import canonicalize_name
from packaging.version import Version

PROJECT = Path(__file__).resolve().parents[1]
PIP_AUDIT = PROJECT / ".venv-audit" / "bin" / "pip-audit"
UV = PROJECT / ".venv" / "bin" / "uv"
OLDEST_PYTHON = "3.10"
QUARTER = timedelta(days=91)

# Files in which every line is an exact version.
PINNED = (
    "requirements/constraints.txt",
    "requirements/fuzz.txt",
    "requirements/plots.txt",
    "requirements/benchmarks.txt",
    "requirements/sbom.txt",
    "requirements/audit.txt",
    "contract/requirements.txt",
)
# Name, version, and the marker that says for which Python.
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;#]+) *(?:;([^#\n]*))?", re.MULTILINE)
# Such as `Django>=5.2,<5.3`, with which newer versions are excluded.
_BOUND = re.compile(r"^[A-Za-z0-9._-]+(?:\[\w+\])?[<>~!][^#\n]*", re.MULTILINE)
_NETWORK = re.compile(
    r"ConnectionError|Failed to fetch|error sending request|audit endpoint returned|"
    r"Max retries|ENOTFOUND|ECONNREFUSED|ETIMEDOUT|EAI_AGAIN"
)

Run = Callable[[Sequence[str], Path], "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class Report:
    """The result of one check: what was found, or why its source could not be asked."""

    check: str
    problems: tuple[str, ...] = ()
    not_reachable: str = ""

    def lines(self) -> list[str]:
        """Return what to print."""
        if self.not_reachable:
            return [f"{self.check}: NOT REACHABLE, nothing was checked ({self.not_reachable})"]
        return [f"{self.check}: {len(self.problems) or 'nothing'} found", *self.problems]


def run(command: Sequence[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a program to its end."""
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )


def python_advisories(name: str, *, run: Run = run) -> Report:
    """Look for advisories about the Python packages that the file `name` pins."""
    check = f"advisories about {name}"
    options = ["--disable-pip", "--no-deps", "--format=json", f"--requirement={name}"]
    done = run([str(PIP_AUDIT), *options], PROJECT)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except ValueError:
        return _failed(check, done)
    if found and all("skip_reason" in each for each in found):
        return Report(check, not_reachable="the index has no advisories for any package")
    problems = [
        f"  {each['name']} {each['version']}: {flaw['id']}, "
        f"fixed in {', '.join(flaw['fix_versions']) or 'no version'}"
        for each in found
        for flaw in each.get("vulns", ())
    ]
    problems += [
        f"  {each['name']}: {each['skip_reason']}" for each in found if "skip_reason" in each
    ]
    return Report(check, tuple(problems))


def node_advisories(folder: Path, *, run: Run = run) -> Report:
    """Look for advisories about the packages in the `package-lock.json` of `folder`."""
    check = f"advisories about {folder.name}/package-lock.json"
    done = run(["npm", "audit", "--package-lock-only", "--json"], folder)
    try:
        found = json.loads(done.stdout)["vulnerabilities"]
    except (ValueError, KeyError):
        return _failed(check, done)
    return Report(check, tuple(f"  {name}: {found[name]['severity']}" for name in sorted(found)))


def overdue_updates(name: str, pins: str, bounds: str, *, now: datetime, run: Run = run) -> Report:
    """Look for versions in `pins`, the file `name`, for which there is an update a quarter old.

    `bounds` are lines of requirements with which an update must agree.
    """
    check = f"overdue updates of {name}"
    pinned = _versions(pins)
    with tempfile.NamedTemporaryFile("w", suffix=".in") as wanted:
        wanted.write("\n".join([*pinned, *_BOUND.findall(bounds)]))
        wanted.flush()
        until = (now - QUARTER).strftime("%Y-%m-%dT%H:%M:%SZ")
        versions = [f"--python-version={OLDEST_PYTHON}", f"--exclude-newer={until}"]
        done = run([str(UV), "pip", "compile", "--quiet", *versions, wanted.name], PROJECT)
    if done.returncode:
        return _failed(check, done)
    was_newest = _versions(done.stdout)
    return Report(
        check,
        tuple(
            f"  {package} {version}: {was_newest[package]} was there before {until[:10]}"
            for package, version in pinned.items()
            if package in was_newest and Version(version) < Version(was_newest[package])
        ),
    )


def _versions(text: str) -> dict[str, str]:
    """Return the versions by package for the oldest supported Python."""
    environment = {"python_version": OLDEST_PYTHON, "python_full_version": f"{OLDEST_PYTHON}.0"}
    return {
        canonicalize_name(name): version
        for name, version, marker in _PIN.findall(text)
        if not marker or Marker(marker).evaluate(environment)
    }


def _failed(check: str, done: "subprocess.CompletedProcess[str]") -> Report:
    output = (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").split("\n")
    reason = next((line for line in output if _NETWORK.search(line)), "")
    if reason:
        return Report(check, not_reachable=reason.strip())
    return Report(check, tuple(f"  {line}" for line in output))


def main() -> int:
    """Print all reports; return 1 if one of them has a problem."""
    bounds = "\n".join(path.read_text() for path in sorted((PROJECT / "requirements").iterdir()))
    now = datetime.now(timezone.utc)
    reports = [
        *(python_advisories(name) for name in PINNED),
        node_advisories(PROJECT / "contract"),
        *(overdue_updates(name, (PROJECT / name).read_text(), bounds, now=now) for name in PINNED),
    ]
    for report in reports:
        print("\n".join(report.lines()))
    return int(any(report.problems for report in reports))


if __name__ == "__main__":
    sys.exit(main())
