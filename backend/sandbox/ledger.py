"""Who called what: the counts that tests assert on."""

import time
from collections import Counter, deque
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from sandbox.messages import Request

KEPT = 50_000


@dataclass
class Call:
    """One request to an upstream. `status` stays None while nothing has been sent."""

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


class Ledger:
    """Counts are exact; of the calls themselves the newest 50 000 are kept."""

    def __init__(self, sources: tuple[str, ...]) -> None:
        self._sources = sources
        self._seq = 0
        self._in_flight: Counter[str] = Counter()
        self.restart()

    def restart(self) -> None:
        """Forget everything but what is still in flight, and the numbering."""
        self.era = object()
        self._calls: deque[Call] = deque(maxlen=KEPT)
        self._counts: Counter[str] = Counter()
        self._most: Counter[str] = Counter(self._in_flight)
        self._connections = 0

    def seen_on(self, era: object) -> object:
        """Counts a connection at its first call since the restart; returns the current era."""
        if era is not self.era:
            self._connections += 1
        return self.era

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
        self._in_flight[source] += 1
        self._most[source] = max(self._most[source], self._in_flight[source])
        return call

    def end(self, call: Call) -> None:
        self._in_flight[call.source] -= 1

    def report(
        self, *, source: str = "", path: str = "", since: int = 0, summary: bool = False
    ) -> dict[str, Any]:
        """The whole account, or the part that fits the filters."""
        calls: list[Call] = []
        counts = self._counts
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
        by_source = {
            name: counts[name]
            for name in (*self._sources, *(["other"] if counts["other"] else []))
            if not source or name == source
        }
        report: dict[str, Any] = {
            "total": sum(by_source.values()),
            "by_source": by_source,
            "max_in_flight": {name: self._most[name] for name in self._sources},
            "connections": self._connections,
        }
        if not summary:
            report["calls"] = [call.as_json() for call in calls]
        return report
