"""IMDbAPI.dev: search, titles and sections, printed from protobuf without zero values."""

import base64
import binascii
import hashlib
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from sandbox import checks
from sandbox.catalogue import Catalogue, Film, Person, Release, Video, canonical_id
from sandbox.messages import Request, Response, to_json
from sandbox.upstream import Settings, Upstream, checked_by

Row = dict[str, Any]

TITLE_ID = re.compile(r"tt\d{7,}")
DEFAULT_PAGE, LARGEST_PAGE, LARGEST_BATCH = 20, 50, 5
GRPC_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 405: 12, 429: 8, 500: 13, 503: 14, 504: 4}
SEVERITIES = ("none", "mild", "moderate", "severe")
SIZES = {"poster": (2000, 3000), "still_frame": (1920, 1080), "event": (3000, 2000)}
JOBS = ("producer", "composer", "cinematographer", "editor", "casting_director", "stunts")
FIRST_NAMES = ("Ada", "Bora", "Chiara", "Deniz", "Emil", "Farah", "Goran", "Hana", "Ivo", "June")
LAST_NAMES = ("Aksoy", "Brandt", "Castelli", "Dlamini", "Eriksen", "Fujita", "Grey", "Horvat")


@dataclass
class ImdbapiSettings(Settings):
    empty_as_object: bool = field(default=True, metadata=checked_by(checks.flag))
    malformed_id_status: int = field(default=400, metadata=checked_by(checks.one_of(400, 404)))
    not_found_message: str = field(default="title not found", metadata=checked_by(checks.text))
    cast_filter: bool = field(default=False, metadata=checked_by(checks.flag))
    batch_unknown_status: int | None = field(
        default=None, metadata=checked_by(checks.optional(checks.one_of(400, 404)))
    )


class BadArgument(Exception):
    """A request parameter is invalid; the message is sent to the client."""


