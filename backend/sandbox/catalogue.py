"""The titles of all four stand-ins, read from catalogue.json."""

import json
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import cycle
from pathlib import Path
from typing import Any, TypedDict

FILE = Path(__file__).with_name("catalogue.json")


class Person(TypedDict):
    id: str
    name: str


# `as` is a keyword, so the functional syntax is used. `category` defaults to actor.
Role = TypedDict(
    "Role",
    {"id": str, "name": str, "category": str, "as": list[str], "episodes": int},
    total=False,
)


class Interest(TypedDict, total=False):
    id: str
    name: str
    sub: bool


class Video(TypedDict):
    id: str
    type: str
    name: str
    seconds: int


class Release(TypedDict, total=False):
    """`date` may be a year, a year and a month, or a full ISO date."""

    country: str
    date: str
    attributes: list[str]


class Certificate(TypedDict, total=False):
    country: str
    rating: str
    attributes: list[str]


class Guide(TypedDict, total=False):
    """`votes` are those for none, mild, moderate and severe."""

    category: str
    votes: list[int]
    reviews: list[dict[str, Any]]


class Clip(TypedDict):
    """A KinoCheck video. A null `youtube` becomes a generated id; `views` may be a string."""

    id: str
    youtube: str | None
    suffix: str
    category: str
    published: str
    views: int | str


class KinoCheckEntry(TypedDict, total=False):
    """`languages` limits the languages that have videos; without it, all have them."""

    id: str
    languages: list[str]
    german_title: str
    trailer: Clip | None
    more_videos: list[Clip]


class Offer(TypedDict):
    region: str
    service: str
    type: str
    formats: list[str]
    price: float | None


class WatchmodeEntry(TypedDict):
    id: int
    offers: list[Offer]


class EpisodeOf(TypedDict):
    series: str
    season: int
    number: int


@dataclass(frozen=True)
class Film:
    """One title. A source that does not know it has no entry: no `omdb`, no `kinocheck`, …"""

    id: str
    type: str
    title: str
    original: str | None = None
    year: int | None = None
    end_year: int | None = None
    minutes: int | None = None
    genres: list[str] = field(default_factory=list)
    rating: float | None = None
    votes: int = 0
    metascore: int | None = None
    tomatoes: str | None = None
    plot: str | None = None
    full_plot: str | None = None
    directors: list[Person] = field(default_factory=list)
    writers: list[Person] = field(default_factory=list)
    cast: list[Role] = field(default_factory=list)
    extra_crew: int = 0
    extra_videos: int = 0
    extra_release_dates: int = 0
    countries: list[str] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)
    interests: list[Interest] = field(default_factory=list)
    poster: bool | str = False
    images: dict[str, int] = field(default_factory=dict)
    videos: list[Video] = field(default_factory=list)
    release_dates: list[Release] = field(default_factory=list)
    certificates: list[Certificate] = field(default_factory=list)
    parents_guide: list[Guide] = field(default_factory=list)
    tmdb: int | None = None
    seasons: int | None = None
    season_list: dict[str, list[tuple[str, str, float, str]]] = field(default_factory=dict)
    episode: EpisodeOf | None = None
    kinocheck: KinoCheckEntry | None = None
    watchmode: WatchmodeEntry | None = None
    omdb: dict[str, str] | None = None

    @property
    def is_series(self) -> bool:
        return self.type in ("tvSeries", "tvMiniSeries")

    @cached_property
    def search_names(self) -> tuple[str, ...]:
        return tuple(plain(name) for name in (self.title, self.original) if name)


def canonical_id(title_id: str) -> str:
    """Return an IMDb title id without padding: `tt00038674` and `tt38674` are `tt0038674`."""
    return "tt" + title_id.removeprefix("tt").lstrip("0").zfill(7)


def plain(text: str) -> str:
    """Remove case, accents and punctuation, so that `kis uykusu` finds `Kış Uykusu`."""
    folded = unicodedata.normalize("NFKD", text.casefold().replace("ı", "i"))
    kept = "".join(char for char in folded if not unicodedata.combining(char))
    return " ".join(re.findall(r"\w+", kept))


class Catalogue:
    """All titles in file order, with lookup by id and search by title."""

    def __init__(
        self, films: Iterable[Film], countries: dict[str, str], languages: dict[str, str]
    ) -> None:
        self.films = tuple(films)
        self.countries, self.languages = countries, languages
        self._by_id = {film.id: film for film in self.films}

    def get(self, film_id: str) -> Film | None:
        return self._by_id.get(film_id)

    def find(self, matches: Callable[[Film], bool]) -> Film | None:
        return next((film for film in self.films if matches(film)), None)

    def search(self, text: str) -> list[Film]:
        """Return matches: exact titles, then prefixes, then the rest; each group by votes."""
        wanted = plain(text)
        if not wanted:
            return []
        scored = [(_closeness(wanted, film), film.votes, film) for film in self.films]
        hits = sorted((row for row in scored if row[0]), key=lambda row: row[:2], reverse=True)
        return [film for _, _, film in hits]


def _closeness(wanted: str, film: Film) -> int:
    names = film.search_names
    if wanted in names:
        return 3
    if any(name.startswith(wanted) for name in names):
        return 2
    words = wanted.split()
    return int(any(wanted in name or all(word in name for word in words) for name in names))


def load(path: Path = FILE, *, titles: int = 0) -> Catalogue:
    """Load the catalogue; add copies of its films until there are at least `titles`."""
    data = json.loads(path.read_text(encoding="utf-8"))
    films = [Film(**record) for record in data["films"]]
    models = [film for film in films if film.type == "movie" and film.kinocheck and film.watchmode]
    missing = max(0, titles - len(films))
    copies = (_copy(model, number) for number, model in zip(range(missing), cycle(models)))
    return Catalogue([*films, *copies], data["countries"], data["languages"])


def _copy(film: Film, number: int) -> Film:
    """Return the film under another title and other ids: `tt5000000` and following."""
    assert film.kinocheck is not None
    assert film.watchmode is not None
    return replace(
        film,
        id=f"tt{5_000_000 + number}",
        title=f"{film.title} (copy {number + 1})",
        original=None,
        tmdb=None,
        kinocheck={**film.kinocheck, "id": f"copy{number}"},
        watchmode={**film.watchmode, "id": 50_000_000 + number},
    )
