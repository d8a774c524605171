"""Draws docs/performance/*.svg from figures.json (requirements/plots.txt)."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
# The same file each time, with text that can be searched.
mpl.rcParams.update({"svg.hashsalt": "filmosphere", "svg.fonttype": "none", "font.size": 9})

from matplotlib import pyplot as plt

# Where the load generator has no time left, latencies are its own.
_BUSY = 0.95


def main() -> None:
    """Draw a picture for each part that was measured."""
    source = Path(sys.argv[1])
    figures = json.loads(source.read_text())
    for name, draw in PLOTS.items():
        if name in figures and "missing" not in figures[name]:
            draw(source.with_name(f"{name}.svg"), figures[name])


@contextmanager
def _axes(path: Path, x_label: str, y_label: str, **options: Any) -> Iterator[Any]:
    figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
    yield axes
    axes.set(xlabel=x_label, ylabel=y_label, **options)
    axes.grid(visible=True, linewidth=0.3)
    axes.legend(frameon=False)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def latency(path: Path, found: dict[str, Any]) -> None:
    """Draw p50 and p99 of each kind of answer; a hollow point is bound by the generator."""
    curves = found["curves"]
    figure, all_axes = plt.subplots(2, 3, figsize=(9, 5), layout="constrained", sharey=True)
    for axes, (name, points) in zip(all_axes.flat, curves.items(), strict=False):
        offered = [point["offered"] for point in points]
        for percentile, colour in (("p50", "C0"), ("p99", "C1")):
            values = [point[percentile] for point in points]
            axes.plot(offered, values, color=colour, label=percentile)
            faces = ["white" if point["busy"] > _BUSY else colour for point in points]
            axes.scatter(offered, values, edgecolors=colour, facecolors=faces, s=16, zorder=3)
        axes.set(title=name, xlabel="requests/s offered", yscale="log", xlim=(0, None))
        axes.grid(visible=True, linewidth=0.3)
    for axes in all_axes.flat[len(curves) :]:
        axes.axis("off")
    all_axes[0][0].legend(frameon=False)
    all_axes[0][0].set_ylabel("ms")
    all_axes[1][0].set_ylabel("ms")
    _save(figure, path)


def rows(path: Path, found: dict[str, Any]) -> None:
    """Draw the latency of a row hit against the number of rows."""
    curve = found["curve"]
    stored = [point["rows"] for point in curve]
    with _axes(path, "stored films", "p50, ms", xscale="log", ylim=(0, None)) as axes:
        axes.plot(stored, [point["figure"] for point in curve], "o-", label="that many films")
        limits = [point["limit"] for point in curve]
        axes.plot(stored, limits, "o--", label="1,000 films, in turns with it")


def payload(path: Path, found: dict[str, Any]) -> None:
    """Draw requests per second against the size of a film."""
    curve = found["curve"]
    labels = {"bare": "bare WSGI", "memory": "from memory", "row": "row read"}
    with _axes(path, "KB of JSON", "requests/s", ylim=(0, None)) as axes:
        for key, label in labels.items():
            values = [point[key] for point in curve]
            axes.plot([point["kb"] for point in curve], values, "o-", label=label)


def readers(path: Path, found: dict[str, Any]) -> None:
    """Draw requests per second and latencies against the number of connections."""
    curve = found["curve"]
    numbers = [point["readers"] for point in curve]
    figure, (rates, times) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for kind, label in (("memory", "from memory"), ("row", "row read")):
        rates.plot(numbers, [point[f"{kind}_rate"] for point in curve], "o-", label=label)
        for percentile, style in (("p50", "o-"), ("p99", "o--")):
            values = [point[f"{kind}_{percentile}"] for point in curve]
            times.plot(numbers, values, style, label=f"{label}, {percentile}")
    rates.set(xlabel="connections", ylabel="requests/s", ylim=(0, None))
    times.set(xlabel="connections", ylabel="ms", yscale="log")
    for axes in (rates, times):
        axes.set_xscale("log", base=2)
        axes.set_xticks(numbers, numbers)
        axes.grid(visible=True, linewidth=0.3)
        axes.legend(frameon=False)
    _save(figure, path)


def processes(path: Path, found: dict[str, Any]) -> None:
    """Draw requests per second against the number of processes."""
    curve = found["curve"]
    numbers = [point["processes"] for point in curve]
    with _axes(path, "WORKERS", "requests/s", ylim=(0, None), xticks=numbers) as axes:
        for key, label in (("memory", "from memory"), ("row", "row read")):
            axes.plot(numbers, [point[key] for point in curve], "o-", label=label)


def limited(path: Path, found: dict[str, Any]) -> None:
    """Draw how many cold films are answered, and complete, over time."""
    count = range(1, found["films"] + 1)
    with _axes(path, "seconds", "films", ylim=(0, None), xlim=(0, None)) as axes:
        for colour, key, label in (
            ("C0", "without", "without Prefer"),
            ("C1", "with_prefer", "Prefer: wait=0"),
        ):
            for style, what in (("-", "answered"), ("--", "complete")):
                times = [0.0, *found[key][what]]
                axes.step(
                    times,
                    [0, *count],
                    style,
                    color=colour,
                    where="post",
                    label=f"{label}, {what}",
                )


def memory(path: Path, found: dict[str, Any]) -> None:
    """Draw the memory of a worker over time."""
    curve = found["curve"]
    minutes = [point["minute"] for point in curve]
    with _axes(path, "minutes", "MB, resident", ylim=(0, None)) as axes:
        label = f"one worker, {curve[-1]['requests'] / 1e6:.1f} million requests"
        axes.plot(minutes, [point["mb"] for point in curve], label=label)


PLOTS: dict[str, Callable[[Path, dict[str, Any]], None]] = {
    draw.__name__: draw for draw in (latency, rows, payload, readers, processes, limited, memory)
}

if __name__ == "__main__":
    main()
