"""The pytest plugin of `make mutants`: records which tests enter which functions, selects tests."""

import json
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

RECORD = os.environ.get("MUTANTS_RECORD", "")
SELECTION = os.environ.get("MUTANTS_SELECTION", "")
BACKEND = f"{Path.cwd()}{os.sep}backend{os.sep}"

_current = ""
_entered: defaultdict[str, set[tuple[int, str]]] = defaultdict(set)
_seconds: defaultdict[str, float] = defaultdict(float)


def _enter(frame: FrameType, event: str, arg: Any) -> None:
    """A trace function; returning nothing, it is called once for each function."""
    code = frame.f_code
    if code.co_filename.startswith(BACKEND) and _current:
        _entered[code.co_filename].add((code.co_firstlineno, _current))


def pytest_configure(config: pytest.Config) -> None:
    if RECORD:
        threading.settrace(_enter)
        sys.settrace(_enter)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not SELECTION:
        return
    selection = json.loads(Path(SELECTION).read_text())
    left_out = set(selection["left_out"])
    only = set(selection["only"]) if selection["only"] else {item.nodeid for item in items}
    items[:] = [item for item in items if item.nodeid in only - left_out]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    global _current  # noqa: PLW0603  (one test runs at a time)
    _current = item.nodeid
    try:
        return (yield)
    finally:
        _current = ""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _seconds[report.nodeid] += report.duration


def pytest_sessionfinish() -> None:
    if RECORD:
        prefix = f"{Path.cwd()}{os.sep}"
        entered = {name.removeprefix(prefix): sorted(visits) for name, visits in _entered.items()}
        record = {"entered": entered, "seconds": _seconds}
        Path(RECORD).write_text(json.dumps(record))
