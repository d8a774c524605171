"""What a reader gets for a film, before it becomes HTTP."""

import gzip
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from films.services.rendering import Rendering


class Origin(Enum):
    """Where an answer comes from: the cache, the sources, or the cache past its time.

    What came from the sources may be `UNSTORED`: the database could not take it.
    """

    HIT = "hit"
    FETCHED = "fetched"
    UNSTORED = "unstored"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class FilmAnswer:
    """A payload as bytes, its version, how many seconds old and for how many more it is good."""

    version: str
    body: bytes
    is_gzipped: bool
    has_warnings: bool
    origin: Origin
    age: int
    fresh_for: int

    @property
    def payload(self) -> dict[str, Any]:
        """The twelve keys; costs a parse."""
        payload: dict[str, Any] = json.loads(
            gzip.decompress(self.body) if self.is_gzipped else self.body
        )
        return payload


@dataclass(frozen=True, slots=True)
class FilmCopy:
    """A payload in both codings, shared by all who waited for it."""

    rendering: Rendering
    cached_at: datetime
    origin: Origin

    def answer(self, *, gzipped: bool, now: datetime, ttl: timedelta) -> FilmAnswer:
        """Return the one coding that a reader wants."""
        made = self.rendering
        age = max(0, int((now - self.cached_at).total_seconds()))
        return FilmAnswer(
            version=made.version,
            body=made.gzipped if gzipped else made.body,
            is_gzipped=gzipped,
            has_warnings=made.has_warnings,
            origin=self.origin,
            age=age,
            fresh_for=max(0, int(ttl.total_seconds()) - age),
        )
