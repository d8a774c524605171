"""From exceptions to HTTP responses, in one place and one shape."""

import logging
import math
from typing import Any

from django.http import Http404, HttpResponse
from rest_framework.exceptions import APIException, Throttled

from core.db import DATABASE_FAULTS
from core.errors import (
    InvalidInput,
    Overloaded,
    UpstreamBadAnswer,
    UpstreamError,
    UpstreamNotFound,
)
from core.utils.logging import LogThrottle
from web.api import ErrorResponse, unknown_route

logger = logging.getLogger(__name__)

# Seconds in `Retry-After` if the error has no time of its own.
DEFAULT_RETRY_AFTER = 5.0
# In an outage every request fails in the same way: one line a second is enough.
_outage = LogThrottle(seconds=1.0)


def error_response(exc: Exception, context: dict[str, Any]) -> HttpResponse | None:
    """Return the response for `exc`, None if it is unexpected.

    Set as REST framework's `EXCEPTION_HANDLER`. Unexpected exceptions are raised again, logged with
    their traceback and answered with 500 by `web.request_context`.
    """
    if isinstance(exc, InvalidInput):
        return ErrorResponse(400, "invalid_parameter", str(exc))
    if isinstance(exc, Overloaded):
        status, reason = (429, "throttled") if exc.is_callers_fault else (503, "overloaded")
        return ErrorResponse(status, reason, str(exc), retry_after=exc.retry_after)
    if isinstance(exc, UpstreamNotFound):
        return ErrorResponse(404, exc.code, "There is no title with this id.")
    if isinstance(exc, UpstreamBadAnswer):
        return ErrorResponse(502, exc.code, f"The source {exc.source} answered something unusable.")
    if isinstance(exc, UpstreamError):
        return upstream_unavailable(
            exc, f"The source {exc.source} cannot be asked right now ({exc.code})."
        )
    if isinstance(exc, DATABASE_FAULTS):
        return database_unavailable(exc)
    if isinstance(exc, Http404):
        return unknown_route(context["request"])
    if isinstance(exc, Throttled):
        wait = exc.wait or 1  # type: ignore[attr-defined]  # missing in its stubs
        message = f"Too many requests: try again in {math.ceil(wait)} s."
        return ErrorResponse(429, "throttled", message, retry_after=wait)
    if isinstance(exc, APIException):
        return ErrorResponse(exc.status_code, exc.default_code, str(exc.detail))
    return None


def upstream_unavailable(exc: UpstreamError, message: str) -> ErrorResponse:
    """Return 503 for a source that could not be asked."""
    retry_after = exc.retry_after or DEFAULT_RETRY_AFTER
    return ErrorResponse(503, exc.code, message, retry_after=retry_after)


def database_unavailable(exc: Exception) -> ErrorResponse:
    """Return 503 for a database that failed with one of `DATABASE_FAULTS`, and log it."""
    if _outage.is_due():
        logger.error("database unavailable", extra={"outcome": "db_unavailable"}, exc_info=exc)
    return ErrorResponse(
        503,
        "database_unavailable",
        "The database cannot be reached right now.",
        retry_after=DEFAULT_RETRY_AFTER,
    )
