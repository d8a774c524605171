"""What the services of all upstreams have in common: ask, and make sense of the answer."""

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any
from urllib.parse import quote

from core.errors import (
    UpstreamBadAnswer,
    UpstreamError,
    UpstreamNotConfigured,
    UpstreamNotFound,
    UpstreamQuotaExhausted,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)
from core.services.decoding import Undecodable, decode_json
from core.services.gate import Gate
from core.services.http_client import HttpClient, Reply
from core.services.upstream_status import SettingNames, UpstreamStatus, advice_for, is_silence

logger = logging.getLogger(__name__)


class UpstreamService:
    """A film source that answers GET with JSON.

    Subclasses name the source, and override `refusal` where the source has its own way of saying
    no. Every method that asks may raise any `UpstreamError`.
    """

    source: str
    setting_names: SettingNames
    # What else to do where it cannot be reached.
    if_unreachable = ""
    # Whether a look at it uses up nothing of its quota until it is known that some is left.
    is_status_free = False

    def __init__(self, *, http: HttpClient, base_url: str, gate: Gate | None = None) -> None:
        self._http = http
        self._base_url = base_url
        self._gate = gate or Gate(self.source)

    def refusal(self, reply: Reply) -> UpstreamError | None:
        """Return the error that `reply` stands for, None where it is an answer to be read."""
        return error_for_status(self.source, reply)

    def get_status(self, *, before: Callable[[], object] = lambda: None) -> UpstreamStatus:
        """Return how the source answers to the cheapest question that tells; raises nothing.

        `before` is called first; where it raises an `UpstreamError`, that is told and nobody asked.
        """
        reachable: bool | None = None
        try:
            before()
            reachable = True
            return self._look()
        except UpstreamError as exc:
            if isinstance(exc, UpstreamNotConfigured):
                reachable = None
            elif reachable:
                reachable = not is_silence(exc)
            advice = advice_for(exc, self.setting_names)
            if reachable is False and self.if_unreachable:
                advice = f"{advice}; {self.if_unreachable}"
            refused = reachable and isinstance(exc, UpstreamRejected)
            return UpstreamStatus(
                self.source,
                is_reachable=reachable,
                error=exc,
                key_accepted=False if refused else None,
                advice=(advice,),
            )

    def _look(self) -> UpstreamStatus:
        raise NotImplementedError

    def _get(
        self,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        url = f"{self._base_url}{path}"
        reply = self._http.get(self.source, url, params=params, headers=headers, gate=self._gate)
        error = self.refusal(reply)
        # Any other refusal is about this one title, not about the source.
        if isinstance(error, UpstreamUnavailable):
            self._gate.record_failure(error)
        else:
            self._gate.record_success()
        if error:
            if not isinstance(error, UpstreamNotFound | UpstreamRateLimited):
                # Somebody has to do something: about the key, the plan, or our request.
                self._log(logging.ERROR, error.reason)
            raise error
        return self._decoded(reply)

    def _decoded(self, reply: Reply) -> Any:
        try:
            return decode_json(reply.body)
        except Undecodable as exc:
            raise self._unusable("bad_json") from exc

    def _object(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._unusable("bad_shape")
        return value

    def _rows(self, value: Any) -> list[dict[str, Any]]:
        # Some sources leave out an empty list or write null for it.
        rows = [] if value is None else value
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise self._unusable("bad_shape")
        return rows

    def _rows_of(
        self, answer: dict[str, Any], name: str, *, beside: Collection[str] = ()
    ) -> list[dict[str, Any]]:
        """Return the rows called `name`.

        An answer that leaves them out has none, if it holds nothing but what may stand `beside`
        them: else it is the answer to another question, or an error.
        """
        if name not in answer and not answer.keys() <= set(beside):
            raise self._unusable("bad_shape")
        return self._rows(answer.get(name))

    def _unusable(self, reason: str) -> UpstreamBadAnswer:
        """Return the error for an answer that cannot be used, and tell the log of it."""
        self._log(logging.WARNING, reason)
        return UpstreamBadAnswer(self.source, reason)

    def _log(self, level: int, reason: str) -> None:
        logger.log(level, "upstream answer", extra={"source": self.source, "outcome": reason})


def path_segment(text: str) -> str:
    """Return `text` as one segment of a URL path: it can neither add nor leave a folder."""
    return quote(text, safe="")


def error_for_status(source: str, reply: Reply) -> UpstreamError | None:
    """Return what a status means at a source that uses it as RFC 9110 does, None for 2xx."""
    if 200 <= reply.status < 300:
        return None
    wait = reply.retry_after()
    if reply.status in {404, 410, 451}:
        return UpstreamNotFound(source, "not_found")
    if reply.status == 429:
        return UpstreamRateLimited(source, "rate_limited", retry_after=wait)
    if reply.status in {401, 403}:
        return UpstreamRejected(source, "bad_key", retry_after=wait)
    if reply.status == 402:
        return UpstreamQuotaExhausted(source, "quota", retry_after=wait)
    return UpstreamBadAnswer(source, "http_4xx")
