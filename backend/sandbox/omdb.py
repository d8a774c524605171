"""OMDb: one path, everything in the query string, all values strings, JSON not always valid."""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from sandbox import checks
from sandbox.catalogue import Catalogue, Film, canonical_id, plain
from sandbox.imdbapi import image_url
from sandbox.messages import Request, Response
from sandbox.upstream import Settings, Upstream, checked_by

Row = dict[str, Any]

CONTENT_TYPE = "application/json; charset=utf-8"
CACHING = (("Cache-Control", "public, max-age=3600"), ("Access-Control-Allow-Origin", "*"))
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
TYPES = {
    "tvSeries": "series",
    "tvMiniSeries": "series",
    "tvEpisode": "episode",
    "videoGame": "game",
}
PER_PAGE, LAST_PAGE = 10, 100


@dataclass
class OmdbSettings(Settings):
    keys: list[str] = field(default_factory=lambda: ["5a4db0c5"], metadata=checked_by(checks.texts))
    daily_limit: int | None = field(
        default=None, metadata=checked_by(checks.optional(checks.whole(0)))
    )
    quota_used: int = field(default=0, metadata=checked_by(checks.whole(0)))
    quota_status: int = field(default=401, metadata=checked_by(checks.one_of(200, 401)))
    past_end_empty: bool = field(default=False, metadata=checked_by(checks.flag))


class Omdb(Upstream):
    name = "omdb"
    settings: OmdbSettings

    def __init__(self, catalogue: Catalogue) -> None:
        super().__init__(catalogue)
        self._title = lru_cache(1024)(self._render_title)

    def reset(self) -> None:
        self.change(OmdbSettings())

    def get(self, request: Request) -> Response:
        key = request.first("apikey")
        if not key:
            return self.error(401, "No API key provided.")
        if key not in self.settings.keys:
            return self.invalid_key()
        limit = self.settings.daily_limit
        if limit is not None and self.settings.quota_used >= limit:
            return self.quota_exceeded()
        self.settings.quota_used += 1
        if request.path != "/":
            return Response(404, b"<html><body>Not Found</body></html>", "text/html")
        return self._route(request)

    def error(self, status: int, message: str) -> Response:
        return _send(_json({"Response": "False", "Error": message}), status)

    def quota_exceeded(self) -> Response:
        return self.error(self.settings.quota_status, "Request limit reached!")

    def invalid_key(self) -> Response:
        return self.error(401, "Invalid API key!")

    def _route(self, request: Request) -> Response:
        if request.first("i"):
            return self._by_id(request)
        if request.first("t"):
            return self._by_title(request)
        if request.first("s"):
            return self._search(request)
        return self.error(200, "Something went wrong.")

    def _by_id(self, request: Request) -> Response:
        imdb_id = request.first("i")
        if not imdb_id.startswith("tt"):
            return self.error(200, "Incorrect IMDb ID.")
        if not re.fullmatch(r"[0-9]+", imdb_id[2:]):
            return _conversion_error(imdb_id[2:])
        film = self.catalogue.get(canonical_id(imdb_id))
        if film is None:
            return self.error(200, "Incorrect IMDb ID.")
        if film.omdb is None:
            return self.error(200, "Error getting data.")
        return self._one(film, request)

    def _by_title(self, request: Request) -> Response:
        hits = self._hits(request, request.first("t"))
        if not hits:
            word = {"series": "Series", "episode": "Episode"}.get(request.first("type"), "Movie")
            return self.error(200, f"{word} not found!")
        return self._one(hits[0], request)

    def _one(self, film: Film, request: Request) -> Response:
        if season := request.first("Season"):
            return self._season(film, season)
        return _send(self._title(film.id, full_plot=request.first("plot") == "full"))

    def _season(self, film: Film, season: str) -> Response:
        episodes = film.season_list.get(season)
        if episodes is None:
            return self.error(200, "Series or season not found!")
        rows = [
            {
                "Title": title,
                "Released": released,
                "Episode": str(number),
                "imdbRating": str(rating),
                "imdbID": imdb_id,
            }
            for number, (title, released, rating, imdb_id) in enumerate(episodes, start=1)
        ]
        answer = {"Title": film.title, "Season": season, "totalSeasons": str(film.seasons)}
        return _send(_json(answer | {"Episodes": rows, "Response": "True"}))

    def _search(self, request: Request) -> Response:
        term, raw_page = request.first("s"), request.first("page", "1")
        if error := _search_error(term):
            return self.error(200, error)
        if not re.fullmatch(r"[0-9]{1,9}", raw_page):
            return _conversion_error(raw_page)
        hits = self._hits(request, term)
        page = int(raw_page)
        shown = hits[(page - 1) * PER_PAGE : page * PER_PAGE] if 1 <= page <= LAST_PAGE else []
        if not shown and not (hits and self.settings.past_end_empty):
            return self.error(200, "Movie not found!")
        answer: Row = {"Search": [_hit(film) for film in shown]}
        if shown:
            answer["totalResults"] = str(len(hits))
        return _send(_json(answer | {"Response": "True"}))

    def _hits(self, request: Request, term: str) -> list[Film]:
        wanted, year = request.first("type"), request.first("y")
        tests: list[Callable[[Film], bool]] = [lambda film: film.omdb is not None]
        if wanted:
            tests.append(lambda film: _type(film) == wanted)
        if year:
            tests.append(lambda film: str(film.year) == year)
        return [film for film in self.catalogue.search(term) if all(test(film) for test in tests)]

    def _render_title(self, film_id: str, *, full_plot: bool) -> bytes:
        film = self.catalogue.get(film_id)
        assert film is not None
        facts = film.omdb or {}
        plot = facts.get("plot") or (film.full_plot if full_plot else None) or film.plot
        people = {
            "Director": [person["name"] for person in film.directors],
            "Writer": [person["name"] for person in film.writers],
            "Actors": [role["name"] for role in film.cast[:4]],
        }
        title: Row = {
            "Title": film.title,
            "Year": _years(film),
            "Rated": facts.get("rated"),
            "Released": _released(film),
            "Runtime": film.minutes and f"{film.minutes} min",
            "Genre": ", ".join(film.genres),
            **{job: ", ".join(names) for job, names in people.items()},
            "Plot": plot,
            "Language": ", ".join(_names(film.languages, self.catalogue.languages)),
            "Country": ", ".join(_names(film.countries, self.catalogue.countries)),
            "Awards": facts.get("awards"),
            "Poster": _poster(film),
            "Ratings": _ratings(film),
            "Metascore": film.metascore and str(film.metascore),
            "imdbRating": film.rating and str(film.rating),
            "imdbVotes": film.votes and f"{film.votes:,}",
            "imdbID": film.id,
            "Type": _type(film),
        }
        return _json(_filled(title | _by_type(film, facts)) | {"Response": "True"})