class Imdbapi(Upstream):
    """Search, single titles, batches of titles, and six sections. There is no key."""

    name = "imdbapi"
    settings: ImdbapiSettings

    def __init__(self, catalogue: Catalogue) -> None:
        super().__init__(catalogue)
        self._sections: dict[str, Callable[[Film], list[Row]]] = {
            "credits": self._credits,
            "images": _images,
            "videos": _videos,
            "releaseDates": self._release_dates,
            "certificates": self._certificates,
            "parentsGuide": _parents_guide,
        }
        self._title = lru_cache(1024)(self._render_title)
        self._rows = lru_cache(1024)(
            lambda film_id, name: self._sections[name](self._film(film_id))
        )
        self._page = lru_cache(4096)(self._render_page)
        self._hits = lru_cache(1024)(self._render_hits)

    def reset(self) -> None:
        self.change(ImdbapiSettings())

    def get(self, request: Request) -> Response:
        try:
            return self._route(request)
        except BadArgument as exc:
            return self.error(400, str(exc))

    def error(self, status: int, message: str) -> Response:
        body: Row = {"code": GRPC_CODES.get(status, 2), "message": message}
        return Response(status, to_json(body))

    def quota_exceeded(self) -> Response:
        """Return the rate limit error; this source has no quota."""
        return self.rate_limited()

    def invalid_key(self) -> Response:
        """Return the gRPC gateway's error; this source has no keys."""
        return self.error(401, "unauthenticated")

    def _route(self, request: Request) -> Response:
        match request.path.split("/")[1:]:
            case ["search", "titles"]:
                return self._search(request)
            case ["titles:batchGet"]:
                return self._batch(request)
            case ["titles", film_id, *section] if not section or section[0] in self._sections:
                if not TITLE_ID.fullmatch(film_id):
                    return self.error(self.settings.malformed_id_status, "invalid title ID")
                if len(section) > 1:
                    return self.error(404, "Not Found")
                film_id = canonical_id(film_id)
                if self.catalogue.get(film_id) is None:
                    return self.error(404, self.settings.not_found_message)
                if not section:
                    return Response(body=self._title(film_id))
                return self._section(film_id, section[0], request)
        return self.error(404, "Not Found")

    def _batch(self, request: Request) -> Response:
        """Return several titles in catalogue order: the order of the real service is not known."""
        asked = request.query.get("titleIds", [])
        if not 1 <= len(asked) <= LARGEST_BATCH:
            raise BadArgument(f"title_ids must contain between 1 and {LARGEST_BATCH} IDs")
        if not all(TITLE_ID.fullmatch(film_id) for film_id in asked):
            return self.error(self.settings.malformed_id_status, "invalid title ID")
        ids = {canonical_id(film_id) for film_id in asked}
        found = [film.id for film in self.catalogue.films if film.id in ids]
        status = self.settings.batch_unknown_status
        if status is not None and len(found) < len(ids):
            return self.error(status, self.settings.not_found_message)
        if not found:
            return Response(body=b'{"titles":[]}' if self._lists_shown() else b"{}")
        return Response(body=b'{"titles":[' + b",".join(map(self._title, found)) + b"]}")

    def _film(self, film_id: str) -> Film:
        film = self.catalogue.get(film_id)
        assert film is not None
        return film

    # Search

    def _search(self, request: Request) -> Response:
        query = request.first("query")
        if not query.strip():
            raise BadArgument("query is required")
        limit = _bounded(request, "limit", LARGEST_PAGE)
        body = self._hits(query, limit)
        return Response(body=b'{"titles":[]}' if body == b"{}" and self._lists_shown() else body)

    def _render_hits(self, query: str, limit: int) -> bytes:
        films = self.catalogue.search(query)[:limit]
        return to_json(_without_defaults({"titles": [_stub(film) for film in films]}))

    def _lists_shown(self) -> bool:
        return not self.settings.empty_as_object

    # Sections

    def _section(self, film_id: str, name: str, request: Request) -> Response:
        size, start = sys.maxsize, 0  # sections without paging
        wanted: tuple[str, ...] = ()
        if name in ("credits", "images", "videos"):
            wanted = tuple(request.query.get("categories" if name == "credits" else "types", ()))
        if name not in ("certificates", "parentsGuide"):
            size = _bounded(request, "pageSize", DEFAULT_PAGE)
            start = _start(request.first("pageToken"), film_id, name, wanted)
        cast_filter = self.settings.cast_filter
        body = self._page(film_id, name, size, start, wanted=wanted, cast_filter=cast_filter)
        if body == b"{}" and self._lists_shown():
            body = to_json({name: []})
        return Response(body=body)

    def _render_page(
        self,
        film_id: str,
        name: str,
        size: int,
        start: int,
        *,
        wanted: tuple[str, ...],
        cast_filter: bool,
    ) -> bytes:
        rows: list[Row] = self._rows(film_id, name)
        if wanted:
            kinds = set(wanted)
            if cast_filter and any(word.lower() == "cast" for word in wanted):
                kinds |= {"actor", "actress"}
            column = "category" if name == "credits" else "type"
            rows = [row for row in rows if row[column] in kinds]
        page: Row = {name: rows[start : start + size]}
        if name not in ("releaseDates", "parentsGuide"):
            page["totalCount"] = len(rows)
        if start + size < len(rows):
            page["nextPageToken"] = _token(start + size, film_id, name, wanted)
        return to_json(_without_defaults(page))

    def _render_title(self, film_id: str) -> bytes:
        film = self._film(film_id)
        title = _stub(film) | {
            "runtimeSeconds": (film.minutes or 0) * 60,
            "genres": film.genres,
            "metacritic": {"score": film.metascore, "reviewCount": 20 + (film.metascore or 0) % 40}
            if film.metascore
            else None,
            "plot": film.plot,
            "directors": [_name(person) for person in film.directors],
            "writers": [_name(person) for person in film.writers],
            "stars": [
                _name(_person(role), [role.get("category", "actor")]) for role in film.cast[:3]
            ],
            "originCountries": [self._country(code) for code in film.countries],
            "spokenLanguages": [
                {"code": code, "name": self.catalogue.languages[code]} for code in film.languages
            ],
            "interests": [
                {"id": row["id"], "name": row["name"], "isSubgenre": row.get("sub", False)}
                for row in film.interests
            ],
        }
        return to_json(_without_defaults(title))

    def _credits(self, film: Film) -> list[Row]:
        cast = [
            {
                "name": _name(_person(role), [role.get("category", "actor")]),
                "category": role.get("category", "actor"),
                "characters": role.get("as", []),
                "episodeCount": role.get("episodes", 0),
            }
            for role in film.cast
        ]
        crew = [
            {"name": _name(person), "category": category}
            for category, people in (("director", film.directors), ("writer", film.writers))
            for person in people
        ]
        return [*cast, *crew, *_invented_crew(film)]

    def _release_dates(self, film: Film) -> list[Row]:
        return [
            {
                "country": self._country(row["country"]),
                "releaseDate": _date(row),
                "attributes": row.get("attributes", []),
            }
            for row in [*film.release_dates, *self._invented_releases(film)]
        ]

    def _invented_releases(self, film: Film) -> Iterator[Release]:
        """Generate festival screenings, to fill several pages."""
        codes = [*self.catalogue.countries]
        for index in range(film.extra_release_dates):
            month, day = index // 28 % 12 + 1, index % 28 + 1
            yield {
                "country": codes[index % len(codes)],
                "date": f"{(film.year or 2000) + 1}-{month:02}-{day:02}",
                "attributes": ["festival", f"Festival {index + 1}"],
            }

    def _certificates(self, film: Film) -> list[Row]:
        return [
            {
                "rating": row["rating"],
                "country": self._country(row["country"]),
                "attributes": row.get("attributes", []),
            }
            for row in film.certificates
        ]

    def _country(self, code: str) -> Row:
        return {"code": code, "name": self.catalogue.countries[code]}


