"""The base class of the four stand-ins."""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from sandbox import checks
from sandbox.catalogue import Catalogue
from sandbox.messages import Request, Response


def checked_by(check: checks.Check) -> dict[str, checks.Check]:
    """Return field metadata: the control API accepts the values that pass `check`."""
    return {"check": check}


@dataclass
class Settings:
    """Settings of one source. The defaults are the initial state."""

    latency_ms: int | dict[str, int] = field(default=0, metadata=checked_by(checks.latency))
    bucket: dict[str, Any] | None = field(
        default=None, metadata=checked_by(checks.optional(checks.bucket))
    )
    retry_after: str | None = field(
        default=None, metadata=checked_by(checks.optional(checks.header))
    )

    def changed(self, values: Mapping[str, Any], *, of: str) -> "Settings":
        """Return a changed copy, or raise InvalidRequest."""
        allowed = {option.name: option.metadata["check"] for option in fields(self)}
        return replace(self, **checks.apply(allowed, values, of=of))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Upstream(ABC):
    """A stand-in for one source, with its responses and its error formats."""

    name: ClassVar[str]
    settings: Settings

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.reset()

    @abstractmethod
    def reset(self) -> None:
        """Restore the initial settings."""

    def change(self, settings: Settings) -> None:
        self.settings = settings
        self._level, self._leaked_at = 0.0, 0.0

    def delay(self, path: str) -> float:
        """Return the latency of a path in seconds."""
        latency = self.settings.latency_ms
        if not isinstance(latency, dict):
            return latency / 1000
        return next((ms for glob, ms in latency.items() if fnmatchcase(path, glob)), 0) / 1000

    def answer(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return self.error(405, "Method Not Allowed")
        if self._overflows():
            return self.rate_limited()
        return self.get(request)

    def rate_limited(self) -> Response:
        """Return the error of a caller that exceeds the rate limit."""
        answer = self.error(429, "Too many network requests")
        return replace(answer, headers=(*answer.headers, *self._retry_after()))

    def _retry_after(self) -> tuple[tuple[str, str], ...]:
        value = self.settings.retry_after
        return (("Retry-After", value),) if value is not None else ()

    def _overflows(self) -> bool:
        """Count a call in the leaky bucket; return whether it exceeds the rate limit."""
        bucket = self.settings.bucket
        if bucket is None:
            return False
        now = time.monotonic()
        leak = (now - self._leaked_at) * bucket["capacity"] / bucket["per"]
        self._level, self._leaked_at = max(0.0, self._level - leak), now
        if self._level + 1 > bucket["capacity"]:
            return True
        self._level += 1
        return False

    @abstractmethod
    def get(self, request: Request) -> Response:
        """Return the response without a fault, under the current settings."""

    @abstractmethod
    def error(self, status: int, message: str) -> Response:
        """Return an error in the format of this source."""

    @abstractmethod
    def quota_exceeded(self) -> Response: ...

    @abstractmethod
    def invalid_key(self) -> Response: ...
