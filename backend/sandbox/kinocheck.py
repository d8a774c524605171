"""KinoCheck: trailers of films and series. The API key is optional."""

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from sandbox import checks
from sandbox.catalogue import Catalogue, Clip, Film
from sandbox.messages import Request, Response, to_json
from sandbox.upstream import Settings, Upstream, checked_by

Row = dict[str, Any]

HOST = "api.kinocheck.com"
CHANNELS = {"en": "UCLRlryMfL8ffxzrtqv0_k_w", "de": "UCV297SPE0sBWzmhmACKJP-w"}
OMITTABLE = ("videos", "url", "genres", "recommendations")
LISTS = ("/trailers", "/trailers/latest", "/trailers/trending")


@dataclass
class KinocheckSettings(Settings):
    keys: list[str] = field(
        default_factory=lambda: ["sandbox-kinocheck-key"], metadata=checked_by(checks.texts)
    )
    daily_quota: int | None = field(
        default=None, metadata=checked_by(checks.optional(checks.whole(0)))
    )
    quota_used: int = field(default=0, metadata=checked_by(checks.whole(0)))
    bad_key_status: int = field(default=401, metadata=checked_by(checks.one_of(401, 403)))
    error_as_200: bool = field(default=False, metadata=checked_by(checks.flag))
    require_host_header: bool = field(default=False, metadata=checked_by(checks.flag))
    default_language: str = field(default="de", metadata=checked_by(checks.one_of("de", "en")))
    omit: list[str] = field(default_factory=list, metadata=checked_by(checks.some_of(*OMITTABLE)))


