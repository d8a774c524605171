"""Plot the panels of the dashboard from a load test: `make dashboard-picture`.

Starts a service with two server processes on the sandbox, and a Prometheus that scrapes it. Readers
request films for a few minutes while faults come and go. Then the queries of
docs/operations/dashboard.json are sent to Prometheus, and the answers are plotted into
docs/operations/dashboard.png. Needs the program `prometheus` and the packages of
requirements/plots.txt.
"""

import functools
import io
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter
from PIL import Image

from tools.harness.sandbox import Sandbox, running
from tools.harness.server import PROJECT, Server, database, free_port, get, on_sandbox, server

DASHBOARD = PROJECT / "docs" / "operations" / "dashboard.json"
PICTURE = DASHBOARD.with_suffix(".png")

SECONDS = 300
SCRAPE_SECONDS = 2
STEP_SECONDS = 4
# What Grafana puts in place of $__rate_interval: four scrapes, at least.
RATE_INTERVAL = "16s"
READERS = 6
TITLES = 900

SETTINGS = {
    "WORKERS": "2",
    # Films expire within the test.
    "CACHE_TTL_HOURS": "0.02",
    "IMDBAPI_RATE": "150/5",
    "IMDBAPI_CONCURRENCY": "6",
    "HTTP_TIMEOUT": "3",
    "MAX_THRESHOLD": "100000",
    "KINO_DAILY_LIMIT": "100000",
    "OMDB_DAILY_LIMIT": "40000",
    "OMDB_API_KEY": "5a4db0c5",
    "LOG_LEVEL": "WARNING",
    "APP_REVISION": "load-test",
}
# When a fault begins and ends, as parts of the test; its name; what is sent to the sandbox.
FAULTS: list[tuple[float, float, str, dict[str, Any]]] = [
    (0.2, 0.3, "KinoCheck answers 500", {"kind": "status", "status": 500, "source": "kinocheck"}),
    (0.42, 0.54, "IMDbAPI.dev does not answer", {"kind": "hang", "source": "imdbapi"}),
    (
        0.66,
        0.70,
        "Watchmode refuses calls as too many",
        {"kind": "rate_limited", "retry_after": "15", "source": "watchmode"},
    ),
    (0.80, 0.86, "OMDb resets connections", {"kind": "reset", "source": "omdb"}),
]


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """Run a Prometheus that scrapes `target`; gives its address."""
    port = free_port()
    config = {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s"},
        "scrape_configs": [{"job_name": "filmosphere", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    options = {
        "config.file": folder / "prometheus.yml",
        "storage.tsdb.path": folder / "tsdb",
        "web.listen-address": f"127.0.0.1:{port}",
        "log.level": "error",
    }
    command = ["prometheus", *(f"--{name}={value}" for name, value in options.items())]
    process = subprocess.Popen(command, stderr=sys.stderr)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def read(service: Server, started: float, seed: int) -> None:
    """Request what readers request: a few films often, and more and more others."""
    choice = random.Random(seed)  # the same load in each run
    catalogue = [f"tt{5_000_000 + number}" for number in range(TITLES)]
    while (part := (time.monotonic() - started) / SECONDS) < 1:
        known = catalogue[: 20 + int(part * (TITLES - 60))]
        film = known[min(int(choice.paretovariate(0.5)) - 1, len(known) - 1)]
        paths = [f"/api/films/{film}"] * 30 + [
            f"/api/films/{film}/trailer",
            f"/api/search?q={film[-2:]}",
            f"/api/v1/search/id/?id={film}",
            f"/api/v1/search/?query=the+{choice.randrange(9)}",
            "/api/nothing",
        ]
        get(service.url + choice.choice(paths))
        time.sleep(choice.expovariate(20))


def load(service: Server, sandbox: Sandbox) -> None:
    """Send requests for `SECONDS` and let the faults come and go."""
    started = time.monotonic()
    readers = [threading.Thread(target=read, args=[service, started, n]) for n in range(READERS)]
    for reader in readers:
        reader.start()
    changes = sorted(
        [(begin, fault) for begin, _, _, fault in FAULTS] + [(end, None) for _, end, *_ in FAULTS],
        key=lambda change: change[0],
    )
    for part, fault in changes:
        time.sleep(max(0.0, started + part * SECONDS - time.monotonic()))
        sandbox.clear_faults()
        if fault:
            sandbox.fault(**fault)
    for reader in readers:
        reader.join()


# Labels, or the text of the legend; minutes since the start; values.
Series = tuple[dict[str, str], list[float], list[float]]
Line = tuple[str, list[float], list[float]]


def series(url: str, expression: str, *, start: float, end: float) -> list[Series]:
    """Return what Prometheus answers about the time from `start` to `end`."""
    parameters = urllib.parse.urlencode(
        {
            "query": expression.replace("$__rate_interval", RATE_INTERVAL),
            "start": start,
            "end": end,
            "step": STEP_SECONDS,
        }
    )
    answer = get(f"{url}/api/v1/query_range?{parameters}").json
    if answer["status"] != "success":
        raise SystemExit(f"{expression}: {answer['error']}")
    return [
        (
            each["metric"],
            [(float(at) - start) / 60 for at, _ in each["values"]],
            [float(value) for _, value in each["values"]],
        )
        for each in answer["data"]["result"]
    ]


def legend(pattern: str, labels: dict[str, str]) -> str:
    """Fill in the labels as Grafana does."""
    for name, value in labels.items():
        pattern = pattern.replace("{{" + name + "}}", value)
    return pattern


def seconds(value: float, _: object) -> str:
    """Format a time."""
    return f"{value:g} s" if value >= 1 else f"{value * 1000:g} ms"


FORMATS: dict[str, Callable[[], Any]] = {
    "s": lambda: FuncFormatter(seconds),
    "percentunit": lambda: PercentFormatter(1.0),
    "bytes": lambda: FuncFormatter(lambda value, _: f"{value / 1e6:g} MB"),
}
COLOURS = colormaps["tab10"].colors + colormaps["Set2"].colors
FAULT_COLOURS = ("#fff2cc", "#f8d7da", "#d9ead3", "#d0e0f5")
# Inches, and the characters of a legend that fit into one of the 24 columns of the dashboard.
COLUMN, UNIT, CHARACTERS = 0.62, 0.36, 8


def plot(axes: Axes, panel: dict[str, Any], lines: list[Line], minutes: float) -> None:
    """Plot one panel."""
    defaults = panel["fieldConfig"]["defaults"]
    for (begin, end, *_), colour in zip(FAULTS, FAULT_COLOURS, strict=True):
        axes.axvspan(begin * SECONDS / 60, end * SECONDS / 60, color=colour, linewidth=0)
    # What stays at 0 would fill the legend.
    shown = [line for line in lines if any(line[2])] or lines[:2]
    if defaults["custom"]["stacking"]["mode"] == "normal":
        stack(axes, shown)
    else:
        for (name, at, values), colour in zip(shown, COLOURS, strict=False):
            style = ".-" if len(values) < minutes * 60 / STEP_SECONDS / 2 else "-"
            axes.plot(at, values, style, label=name, color=colour, linewidth=1.3, markersize=4)
    scale = defaults["custom"]["scaleDistribution"]
    if scale["type"] == "symlog":
        axes.set_yscale("symlog", linthresh=scale["linearThreshold"])
        axes.axhline(0, color="red", linewidth=0.8)
    elif scale["type"] == "log" and shown:
        axes.set_yscale("log")
    elif "min" in defaults:
        top = defaults["max"] * 1.08 if "max" in defaults else None
        axes.set_ylim(bottom=defaults["min"], top=top)
    if defaults["unit"] in FORMATS:
        axes.yaxis.set_major_formatter(FORMATS[defaults["unit"]]())
    axes.set_xlim(0, minutes)
    axes.set_title(panel["title"], loc="left", fontsize=11, fontweight="bold")
    axes.tick_params(labelsize=9)
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if shown:
        widest = max(len(name) for name, *_ in shown) + 5
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(-0.03, -0.1),
            ncols=max(1, panel["gridPos"]["w"] * CHARACTERS // widest),
            fontsize=8.5,
            frameon=False,
            handlelength=1.2,
            columnspacing=1.2,
            labelspacing=0.25,
        )


def stack(axes: Axes, lines: list[Line]) -> None:
    """Plot lines on top of each other."""
    every = sorted({minute for _, at, _ in lines for minute in at})
    layers = [
        [dict(zip(at, values, strict=True)).get(minute, 0.0) for minute in every]
        for _, at, values in lines
    ]
    layers = [[0.0 if math.isnan(value) else value for value in layer] for layer in layers]
    names = [name for name, *_ in lines]
    axes.stackplot(every, layers, labels=names, colors=COLOURS, alpha=0.8)


def draw(ask: Callable[[str], list[Series]], minutes: float) -> None:
    """Plot all panels where the dashboard has them; `ask` sends a query to Prometheus."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    head = 2
    height = head + max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = Figure(figsize=(24 * COLUMN, height * UNIT), dpi=90)
    figure.text(
        0.012,
        1 - 0.8 / height,
        f"Filmosphere under load: two server processes, {minutes:.0f} minutes, on the sandbox",
        fontsize=15,
        fontweight="bold",
    )
    for number, ((*_, name, _), colour) in enumerate(zip(FAULTS, FAULT_COLOURS, strict=True)):
        box = {"facecolor": colour, "edgecolor": "none"}
        figure.text(0.014 + number * 0.2, 1 - 1.7 / height, name, fontsize=10, bbox=box)
    for panel in panels:
        place = panel["gridPos"]
        top = 1 - (place["y"] + head) / height
        if panel["type"] == "row":
            figure.text(
                0.012,
                top - 0.8 / height,
                panel["title"],
                fontsize=14,
                color="#1f4e79",
                fontweight="bold",
            )
            continue
        lines = [
            (legend(target["legendFormat"], labels), at, values)
            for target in panel["targets"]
            for labels, at, values in ask(target["expr"])
        ]
        left, bottom = (place["x"] + 1.0) / 24, top - (place["h"] - 2.2) / height
        area = (left, bottom, (place["w"] - 1.4) / 24, (place["h"] - 3.2) / height)
        plot(figure.add_axes(area), panel, lines, minutes)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    # 64 colours are enough for lines, and a quarter of the bytes.
    Image.open(drawn).convert("RGB").quantize(64).save(PICTURE, optimize=True)


def main() -> None:
    """Run the load test and write the picture."""
    if shutil.which("prometheus") is None:
        raise SystemExit("prometheus is not installed (Debian: apt-get install prometheus)")
    with tempfile.TemporaryDirectory() as name, running("--titles", str(TITLES + 60)) as sandbox:
        folder = Path(name)
        sandbox.set("imdbapi", latency_ms=90)
        sandbox.set("kinocheck", latency_ms=150)
        sandbox.set("watchmode", latency_ms=220, quota=30_000)
        sandbox.set("omdb", latency_ms=60)
        with database(folder) as url:
            options = on_sandbox(sandbox.url, **SETTINGS, DATABASE_URL=url)
            options["OMDB_BASE_URL"] = f"{sandbox.url}/omdb/"
            redis = {"REDIS_URL": os.environ["REDIS_URL"]} if os.environ.get("REDIS_URL") else {}
            with (
                server(folder, **options, **redis) as service,
                prometheus(folder, service.url.removeprefix("http://")) as prometheus_url,
            ):
                start = time.time()
                print(f"load for {SECONDS} s …", flush=True)
                load(service, sandbox)
                end = time.time()
                ask = functools.partial(series, prometheus_url, start=start, end=end)
                draw(ask, (end - start) / 60)
    print(f"{PICTURE.relative_to(PROJECT)}: {PICTURE.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
