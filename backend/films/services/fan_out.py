"""The calls for sections of a film: which method of which source, in which order."""

import hashlib
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.core.cache import cache

from core.cache_outcome import note_outcome
from core.db import release_connection
from core.deadline import Deadline, deadline_of
from core.errors import InvalidInput, RegionNotCovered, UpstreamNotFound
from core.services.imdb_service import IMDbService
from core.services.kinocheck_service import KinoCheckService
from core.services.single_flight import SingleFlight
from core.services.slots import occupied
from core.services.source import Combined, Priority, Source, outcome_of
from core.services.usage import Avoided, tally
from core.services.watchmode_service import WatchmodeService
from films.payload import (
    METADATA,
    SECTIONS,
    SOURCE_OF,
    STREAMING,
    TRAILER,
    FilmPayload,
    SectionAnswer,
)
from films.validation import has_shape

# The longest `nextPageToken` that is passed on, in characters.
_LONGEST_TOKEN = 1_000


@dataclass(frozen=True, slots=True)
class WatchmodeId:
    """Watchmode's id of a film: `value` is None if Watchmode does not know the film.

    `is_known` says that it need not be looked up. A value that is not known is one that Watchmode
    dropped.
    """

    value: int | None = None
    is_known: bool = False


@dataclass(frozen=True, slots=True)
class Calls:
    """The futures of the sections, and of Watchmode's id, set if what is known of it changed."""

    sections: dict[str, "Future[Any]"]
    watchmode_id: "Future[WatchmodeId]"