class Kinocheck(Upstream):
    name = "kinocheck"
    settings: KinocheckSettings

    def __init__(self, catalogue: Catalogue) -> None:
        super().__init__(catalogue)
        self._rendered = lru_cache(4096)(self._render)

    def reset(self) -> None:
        self.change(KinocheckSettings())

    def get(self, request: Request) -> Response:
        if self._key_refused(request):
            return self.invalid_key()
        quota = self.settings.daily_quota
        if quota is not None and self.settings.quota_used >= quota:
            return self.quota_exceeded()
        self.settings.quota_used += 1
        path = request.path.rstrip("/")
        if path in ("/movies", "/shows"):
            return self._title(request, series=path == "/shows")
        if path in LISTS:
            return self._list(request, path)
        return self.error(404, "The requested resource does not exist.")

    def error(self, status: int, message: str) -> Response:
        title = {404: "Not found", 401: "Unauthorized", 403: "Forbidden", 429: "Too many requests"}
        body = {"code": status, "title": title.get(status, "Error"), "message": message}
        return Response(status, to_json(body))

    def quota_exceeded(self) -> Response:
        answer = self.error(429, "The daily request quota has been exceeded.")
        return Response(429, answer.body, headers=self._retry_after())

    def invalid_key(self) -> Response:
        return self._api_error(self.settings.bad_key_status, "Invalid API key.")

    def _api_error(self, status: int, message: str) -> Response:
        """Return an error, with status 200 if `error_as_200` is set: clients report both."""
        if not self.settings.error_as_200:
            return self.error(status, message)
        return Response(200, to_json({"error": message, "message": message}))

    def _key_refused(self, request: Request) -> bool:
        key = request.headers.get("x-api-key")
        if key is None:
            return False
        host = request.headers.get("x-api-host")
        wrong_host = self.settings.require_host_header and host != HOST
        return key not in self.settings.keys or wrong_host

    def _language(self, request: Request) -> str:
        language = request.first("language")
        return language if language in CHANNELS else self.settings.default_language

    # One title

    def _title(self, request: Request, *, series: bool) -> Response:
        given = [(name, request.first(name)) for name in ("imdb_id", "tmdb_id", "id")]
        given = [(name, value) for name, value in given if value]
        if len(given) != 1:
            return self.error(400, "Exactly one of imdb_id, tmdb_id and id is required.")
        film = self._find(*given[0], series=series)
        if film is None:
            return self._api_error(404, "The requested movie was not found.")
        language, categories = self._language(request), request.first("categories")
        omitted = tuple(sorted(self.settings.omit))
        return Response(body=self._rendered(film.id, language, categories, omitted))

    def _find(self, name: str, value: str, *, series: bool) -> Film | None:
        def matches(film: Film) -> bool:
            if film.kinocheck is None or film.is_series != series:
                return False
            ids = {"imdb_id": film.id, "tmdb_id": str(film.tmdb or ""), "id": film.kinocheck["id"]}
            return ids[name] == value

        if name == "imdb_id":  # fast path for the most common query
            film = self.catalogue.get(value)
            return film if film and matches(film) else None
        return self.catalogue.find(matches)

    def _render(self, film_id: str, language: str, categories: str, omit: tuple[str, ...]) -> bytes:
        film = self.catalogue.get(film_id)
        assert film is not None
        assert film.kinocheck is not None
        trailer, clips = film.kinocheck["trailer"], film.kinocheck["more_videos"]
        if language not in film.kinocheck.get("languages", CHANNELS):
            trailer, clips = None, []
        clips = [*([trailer] if trailer else []), *clips]
        answer: Row = _head(film, language) | {
            "trailer": _video(film, trailer, language) if trailer else None,
            "videos": [
                _video(film, clip, language) for clip in clips if _in_categories(clip, categories)
            ],
            "recommendations": [_head(other, language) for other in self._similar(film)],
        }
        return to_json(_omit(answer, omit))

    def _similar(self, film: Film) -> list[Film]:
        others = (
            other
            for other in self.catalogue.films
            if other is not film
            and other.kinocheck
            and other.is_series == film.is_series
            and set(other.genres[:1]) & set(film.genres[:1])
        )
        return list(others)[:3]

    # Lists

    def _list(self, request: Request, path: str) -> Response:
        language = self._language(request)
        pairs = [
            pair for pair in self._pairs() if _in_categories(pair[1], request.first("categories"))
        ]
        genres = {genre.lower() for genre in request.first("genres").split(",") if genre}
        if genres:
            pairs = [pair for pair in pairs if genres & {g.lower() for g in pair[0].genres}]
        if path == "/trailers/latest":
            pairs.sort(key=lambda pair: pair[1]["published"], reverse=True)
        elif path == "/trailers/trending":
            pairs.sort(key=lambda pair: int(pair[1]["views"]), reverse=True)
        page, limit = _positive(request, "page", 1), min(_positive(request, "limit", 10), 100)
        shown = pairs[(page - 1) * limit : page * limit]
        answer: Row = {
            str(index): _omit(_video(film, clip, language), tuple(self.settings.omit))
            | {"resource": _resource(film)}
            for index, (film, clip) in enumerate(shown)
        }
        answer["_metadata"] = {
            "limit": limit,
            "page": page,
            "total_pages": -(-len(pairs) // limit),
            "total_count": len(pairs),
        }
        return Response(body=to_json(answer))

    def _pairs(self) -> Iterator[tuple[Film, Clip]]:
        for film in self.catalogue.films:
            if film.kinocheck and film.kinocheck["trailer"]:
                yield film, film.kinocheck["trailer"]


def _title(film: Film, language: str) -> str:
    german = (film.kinocheck or {}).get("german_title")
    return german if language == "de" and german else film.title


def _head(film: Film, language: str) -> Row:
    assert film.kinocheck is not None
    kind = "show" if film.is_series else "movie"
    slug = "-".join("".join(c if c.isalnum() else " " for c in film.title.lower()).split())
    host = "kinocheck.de" if language == "de" else "kinocheck.com"
    return {
        "id": film.kinocheck["id"],
        "tmdb_id": film.tmdb,
        "imdb_id": film.id,
        "language": language,
        "title": _title(film, language),
        "url": f"https://{host}/{kind}/{film.kinocheck['id']}/{slug}-{film.year}",
    }


def _video(film: Film, clip: Clip, language: str) -> Row:
    youtube = clip["youtube"] or _youtube_id(clip["id"])
    suffix = clip["suffix"] + (" German Deutsch" if language == "de" else "")
    host = "kinocheck.de" if language == "de" else "kinocheck.com"
    return {
        "id": clip["id"],
        "youtube_video_id": youtube,
        "youtube_channel_id": CHANNELS[language],
        "youtube_thumbnail": f"https://img.youtube.com/vi/{youtube}/maxresdefault.jpg",
        "title": f"{_title(film, language).upper()} {suffix} ({film.year})",
        "url": f"https://{host}/trailer/{clip['id']}/{film.id}",
        "thumbnail": f"https://cdn.kinocheck.com/i/{_youtube_id(clip['id'] + 'i').lower()}.jpg",
        "language": language,
        "categories": [clip["category"]],
        "genres": film.genres,
        "published": clip["published"],
        "views": clip["views"],
    }


def _resource(film: Film) -> Row:
    assert film.kinocheck is not None
    return {
        "type": "show" if film.is_series else "movie",
        "path": "/shows/" if film.is_series else "/movies/",
        "id": film.kinocheck["id"],
        "imdb_id": film.id,
        "tmdb_id": film.tmdb,
    }


def _youtube_id(seed: str) -> str:
    """Generate an id of eleven characters for a video without a real id."""
    return base64.urlsafe_b64encode(hashlib.sha1(seed.encode()).digest()).decode()[:11]


def _in_categories(clip: Clip, categories: str) -> bool:
    """Apply a filter such as `Trailer,-Clip`: included and excluded categories."""
    words = [word.strip() for word in categories.split(",") if word.strip()]
    wanted = [word for word in words if not word.startswith("-")]
    unwanted = [word[1:] for word in words if word.startswith("-")]
    return clip["category"] not in unwanted and (not wanted or clip["category"] in wanted)


def _omit(value: Any, names: tuple[str, ...]) -> Any:
    """Remove fields at every level: older recordings do not have them."""
    if isinstance(value, dict):
        return {key: _omit(item, names) for key, item in value.items() if key not in names}
    if isinstance(value, list):
        return [_omit(item, names) for item in value]
    return value


def _positive(request: Request, name: str, default: int) -> int:
    raw = request.first(name)
    return max(int(raw), 1) if raw.isascii() and raw.isdigit() else default
