"""What the four stand-ins have in common."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from sandbox import checks
from sandbox.catalogue import Catalogue
from sandbox.messages import Request, Response


def must_be(check: checks.Check) -> dict[str, checks.Check]:
    """Metadata of a setting that the control API may change to whatever `check` lets through."""
    return {"check": check}


@dataclass
class Settings:
    """How healthy and how generous a source is. The defaults are the start state."""

    latency_ms: int | dict[str, int] = field(default=0, metadata=must_be(checks.latency))

    def changed(self, values: Mapping[str, Any], *, of: str) -> "Settings":
        """A copy with the values put in, or Refusal."""
        allowed = {option.name: option.metadata["check"] for option in fields(self)}
        return replace(self, **checks.apply(allowed, values, of=of))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Upstream(ABC):
    """One source: answers requests, and knows how it words each kind of refusal."""

    name: ClassVar[str]
    settings: Settings

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.restart()

    @abstractmethod
    def restart(self) -> None:
        """Back to the settings of a fresh start."""

    def change(self, settings: Settings) -> None:
        self.settings = settings

    def delay(self, path: str) -> float:
        """Seconds a healthy answer takes."""
        latency = self.settings.latency_ms
        if not isinstance(latency, dict):
            return latency / 1000
        return next((ms for glob, ms in latency.items() if fnmatchcase(path, glob)), 0) / 1000

    def answer(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return self.error(405, "Method Not Allowed")
        return self.get(request)

    @abstractmethod
    def get(self, request: Request) -> Response:
        """The healthy answer under the current settings."""

    @abstractmethod
    def error(self, status: int, message: str) -> Response:
        """An error in the shape of this source."""

    @abstractmethod
    def quota_used_up(self) -> Response: ...

    @abstractmethod
    def bad_key(self) -> Response: ...
