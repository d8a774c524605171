"""IMDbAPI.dev: protobuf printed as JSON, so whatever is zero, empty or false is left out."""

import base64
import binascii
import hashlib
import re
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from sandbox import checks
from sandbox.catalogue import Catalogue, Film, Person, Release
from sandbox.messages import Request, Response, to_json
from sandbox.upstream import Settings, Upstream, must_be

Row = dict[str, Any]

TITLE_ID = re.compile(r"tt\d{7,}")
DEFAULT_PAGE, LARGEST_PAGE = 20, 50
GRPC_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 405: 12, 429: 8, 500: 13, 503: 14, 504: 4}
SEVERITIES = ("none", "mild", "moderate", "severe")
SIZES = {"poster": (2000, 3000), "still_frame": (1920, 1080), "event": (3000, 2000)}
JOBS = ("producer", "composer", "cinematographer", "editor", "casting_director", "stunts")
FIRST_NAMES = ("Ada", "Bora", "Chiara", "Deniz", "Emil", "Farah", "Goran", "Hana", "Ivo", "June")
LAST_NAMES = ("Aksoy", "Brandt", "Castelli", "Dlamini", "Eriksen", "Fujita", "Grey", "Horvat")


@dataclass
class ImdbapiSettings(Settings):
    bucket: dict[str, Any] | None = field(
        default=None, metadata=must_be(checks.optional(checks.bucket))
    )
    retry_after: str | None = field(default=None, metadata=must_be(checks.optional(checks.header)))
    empty_as_object: bool = field(default=True, metadata=must_be(checks.flag))
    malformed_id_status: int = field(default=400, metadata=must_be(checks.one_of(400, 404)))
    not_found_message: str = field(default="title not found", metadata=must_be(checks.text))
    cast_filter: bool = field(default=False, metadata=must_be(checks.flag))


class BadArgument(Exception):
    """The request cannot be understood; the text is for the caller."""


class Imdbapi(Upstream):
    """Search, one title, and its six sections. No key; perhaps a rate limit per caller."""

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

    def restart(self) -> None:
        self.change(ImdbapiSettings())

    def change(self, settings: Settings) -> None:
        super().change(settings)
        self._level, self._leaked_at = 0.0, 0.0

    def get(self, request: Request) -> Response:
        if self._too_fast():
            return self.quota_used_up()
        try:
            return self._route(request)
        except BadArgument as exc:
            return self.error(400, str(exc))

    def error(self, status: int, message: str) -> Response:
        body: Row = {"code": GRPC_CODES.get(status, 2), "message": message}
        return Response(status, to_json(body))

    def quota_used_up(self) -> Response:
        """There is no quota, only a rate limit."""
        retry_after = self.settings.retry_after
        headers = (("Retry-After", retry_after),) if retry_after is not None else ()
        body = to_json({"code": 8, "message": "Too many network requests"})
        return Response(429, body, headers=headers)

    def bad_key(self) -> Response:
        """There are no keys; this is how the gateway would word it."""
        return self.error(401, "unauthenticated")

    def _too_fast(self) -> bool:
        """A leaky bucket: each call fills it by one, time empties it."""
        bucket = self.settings.bucket
        if bucket is None:
            return False
        now = time.monotonic()
        leak = (now - self._leaked_at) * bucket["capacity"] / bucket["per"]
        self._level, self._leaked_at = max(0.0, self._level - leak), now
        if self._level + 1 > bucket["capacity"]:
            return True
        self._level += 1
        return False

    def _route(self, request: Request) -> Response:
        match request.path.split("/")[1:]:
            case ["search", "titles"]:
                return self._search(request)
            case ["titles", film_id, *section] if not section or section[0] in self._sections:
                if not TITLE_ID.fullmatch(film_id):
                    return self.error(self.settings.malformed_id_status, "invalid title ID")
                if len(section) > 1:
                    return self.error(404, "Not Found")
                if self.catalogue.get(film_id) is None:
                    return self.error(404, self.settings.not_found_message)
                if not section:
                    return Response(body=self._title(film_id))
                return self._section(film_id, section[0], request)
        return self.error(404, "Not Found")

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
        size, start = sys.maxsize, 0  # the sections without pages
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
        return [*cast, *crew, *_made_up_crew(film)]

    def _release_dates(self, film: Film) -> list[Row]:
        return [
            {
                "country": self._country(row["country"]),
                "releaseDate": _date(row),
                "attributes": row.get("attributes", []),
            }
            for row in film.release_dates
        ]

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
    """An address of the right shape. Only where the catalogue names a file is there a picture."""
    if what == "poster" and isinstance(film.poster, str):
        return f"https://m.media-amazon.com/images/M/{film.poster}._V1_{size}.jpg"
    digest = hashlib.sha1(f"{film.id} {what}".encode()).digest()
    name = base64.b32encode(digest).decode()
    return f"https://m.media-amazon.com/images/M/MV5B{name}@._V1_{size}.jpg"


def _stub(film: Film) -> Row:
    """The fields that search answers carry."""
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


def _made_up_crew(film: Film) -> Iterator[Row]:
    """Enough people to fill several pages; nobody needs to know them."""
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
        for video in film.videos
    ]


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
    """The protobuf printer's habit, applied all the way down."""
    if isinstance(value, dict):
        kept = {key: _without_defaults(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item}
    if isinstance(value, list):
        return [_without_defaults(item) for item in value]
    return value


def _bounded(request: Request, name: str, default: int) -> int:
    """0 is the unset value of an int32, so it means the default."""
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
    """Where the page begins; a token only fits the question it was given for."""
    if not token:
        return 0
    try:
        start = int(base64.urlsafe_b64decode(token).split(b" ", 1)[0])
    except (binascii.Error, ValueError):
        raise BadArgument("invalid page token") from None
    if _token(start, film_id, name, wanted) != token:
        raise BadArgument("invalid page token")
    return start
