"""KinoCheck: the official trailer of a film or series (https://kinocheck.com/api)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from core.errors import UpstreamError, UpstreamNotFound, UpstreamRejected
from core.imdb_id import canonical_imdb_id
from core.services.circuit_breaker import CircuitBreaker
from core.services.http_client import HttpClient
from core.services.shapes import Trailer, sanitize
from core.services.upstream import UpstreamService
from core.services.upstream_status import SettingNames, UpstreamStatus

# "Avengers: Endgame", the film in the examples of the documentation.
_WELL_KNOWN = "tt4154796"
_MOST_ALTERNATIVES = 50
# Films and series are separate catalogues.
_PATHS = ("/movies", "/shows")

# Digits, also in groups of three with a separator.
_COUNT = re.compile(r"[0-9]{1,18}|[0-9]{1,3}([.,'\s])[0-9]{3}(?:\1[0-9]{3}){0,4}")
_VIDEO_ID = re.compile(r"([a-z0-9_-]{11})", re.ASCII | re.IGNORECASE)
_VIDEO_URL = re.compile(
    r"""(?:https?://|//)?(?:[a-z0-9-]+\.)*
    (?: youtu\.be/ | youtube(?:-nocookie)?\.com/(?:embed/|v/|shorts/|live/|watch\?(?:[^\#]*&)?v=) )
    ([a-z0-9_-]{11})(?![a-z0-9_-]).*""",
    re.ASCII | re.IGNORECASE | re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class TitleVideos:
    """The videos of a title, all in the shape `core.services.shapes.Trailer`.

    `trailer` is the one that the editors picked, None if they picked none. `alternatives` are the
    other ones without repeated YouTube ids: trailers, then teasers, then the rest, each newest
    first.
    """

    trailer: dict[str, Any] | None
    alternatives: list[dict[str, Any]]


class KinoCheckService(UpstreamService):
    """Reads KinoCheck, with or without a key; without one 1,000 calls a day are allowed.

    `languages` are tried in order until one has a trailer. KinoCheck has `en` and `de`.
    """

    source = "kinocheck"
    setting_names = SettingNames("KINO_BASE", "KINO_API_KEY")
    if_unreachable = "KINO_BASE=https://api.kinocheck.com is the other host of this API"

    def __init__(
        self,
        *,
        http: HttpClient,
        base_url: str,
        api_key: str,
        languages: Sequence[str],
        breaker: CircuitBreaker | None = None,
    ) -> None:
        super().__init__(http=http, base_url=base_url, breaker=breaker)
        self._languages = languages
        self._headers = {"X-Api-Key": api_key, "X-Api-Host": "api.kinocheck.com"} if api_key else {}

    def get_trailer(self, imdb_id: str) -> dict[str, Any] | None:
        """Return the trailer that the editors picked, None if there is none.

        It has at least `youtube_video_id` (11 characters), and usually `id`, `title`, `thumbnail`,
        `language`, `categories`, `published` (ISO 8601) and `views`. Values that do not have the
        types in `core.services.shapes.Trailer` are removed or null.
        Source: see `get_title_videos`, which makes the same calls.
        """
        return self.get_title_videos(imdb_id).trailer

    def get_title_videos(self, imdb_id: str) -> TitleVideos:
        """Return the trailer and the other videos of the title.

        Calls `GET /movies` and, without a trailer there, `GET /shows`; the next language is tried
        only if there was no trailer, and only on the paths that know the title.
        Source: https://kinocheck.com/api.
        """
        others: list[dict[str, Any]] = []
        paths = list(_PATHS)
        for language in self._languages:
            for path in tuple(paths):
                try:
                    trailer, videos = self._videos(path, imdb_id, language)
                except UpstreamNotFound:
                    paths.remove(path)
                    continue
                others += videos
                if trailer:
                    return TitleVideos(trailer, _alternatives(others, trailer))
        return TitleVideos(None, _alternatives(others, None))

    def _look(self) -> UpstreamStatus:
        """Ask for one film, the cheapest call that there is.

        Source: `GET /movies`.
        """
        self._videos("/movies", _WELL_KNOWN, self._languages[0])
        return UpstreamStatus(
            self.source, key_accepted=True if self._headers else None, cost="1 call of the day"
        )

    def _videos(
        self, path: str, imdb_id: str, language: str
    ) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        """Return the editors' pick of one answer, and all its videos."""
        params = {"imdb_id": canonical_imdb_id(imdb_id) or imdb_id, "language": language}
        answer = self._object(self._get(path, params=params, headers=self._headers))
        if not isinstance(answer.get("id"), str) or "trailer" not in answer:
            raise self._error_within_200(answer)
        # The id is null for some titles.
        found = answer.get("imdb_id")
        if found is not None and canonical_imdb_id(found) != canonical_imdb_id(imdb_id):
            raise self._unusable("other_title")
        picked, listed = answer["trailer"], answer.get("videos")
        trailers = [] if picked is None else _playable([self._object(picked)])
        videos = _playable(listed if isinstance(listed, list) else [])
        sanitize(trailers + videos, list[Trailer], source=self.source)
        return (trailers[0] if trailers else None), videos

    def _error_within_200(self, answer: dict[str, Any]) -> UpstreamError:
        # Some versions report errors with status 200 and an object that has them as text.
        text = " ".join(str(answer.get(key, "")) for key in ("error", "message")).lower()
        if "not found" in text:
            return UpstreamNotFound(self.source, "not_found")
        if "api key" in text:
            return UpstreamRejected(self.source, "bad_key")
        return self._unusable("bad_shape")


def _playable(rows: list[Any]) -> list[dict[str, Any]]:
    """Return the rows with a YouTube video, with its id, and `views` as an integer if it is one."""
    videos = []
    for row in rows:
        sent = row.get("youtube_video_id") if isinstance(row, dict) else None
        if not isinstance(sent, str):
            continue
        found = _VIDEO_ID.fullmatch(sent) or _VIDEO_URL.fullmatch(sent)
        if not found:
            continue
        row["youtube_video_id"] = found[1]
        views = _count(row.get("views"))
        if views is None:
            row.pop("views", None)
        else:
            row["views"] = views
        videos.append(row)
    return videos


def _count(value: Any) -> Any:
    """Return an integer that was sent in another spelling; any other value as it is."""
    if isinstance(value, str) and _COUNT.fullmatch(value):
        return int(re.sub("[^0-9]", "", value))
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _alternatives(
    videos: list[dict[str, Any]], trailer: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """Return the videos besides the trailer, in the order that `TitleVideos` promises."""
    by_id = {video["youtube_video_id"]: video for video in reversed(videos)}
    if trailer:
        by_id.pop(trailer["youtube_video_id"], None)
    newest_first = sorted(by_id.values(), key=_published, reverse=True)
    return sorted(newest_first, key=_rank)[:_MOST_ALTERNATIVES]


def _published(video: dict[str, Any]) -> float:
    try:
        return datetime.fromisoformat(video["published"].replace("Z", "+00:00")).timestamp()
    except (KeyError, AttributeError, ValueError, OverflowError):
        return 0.0


def _rank(video: dict[str, Any]) -> int:
    categories = video.get("categories", [])
    return 0 if "Trailer" in categories else 1 if "Teaser" in categories else 2
