"""KinoCheck: the official trailer of a film or series (https://kinocheck.com/api)."""

import logging
from typing import Any

from core.errors import UpstreamError, UpstreamNotFound, UpstreamRejected
from core.services.conformity import conforming
from core.services.gate import Gate
from core.services.http_client import HttpClient
from core.services.upstream import UpstreamService
from core.services.upstream_status import SettingNames, UpstreamStatus
from core.source_shapes import TrailerSerializer

logger = logging.getLogger(__name__)

# "Avengers: Endgame", the film of the documentation's own examples.
_WELL_KNOWN = "tt4154796"


class KinoCheckService(UpstreamService):
    """Reads KinoCheck, with or without a key; without one it grants 1,000 calls a day.

    `language` is `en` or `de`; the catalogue has no other.
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
        language: str,
        gate: Gate | None = None,
    ) -> None:
        super().__init__(http=http, base_url=base_url, gate=gate)
        self._language = language
        self._headers = {"X-Api-Key": api_key, "X-Api-Host": "api.kinocheck.com"} if api_key else {}

    def get_trailer(self, imdb_id: str) -> dict[str, Any] | None:
        """Return the trailer that the editors picked, None where they have none.

        It has at least `youtube_video_id`, and usually `id`, `title`, `thumbnail`, `language`,
        `categories`, `published` (ISO 8601), `views` (a number, or digits in a string); what does
        not fit `TrailerSerializer` is left out or null.
        Source: `GET /movies` and, since series are not found there, `GET /shows`.
        """
        for path in ("/movies", "/shows"):
            try:
                return self._trailer(path, imdb_id)
            except UpstreamNotFound:
                continue
        return None

    def _look(self) -> UpstreamStatus:
        """Ask for one film: there is no question that costs less than a call of the day.

        Source: `GET /movies`.
        """
        self._trailer("/movies", _WELL_KNOWN)
        return UpstreamStatus(
            self.source, key_accepted=True if self._headers else None, cost="1 call of the day"
        )

    def _trailer(self, path: str, imdb_id: str) -> dict[str, Any] | None:
        params = {"imdb_id": imdb_id, "language": self._language, "categories": "Trailer"}
        answer = self._object(self._get(path, params=params, headers=self._headers))
        if not isinstance(answer.get("id"), str) or "trailer" not in answer:
            raise self._error_within_200(answer)
        # The id is null for some titles; another one's id means another one's trailer.
        if answer.get("imdb_id") not in (None, imdb_id):
            raise self._unusable("bad_shape")
        if answer["trailer"] is None:
            return None
        trailer = self._object(answer["trailer"])
        video = trailer.get("youtube_video_id")
        if not isinstance(video, str) or not video:
            raise self._unusable("bad_shape")
        fit: dict[str, Any] = conforming(trailer, TrailerSerializer, source=self.source)
        return fit

    def _error_within_200(self, answer: dict[str, Any]) -> UpstreamError:
        # Some versions report errors with status 200 and an object that tells of them in words.
        text = " ".join(str(answer.get(key, "")) for key in ("error", "message")).lower()
        if "not found" in text:
            return UpstreamNotFound(self.source, "not_found")
        if "api key" in text:
            return UpstreamRejected(self.source, "bad_key")
        return self._unusable("bad_shape")
