"""Load in a closed loop, by wrk, and comparisons in which a figure and its limit take turns."""

import os
import re
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tools.bench.limits import cpu_seconds

# What is printed of a comparison.
_SHOWN = ("figure", "limit", "value", "cpu_value")
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}
_BY_PATHS = Path(__file__).resolve().parents[2] / "benchmarks/paths.lua"


@dataclass(frozen=True)
class Load:
    """What wrk measured: requests per second, and latencies in milliseconds."""

    rate: float
    p50: float
    p99: float
    requests: int


class Serving(Protocol):
    """A server: the service, or a limit."""

    url: str
    process: subprocess.Popen[Any]


@dataclass(frozen=True)
class Target:
    """What is requested: a path of a server, with headers; or the paths in a file, at random."""

    server: Serving
    path: str = ""
    headers: tuple[str, ...] = ()
    paths: Path | None = None

    @property
    def url(self) -> str:
        """The URL without the paths of the file."""
        return self.server.url + self.path


def wrk(target: Target, *, seconds: int, connections: int = 8) -> Load:
    """Request the target as fast as it answers."""
    options = [option for header in target.headers for option in ("-H", header)]
    if target.paths:
        options += ["-s", str(_BY_PATHS)]
    done = subprocess.run(
        [
            *("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", "--latency"),
            *options,
            target.url,
        ],
        env={**os.environ, "PATHS": str(target.paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return parsed(done.stdout)


def parsed(output: str) -> Load:
    """Return what wrk printed; raises `AssertionError` if requests failed."""
    assert "Socket errors" not in output, output
    assert "Non-2xx" not in output, output

    def milliseconds(percentile: str) -> float:
        ((number, unit),) = re.findall(rf"{percentile}%\s+([\d.]+)(us|ms|s)", output)
        return float(number) * _UNITS[unit]

    ((rate,),) = [re.findall(r"Requests/sec:\s+([\d.]+)", output)]
    ((requests,),) = [re.findall(r"(\d+) requests in", output)]
    return Load(float(rate), milliseconds("50"), milliseconds("99"), int(requests))


def alternated(
    pairs: int,
    figure: Callable[[], float],
    limit: Callable[[], float],
    unit: str,
) -> dict[str, Any]:
    """Measure the limit and the figure in turns; return medians, and the median of the ratios."""
    measured = []
    for _ in range(pairs):
        at_limit = limit()
        measured.append((figure(), at_limit))
    figures, limits = zip(*measured, strict=True)
    ratios = [of / by for of, by in measured]
    return {
        "figure": statistics.median(figures),
        "limit": statistics.median(limits),
        "value": statistics.median(ratios),
        "pairs": ratios,
        "unit": unit,
    }


def rates_alternated(
    figure: Target, limit: Target, *, pairs: int, seconds: int, connections: int = 8
) -> dict[str, Any]:
    """Compare requests per second, and as `cpu_value` requests per second of CPU."""
    per_cpu: dict[Target, list[float]] = {figure: [], limit: []}

    def rate(target: Target) -> float:
        before = cpu_seconds(target.server.process.pid)
        load = wrk(target, seconds=seconds, connections=connections)
        per_cpu[target].append(load.requests / (cpu_seconds(target.server.process.pid) - before))
        return load.rate

    found = alternated(pairs, lambda: rate(figure), lambda: rate(limit), "requests/s")
    ratios = [of / by for of, by in zip(per_cpu[figure], per_cpu[limit], strict=True)]
    return {**found, "cpu_value": statistics.median(ratios)}


def say_compared(what: str, found: Mapping[str, Any]) -> None:
    """Print the figures of a comparison."""
    say(what, [found[key] for key in _SHOWN if key in found], found["unit"])


def say(what: str, figure: float | Sequence[float], unit: str = "") -> None:
    """Print a line of progress."""
    numbers = figure if isinstance(figure, Sequence) else [figure]
    print(f"  {what:<58}", *(f"{number:10,.2f}" for number in numbers), unit, flush=True)
