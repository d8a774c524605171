"""The sandbox as a process, with a client for its control API."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BACKEND = Path(__file__).resolve().parents[2] / "backend"
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Sandbox:
    """A running sandbox and its control API."""

    def __init__(self, url: str) -> None:
        self.url = url

    def fault(self, kind: str, **options: Any) -> str:
        """Add a fault; return its id."""
        fault_id: str = self._control("POST", "/faults", {"kind": kind, **options})["id"]
        return fault_id

    def fired(self) -> list[int]:
        """Return how often each fault has fired, the newest fault first."""
        return [fault["fired"] for fault in self._control("GET", "/faults")]

    def clear_faults(self) -> None:
        self._control("DELETE", "/faults")

    def set(self, source: str, **settings: Any) -> None:
        """Change settings of one source."""
        self._control("PATCH", "/settings", {source: settings})

    def settings(self) -> dict[str, dict[str, Any]]:
        """Return the settings of all sources, by source."""
        found: dict[str, dict[str, Any]] = self._control("GET", "/settings")
        return found

    def calls(self, source: str | None = None) -> list[dict[str, Any]]:
        """Return the calls since the reset, to one source or to all, oldest first."""
        found: list[dict[str, Any]] = self._control("GET", "/calls")["calls"]
        return [call for call in found if source in {None, call["source"]}]

    def paths(self, source: str) -> list[str]:
        """Return the paths of the calls to one source, oldest first."""
        return [call["path"] for call in self.calls(source)]

    def counts(self, source: str) -> dict[str, int]:
        """Return the number of calls to one source by path, with `*` in place of ids."""
        counts: dict[str, int] = self._control("GET", "/calls?summary=1")["by_path"][source]
        return counts

    def max_in_flight(self, source: str) -> int:
        """Return the largest number of concurrent calls to one source."""
        most: int = self._control("GET", "/calls?summary=1")["max_in_flight"][source]
        return most

    def connections(self) -> int:
        """Return the number of connections used by the calls."""
        count: int = self._control("GET", "/calls?summary=1")["connections"]
        return count

    def reset(self) -> None:
        """Restore the initial state."""
        self._control("POST", "/reset")

    def _control(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/control{path}", data, method=method)
        with _opener.open(request, timeout=10) as answer:
            return json.load(answer)


@contextmanager
def running(*options: str) -> Iterator[Sandbox]:
    """Run a sandbox on a free port, with more options of its command line."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sandbox", "--port", "0", "--exit-with-parent", *options],
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