class FanOut:
    """Queues the calls for sections of a film with their sources.

    The offers of all `regions` go beside the payload; those of the first one are in it.
    """

    def __init__(
        self,
        *,
        imdb: IMDbService,
        kinocheck: KinoCheckService,
        watchmode: WatchmodeService,
        sources: Collection[Source],
        regions: Sequence[str],
    ) -> None:
        self._sources = {source.name: source for source in sources}
        self._kinocheck = kinocheck
        self._watchmode = watchmode
        self._regions = tuple(regions)
        self._combined_metadata = Combined(imdb.get_metadata_batch, most=5)
        self._methods: dict[str, Callable[[str], Any]] = {
            METADATA.name: imdb.get_metadata,
            "credits": imdb.get_credits,
            "images": imdb.get_images,
            "videos": imdb.get_videos,
            "parents_guide": imdb.get_parents_guide,
            "certificates": imdb.get_certificates,
            "release_dates": imdb.get_release_dates,
            TRAILER.name: self._trailer,
        }

    def submit(
        self,
        imdb_id: str,
        sections: Collection[str],
        *,
        watchmode_id: WatchmodeId,
        priority: Priority,
        leave_reserve: bool,
    ) -> Calls:
        """Queue a call for each of `sections` and return the futures."""
        found: Future[WatchmodeId] = Future()
        methods: dict[str, Callable[[str], Any]] = {
            STREAMING.name: partial(self._streaming, watchmode_id, found),
            **self._methods,
        }
        # The longest chain, two calls, goes first.
        wanted = sorted(
            (section for section in SECTIONS if section.name in sections),
            key=lambda section: (section is not STREAMING, section.turn),
        )
        futures: dict[str, Future[Any]] = {
            section.name: self._sources[section.source].submit(
                partial(methods[section.name], imdb_id),
                priority=priority,
                turn=section.turn,
                leave_reserve=leave_reserve,
                item=imdb_id,
                combined=self._combined_metadata if section is METADATA else None,
            )
            for section in wanted
        }
        return Calls(futures, found)

    def queue_seconds(self, section: str, future: "Future[Any]") -> float:
        """Return how long the rate limit of its source keeps the call for a section waiting."""
        return self._sources[SOURCE_OF[section]].queue_seconds(future)

    def has_all_regions(self, film: FilmPayload) -> bool:
        """Whether the offers were fetched for all regions, with the first one as the default."""
        fetched = (film.extras.get(STREAMING.name) or {}).get("regions") or [""]
        return fetched[0] == self._regions[0] and set(self._regions) <= set(fetched)

    def _streaming(
        self, known: WatchmodeId, found: "Future[WatchmodeId]", imdb_id: str
    ) -> SectionAnswer:
        try:
            rows = self._offers(known, found, imdb_id)
        except RegionNotCovered:
            # The plan includes none of the regions.
            return self._streaming_answer([], self._regions)
        return self._streaming_answer(rows, self._watchmode.not_covered)

    def _offers(
        self, known: WatchmodeId, found: "Future[WatchmodeId]", imdb_id: str
    ) -> list[dict[str, Any]]:
        value = known.value
        if not known.is_known:
            value = self._watchmode.lookup_title_id(imdb_id)
            # Kept even if the next call fails: it cost a credit.
            found.set_result(WatchmodeId(value, is_known=True))
        elif value is None:
            tally.avoided(Avoided.NEGATIVE_CACHE, [STREAMING.source])
        if value is None:
            return []
        try:
            return self._watchmode.get_streaming_sources(value)
        except UpstreamNotFound:
            if known.is_known:
                # Watchmode dropped the id: the next fetch does not use it.
                found.set_result(WatchmodeId(value))
            return []

    def _streaming_answer(
        self, rows: list[dict[str, Any]], not_covered: Sequence[str]
    ) -> SectionAnswer:
        default = self._regions[0]
        extra = {"offers": rows, "regions": [*self._regions], "not_covered": [*not_covered]}
        error = None
        if default in not_covered:
            error = RegionNotCovered(STREAMING.source, "region_not_covered")
        return SectionAnswer([row for row in rows if row["region"] == default], extra, error)

    def _trailer(self, imdb_id: str) -> SectionAnswer:
        videos = self._kinocheck.get_title_videos(imdb_id)
        return SectionAnswer(videos.trailer, videos.alternatives)


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a section, and when it was fetched (Unix time).

    `was_fetched` says that it comes from the source rather than from the cache.
    """

    value: dict[str, Any]
    fetched_at: float
    was_fetched: bool


class SectionPages:
    """Fetches pages of sections from IMDb and keeps each for `keep_seconds` in the Django cache.

    `miss_slots` bounds the requests of this process that wait for a source.
    """

    def __init__(
        self,
        *,
        imdb: IMDbService,
        source: Source,
        miss_slots: threading.Semaphore,
        keep_seconds: float,
        deadline_seconds: float,
    ) -> None:
        self._source = source
        self._miss_slots = miss_slots
        self._keep_seconds = keep_seconds
        self._deadline_seconds = deadline_seconds
        self._flights = SingleFlight(source.name, before_wait=release_connection)
        self._methods: Mapping[str, Callable[[str, str], dict[str, Any]]] = {
            "credits": imdb.get_credits,
            "images": imdb.get_images,
            "videos": imdb.get_videos,
            "release_dates": imdb.get_release_dates,
        }

    def cached(self, imdb_id: str, section: str, token: str) -> Page | None:
        """Return what `fetch` would return if that needs no call, else None."""
        match cache.get(self._key(imdb_id, section, token)):
            case {"page": value, "fetched_at": float(fetched_at)} if (
                has_shape(section, value) and fetched_at > 0
            ):
                tally.cache_hit((self._source.name,))
                note_outcome("memory")
                # Another machine's clock may be ahead.
                return Page(value, min(fetched_at, time.time()), was_fetched=False)
        return None

    def fetch(self, imdb_id: str, section: str, token: str) -> Page:
        """Return the page that a `nextPageToken` names, in the shape of the section.

        Raises `InvalidInput` for a section without pages and a token that the source refuses,
        `UpstreamError` if the source could not be called, `Overloaded` if too many requests wait.
        """
        key = self._key(imdb_id, section, token)
        with (
            occupied(self._miss_slots, "Too many pages are being fetched right now."),
            deadline_of(Deadline(self._deadline_seconds)),
        ):
            page = self._flights.run(key, partial(self._fetch, key, imdb_id, section, token))
        note_outcome("miss")
        return page

    def _key(self, imdb_id: str, section: str, token: str) -> str:
        if section not in self._methods:
            raise InvalidInput(f"'page_token' is for {', '.join(self._methods)}.")
        if not token or len(token) > _LONGEST_TOKEN:
            raise InvalidInput("'page_token' is the nextPageToken of the page before.")
        digest = hashlib.sha256(token.encode()).hexdigest()
        return f"page_{imdb_id}_{section}_{digest}"

    def _fetch(self, key: str, imdb_id: str, section: str, token: str) -> Page:
        release_connection()
        call = partial(self._methods[section], imdb_id, token)
        value = outcome_of(self._source.submit(call), self._source.name)
        page = Page(value, time.time(), was_fetched=True)
        kept = {"page": page.value, "fetched_at": page.fetched_at}
        cache.set(key, kept, self._keep_seconds)
        return page
