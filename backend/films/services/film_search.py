"""Search results in the shape that clients get."""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from django.core.cache import cache
from django.db import DatabaseError, InterfaceError

from core.budgets import UpstreamBudgets
from core.deadline import Deadline, deadline_of, time_left
from core.errors import DeadlineExceeded, Overloaded, UpstreamError
from core.services.bulkhead import Bulkhead, outcome_of
from core.services.imdb_service import IMDbService
from core.services.single_flight import SingleFlight

logger = logging.getLogger(__name__)

# Long enough for people who type, page and come back; short enough for a new title to show.
KEEP_SECONDS = 300


class FilmSearchService:
    """Finds titles by text at IMDb, within `deadline_seconds`.

    Identical searches at the same time make one call, and what it finds is kept for
    `KEEP_SECONDS`. `cold_slots` bounds the requests of this process that wait for a source.
    """

    def __init__(
        self,
        *,
        imdb: IMDbService,
        bulkhead: Bulkhead,
        budgets: UpstreamBudgets,
        cold_slots: threading.Semaphore,
        release_connection: Callable[[], None],
        deadline_seconds: float,
    ) -> None:
        self._imdb = imdb
        self._bulkhead = bulkhead
        self._budgets = budgets
        self._cold_slots = cold_slots
        self._release_connection = release_connection
        self._deadline_seconds = deadline_seconds
        self._flights = SingleFlight(imdb.source, before_wait=release_connection)

    def search(self, query: str) -> list[dict[str, Any]]:
        """Return up to 20 of `{imdb_id, title, year, image, type}`, best match first.

        Raises `UpstreamError` where IMDb could not be asked, `Overloaded` where too many requests
        wait for a source already; that nothing matches is `[]`.
        """
        key = _cache_key(query)
        found: list[dict[str, Any]] | None = cache.get(key)
        if found is not None:
            return found
        if not self._cold_slots.acquire(blocking=False):
            raise Overloaded("Too many searches are under way right now.", retry_after=1)
        try:
            with deadline_of(Deadline(self._deadline_seconds)):
                return self._flights.run(key, partial(self._look, query, key))
        finally:
            self._cold_slots.release()

    def _look(self, query: str, key: str) -> list[dict[str, Any]]:
        source = self._imdb.source
        refused = self._budgets.sync({source})
        if source in refused:
            raise refused[source]
        self._wait_for_pace(source)
        self._release_connection()
        try:
            titles = outcome_of(
                self._bulkhead.submit(partial(self._imdb.search, query), priority=0), source
            )
        except UpstreamError as exc:
            self._budgets.complete(exc)
            raise
        finally:
            self._tell_news()
        found = [search_result(title) for title in titles]
        cache.set(key, found, KEEP_SECONDS)
        return found

    def _tell_news(self) -> None:
        """Tell the other processes; what was found is given to the reader in any case."""
        if not self._budgets.has_news:
            return
        try:
            self._budgets.sync(())
        except (DatabaseError, InterfaceError) as exc:
            logger.warning("the database failed", extra={"outcome": type(exc).__name__})
            self._release_connection()

    def _wait_for_pace(self, source: str) -> None:
        while self._budgets.is_paced(source):
            granted, seconds = self._budgets.take(source, 1)
            if granted:
                return
            self._release_connection()
            if time_left(seconds) < seconds:
                raise DeadlineExceeded(source, "in_line")
            time.sleep(seconds)


def _cache_key(query: str) -> str:
    # Case means nothing to the source, and a key must be short and plain.
    return f"search_{hashlib.sha256(query.lower().encode()).hexdigest()}"


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