def image_url(film: Film, what: str, size: str = "") -> str:
    """Return an image URL. It refers to a real image only if the catalogue names its file."""
    if what == "poster" and isinstance(film.poster, str):
        return f"https://m.media-amazon.com/images/M/{film.poster}._V1_{size}.jpg"
    digest = hashlib.sha1(f"{film.id} {what}".encode()).digest()
    name = base64.b32encode(digest).decode()
    return f"https://m.media-amazon.com/images/M/MV5B{name}@._V1_{size}.jpg"


def _stub(film: Film) -> Row:
    """Return the fields of a search result."""
    rated = {"aggregateRating": film.rating, "voteCount": film.votes} if film.rating else None
    return {
        "id": film.id,
        "type": film.type,
        "primaryTitle": film.title,
        "originalTitle": film.original or film.title,
        "primaryImage": {"url": image_url(film, "poster"), "width": 1000, "height": 1500}
        if film.poster
        else None,
        "startYear": film.year,
        "endYear": film.end_year,
        "rating": rated,
    }


def _person(role: Any) -> Person:
    return {"id": role["id"], "name": role["name"]}


def _name(person: Person, professions: list[str] | None = None) -> Row:
    return {
        "id": person["id"],
        "displayName": person["name"],
        "primaryProfessions": professions or [],
    }


def _invented_crew(film: Film) -> Iterator[Row]:
    """Generate invented crew members, to fill several pages."""
    first_id = 80_000_000 + zlib.crc32(film.id.encode()) % 90_000 * 1000
    for index in range(film.extra_crew):
        first = FIRST_NAMES[index % len(FIRST_NAMES)]
        last = LAST_NAMES[index // len(FIRST_NAMES) % len(LAST_NAMES)]
        middle = chr(ord("A") + index // (len(FIRST_NAMES) * len(LAST_NAMES)))
        person: Person = {"id": f"nm{first_id + index}", "name": f"{first} {middle}. {last}"}
        yield {"name": _name(person), "category": JOBS[index % len(JOBS)]}


def _images(film: Film) -> list[Row]:
    rows = []
    for kind, count in film.images.items():
        width, height = SIZES.get(kind, (1600, 1067))
        for index in range(count):
            what = kind if index == 0 else f"{kind} {index}"
            rows.append(
                {"url": image_url(film, what), "width": width, "height": height, "type": kind}
            )
    return rows


def _videos(film: Film) -> list[Row]:
    return [
        {
            "id": video["id"],
            "type": video["type"],
            "name": video["name"],
            "primaryImage": {"url": image_url(film, video["id"]), "width": 1920, "height": 1080},
            "width": 1920,
            "height": 1080,
            "runtimeSeconds": video["seconds"],
        }
        for video in [*film.videos, *_invented_videos(film)]
    ]


def _invented_videos(film: Film) -> Iterator[Video]:
    """Generate clips, to fill several pages."""
    first_id = 10_000_000 + zlib.crc32(film.id.encode()) % 90_000 * 1000
    for index in range(film.extra_videos):
        yield {
            "id": f"vi{first_id + index}",
            "type": "clip",
            "name": f"Clip {index + 1}",
            "seconds": 30 + index,
        }


def _date(release: Release) -> Row:
    parts = [int(part) for part in release["date"].split("-")]
    return dict(zip(("year", "month", "day"), parts, strict=False))


def _parents_guide(film: Film) -> list[Row]:
    return [
        {
            "category": row["category"],
            "severityBreakdowns": [
                {"severityLevel": level, "voteCount": votes}
                for level, votes in zip(SEVERITIES, row.get("votes", []), strict=False)
            ],
            "reviews": [
                {"text": review["text"], "isSpoiler": review.get("spoiler", False)}
                for review in row.get("reviews", [])
            ],
        }
        for row in film.parents_guide
    ]


def _without_defaults(value: Any) -> Any:
    """Remove zero, empty and false values at every level, as the protobuf printer does."""
    if isinstance(value, dict):
        kept = {key: _without_defaults(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item}
    if isinstance(value, list):
        return [_without_defaults(item) for item in value]
    return value


def _bounded(request: Request, name: str, default: int) -> int:
    """Return a page size or limit. 0 is an unset int32 and means the default."""
    raw = request.first(name, "0")
    try:
        value = int(raw)
    except ValueError:
        raise BadArgument(f"parsing field {name!r}: invalid syntax") from None
    if not 0 <= value <= LARGEST_PAGE:
        raise BadArgument(f"{name} must be between 1 and {LARGEST_PAGE}")
    return value or default


def _token(start: int, film_id: str, name: str, wanted: tuple[str, ...]) -> str:
    return base64.urlsafe_b64encode(f"{start} {film_id} {name} {wanted}".encode()).decode()


def _start(token: str, film_id: str, name: str, wanted: tuple[str, ...]) -> int:
    """Return the first row of the page; a token is valid only for the query it was issued for."""
    if not token:
        return 0
    try:
        start = int(base64.urlsafe_b64decode(token).split(b" ", 1)[0])
    except (binascii.Error, ValueError):
        raise BadArgument("invalid page token") from None
    if _token(start, film_id, name, wanted) != token:
        raise BadArgument("invalid page token")
    return start
