"""Measure what a start costs: `make start-up`.

Prints the median of five runs on the database of `DATABASE_URL`, a new SQLite file by default:
seconds from `make run` to the first answer, seconds of commands, the memory of processes at rest,
and the packages whose modules take longest to import.
"""

import http.client
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tools.harness.server import BACKEND, PROJECT, bare_environment, database, free_port

RUNS = 5
COMMANDS = ("check", "migrate", "help", "upstream_report", "prune_films --max-rows 1 --dry-run")
# What a server imports, as `filmosphere.service` does it.
LOAD = """if True:
    import gc, sys
    gc.disable()
    from filmosphere import service, startup
    startup.load_settings_or_exit(serves=True)
    import django
    django.setup()
    service.load_application()
    import filmosphere.wsgi
"""
SHOWN_PACKAGES = 10
_TICKS = os.sysconf("SC_CLK_TCK")


class Cost(NamedTuple):
    """Seconds that passed, and seconds of processor time."""

    wall: float
    cpu: float


class Process(NamedTuple):
    """A process at rest: its resident memory, and its share of it, in MB."""

    name: str
    resident: float
    share: float


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, database(Path(folder)) as url:
        starts = [start(url) for _ in range(RUNS)]
        print(f"Medians of {RUNS} runs.\n")
        row("", "seconds", "of a processor")
        row("make run, to the first answer", *medians([cost for cost, _ in starts]))
        for command in COMMANDS:
            costs = [manage(command, url) for _ in range(RUNS)]
            row(f"manage.py {command}", *medians(costs))
        print()
        row("at rest, in MB", "resident", "share")
        for processes in zip(*(found for _, found in starts), strict=True):
            resident = statistics.median(process.resident for process in processes)
            share = statistics.median(process.share for process in processes)
            row(processes[0].name, f"{resident:.1f}", f"{share:.1f}")
        print()
        row("imports of a server", "ms", "modules")
        for name, (milliseconds, modules) in heaviest_imports(url):
            row(name, f"{milliseconds:.0f}", str(modules))


def row(*cells: str) -> None:
    print(f"{cells[0]:52}" + "".join(f"{cell:>16}" for cell in cells[1:]))


def medians(costs: list[Cost]) -> Iterator[str]:
    return (f"{statistics.median(values):.2f}" for values in zip(*costs, strict=True))


def start(url: str) -> tuple[Cost, list[Process]]:
    """Run `make run` until it answers; return what that took, and its processes at rest."""
    port = free_port()
    environment = bare_environment(
        PORT=str(port), SANDBOX_PORT=str(free_port()), DATABASE_URL=url, DRAIN_SECONDS="0"
    )
    started = time.monotonic()
    make = subprocess.Popen(
        ["make", "--silent", "run"],
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while not answers(port):
            assert make.poll() is None, "make run ended"
            time.sleep(0.002)
        wall = time.monotonic() - started
        # The processes in the order in which they start.
        (service,) = children(make.pid)
        sandbox, worker = children(service)
        cost = Cost(wall, sum(map(processor_seconds, (make.pid, service, sandbox, worker))))
        # What the start still does after the first answer.
        time.sleep(1)
        named = {"supervisor": service, "worker": worker, "sandbox": sandbox}
        return cost, [memory(name, pid) for name, pid in named.items()]
    finally:
        os.killpg(make.pid, signal.SIGTERM)
        make.wait(timeout=15)


def answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with suppress(OSError):
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    return False


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def processor_seconds(pid: int) -> float:
    """Return what a process and those of its children that have ended have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS


def memory(name: str, pid: int) -> Process:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    values = {}
    for line in lines:
        key, value = line.split(":")
        values[key] = int(value.split()[0]) / 1024
    return Process(name, values["Rss"], values["Pss"])


def manage(command: str, url: str) -> Cost:
    """Run a management command; return what it took."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "manage.py", *command.split()],
        cwd=BACKEND,
        env=bare_environment(DATABASE_URL=url),
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    return Cost(time.monotonic() - started, usage.ru_utime + usage.ru_stime)


def heaviest_imports(url: str) -> list[tuple[str, tuple[float, int]]]:
    """Return packages, with the milliseconds that their own modules take, and their number.

    Of each module the shortest time of all runs counts: what is above it is the machine.
    """
    times: dict[str, int] = defaultdict(lambda: sys.maxsize)
    for _ in range(RUNS):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", LOAD],
            cwd=BACKEND,
            env=bare_environment(DATABASE_URL=url),
            capture_output=True,
            text=True,
            check=True,
        )
        for line in done.stderr.splitlines():
            alone, _, module = line.removeprefix("import time:").split("|")
            if alone.strip().isdigit():
                times[module.strip()] = min(times[module.strip()], int(alone))
    totals: Counter[str] = Counter()
    for module, microseconds in times.items():
        totals[module.partition(".")[0]] += microseconds
    modules = Counter(module.partition(".")[0] for module in times)
    return [
        (name, (microseconds / 1000, modules[name]))
        for name, microseconds in totals.most_common(SHOWN_PACKAGES)
    ]


if __name__ == "__main__":
    main()
