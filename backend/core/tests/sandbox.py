"""The sandbox as tests meet it: a process of its own, steered over its control API."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BACKEND = Path(__file__).resolve().parents[2]
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Sandbox:
    """The stand-ins for the four sources, and their steering wheel."""

    def __init__(self, url: str) -> None:
        self.url = url

    def fault(self, kind: str, **options: Any) -> str:
        """Order a fault; returns its id."""
        fault_id: str = self._control("POST", "/faults", {"kind": kind, **options})["id"]
        return fault_id

    def fired(self) -> list[int]:
        """How often each fault has fired, the newest fault first."""
        return [fault["fired"] for fault in self._control("GET", "/faults")]

    def clear_faults(self) -> None:
        self._control("DELETE", "/faults")

    def set(self, source: str, **settings: Any) -> None:
        """Change settings of one source."""
        self._control("PATCH", "/settings", {source: settings})

    def calls(self) -> list[dict[str, Any]]:
        """What was asked since the reset, oldest first."""
        found: list[dict[str, Any]] = self._control("GET", "/calls")["calls"]
        return found

    def paths(self, source: str) -> list[str]:
        """The paths that were asked of one source, oldest first."""
        return [call["path"] for call in self.calls() if call["source"] == source]

    def max_in_flight(self, source: str) -> int:
        """The most calls that one source had to answer at the same time."""
        most: int = self._control("GET", "/calls?summary=1")["max_in_flight"][source]
        return most

    def connections(self) -> int:
        """How many connections carried the calls."""
        count: int = self._control("GET", "/calls?summary=1")["connections"]
        return count

    def reset(self) -> None:
        """As just started."""
        self._control("POST", "/reset")

    def _control(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/control{path}", data, method=method)
        with _opener.open(request, timeout=10) as answer:
            return json.load(answer)


@contextmanager
def running() -> Iterator[Sandbox]:
    """A sandbox on a free port, gone afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sandbox", "--port", "0", "--exit-with-parent"],
        cwd=BACKEND,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("sandbox listening on "), line
        yield Sandbox(line.split()[-1])
    finally:
        process.kill()
        process.communicate()
