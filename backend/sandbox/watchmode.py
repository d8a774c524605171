"""Watchmode: streaming offers of titles. Calls are charged in credits."""

import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from sandbox import checks
from sandbox.catalogue import Catalogue, Film, Offer
from sandbox.messages import Request, Response
from sandbox.upstream import Settings, Upstream, checked_by

Row = dict[str, Any]

NO_DEEPLINK = "Deeplinks available for paid plans only."
TYPES = {
    "movie": "movie",
    "tvMovie": "tv_movie",
    "short": "short_film",
    "tvSeries": "tv_series",
    "tvMiniSeries": "tv_miniseries",
    "tvSpecial": "tv_special",
}
SERVICES = {
    "Netflix": (203, "https://www.netflix.com/watch/{id}"),
    "Prime Video": (26, "https://www.primevideo.com/detail/{id}"),
    "Amazon": (24, "https://www.amazon.com/gp/video/detail/{id}"),
    "Disney+": (372, "https://www.disneyplus.com/movies/example/{id}"),
    "HBO Max": (387, "https://www.hbomax.com/feature/{id}"),
    "Hulu": (157, "https://www.hulu.com/watch/{id}"),
    "Apple TV+": (371, "https://tv.apple.com/show/{id}"),
    "iTunes": (349, "https://itunes.apple.com/{region}/movie/example/id{id}"),
    "YouTube": (344, "https://www.youtube.com/watch?v=example{id}"),
    "MUBI": (366, "https://mubi.com/films/{id}"),
    "TNT": (96, None),
}
REGIONS = {
    "US": ("United States", 1),
    "GB": ("Great Britain", 1),
    "CA": ("Canada", 1),
    "AU": ("Australia", 1),
    "BR": ("Brazil", 1),
    "ES": ("Spain", 1),
    "IN": ("India", 1),
    "DE": ("Germany", 2),
    "FR": ("France", 2),
    "IT": ("Italy", 2),
    "JP": ("Japan", 2),
    "TR": ("Turkey", 3),
}
# Recorded searches by IMDb id contain rows of other titles, without an IMDb id, before the match.
UNMATCHED_ROWS: list[Row] = [
    {"id": 1999001, "name": "Another Title", "type": "movie", "year": 1999, "imdb_id": None},
    {"id": 1999002, "name": "A Third Title", "type": "movie", "imdb_id": "tt9999001"},
]
ENABLED = ["US", "CA", "GB", "AU", "BR", "ES", "IN", "TR"]


@dataclass
class WatchmodeSettings(Settings):
    keys: list[str] = field(
        default_factory=lambda: ["sandbox-watchmode-key"], metadata=checked_by(checks.texts)
    )
    # More than any test or benchmark uses: initially nothing is limited.
    quota: int = field(default=1_000_000_000, metadata=checked_by(checks.whole(0)))
    quota_used: int = field(default=0, metadata=checked_by(checks.whole(0)))
    quota_status: int = field(default=429, metadata=checked_by(checks.one_of(401, 402, 429)))
    regions: list[str] = field(
        default_factory=lambda: [*ENABLED], metadata=checked_by(checks.some_of(*REGIONS))
    )
    query_key_accepted: bool = field(default=False, metadata=checked_by(checks.flag))
    unmatched_rows: bool = field(default=False, metadata=checked_by(checks.flag))


