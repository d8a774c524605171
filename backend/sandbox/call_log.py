"""The calls that the stand-ins received, and their counts."""

import re
import time
from collections import Counter, deque
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from sandbox.messages import Request

KEPT = 50_000
# The variable parts of paths: ids of titles at any source.
VARIABLE_PART = re.compile(r"(?<=/)(?:tt|movie-|tv-)?[0-9]+(?=/|$)")


@dataclass
class Call:
    """One request to a stand-in. `status` is None until a status line has been sent."""

    __slots__ = (
        "at",
        "correlation_id",
        "fault",
        "key_in",
        "path",
        "query",
        "seq",
        "source",
        "status",
        "user_agent",
    )

    seq: int
    at: float
    source: str
    path: str
    query: str
    status: int | None
    correlation_id: str | None
    fault: str | None
    key_in: str | None
    user_agent: str | None

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


class CallLog:
    """Exact counts of all calls, and details of the newest 50,000."""

    def __init__(self, sources: tuple[str, ...]) -> None:
        self._sources = sources
        self._seq = 0
        self._in_flight: Counter[str] = Counter()
        self.reset()

    def reset(self) -> None:
        """Forget all calls except those in flight; sequence numbers continue."""
        self.generation = object()
        self._calls: deque[Call] = deque(maxlen=KEPT)
        self._counts: Counter[str] = Counter()
        self._path_counts: Counter[tuple[str, str]] = Counter()
        self._max_in_flight: Counter[str] = Counter(self._in_flight)
        self._connections = 0

    def count_connection(self, generation: object) -> object:
        """Count a connection at its first call after a reset; return the current generation."""
        if generation is not self.generation:
            self._connections += 1
        return self.generation

    def begin(self, request: Request) -> Call:
        self._seq += 1
        source, headers = request.source, request.headers
        call = Call(
            seq=self._seq,
            at=time.monotonic(),
            source=source,
            path=request.path,
            query=request.safe_query,
            status=None,
            correlation_id=headers.get("x-correlation-id"),
            fault=None,
            key_in=request.key_in,
            user_agent=headers.get("user-agent"),
        )
        self._calls.append(call)
        self._counts[source] += 1
        self._path_counts[source, path_pattern(request.path)] += 1
        self._in_flight[source] += 1
        self._max_in_flight[source] = max(self._max_in_flight[source], self._in_flight[source])
        return call

    def end(self, call: Call) -> None:
        self._in_flight[call.source] -= 1

    def report(
        self, *, source: str = "", path: str = "", since: int = 0, summary: bool = False
    ) -> dict[str, Any]:
        """Return counts and calls, limited to those that match the filters."""
        calls: list[Call] = []
        counts, path_counts = self._counts, self._path_counts
        if path or since or not summary:
            calls = [
                call
                for call in self._calls
                if call.seq > since
                and (not source or call.source == source)
                and (not path or fnmatchcase(call.path, path))
            ]
        if path or since:
            counts = Counter(call.source for call in calls)
            path_counts = Counter((call.source, path_pattern(call.path)) for call in calls)
        by_source = {
            name: counts[name]
            for name in (*self._sources, *(["other"] if counts["other"] else []))
            if not source or name == source
        }
        report: dict[str, Any] = {
            "total": sum(by_source.values()),
            "by_source": by_source,
            "by_path": {
                name: {
                    pattern: count
                    for (owner, pattern), count in sorted(path_counts.items())
                    if owner == name
                }
                for name in by_source
            },
            "max_in_flight": {name: self._max_in_flight[name] for name in self._sources},
            "connections": self._connections,
        }
        if not summary:
            report["calls"] = [call.as_json() for call in calls]
        return report


def path_pattern(path: str) -> str:
    """Replace ids with `*`: `/titles/tt1375666/images` becomes `/titles/*/images`."""
    return VARIABLE_PART.sub("*", path.rstrip("/") or "/")
