"""Measure the service, its limits and its neighbours, and write docs/performance.md: `make bench`.

Each part stores its figures in docs/performance/figures.json, so that one part can be measured
again (`--only`). `--quick` measures a few ratios and compares them with those that are stored:
`make bench-quick`. The exit status is 1 if a part failed, or a ratio is off.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tools.bench import page
from tools.bench.cold import cold, limited
from tools.bench.growth import payload, processes, readers, rows
from tools.bench.limits import Bench, Missing, prepared
from tools.bench.memory import memory
from tools.bench.neighbours import neighbours
from tools.bench.quick import quick
from tools.bench.warm import latency, warm
from tools.harness.databases import execute
from tools.harness.server import PROJECT

PAGE = PROJECT / "docs/performance.md"
FIGURES = PROJECT / "docs/performance/figures.json"
PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    part.__name__: part
    for part in (
        warm,
        latency,
        neighbours,
        cold,
        limited,
        rows,
        payload,
        readers,
        processes,
        memory,
    )
}


def main() -> None:
    arguments = parsed()
    # So that what was started is ended, and databases may use all processors again.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: .ci/tools installs it")
    # Those that .ci/services starts.
    os.environ.setdefault(
        "DATABASE_URL", "postgres://filmosphere_ci:filmosphere_ci@127.0.0.1:5432/postgres"
    )
    os.environ.setdefault("REDIS_URL", "redis://127.0.0.1:6379/9")
    if not os.environ["DATABASE_URL"].startswith("postgres"):
        sys.exit("DATABASE_URL must name a PostgreSQL server")
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    with prepared(
        seconds=arguments.seconds,
        pairs=arguments.pairs,
        rows=arguments.rows,
        memory_minutes=arguments.memory_minutes,
    ) as bench:
        if arguments.quick:
            sys.exit(quick(bench, figures))
        failed = [name for name in arguments.only if not measured(name, bench, figures)]
    if FIGURES.exists():
        draw()
    if failed:
        sys.exit(f"failed, see above: {', '.join(failed)}")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools.bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--quick", action="store_true", help="compare a few ratios, write nothing")
    parser.add_argument("--seconds", type=int, default=3, help="for one figure")
    parser.add_argument("--pairs", type=int, default=3, help="of a figure and its limit")
    parser.add_argument("--rows", type=int, default=1_000_000, help="the most stored films")
    parser.add_argument("--memory-minutes", type=float, default=60)
    return parser.parse_args()


def measured(name: str, bench: Bench, figures: dict[str, Any]) -> bool:
    """Measure a part and store its figures; return whether it worked."""
    started = time.monotonic()
    print(f"== {name}", flush=True)
    try:
        found = PARTS[name](bench)
    except Missing as exc:
        found = {"missing": str(exc)}
    # The other parts are worth measuring. What failed is shown, and is the exit status.
    except Exception:  # noqa: BLE001
        traceback.print_exc()
        return False
    print(f"   {time.monotonic() - started:.0f} s", flush=True)
    figures[name] = {"measured": circumstances(bench), **found}
    ordered = {part: figures[part] for part in PARTS if part in figures}
    FIGURES.parent.mkdir(exist_ok=True)
    FIGURES.write_text(json.dumps(ordered, indent=1) + "\n")
    PAGE.write_text(page.rendered(ordered, page.TEMPLATE.read_text()))
    return True


def circumstances(bench: Bench) -> dict[str, Any]:
    """Return where and when figures are measured."""
    model = next(
        line.partition(":")[2].strip()
        for line in [*Path("/proc/cpuinfo").read_text().splitlines(), "model name: unknown"]
        if line.startswith("model name")
    )
    ((postgresql,),) = execute(bench.database, "SHOW server_version")
    versions = ", ".join(
        f"{name} {number}"
        for name, number in (
            ("Linux", platform.release()),
            ("Python", platform.python_version()),
            ("Django", version("django")),
            ("granian", version("granian")),
            ("PostgreSQL", postgresql.split()[0]),
        )
    )
    changed = git("status", "--porcelain", "--", ".", ":!docs/performance*")
    return {
        "commit": git("rev-parse", "--short", "HEAD") + (" with changes" if changed else ""),
        "date": datetime.now(tz=timezone.utc).strftime("%Y-%m-%d %H:%M"),
        "seconds": bench.seconds,
        "pairs": bench.pairs,
        "machine": f"{model}, {os.cpu_count()} cores; {versions}"
        + ("" if bench.databases_are_pinned else "; the databases ran on all cores"),
    }


def git(*arguments: str) -> str:
    """Return what git prints."""
    done = subprocess.run(
        ["git", *arguments], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def draw() -> None:
    """Draw the plots, with matplotlib in an environment of its own."""
    python = PROJECT / ".venv-plots/bin/python"
    subprocess.run([python, "-m", "tools.bench.plots", FIGURES], cwd=PROJECT, check=True)


if __name__ == "__main__":
    main()
