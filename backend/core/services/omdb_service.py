"""OMDb: a title by id, or titles by text (https://www.omdbapi.com)."""

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from core.errors import (
    InvalidInput,
    ServiceError,
    UpstreamBadAnswer,
    UpstreamError,
    UpstreamNotConfigured,
    UpstreamNotFound,
    UpstreamQuotaExhausted,
    UpstreamRejected,
    UpstreamUnavailable,
)
from core.services.circuit_breaker import BreakerPolicy, CircuitBreaker
from core.services.decoding import Undecodable, decode_lenient_json
from core.services.http_client import HttpClient, Reply
from core.services.upstream import UpstreamService, error_for_status
from core.services.upstream_status import SettingNames, UpstreamStatus

# "Inception", a title that OMDb is known to have.
_WELL_KNOWN = "tt1375666"
_PAGE_SIZE = 10
# Seconds until a title without data is worth another call; OMDb adds titles within hours.
_NO_DATA_RETRY = 3600.0
# Seconds until a rejected or missing key is worth another call.
_KEY_RETRY = BreakerPolicy().rejected

_SHORT_TEXT = "OMDb needs at least two characters to search for."
_BROAD_TEXT = "Too many titles match: use a longer or more specific text."
_BAD_TEXT = "OMDb cannot process this input: leave out special characters or use other words."

# Substrings of `Error`, in order of precedence. The HTTP status does not matter: a used-up quota
# is sent with 401 and with 200. Other texts are unusable answers.
_ERRORS: tuple[tuple[str, Callable[[str], ServiceError]], ...] = (
    ("limit reached", lambda source: UpstreamQuotaExhausted(source, "quota")),
    ("api key", lambda source: UpstreamRejected(source, "bad_key", retry_after=_KEY_RETRY)),
    ("too many results", lambda _: InvalidInput(_BROAD_TEXT)),
    ("more than one character", lambda _: InvalidInput(_SHORT_TEXT)),
    ("not found", lambda source: UpstreamNotFound(source, "not_found")),
    ("incorrect imdb id", lambda source: UpstreamNotFound(source, "not_found")),
    (
        "error getting data",
        lambda source: UpstreamUnavailable(source, "no_data_yet", retry_after=_NO_DATA_RETRY),
    ),
    # Messages of OMDb's database and runtime about the text they were given.
    ("syntax", lambda _: InvalidInput(_BAD_TEXT)),
    ("unclosed quotation mark", lambda _: InvalidInput(_BAD_TEXT)),
    ("object reference not set", lambda _: InvalidInput(_BAD_TEXT)),
    ("conversion", lambda _: InvalidInput(_BAD_TEXT)),
    ("input string was not in a correct format", lambda _: InvalidInput(_BAD_TEXT)),
    ("something went wrong", lambda source: UpstreamBadAnswer(source, "something_went_wrong")),
)


