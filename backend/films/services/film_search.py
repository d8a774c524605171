"""Search results in the shape that clients get."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from core.deadline import Deadline, deadline_of
from core.services.bulkhead import Bulkhead, outcome_of
from core.services.imdb_service import IMDbService


class FilmSearchService:
    """Finds titles by text at IMDb, within `deadline_seconds`."""

    def __init__(self, *, imdb: IMDbService, bulkhead: Bulkhead, deadline_seconds: float) -> None:
        self._imdb = imdb
        self._bulkhead = bulkhead
        self._deadline_seconds = deadline_seconds

    def search(self, query: str) -> list[dict[str, Any]]:
        """Return up to 20 of `{imdb_id, title, year, image, type}`, best match first.

        Raises `UpstreamError` where IMDb could not be asked; that nothing matches is `[]`.
        """
        with deadline_of(Deadline(self._deadline_seconds)):
            future = self._bulkhead.submit(lambda: self._imdb.search(query), priority=0)
            titles = outcome_of(future, self._imdb.source)
        return [search_result(title) for title in titles]


def search_result(title: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a client sees of a title; each field but `imdb_id` may be null."""
    image = title.get("primaryImage")
    year = title.get("startYear")
    return {
        "imdb_id": title["id"],
        "title": _text(title.get("primaryTitle")) or _text(title.get("originalTitle")),
        "year": year if isinstance(year, int) and not isinstance(year, bool) else None,
        "image": _http_url(image.get("url")) if isinstance(image, dict) else None,
        "type": _text(title.get("type")),
    }


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _http_url(value: Any) -> str | None:
    text = _text(value)
    try:
        return text if text and urlsplit(text).scheme in {"http", "https"} else None
    except ValueError:
        return None
