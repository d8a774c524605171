"""A few ratios, against those in docs/performance/figures.json: `make bench-quick`.

A ratio fails if it is worse than the stored one by more than half, twice: where less is better,
above 1.5 times of it, else below half of it. Rates are compared per second of CPU.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from tools.bench.cold import cold
from tools.bench.limits import Bench
from tools.bench.page import ROWS, Row, find
from tools.bench.warm import warm

# Ratios of these parts do not depend on how fast the machine is.
_PARTS = ("warm", "cold")
_RATIOS = [row for row in ROWS if row.place.startswith(_PARTS) and row.place != "cold.at_32"]


def quick(bench: Bench, figures: Mapping[str, Any]) -> int:
    """Measure the ratios; return the exit status."""
    short = replace(bench, seconds=1, pairs=2)
    off = worse(_measured(short, _RATIOS), figures)
    if off:
        print(f"again: {', '.join(row.title for row in off)}")
        off = worse(_measured(replace(bench, seconds=2, pairs=3), off), figures)
    for row in off:
        print(f"FAIL {row.title}")
    return 1 if off else 0


def _measured(bench: Bench, rows: Collection[Row]) -> dict[str, Any]:
    places = [row.place.split(".") for row in rows]
    names = {part: {name for of, name in places if of == part} for part in _PARTS}
    found: dict[str, Any] = {}
    if names["warm"]:
        found["warm"] = warm(bench, names["warm"])
    if names["cold"]:
        found["cold"] = cold(bench, names["cold"])
    return found


def worse(found: Mapping[str, Any], figures: Mapping[str, Any]) -> list[Row]:
    """Print each ratio beside the stored one; return those that are off by more than half."""
    off = []
    for row in _RATIOS:
        if (measured := find(found, row.place)) is None:
            continue
        stored = find(figures, row.place) or {}
        # Requests per second of CPU hardly depend on what else runs on the machine.
        key = "cpu_value" if "cpu_value" in measured else "value"
        now, before = measured[key], stored.get(key)
        if before is None:
            print(f"new  {row.title:<72} {now:6.2f}")
            continue
        is_off = row.is_worse_by_half(now, before)
        mark = "off " if is_off else "ok  "
        print(f"{mark} {row.title:<72} {now:6.2f}, stored {before:6.2f}", flush=True)
        off += [row] if is_off else []
    return off