def _search_error(term: str) -> str | None:
    """Return the error of a term that OMDb does not search for."""
    if len(term.strip()) == 1:
        return "Must provide more than one character."
    if term.count('"') % 2:
        return f"Syntax error near '{term}' in the full-text search condition '{term}'."
    if not plain(term):
        return "Object reference not set to an instance of an object."
    return "Too many results." if len(plain(term)) < 3 else None


def _type(film: Film) -> str:
    return TYPES.get(film.type, "movie")


def _by_type(film: Film, facts: dict[str, str]) -> Row:
    """Return the fields that only films, series or episodes have."""
    match _type(film):
        case "series":
            return {"totalSeasons": film.seasons and str(film.seasons)}
        case "episode" if film.episode:
            numbers = {"Season": film.episode["season"], "Episode": film.episode["number"]}
            texts = {name: str(number) for name, number in numbers.items()}
            return texts | {"seriesID": film.episode["series"]}
    names = {"DVD": "dvd", "BoxOffice": "box_office", "Production": "production"}
    return {name: facts.get(fact) for name, fact in names.items()} | {"Website": None}


def _years(film: Film) -> str | None:
    """Return `2004–2010` for an ended series, `1989–` for a running one, with EN DASH."""
    if film.year is None:
        return None
    if not film.is_series or film.end_year == film.year:
        return str(film.year)
    return f"{film.year}\N{EN DASH}{film.end_year or ''}"


def _released(film: Film) -> str | None:
    """Return the first complete release date in the US, else in any country."""
    full = [row for row in film.release_dates if len(row["date"]) == len("2010-07-16")]
    ordinary = [row for row in full if not row.get("attributes")] or full
    in_us = [row for row in ordinary if row["country"] == "US"] or ordinary
    if not in_us:
        return None
    year, month, day = in_us[0]["date"].split("-")
    return f"{day} {MONTHS[int(month) - 1]} {year}"


def _poster(film: Film) -> str | None:
    return image_url(film, "poster", "SX300") if film.poster else None


def _ratings(film: Film) -> list[Row]:
    rows = (
        ("Internet Movie Database", film.rating and f"{film.rating}/10"),
        ("Rotten Tomatoes", film.tomatoes),
        ("Metacritic", film.metascore and f"{film.metascore}/100"),
    )
    return [{"Source": source, "Value": value} for source, value in rows if value]


def _hit(film: Film) -> Row:
    return _filled(
        {
            "Title": film.title,
            "Year": _years(film),
            "imdbID": film.id,
            "Type": _type(film),
            "Poster": _poster(film),
        }
    )


def _names(codes: Iterable[str], names: dict[str, str]) -> list[str]:
    return [names[code] for code in codes]


def _filled(row: Row) -> Row:
    return {key: "N/A" if value in (None, "", 0) else value for key, value in row.items()}


def _json(value: Any) -> bytes:
    """Encode without escaping backslashes and tabs, which makes such documents invalid JSON."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("\\\\", "\\").replace("\\t", "\t").encode()


def _send(body: bytes, status: int = 200) -> Response:
    return Response(status, body, CONTENT_TYPE, CACHING)


def _conversion_error(text: str) -> Response:
    """Return the recorded error whose quotes are not escaped, which makes it invalid JSON."""
    message = f"Conversion from string \"{text}\" to type 'Double' is not valid."
    return _send(f'{{"Response":"False","Error":"{message}"}}'.encode())
