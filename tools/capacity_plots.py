"""Draws the figures of docs/operations/scaling.md (requirements/plots.txt)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
# The same file each time, with text that can be searched.
mpl.rcParams.update({"svg.hashsalt": "filmosphere", "svg.fonttype": "none", "font.size": 9})

from matplotlib import pyplot as plt
from matplotlib.ticker import StrMethodFormatter

from tools.capacity import IMDB, Scenario, films_kept_fresh, load_of

_LONG = ",".join(f"{name}=720" for name in IMDB if name != "metadata")


def draw(scenario: Scenario, folder: Path) -> None:
    """Write `capacity-*.svg`."""
    requests = [2 ** (step / 2) / 10 for step in range(28)]
    _plot(
        folder / "capacity-hits.svg",
        "requests/s",
        f"share of requests, {scenario.films:,} films",
        requests,
        {
            **{
                f"hits, CACHE_TTL_HOURS={ttl}": lambda x, ttl=ttl: (
                    load_of(replace(scenario, ttl=ttl), x).hit_ratio
                )
                for ttl in (6, 24, 168)
            },
            "answered from memory": lambda x: load_of(scenario, x).in_memory,
        },
        y_format="{x:.0%}",
    )
    _plot(
        folder / "capacity-fresh.svg",
        "calls/s to IMDbAPI.dev",
        "films that stay fresh",
        [step / 4 for step in range(1, 41)],
        {
            f"CACHE_TTL_HOURS={ttl}{words}": lambda x, ttl=ttl, sections=sections: films_kept_fresh(
                replace(scenario, ttl=ttl, section_ttl=sections, imdb_rate=f"{round(x * 100)}/100")
            )["imdbapi"]
            for ttl in (24, 72)
            for words, sections in (("", ""), (", other sections 30 days", _LONG))
        },
        scale="linear",
    )
    _plot(
        folder / "capacity-offers.svg",
        "Watchmode credits a month",
        "films whose offers stay fresh",
        [2500 * step for step in range(1, 41)],
        {
            f"offers kept for {hours} h": lambda x, hours=hours: films_kept_fresh(
                replace(scenario, watchmode=round(x), section_ttl=f"streaming={hours}")
            )["watchmode"]
            for hours in (24, 168, 720)
        },
        scale="linear",
    )


def _plot(
    path: Path,
    x_label: str,
    y_label: str,
    values: Sequence[float],
    lines: dict[str, Callable[[float], float]],
    *,
    scale: str = "log",
    y_format: str = "{x:,.0f}",
) -> None:
    figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for label, function in lines.items():
        axes.plot(values, [function(value) for value in values], label=label)
    axes.set(xlabel=x_label, ylabel=y_label, xscale=scale, ylim=(0, None))
    axes.yaxis.set_major_formatter(StrMethodFormatter(y_format))
    axes.grid(visible=True, linewidth=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