class OmdbService(UpstreamService):
    """Client of OMDb. The API key is a query parameter; OMDb accepts no header.

    Without a key every method raises `UpstreamNotConfigured` and makes no call.
    """

    source = "omdb"
    setting_names = SettingNames("OMDB_BASE_URL", "OMDB_API_KEY")

    def __init__(
        self,
        *,
        http: HttpClient,
        base_url: str,
        api_key: str,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        super().__init__(http=http, base_url=base_url, breaker=breaker)
        self._api_key = api_key
        self.has_key = bool(api_key)

    def get_title(self, imdb_id: str) -> dict[str, Any]:
        """Return the title. Values are strings, unknown ones `"N/A"`.

        Raises `UpstreamNotFound` if OMDb does not know the id, and `UpstreamUnavailable` with the
        reason `no_data_yet` if it knows the id but has no data.
        Source: `?i=`.
        """
        return self._ask({"i": imdb_id})

    def search(self, text: str, page: int = 1) -> tuple[list[dict[str, Any]], str | None]:
        """Return up to ten rows of the page (1-100), and the number of matches on all pages.

        A row has `Title`, `Year`, `imdbID`, `Type` and `Poster`. If nothing matches, or the page is
        past the last one, there are no rows and the number is None, because OMDb sends the same
        answer for both. Raises `InvalidInput` if OMDb cannot search for the text.
        Source: `?s=`.
        """
        try:
            answer = self._ask({"s": text, "page": str(page)})
        except UpstreamNotFound:
            return [], None
        sent = answer.get("Search")
        if not isinstance(sent, list):
            raise self._unusable("bad_shape")
        rows = [row for row in sent if isinstance(row, dict)][:_PAGE_SIZE]
        on_pages_before = (page - 1) * _PAGE_SIZE
        total = _number(answer.get("totalResults"))
        if rows:
            return rows, str(max(total, on_pages_before + len(rows)))
        if sent or total > on_pages_before:
            raise self._unusable("bad_shape")
        return [], str(total) if total else None

    def refusal(self, reply: Reply) -> UpstreamError | None:
        """Return the error that the status stands for; most errors are in the body."""
        if reply.status == 403:
            # The API never sends 403; the proxy in front of it does.
            return UpstreamUnavailable(self.source, "http_403")
        if reply.status == 401:
            return UpstreamRejected(self.source, "bad_key", retry_after=_KEY_RETRY)
        error = error_for_status(self.source, reply)
        # A missing title has status 200, so a 404 means a wrong base URL.
        is_wrong_url = isinstance(error, UpstreamNotFound)
        return self._unusable("http_4xx") if is_wrong_url else error

    def _look(self) -> UpstreamStatus:
        """Fetch one title; OMDb has no endpoint that does not count as a call.

        Source: `?i=`.
        """
        try:
            self.get_title(_WELL_KNOWN)
        except InvalidInput as exc:
            raise self._unusable("bad_shape") from exc
        return UpstreamStatus(self.source, key_accepted=True, cost="1 call of the day")

    def _ask(self, params: Mapping[str, str]) -> dict[str, Any]:
        if not self._api_key:
            raise UpstreamNotConfigured(self.source, "not_configured", retry_after=_KEY_RETRY)
        reply = self._http.get(
            self.source,
            f"{self._base_url}/",
            params={**params, "apikey": self._api_key},
            attempt=self.breaker.attempt,
        )
        try:
            answer = self._answer(reply)
        except ServiceError as exc:
            self._record(exc)
            raise
        self.breaker.record_success()
        return answer

    def _record(self, error: ServiceError) -> None:
        # The quota is counted elsewhere, and a title without data says nothing about the source.
        if isinstance(error, UpstreamUnavailable) and error.reason not in {"quota", "no_data_yet"}:
            self._log(logging.ERROR, error.reason)
            self.breaker.record_failure(error)
        else:
            self.breaker.record_success()

    def _answer(self, reply: Reply) -> dict[str, Any]:
        try:
            answer = reply.json(decode_lenient_json)
        except Undecodable as exc:
            if reply.status == 401 and b"limit reached" in reply.body.lower():
                raise UpstreamQuotaExhausted(self.source, "quota") from exc
            raise (self.refusal(reply) or self._unusable("bad_json")) from exc
        if not isinstance(answer, dict):
            raise self.refusal(reply) or self._unusable("bad_shape")
        is_success = str(answer.get("Response")).casefold() == "true"
        error = None if is_success else self._reported(answer)
        if error := error or self.refusal(reply):
            raise error
        if not is_success:
            raise self._unusable("bad_shape")
        return answer

    def _reported(self, answer: Mapping[str, Any]) -> ServiceError | None:
        text = str(answer.get("Error", "")).casefold()
        for words, error in _ERRORS:
            if words in text:
                return error(self.source)
        return None


def _number(value: Any) -> int:
    digits = re.fullmatch(r"[0-9]{1,9}", str(value), re.ASCII)
    return int(digits[0]) if digits else 0
