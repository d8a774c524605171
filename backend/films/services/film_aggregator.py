"""One film from three sources."""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

from core.deadline import Deadline, deadline_of
from core.errors import UpstreamError, UpstreamNotFound
from core.services.bulkhead import Bulkhead, outcome_of
from core.services.imdb_service import IMDbService
from core.services.kinocheck_service import KinoCheckService
from core.services.watchmode_service import WatchmodeService
from core.utils.logging import film_id
from films.services.film_cache import FilmCacheService
from films.services.sections import METADATA, SECTIONS, STREAMING, TRAILER, Outcome, merge

logger = logging.getLogger(__name__)


class FilmAggregatorService:
    """Gives the payload of a film, from the cache or, on a miss, from all sources at once.

    `bulkheads` has the threads for each source by its name, `deadline_seconds` is the time that a
    miss may take.
    """

    def __init__(
        self,
        *,
        imdb: IMDbService,
        kinocheck: KinoCheckService,
        watchmode: WatchmodeService,
        cache: FilmCacheService,
        bulkheads: Mapping[str, Bulkhead],
        deadline_seconds: float,
    ) -> None:
        self._kinocheck = kinocheck
        self._watchmode = watchmode
        self._cache = cache
        self._bulkheads = bulkheads
        self._deadline_seconds = deadline_seconds
        self._imdb_sections: dict[str, Callable[[str], Any]] = {
            "metadata": imdb.get_metadata,
            "credits": imdb.get_credits,
            "images": imdb.get_images,
            "videos": imdb.get_videos,
            "parents_guide": imdb.get_parents_guide,
            "certificates": imdb.get_certificates,
            "release_dates": imdb.get_release_dates,
        }

    def fetch_and_cache(self, imdb_id: str) -> dict[str, Any]:
        """Return the twelve-key payload of the film, fetched and stored where it is not fresh.

        Sections that could not be fetched are named in `warnings`. Raises `UpstreamNotFound` where
        IMDb knows no such title, another `UpstreamError` where it could not tell and nothing is
        stored.
        """
        film_id.set(imdb_id)
        stored = self._cache.load(imdb_id)
        if stored and stored.is_fresh:
            return stored.payload
        lookup = _WatchmodeLookup(self._watchmode, self._known_watchmode_id(imdb_id))
        self._cache.release_connection()
        with deadline_of(Deadline(self._deadline_seconds)):
            outcomes = self._fan_out(imdb_id, lookup)
        payload = merge(imdb_id, outcomes, stored.payload if stored else None)
        if lookup.is_gone:
            self._cache.forget_watchmode_title(imdb_id)
        elif lookup.is_new:
            self._cache.save_watchmode_title(imdb_id, lookup.watchmode_id)
        # An answer without news from IMDb must not pass for a fresh one the next time.
        if not isinstance(outcomes[METADATA.name], UpstreamError):
            self._cache.save_cache(imdb_id, payload)
        return payload

    def _known_watchmode_id(self, imdb_id: str) -> tuple[bool, int | None]:
        title = self._cache.watchmode_title(imdb_id)
        return (True, title.watchmode_id) if title else (False, None)

    def _fan_out(self, imdb_id: str, lookup: "_WatchmodeLookup") -> dict[str, Outcome]:
        # The longest chain, two calls, goes first.
        fetches: dict[str, Callable[[str], Any]] = {
            STREAMING.name: lookup.streaming,
            TRAILER.name: self._kinocheck.get_trailer,
            **self._imdb_sections,
        }
        sources = {section.name: section.source for section in SECTIONS}
        futures: dict[str, Future[Any]] = {}
        for name, fetch in fetches.items():
            priority = 0 if name == METADATA.name else 1
            futures[name] = self._bulkheads[sources[name]].submit(
                partial(fetch, imdb_id), priority=priority
            )
        return {name: _outcome(future, sources[name]) for name, future in futures.items()}


class _WatchmodeLookup:
    """The chain of two calls behind `streaming`, the first of which is mostly known already."""

    def __init__(self, watchmode: WatchmodeService, known: tuple[bool, int | None]) -> None:
        self._watchmode = watchmode
        self._is_known, self.watchmode_id = known
        self.is_new = False
        self.is_gone = False

    def streaming(self, imdb_id: str) -> list[dict[str, Any]]:
        """Return the offers for the film; `[]` where Watchmode does not know it."""
        if not self._is_known:
            self.watchmode_id = self._watchmode.lookup_title_id(imdb_id)
            self.is_new = True
        if self.watchmode_id is None:
            return []
        try:
            return self._watchmode.get_streaming_sources(self.watchmode_id)
        except UpstreamNotFound:
            self.is_gone = True
            return []


def _outcome(future: "Future[Any]", source: str) -> Outcome:
    try:
        return outcome_of(future, source)
    except UpstreamError as exc:
        return exc
