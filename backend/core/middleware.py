"""What happens around every request: its correlation id, its log line, and errors as JSON."""

import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.core.exceptions import DisallowedHost, SuspiciousOperation
from django.http import HttpRequest, HttpResponse

from core import metrics
from core.api import json_error, unknown_route
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
        identifier = accepted_id(request.META.get("HTTP_X_CORRELATION_ID", ""))
        started = time.monotonic()
        with in_request_context(identifier):
            response = self._answer(request)
            response["X-Correlation-ID"] = identifier
            response.setdefault("X-Content-Type-Options", "nosniff")
            response.setdefault("Content-Type", "application/json")
            tell_of(
                _route(request),
                method=request.method,
                path=request.path,
                status=response.status_code,
                started=started,
            )
            return response

    def _answer(self, request: HttpRequest) -> HttpResponse:
        try:
            request.get_host()
        except DisallowedHost:
            return json_error(400, "This service does not answer to that host name.")
        if not request.path_info.startswith("/"):
            # `OPTIONS *`, for which Django has a page of its own.
            return unknown_route(request)
        try:
            return self._get_response(request)
        # It comes from another middleware; Django's own page for it is HTML.
        except Exception as exc:  # noqa: BLE001
            return self.process_exception(request, exc)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse:
        """Answer for what nobody expected: a bug, logged with its traceback."""
        if isinstance(exception, SuspiciousOperation):
            return json_error(400, "The request is malformed.")
        logger.error("unexpected error", exc_info=exception)
        return json_error(500, "Something went wrong on our side.")


def _route(request: HttpRequest) -> str:
    """Return the pattern that matched, of which there are few; the path itself is any text."""
    match = request.resolver_match
    return match.route if match else getattr(request, "answered_by", "none")


def accepted_id(sent: str) -> str:
    """Return the correlation id that a caller sent where it can do no harm, else a new one."""
    return sent if _ACCEPTED_ID.fullmatch(sent) else secrets.token_hex(16)


@contextmanager
def in_request_context(identifier: str, *, film: str = "-") -> Iterator[None]:
    """Let all log lines within tell of the request and of the film."""
    id_token, film_token = correlation_id.set(identifier), film_id.set(film)
    try:
        yield
    finally:
        correlation_id.reset(id_token)
        film_id.reset(film_token)


def tell_of(route: str, *, method: str | None, path: str, status: int, started: float) -> None:
    """Count a request that was answered, by its `route`, and write its line of the access log.

    `started` is a time of `time.monotonic`.
    """
    metrics.REQUESTS.labels(route, status).inc()
    if logger.isEnabledFor(logging.INFO):
        took = round((time.monotonic() - started) * 1000, 1)
        fields = {"method": method, "path": path, "status": status, "ms": took}
        logger.info("request", extra=fields)