class Watchmode(Upstream):
    name = "watchmode"
    settings: WatchmodeSettings

    def __init__(self, catalogue: Catalogue) -> None:
        super().__init__(catalogue)
        self._offers = lru_cache(4096)(self._render_offers)
        self._known: dict[str, Film] = {}
        for film in catalogue.films:
            if film.watchmode:
                tmdb = f"{'tv' if film.is_series else 'movie'}-{film.tmdb}"
                names = (film.id, str(film.watchmode["id"]), *([tmdb] if film.tmdb else []))
                self._known |= dict.fromkeys(names, film)

    def reset(self) -> None:
        self.change(WatchmodeSettings())

    def get(self, request: Request) -> Response:
        if self._key(request) not in self.settings.keys:
            return self.invalid_key()
        parts = [part for part in request.path.split("/") if part]
        if parts == ["v1", "status"]:
            used = {"quota": self.settings.quota, "quotaUsed": self.settings.quota_used}
            return self._send(200, _json(used))
        if self.settings.quota_used >= self.settings.quota:
            return self.quota_exceeded()
        match parts:
            case ["v1", "search"]:
                return self._search(request)
            case ["v1", "regions"]:
                return self._charged(1, _json(self._regions()))
            case ["v1", "title", title_id, "sources"]:
                return self._sources(title_id, request)
        return self.error(404, "The resource you requested could not be found.")

    def error(self, status: int, message: str) -> Response:
        body = {"success": False, "statusCode": status, "statusMessage": message}
        return self._send(status, _json(body))

    def quota_exceeded(self) -> Response:
        """Return the quota error. Its headers distinguish it from a burst limit."""
        status = self.settings.quota_status
        body = self.error(status, "Over quota, please upgrade your plan.").body
        used = max(self.settings.quota_used, self.settings.quota)
        headers = self._retry_after() if status == 429 else ()
        return Response(status, body, headers=(*self._usage(used), *headers))

    def invalid_key(self) -> Response:
        return self.error(401, "Unauthorized: Invalid API key")

    def _key(self, request: Request) -> str | None:
        if self.settings.query_key_accepted and "apiKey" in request.query:
            return request.first("apiKey")
        return request.headers.get("x-api-key")

    def _send(self, status: int, body: bytes) -> Response:
        return Response(status, body, headers=self._usage(self.settings.quota_used))

    def _usage(self, used: int) -> tuple[tuple[str, str], ...]:
        return ("X-Account-Quota", str(self.settings.quota)), ("X-Account-Quota-Used", str(used))

    def _charged(self, cost: int, body: bytes) -> Response:
        self.settings.quota_used += cost
        return self._send(200, body)

    def _search(self, request: Request) -> Response:
        wanted, value = request.first("search_field"), request.first("search_value")
        films: list[Film]
        if not wanted or not value:
            return self.error(400, "search_field and search_value are required")
        if wanted == "name":
            films = [film for film in self.catalogue.search(value) if film.watchmode]
        elif wanted in ("imdb_id", "tmdb_movie_id", "tmdb_tv_id", "tmdb_person_id"):
            prefix = {"tmdb_movie_id": "movie-", "tmdb_tv_id": "tv-"}.get(wanted, "")
            hit = self._known.get(prefix + value) if wanted != "tmdb_person_id" else None
            films = [hit] if hit and (prefix or hit.id == value) else []
        else:
            return self.error(400, "search_field is invalid")
        rows = [_hit(film) for film in films]
        if types := request.first("types"):
            rows = [row for row in rows if row["type"].startswith(tuple(types.split(",")))]
        if self.settings.unmatched_rows:
            rows = [*UNMATCHED_ROWS, *rows]
        return self._charged(1, _json({"title_results": rows, "people_results": []}))

    def _regions(self) -> list[Row]:
        return [
            {
                "country": code,
                "name": name,
                "flag": f"https://cdn.watchmode.com/misc_images/icons/{code.lower()}.png",
                "data_tier": tier,
                "plan_enabled": code in self.settings.regions,
            }
            for code, (name, tier) in REGIONS.items()
        ]

    def _sources(self, title_id: str, request: Request) -> Response:
        enabled = self.settings.regions
        asked = [code for code in request.first("regions").upper().split(",") if code] or enabled
        if not set(asked) <= set(enabled):
            return self.error(400, "One or more regions are not enabled for your plan.")
        self.settings.quota_used += 1 if title_id.isdigit() else 2
        film = self._known.get(title_id)
        if film is None:
            return self.error(404, "The resource you requested could not be found.")
        return self._send(200, self._offers(film.id, tuple(asked)))

    def _render_offers(self, film_id: str, regions: tuple[str, ...]) -> bytes:
        film = self._known[film_id]
        assert film.watchmode is not None
        return _json(
            [
                _source(film, offer, quality)
                for offer in film.watchmode["offers"]
                if offer["region"] in regions
                for quality in offer["formats"]
            ]
        )


def _json(value: Any) -> bytes:
    """Encode as JSON with escaped slashes, as the vendor does."""
    return json.dumps(value, separators=(",", ":")).replace("/", "\\/").encode()


def _hit(film: Film) -> Row:
    assert film.watchmode is not None
    hit: Row = {
        "id": film.watchmode["id"],
        "name": film.title,
        "type": TYPES.get(film.type, "movie"),
        "year": film.year,
        "imdb_id": film.id,
        "tmdb_id": film.tmdb,
        "tmdb_type": "tv" if film.is_series else "movie",
    }
    return {key: value for key, value in hit.items() if value is not None}


def _source(film: Film, offer: Offer, quality: str) -> Row:
    """Return the row of one service, type, format and region."""
    assert film.watchmode is not None
    source_id, link = SERVICES[offer["service"]]
    episodes = max((role.get("episodes", 0) for role in film.cast), default=0)
    return {
        "source_id": source_id,
        "name": offer["service"],
        "type": offer["type"],
        "region": offer["region"],
        "ios_url": NO_DEEPLINK,
        "android_url": NO_DEEPLINK,
        "web_url": link
        and link.format(id=film.watchmode["id"] + 70_000_000, region=offer["region"].lower()),
        "format": quality,
        "price": offer["price"],
        "seasons": film.seasons,
        "episodes": episodes or None if film.is_series else None,
    }
