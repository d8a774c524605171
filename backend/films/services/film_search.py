"""Search results in the shape that clients get."""

import hashlib
import json
import logging
import re
import threading
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any

from django.core.cache import cache
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from core.cache_outcome import note_outcome
from core.db import DATABASE_FAULTS, release_connection
from core.deadline import Deadline, deadline_of
from core.errors import InvalidInput, UpstreamNotFound
from core.imdb_id import canonical_imdb_id
from core.services import shapes
from core.services.imdb_service import IMDbService
from core.services.single_flight import SingleFlight
from core.services.slots import occupied
from core.services.source import Priority, Source, outcome_of
from core.services.usage import tally
from films.payload import FilmPayload
from films.services.leases import FetchLeases

logger = logging.getLogger(__name__)

# Long enough for people who type, page and come back; short enough for a new title to appear.
KEEP_SECONDS = 300
DEFAULT_LIMIT, LARGEST_LIMIT = 20, 50

# Groups of IMDb's own types, which can be named as well.
TYPE_GROUPS = {
    "movie": {"movie", "tvMovie"},
    "series": {"tvSeries", "tvMiniSeries"},
    "episode": {"tvEpisode"},
    "short": {"short", "tvShort"},
    "game": {"videoGame"},
    "special": {"tvSpecial"},
    "video": {"video"},
}
_TYPES = frozenset().union(*TYPE_GROUPS.values())

# An id by itself, or in an address of IMDb: any subdomain, language and mobile forms, any query.
_PASTED = re.compile(
    r"(?:(?:https?://)?(?:[a-z0-9-]+\.)*imdb\.com(?::[0-9]{1,5})?/"
    r"(?:[a-z]{2}(?:-[a-z]{2})?/)?title/)?(tt[0-9]{1,18})(?:[/?#].*)?",
    re.ASCII | re.IGNORECASE,
)
_ARTICLE = re.compile(r"\A(?:the|an?|der|die|das|le|la|les|el|los|las|il|lo|un|une|una)\s+")


@dataclass(frozen=True, slots=True)
class SearchFilter:
    """Which of the titles found are wanted; `types` and `years` are None for all of them."""

    types: frozenset[str] | None = None
    years: tuple[int, int] | None = None
    limit: int = DEFAULT_LIMIT

    @classmethod
    def parse(cls, kind: str | None, year: str | None, limit: str | None) -> "SearchFilter":
        """Return the filter in the query parameters `type`, `year` and `limit`.

        Raises `InvalidInput` for an unknown type, a year that is neither one nor a range, a
        reversed range, and a limit outside of 1 to 50.
        """
        types = None
        if kind is not None:
            names = [name.strip() for name in kind.split(",")]
            if not all(name in TYPE_GROUPS or name in _TYPES for name in names):
                allowed = ", ".join([*TYPE_GROUPS, *sorted(_TYPES - set(TYPE_GROUPS))])
                raise InvalidInput(f"'type' is a comma-separated list of {allowed}.")
            types = frozenset().union(*(TYPE_GROUPS.get(name, {name}) for name in names))
        years = None
        if year is not None:
            match = re.fullmatch(r"([0-9]{4})(?:-([0-9]{4}))?", year, re.ASCII)
            years = (int(match[1]), int(match[2] or match[1])) if match else None
            if years is None or years[0] > years[1]:
                raise InvalidInput("'year' is a year or a range, such as 2010 or 2008-2012.")
        count = DEFAULT_LIMIT
        if limit is not None:
            is_number = re.fullmatch(r"[0-9]{1,2}", limit, re.ASCII)
            if not is_number or not 1 <= int(limit) <= LARGEST_LIMIT:
                raise InvalidInput(f"'limit' is a whole number from 1 to {LARGEST_LIMIT}.")
            count = int(limit)
        return cls(types, years, count)

    def admits(self, title: Mapping[str, Any]) -> bool:
        """Whether a title has one of the types, and its run overlaps the years."""
        if self.types is not None and title["type"] not in self.types:
            return False
        if self.years is None:
            return True
        start, end = title["year"], title["end_year"]
        if start is None:
            return False
        is_series = title["type"] in TYPE_GROUPS["series"]
        last = end or (date.today().year if is_series else start)  # noqa: DTZ011  (a year only)
        return bool(start <= self.years[1] and max(start, last) >= self.years[0])


