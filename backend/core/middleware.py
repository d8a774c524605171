"""What happens around every request: its correlation id, its log line, and errors as JSON."""

import logging
import re
import time
import uuid
from collections.abc import Callable

from django.core.exceptions import DisallowedHost, SuspiciousOperation
from django.http import HttpRequest, HttpResponse

from core import metrics
from core.api import json_error
from core.utils.logging import correlation_id, film_id

logger = logging.getLogger(__name__)

_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


class RequestContextMiddleware:
    """Gives the request its correlation id and tells of it in the answer and in the access log.

    It is the outermost one, so it also answers for the `Host` header: Django's own page for a host
    that is not ours is HTML in debug.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer the request, whatever happens, with `X-Correlation-ID` and a log line."""
        identifier = _accepted(request.headers.get("X-Correlation-ID", ""))
        id_token, film_token = correlation_id.set(identifier), film_id.set("-")
        started = time.monotonic()
        try:
            response = self._answer(request)
            response["X-Correlation-ID"] = identifier
            response.setdefault("X-Content-Type-Options", "nosniff")
            response.setdefault("Content-Type", "application/json")
            metrics.REQUESTS.labels(_route(request), response.status_code).inc()
            logger.info(
                "request",
                extra={
                    "method": request.method,
                    "path": request.path,
                    "status": response.status_code,
                    "ms": round((time.monotonic() - started) * 1000, 1),
                },
            )
            return response
        finally:
            correlation_id.reset(id_token)
            film_id.reset(film_token)

    def _answer(self, request: HttpRequest) -> HttpResponse:
        try:
            request.get_host()
        except DisallowedHost:
            return json_error(400, "This service does not answer to that host name.")
        return self._get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse:
        """Answer for what no view expected: a bug, logged with its traceback."""
        if isinstance(exception, SuspiciousOperation):
            return json_error(400, "The request is malformed.")
        logger.error("unexpected error", exc_info=exception)
        return json_error(500, "Something went wrong on our side.")


def _route(request: HttpRequest) -> str:
    """Return the pattern that matched, of which there are few; the path itself is any text."""
    match = request.resolver_match
    return match.route if match else getattr(request, "answered_by", "none")


def _accepted(sent: str) -> str:
    return sent if _ACCEPTED_ID.fullmatch(sent) else uuid.uuid4().hex
