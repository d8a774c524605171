"""The stored films: the only place that touches their rows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import URLValidator
from django.db import connection
from django.utils import timezone

from films.models import Film, WatchmodeTitle

_TITLE_LENGTH = 512
_URL_LENGTH = 2000
_FIRST_FILM_YEAR = 1870
_YEARS_AHEAD = 10

_valid_url = URLValidator(schemes=["http", "https"])


@dataclass(frozen=True, slots=True)
class StoredFilm:
    """A stored payload and whether it is still within its time to live."""

    payload: dict[str, Any]
    is_fresh: bool


class FilmCacheService:
    """Keeps merged payloads in the database, each fresh for `ttl` after it was saved."""

    def __init__(
        self,
        *,
        ttl: timedelta,
        watchmode_id_ttl: timedelta,
        now: Callable[[], datetime] = timezone.now,
    ) -> None:
        self._ttl = ttl
        self._watchmode_id_ttl = watchmode_id_ttl
        self._now = now

    def load(self, imdb_id: str) -> StoredFilm | None:
        """Return the stored film, fresh or not; None where nothing is stored."""
        row = Film.objects.filter(imdb_id=imdb_id).values_list("full_json", "cached_at").first()
        if row is None or not isinstance(row[0], dict):
            return None
        return StoredFilm(payload=row[0], is_fresh=self._is_within_ttl(row[1]))

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
        return self._is_within_ttl(cached_at)

    def save_cache(self, imdb_id: str, payload: dict[str, Any]) -> None:
        """Store `payload` as the film's newest, from now on fresh for the time to live.

        Title, year and poster of the row come from the payload's metadata, clipped or null where
        the column cannot hold them; the payload itself is stored as it is.
        """
        metadata = payload.get("metadata") or {}
        now = self._now()
        Film.objects.update_or_create(
            imdb_id=imdb_id,
            defaults={
                "title": str(payload.get("title") or "")[:_TITLE_LENGTH],
                "year": _year(metadata.get("startYear"), now.year),
                "poster_url": _poster_url(metadata),
                "full_json": payload,
                "cached_at": now,
            },
        )

    def watchmode_title(self, imdb_id: str) -> WatchmodeTitle | None:
        """Return what a look-up in the last month found; None where there was none."""
        since = self._now() - self._watchmode_id_ttl
        known: WatchmodeTitle | None
        known = WatchmodeTitle.objects.filter(imdb_id=imdb_id, looked_up_at__gt=since).first()
        return known

    def save_watchmode_title(self, imdb_id: str, watchmode_id: int | None) -> None:
        """Remember the result of a look-up; None that Watchmode does not know the film."""
        WatchmodeTitle.objects.update_or_create(
            imdb_id=imdb_id,
            defaults={"watchmode_id": watchmode_id, "looked_up_at": self._now()},
        )

    def forget_watchmode_title(self, imdb_id: str) -> None:
        """Have the number looked up again: Watchmode does not know the remembered one any more."""
        WatchmodeTitle.objects.filter(imdb_id=imdb_id).delete()

    def release_connection(self) -> None:
        """Give the thread's database connection back before a wait for the network."""
        if not connection.in_atomic_block:
            connection.close()

    def _is_within_ttl(self, cached_at: datetime | None) -> bool:
        return cached_at is not None and self._now() - cached_at < self._ttl


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
