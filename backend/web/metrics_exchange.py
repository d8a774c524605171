"""The metrics of several server processes as those of one service.

Each process counts in its own memory. When one of them is scraped, it asks the supervisor, which
asks all of them. Nothing is written to files, so that a full disk cannot harm requests, and the
counts of a process that ended are kept.

Everything is in the text format of Prometheus: a sample is one line with the name, the labels and,
after the last space, the value.
"""

import math
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

# How long a process may take to answer. If it takes longer, its last answer is used.
_PATIENCE = 0.5
# A comment of ours that says how the values of a gauge are combined, if not by their sum.
_MODE = "# MODE"
_GAUGE_MODES: dict[str, Callable[[float, float], float]] = {"max": max, "min": min}

Address = Any


@dataclass
class _Family:
    """A metric with its comments (HELP, TYPE), and its samples by name and labels."""

    comments: list[str] = field(default_factory=list)
    kind: str = ""
    mode: str = ""
    samples: dict[str, float] = field(default_factory=dict)


def local_listener() -> socket.socket:
    """Return a listening socket that only processes on this machine can reach."""
    if sys.platform == "linux":
        # The kernel chooses a name that is not in the file system.
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("")
    else:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


def merge(expositions: Iterable[str]) -> str:
    """Return one exposition from those of several processes.

    Values are summed, except those of gauges with `multiprocess_mode` "max" or "min", of `…_info`
    (the highest) and of moments in time (the earliest).
    """
    merged: dict[str, _Family] = {}
    for text in expositions:
        for name, family in _parse(text).items():
            total = merged.setdefault(name, _Family(family.comments, family.kind, family.mode))
            for sample, value in family.samples.items():
                combine = _combine(sample, family.mode)
                known = total.samples.get(sample)
                total.samples[sample] = value if known is None else combine(known, value)
    return _format(merged)


class MetricsHub:
    """Collects the metrics of the processes that were added; used by the supervisor."""

    def __init__(self) -> None:
        self.listener = local_listener()
        self._addresses: dict[int, Address] = {}
        self._last: dict[int, str] = {}
        self._ended = ""

    def add(self, number: int, address: Address) -> None:
        """Ask the process that listens at `address` from now on."""
        self._addresses[number] = address

    def remove(self, number: int) -> None:
        """Remove a process that has ended; the counts in its last answer are kept."""
        self._addresses.pop(number, None)
        counted = {
            name: family
            for name, family in _parse(self._last.pop(number, "")).items()
            if family.kind in {"counter", "histogram", "summary"}
        }
        self._ended = merge([self._ended, _format(counted)])

    def answer(self) -> None:
        """Send the metrics of all processes to the one that asks at `listener`."""
        connection, _ = self.listener.accept()
        with connection, suppress(OSError):
            connection.settimeout(_PATIENCE)
            connection.sendall(self._collect().encode())

    def _collect(self) -> str:
        ends = time.monotonic() + _PATIENCE
        # All are asked before the first answer is read.
        asked: dict[int, socket.socket] = {}
        for number, address in self._addresses.items():
            # A process that has just ended is removed later.
            with suppress(OSError):
                asked[number] = _connect(address)
        for number, connection in asked.items():
            with connection, suppress(OSError):
                self._last[number] = _read_all(connection, ends)
        return merge([*self._last.values(), self._ended])


def own_metrics(registry: Any = None) -> str:
    """Return the metrics of this process: those of `registry`, or of the default one."""
    from prometheus_client import REGISTRY, generate_latest  # noqa: PLC0415  (not in the supervisor)

    registry = registry or REGISTRY
    lines = [generate_latest(registry).decode()]
    for name, collector in registry._names_to_collectors.items():  # noqa: SLF001  (it has no public list)
        mode = str(getattr(collector, "_multiprocess_mode", "")).removeprefix("live")
        if mode in _GAUGE_MODES:
            lines.append(f"{_MODE} {name} {mode}\n")
    return "".join(lines)


def answer_for_this_process(listener: socket.socket) -> None:
    """Answer at `listener` with the metrics of this process, in a thread of its own."""

    def answer() -> None:
        while True:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.settimeout(_PATIENCE)
                connection.sendall(own_metrics().encode())

    threading.Thread(target=answer, name="metrics", daemon=True).start()


def ask(hub: Address) -> str:
    """Return the metrics of all processes.

    Raises `OSError` if the supervisor does not answer in time.
    """
    with _connect(hub) as connection:
        return _read_all(connection, time.monotonic() + 4 * _PATIENCE)


def _connect(address: Address) -> socket.socket:
    connection = socket.socket(
        socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX, socket.SOCK_STREAM
    )
    connection.settimeout(_PATIENCE)
    try:
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


def _read_all(connection: socket.socket, ends: float) -> str:
    parts: list[bytes] = []
    while True:
        # What has already arrived is read in any case.
        connection.settimeout(max(0.05, ends - time.monotonic()))
        part = connection.recv(65_536)
        if not part:
            return b"".join(parts).decode()
        parts.append(part)


def _parse(text: str) -> dict[str, _Family]:
    families: dict[str, _Family] = {}
    family = _Family()
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = families.setdefault(line.split(" ")[2], _Family())
            family.comments = [line]
        elif line.startswith("# TYPE "):
            family.comments.append(line)
            family.kind = line.split(" ")[3]
        elif line.startswith(_MODE):
            _, _, name, mode = line.split(" ")
            families.get(name, _Family()).mode = mode
        elif line:
            sample, _, value = line.rpartition(" ")
            family.samples[sample] = float(value)
    return families


def _format(families: dict[str, _Family]) -> str:
    lines = []
    for family in families.values():
        lines += family.comments
        lines += [f"{sample} {_number(value)}" for sample, value in family.samples.items()]
    return "".join(f"{line}\n" for line in lines)


def _number(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else f"{'+' if value > 0 else '-'}Inf"


def _combine(sample: str, mode: str) -> Callable[[float, float], float]:
    name = sample.partition("{")[0]
    if name.endswith("_info"):
        return max
    if name.endswith("_start_time_seconds"):
        return min
    return _GAUGE_MODES.get(mode, float.__add__)
