"""OMDb: one title, or titles by text (https://www.omdbapi.com)."""

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
from core.services.decoding import Undecodable, decode_handmade_json
from core.services.gate import Gate, GatePolicy
from core.services.http_client import HttpClient, Reply
from core.services.upstream import UpstreamService, error_for_status
from core.services.upstream_status import SettingNames, UpstreamStatus

# "Inception": OMDb has read it.
_WELL_KNOWN = "tt1375666"
# So many titles are on a page of its search.
_PAGE_SIZE = 10
# A title that OMDb has not read yet takes it longer than minutes.
_UNREAD_REST = 3600.0
# A key that is refused is not tried again for so long, and a missing one does not come faster.
_REFUSED_REST = GatePolicy().rejected

# By what is said in `Error`, whatever the status. Anything else is an answer we cannot use.
_ERRORS: tuple[tuple[str, Callable[[str], ServiceError]], ...] = (
    ("limit reached", lambda source: UpstreamQuotaExhausted(source, "quota")),
    (
        "invalid api key",
        lambda source: UpstreamRejected(source, "bad_key", retry_after=_REFUSED_REST),
    ),
    ("no api key", lambda source: UpstreamRejected(source, "bad_key", retry_after=_REFUSED_REST)),
    (
        "too many results",
        lambda _: InvalidInput("Too many titles match: search for something longer."),
    ),
    ("not found", lambda source: UpstreamNotFound(source, "not_found")),
    ("incorrect imdb id", lambda source: UpstreamNotFound(source, "not_found")),
    (
        "error getting data",
        lambda source: UpstreamUnavailable(source, "no_data_yet", retry_after=_UNREAD_REST),
    ),
    ("something went wrong", lambda source: UpstreamBadAnswer(source, "something_went_wrong")),
)


class OmdbService(UpstreamService):
    """Reads OMDb, whose key goes into the query of every call.

    Without a key every method raises `UpstreamNotConfigured` and asks nobody. `before_attempt` is
    called before each call that goes out, the repeated ones too.
    """

    source = "omdb"
    setting_names = SettingNames("OMDB_BASE_URL", "OMDB_API_KEY")

    def __init__(
        self,
        *,
        http: HttpClient,
        base_url: str,
        api_key: str,
        gate: Gate | None = None,
    ) -> None:
        super().__init__(http=http, base_url=base_url, gate=gate)
        self._api_key = api_key

    def get_title(
        self, imdb_id: str, *, before_attempt: Callable[[], None] | None = None
    ) -> dict[str, Any]:
        """Return the title: every value a string, `"N/A"` where OMDb has none.

        Source: `?i=`.
        """
        return self._ask({"i": imdb_id}, before_attempt)

    def search(
        self, text: str, page: int = 1, *, before_attempt: Callable[[], None] | None = None
    ) -> tuple[list[dict[str, Any]], str]:
        """Return up to ten rows of the page (1-100), and how many there are on all pages.

        A row has `Title`, `Year`, `imdbID`, `Type` and `Poster`. No match, and a page past the
        last one, is `([], "0")`. Raises `InvalidInput` where OMDb finds too many to list them.
        Source: `?s=`.
        """
        try:
            answer = self._ask({"s": text, "page": str(page)}, before_attempt)
        except UpstreamNotFound:
            return [], "0"
        rows = self._rows(answer.get("Search"))[:_PAGE_SIZE]
        total = answer.get("totalResults")
        is_total = re.fullmatch(r"[0-9]{1,9}", str(total), re.ASCII)
        return rows, str(total) if is_total else str(len(rows))

    def refusal(self, reply: Reply) -> UpstreamError | None:
        """Return what the status alone says; OMDb says most things in the body instead."""
        if reply.status == 403:
            # The API itself never says so: it is the shield in front of it.
            return UpstreamUnavailable(self.source, "http_403")
        if reply.status == 401:
            return UpstreamRejected(self.source, "bad_key", retry_after=_REFUSED_REST)
        error = error_for_status(self.source, reply)
        # A wrong address: that a title does not exist is said with status 200.
        is_misplaced = isinstance(error, UpstreamNotFound)
        return self._unusable("http_4xx") if is_misplaced else error

    def _look(self) -> UpstreamStatus:
        """Ask for one title: there is no question that costs less than a call of the day.

        Source: `?i=`.
        """
        self.get_title(_WELL_KNOWN)
        return UpstreamStatus(self.source, key_accepted=True, cost="1 call of the day")

    def _ask(
        self, params: Mapping[str, str], before_attempt: Callable[[], None] | None
    ) -> dict[str, Any]:
        if not self._api_key:
            raise UpstreamNotConfigured(self.source, "not_configured", retry_after=_REFUSED_REST)
        reply = self._http.get(
            self.source,
            f"{self._base_url}/",
            params={**params, "apikey": self._api_key},
            gate=self._gate,
            before_attempt=before_attempt,
        )
        try:
            answer = self._answer(reply)
        except ServiceError as exc:
            self._tell_gate(exc)
            raise
        self._gate.record_success()
        return answer

    def _tell_gate(self, error: ServiceError) -> None:
        # The day's quota is counted elsewhere, and one title that is not read yet closes nothing.
        is_about_source = isinstance(error, UpstreamUnavailable) and error.reason not in {
            "quota",
            "no_data_yet",
        }
        if isinstance(error, UpstreamUnavailable) and is_about_source:
            self._log(logging.ERROR, error.reason)
            self._gate.record_failure(error)
        else:
            self._gate.record_success()

    def _answer(self, reply: Reply) -> dict[str, Any]:
        # What the body says counts whatever the status: a used-up quota comes with 401 or 200.
        try:
            answer = self._object(self._decoded(reply))
        except UpstreamBadAnswer as exc:
            if error := self.refusal(reply):
                raise error from exc
            raise
        if said := self._reported(answer) or self.refusal(reply):
            raise said
        if str(answer.get("Response")).casefold() != "true":
            raise self._unusable("bad_shape")
        return answer

    def _reported(self, answer: Mapping[str, Any]) -> ServiceError | None:
        if str(answer.get("Response")).casefold() != "false":
            return None
        said = str(answer.get("Error", "")).casefold()
        for words, error in _ERRORS:
            if words in said:
                return error(self.source)
        return None

    def _decoded(self, reply: Reply) -> Any:
        try:
            return decode_handmade_json(reply.body)
        except Undecodable as exc:
            raise self._unusable("bad_json") from exc