class FilmSearchService:
    """Finds titles by text at IMDb, within `deadline_seconds`.

    Identical searches at the same time make one call, and its result is kept for `KEEP_SECONDS`.
    `miss_slots` bounds the requests of this process that wait for a source. `stored_film` returns a
    stored film by id, `vouches_for` and `fetch_title` are those of `FilmAggregatorService` and
    `FilmRefresher`.
    """

    def __init__(
        self,
        *,
        imdb: IMDbService,
        source: Source,
        leases: FetchLeases,
        stored_film: Callable[[str], FilmPayload | None],
        vouches_for: Callable[[str], bool],
        fetch_title: Callable[[str, Priority], dict[str, Any]],
        miss_slots: threading.Semaphore,
        deadline_seconds: float,
    ) -> None:
        self._imdb = imdb
        self._source = source
        self._leases = leases
        self._stored_film = stored_film
        self._vouches_for = vouches_for
        self._fetch_title = fetch_title
        self._miss_slots = miss_slots
        self._deadline_seconds = deadline_seconds
        self._flights = SingleFlight(source.name, before_wait=release_connection)

    def cached(
        self, query: str, wanted: SearchFilter = SearchFilter()
    ) -> list[dict[str, Any]] | None:
        """Return what `search` would return if that needs no call, else None."""
        kept = self.kept(query)
        found = None if kept is None else results_of(kept, query, wanted)
        if found is not None:
            self.count_hit()
            note_outcome("memory")
        elif imdb_id := pasted_id(query):
            film = self._stored_film(imdb_id)
            if film is not None:
                self.count_hit()
                note_outcome("row")
                found = _results([_title(film["metadata"])], query, wanted)
        return found

    def kept(self, query: str) -> str | None:
        """Return what is kept of a search for `query`, for `results_of`; None if nothing is."""
        text = cache.get(_cache_key(query))
        return text if isinstance(text, str) else None

    def count_hit(self) -> None:
        """Count the call that was not made because its result was kept."""
        tally.cache_hit((self._source.name,))

    def search(
        self,
        query: str,
        wanted: SearchFilter = SearchFilter(),
        *,
        count_miss: Callable[[bool], object] = bool,
    ) -> list[dict[str, Any]]:
        """Search at IMDb; return the wanted ones of `{imdb_id, title, year, image, type}`.

        Titles that equal the query come first, then the order of the source. A query that is an
        IMDb id or an address of IMDb finds that title. If nothing matches, the list is empty.
        What `cached` returns is not looked for again. `count_miss` is called before the call to
        the source, as that of a `Reader`.
        Raises `UpstreamError` if IMDb could not be called, `Overloaded` if too many requests wait
        for a source already.
        """
        imdb_id = pasted_id(query)
        try:
            is_vouched_for = imdb_id is None or self._vouches_for(imdb_id)
        except UpstreamNotFound:
            return []
        count_miss(is_vouched_for)
        call = partial(self._fetch, query, imdb_id, is_vouched_for=is_vouched_for)
        with (
            occupied(self._miss_slots, "Too many searches are under way right now."),
            deadline_of(Deadline(self._deadline_seconds)),
        ):
            titles = self._flights.run(_cache_key(query), call)
        note_outcome("miss")
        return _results(titles, query, wanted)

    def _fetch(
        self, query: str, imdb_id: str | None, *, is_vouched_for: bool
    ) -> list[dict[str, Any]]:
        release_connection()
        if imdb_id is None:
            call = self._source.submit(partial(self._imdb.search, query))
            found = outcome_of(call, self._source.name)
        else:
            priority = Priority.READER if is_vouched_for else Priority.UNVOUCHED
            try:
                found = [self._fetch_title(imdb_id, priority)]
            except UpstreamNotFound:
                found = []
        titles = [_title(each) for each in found]
        # As text: what is made of it can be remembered by it.
        cache.set(_cache_key(query), json.dumps(titles, ensure_ascii=False), KEEP_SECONDS)
        try:
            self._leases.note_seen(title["imdb_id"] for title in titles)
        except DATABASE_FAULTS as exc:
            # The titles are fetched more slowly then, but the search has its result.
            logger.warning("database failed", extra={"outcome": type(exc).__name__})
            release_connection()
        return titles


def pasted_id(query: str) -> str | None:
    """Return the canonical id if the query is an IMDb id or an address of a title, else None."""
    match = _PASTED.fullmatch(query.strip())
    return canonical_imdb_id(match[1].lower()) if match else None


def results_of(
    kept: str, query: str, wanted: SearchFilter = SearchFilter()
) -> list[dict[str, Any]] | None:
    """Return what a search finds in the titles that are kept of it, None if they are unreadable."""
    try:
        titles: list[dict[str, Any]] = _kept_titles.validate_json(kept, strict=True)
    # ValidationError, and UnicodeEncodeError for lone surrogates.
    except ValueError:
        return None
    return _results(titles, query, wanted)


def _results(
    titles: list[dict[str, Any]], query: str, wanted: SearchFilter
) -> list[dict[str, Any]]:
    wanted_title = _spellings(query)
    admitted = [title for title in titles if wanted.admits(title)]
    # The sort is stable: equal titles keep the order of the source.
    admitted.sort(
        key=lambda title: all(
            wanted_title.isdisjoint(_spellings(title[name])) for name in ("title", "original")
        )
    )
    keys = ("imdb_id", "title", "year", "image", "type")
    return [{key: title[key] for key in keys} for title in admitted[: wanted.limit]]


def _spellings(text: str | None) -> set[str]:
    """Return a title without case, punctuation and spaces, with its leading article and without."""
    folded = unicodedata.normalize("NFKC", text or "").casefold()
    words = "".join(char if char.isalnum() else " " for char in folded).split()
    plain = " ".join(words)
    return {each.replace(" ", "") for each in (plain, _ARTICLE.sub("", plain))}


def _cache_key(query: str) -> str:
    # The source ignores case, and a key must be short and plain.
    text = pasted_id(query) or query.lower()
    return f"titles_{hashlib.sha256(text.encode()).hexdigest()}"


class _KeptTitle(TypedDict):
    imdb_id: str
    title: str | None
    original: str | None
    year: shapes.Int32 | None
    end_year: shapes.Int32 | None
    image: shapes.WebUrl | None
    type: str | None


_kept_titles: TypeAdapter[Any] = TypeAdapter(list[_KeptTitle])


def _title(title: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of a title, a `_KeptTitle`."""
    return {
        "imdb_id": title["id"],
        "title": title.get("primaryTitle") or title.get("originalTitle"),
        "original": title.get("originalTitle"),
        "year": title.get("startYear"),
        "end_year": title.get("endYear"),
        "image": shapes.image_url_of(title),
        "type": title.get("type"),
    }
