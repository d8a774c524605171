"""The base class of the services: one call to a source, and the meaning of its answer."""

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

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
from core.services.circuit_breaker import CircuitBreaker
from core.services.decoding import Undecodable
from core.services.http_client import NOT_FOUND, HttpClient, QueryParams, Reply
from core.services.upstream_status import SettingNames, UpstreamStatus, advice_for, is_silence

logger = logging.getLogger(__name__)


class UpstreamService:
    """A film source that answers GET with JSON.

    Subclasses name the source, and override `refusal` if the source reports errors in a way of its
    own. Every method that calls the source may raise any `UpstreamError`.
    """

    source: str
    setting_names: SettingNames
    # Further advice if the source cannot be reached.
    if_unreachable = ""
    # Whether calls can be made at all: a service that needs a key and has none raises.
    has_key = True
    # Whether `get_status` spends no quota before it knows that some is left.
    is_status_free = False

    def __init__(
        self, *, http: HttpClient, base_url: str, breaker: CircuitBreaker | None = None
    ) -> None:
        self._http = http
        self._base_url = base_url
        self.breaker = breaker or CircuitBreaker(self.source)

    def refusal(self, reply: Reply) -> UpstreamError | None:
        """Return the error that `reply` stands for, None if its body is the answer."""
        return error_for_status(self.source, reply)

    def get_status(self, *, before: Callable[[], object] = lambda: None) -> UpstreamStatus:
        """Return how the source answers the cheapest call that shows its state; raises nothing.

        `before` is called first; if it raises an `UpstreamError`, that is the status and no call is
        made.
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
            is_rejected = reachable and isinstance(exc, UpstreamRejected)
            return UpstreamStatus(
                self.source,
                is_reachable=reachable,
                error=exc,
                key_accepted=False if is_rejected else None,
                advice=(advice,),
            )

    def _look(self) -> UpstreamStatus:
        raise NotImplementedError

    def _get(
        self,
        path: str,
        *,
        params: QueryParams | None = None,
        headers: Mapping[str, str] | None = None,
        if_bad_request: Exception | None = None,
    ) -> Any:
        """Return the decoded answer.

        `if_bad_request` is raised for the status 400, for calls that may legitimately get it.
        """
        url = f"{self._base_url}{path}"
        reply = self._http.get(
            self.source, url, params=params, headers=headers, attempt=self.breaker.attempt
        )
        error = self.refusal(reply)
        # Any other error is about this one title, not about the source.
        if isinstance(error, UpstreamUnavailable):
            self.breaker.record_failure(error)
        else:
            self.breaker.record_success()
        if if_bad_request and reply.status == 400:
            raise if_bad_request
        if error:
            if not isinstance(error, UpstreamNotFound | UpstreamRateLimited):
                # A person has to change the key, the plan, or our request.
                self._log(logging.ERROR, error.reason)
            raise error
        try:
            return reply.json()
        except Undecodable as exc:
            raise self._unusable("bad_json") from exc

    def _object(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._unusable("bad_shape")
        return value

    def _rows(self, value: Any) -> list[dict[str, Any]]:
        # Some sources leave out an empty list, or send null instead.
        rows = [] if value is None else value
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise self._unusable("bad_shape")
        return rows

    def _rows_of(
        self, answer: dict[str, Any], name: str, *, beside: Collection[str] = ()
    ) -> list[dict[str, Any]]:
        """Return the list in the field `name`, `[]` if it is missing.

        It may be missing only if the answer has no fields except those in `beside`: otherwise the
        answer belongs to another call, or is an error.
        """
        if name not in answer and not answer.keys() <= set(beside):
            raise self._unusable("bad_shape")
        return self._rows(answer.get(name))

    def _unusable(self, reason: str) -> UpstreamBadAnswer:
        """Log that the answer is unusable, and return the error for it."""
        self._log(logging.WARNING, reason)
        return UpstreamBadAnswer(self.source, reason)

    def _log(self, level: int, reason: str) -> None:
        logger.log(level, "upstream answer", extra={"source": self.source, "outcome": reason})


def error_for_status(source: str, reply: Reply) -> UpstreamError | None:
    """Return what a status means if the source follows RFC 9110, None for 2xx."""
    if 200 <= reply.status < 300:
        return None
    wait = reply.retry_after()
    if reply.status in NOT_FOUND:
        return UpstreamNotFound(source, "not_found")
    if reply.status == 429:
        return UpstreamRateLimited(source, "rate_limited", retry_after=wait)
    if reply.status in {401, 403}:
        return UpstreamRejected(source, "bad_key", retry_after=wait)
    if reply.status == 402:
        return UpstreamQuotaExhausted(source, "quota", retry_after=wait)
    return UpstreamBadAnswer(source, "http_4xx")
