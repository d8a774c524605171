"""The stored films: the only place that touches their rows."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import URLValidator
from django.db import connection
from django.utils import timezone

from films.models import Film

_TITLE_LENGTH = 512
_URL_LENGTH = 2000
_FIRST_FILM_YEAR = 1870
_YEARS_AHEAD = 10

_valid_url = URLValidator(schemes=["http", "https"])


@dataclass(frozen=True, slots=True)
class StoredFilm:
    """A stored payload, when it was saved, and whether that is within its time to live.

    `age` is the part of the time to live that is over: 0.0 when just saved, from 1.0 on expired.
    """

    payload: dict[str, Any]
    cached_at: datetime | None
    age: float

    @property
    def is_fresh(self) -> bool:
        """Whether it may be shown without asking the sources again."""
        return self.age < 1.0


class FilmCacheService:
    """Keeps merged payloads in the database, each fresh for `ttl` after it was saved."""

    def __init__(self, *, ttl: timedelta, now: Callable[[], datetime] = timezone.now) -> None:
        self._ttl = ttl
        self._now = now

    def load(self, imdb_id: str) -> StoredFilm | None:
        """Return the stored film, fresh or not; None where nothing is stored."""
        row = Film.objects.filter(imdb_id=imdb_id).values_list("full_json", "cached_at").first()
        if row is None or not isinstance(row[0], dict):
            return None
        return StoredFilm(payload=row[0], cached_at=row[1], age=self._age(row[1]))

    def get_cached(self, imdb_id: str) -> dict[str, Any] | None:
        """Return the stored payload, fresh or not; None where nothing is stored."""
        stored = self.load(imdb_id)
        return stored.payload if stored else None

    def is_fresh(self, imdb_id: str) -> bool:
        """Whether a payload is stored that was saved less than the time to live ago."""
        cached_at = (
            Film.objects.filter(imdb_id=imdb_id, full_json__isnull=False)
            .values_list("cached_at", flat=True)
            .first()
        )
        return self._age(cached_at) < 1.0

    def save_cache(self, imdb_id: str, payload: dict[str, Any]) -> None:
        """Store `payload` as the film's newest, from now on fresh for the time to live.

        Title, year and poster of the row come from the payload's metadata, clipped or null where
        the column cannot hold them; the payload itself is stored as it is.
        """
        self.store(imdb_id, payload, cached_at=self._now())

    def store(self, imdb_id: str, payload: dict[str, Any], *, cached_at: datetime | None) -> None:
        """Store `payload` as `save_cache` does, with the age that it has."""
        metadata = payload.get("metadata") or {}
        Film.objects.update_or_create(
            imdb_id=imdb_id,
            defaults={
                "title": str(payload.get("title") or "")[:_TITLE_LENGTH],
                "year": _year(metadata.get("startYear"), self._now().year),
                "poster_url": _poster_url(metadata),
                "full_json": payload,
                "cached_at": cached_at,
            },
        )

    def release_connection(self) -> None:
        """Give the thread's database connection back before a wait for the network."""
        if not connection.in_atomic_block:
            connection.close()

    def _age(self, cached_at: datetime | None) -> float:
        if cached_at is None:
            return math.inf
        return (self._now() - cached_at) / self._ttl


def _year(value: Any, this_year: int) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if _FIRST_FILM_YEAR <= value <= this_year + _YEARS_AHEAD else None


def _poster_url(metadata: Mapping[str, Any]) -> str | None:
    image = metadata.get("primaryImage")
    url = image.get("url") if isinstance(image, dict) else None
    if not isinstance(url, str) or len(url) > _URL_LENGTH:
        return None
    try:
        _valid_url(url)
    except ValidationError:
        return None
    return url
