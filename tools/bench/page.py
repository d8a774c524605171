"""docs/performance.md, written from figures.json: the tables, and the text around them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# For how long the memory is to be watched, in minutes; the last slice may end a little earlier.
HOUR = 59.5
TEMPLATE = Path(__file__).with_name("page.md")


@dataclass(frozen=True)
class Row:
    """A line of the table: where its figure is, and what it is to reach."""

    title: str
    place: str
    target: float
    at_most: bool = False

    def is_met(self, value: float) -> bool:
        """Whether a value reaches the target."""
        return value <= self.target if self.at_most else value >= self.target

    def is_worse_by_half(self, now: float, before: float) -> bool:
        """Whether a ratio is off by more than half of what it was, to the worse."""
        return now > before * 1.5 if self.at_most else now < before * 0.5

    @property
    def wanted(self) -> str:
        """The target in words."""
        return f"{'≤' if self.at_most else '≥'} {self.target:g}"


ROWS = (
    Row("film hit from memory / bare WSGI", "warm.hit", 0.85),
    Row("304 / bare WSGI with the film's bytes", "warm.not_modified", 0.9),
    Row("film hit, row read / bare WSGI that reads the row", "warm.row", 0.85),
    Row("section hit from memory / bare WSGI with its bytes", "warm.section", 0.8),
    Row("section hit, row read / bare WSGI that reads the film's row", "warm.section_row", 0.8),
    Row("search hit / bare DRF view with its bytes", "warm.search", 0.85),
    Row("Cinemix movie hit / bare DRF view with its bytes", "warm.movie", 0.85),
    Row("Cinemix search hit / bare DRF view with its bytes", "warm.movies", 0.85),
    Row(
        "batch of 20 stored films / 20 single row hits on one connection, time",
        "warm.batch",
        0.35,
        at_most=True,
    ),
    Row("film with `fields=`, row read / whole film, row read", "warm.fields", 0.6),
    Row("cold film, p50 / its ten bare calls", "cold.p50", 1.03, at_most=True),
    Row(
        "CPU of a cold film, 8 in flight / that of its ten bare httpx calls",
        "cold.cpu",
        2.5,
        at_most=True,
    ),
    Row("cold films/s, 32 in flight", "cold.at_32", 95),
    Row("p50 of a row hit, most rows / 1,000 rows", "rows.most", 1.05, at_most=True),
    Row(
        "film hit at half of the maximum rate, open loop, p99 / p50",
        "latency.half",
        3,
        at_most=True,
    ),
    Row("memory of a worker at rest, MB", "memory.rest", 80, at_most=True),
    Row(
        "memory after a million requests for 10,000 films, MB",
        "memory.after",
        120,
        at_most=True,
    ),
    Row("film hit from memory / FastAPI, Redis, pydantic", "neighbours.fastapi", 5),
)
# For comparison, without a target.
OTHERS = (
    ("film hit from memory / bare Django view", "warm.hit_django"),
    ("film hit, gzip / identity", "warm.hit_gzip"),
    ("304 / bare WSGI that sends a bare 304", "warm.not_modified_bare"),
    ("film hit, row read, gzip / bare WSGI that reads the gzip row", "warm.row_gzip"),
    ("batch of 20 films / 20 single hits from memory, time", "warm.batch_memory"),
)
PLOTS = {
    "latency": "Latency against offered load",
    "rows": "Latency against stored rows",
    "payload": "Requests per second against the size of a film",
    "readers": "Requests per second and latency against connections",
    "processes": "Requests per second against processes",
    "limited": "Cold films over time under IMDBAPI_RATE=8/5",
    "memory": "Memory of a worker over time",
}


def rendered(figures: Mapping[str, Any], template: str) -> str:
    """Return the page: the template with `{{name}}` replaced by tables, plots and figures."""
    blocks = {
        "table": table(figures),
        "others": others(figures),
        "warm_neighbours": neighbours(figures, "warm", "requests/s"),
        "cold_neighbours": neighbours(figures, "cold", "films/s"),
        "measured": measured(figures),
        **{f"plot_{name}": plot(figures, name) for name in PLOTS},
    }

    def replacement(found: re.Match[str]) -> str:
        name, form = found[1], found[2] or ".2f"
        return blocks[name] if name in blocks else figure_in_words(figures, name, form)

    return re.sub(r"\{\{([^{}:]+)(?::([^{}]+))?\}\}", replacement, template)


def find(figures: Mapping[str, Any], place: str) -> Any:
    """Return what is at a place such as `warm.hit.value`, None if nothing is."""
    value: Any = figures
    for key in place.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def figure_in_words(figures: Mapping[str, Any], place: str, form: str) -> str:
    """Return a figure of the text, as it is formatted there."""
    value = find(figures, place)
    return "(not measured)" if value is None else format(value, form)


def table(figures: Mapping[str, Any]) -> str:
    """Return the table of targets."""
    lines = [
        "| figure | measured | limit | ratio | target | met | ratio, CPU |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        part = find(figures, row.place.partition(".")[0]) or {}
        found = find(figures, row.place) or {"missing": part.get("missing", "not measured yet")}
        lines.append(f"| {row.title} | {' | '.join(_cells(row, found))} |")
    return "\n".join(lines)


def _cells(row: Row, found: Mapping[str, Any]) -> list[str]:
    """Return the cells of a line after its title. `missing` is why a figure is not what it says."""
    if "value" not in found:
        return [f"could not be measured: {found['missing']}", "", "", row.wanted, "?", ""]
    unit, value, ratio, limit = found["unit"], found["value"], "", ""
    figure, met = f"{_number(found['figure'])} {unit}", "yes" if row.is_met(value) else "no"
    if "limit" in found:
        limit, ratio = f"{_number(found['limit'])} {unit}", f"{value:.2f}"
    if "missing" in found:
        figure, met = f"{figure}; {found['missing']}", "?"
    by_cpu = f"{found['cpu_value']:.2f}" if "cpu_value" in found else ""
    return [figure, limit, ratio, row.wanted, met, by_cpu]


def others(figures: Mapping[str, Any]) -> str:
    """Return the table of further ratios."""
    lines = ["| figure | measured | limit | ratio |", "|---|---|---|---|"]
    for title, place in OTHERS:
        found = find(figures, place)
        if found is None:
            lines.append(f"| {title} | not measured yet | | |")
        else:
            unit = found["unit"]
            lines.append(
                f"| {title} | {_number(found['figure'])} {unit} | {_number(found['limit'])} {unit}"
                f" | {found['value']:.2f} |"
            )
    return "\n".join(lines)


def neighbours(figures: Mapping[str, Any], kind: str, unit: str) -> str:
    """Return the table of the service and its neighbours, the fastest first."""
    found = find(figures, f"neighbours.{kind}")
    if found is None:
        return "Not measured yet."
    lines = [f"| | {unit} | p50, ms |", "|---|---|---|"]
    for name, each in sorted(found.items(), key=lambda item: -item[1].get("rate", 0)):
        if "missing" in each:
            lines.append(f"| {name} | could not be measured: {each['missing']} | |")
        else:
            lines.append(f"| {name} | {_number(each['rate'])} | {each['p50']:.2f} |")
    return "\n".join(lines)


def measured(figures: Mapping[str, Any]) -> str:
    """Return on which machine and commit each part was measured."""
    lines = ["| part | commit | date (UTC) | seconds a figure |", "|---|---|---|---|"]
    machines: dict[str, list[str]] = {}
    for part, found in figures.items():
        made = found["measured"]
        lines.append(f"| {part} | {made['commit']} | {made['date']} | {made['seconds']} |")
        machines.setdefault(made["machine"], []).append(part)
    for machine, parts in machines.items():
        where = "Machine" if len(machines) == 1 else f"Machine of {', '.join(parts)}"
        lines += ["", f"{where}: {machine}."]
    return "\n".join(lines)


def plot(figures: Mapping[str, Any], name: str) -> str:
    """Return a picture, or why there is none."""
    found = figures.get(name, {"missing": "not measured yet"})
    if "missing" in found:
        return f"{PLOTS[name]}: could not be measured: {found['missing']}."
    text = f"![{PLOTS[name]}](performance/{name}.svg)"
    if name == "memory" and found["minutes"] < HOUR:
        text += f"\n\nMeasured for {found['minutes']:.1f} minutes, not for an hour."
    return text


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
