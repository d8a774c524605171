"""From exceptions to HTTP answers, in one place and one shape."""

import logging
import math
from typing import Any

from django.db import InterfaceError, InternalError, OperationalError, ProgrammingError
from django.http import Http404, HttpResponse
from rest_framework.exceptions import APIException, Throttled
from rest_framework.response import Response

from core.api import error_body, json_error
from core.errors import (
    InvalidInput,
    Overloaded,
    UpstreamBadAnswer,
    UpstreamError,
    UpstreamNotFound,
)
from core.utils.logging import Seldom

logger = logging.getLogger(__name__)

# How soon to come back where nobody knows better.
DEFAULT_RETRY_AFTER = 5.0

# Lost, or of no use right now: a standby that takes no writes (InternalError), or one whose tables
# nobody made yet (ProgrammingError).
DATABASE_FAULTS = (OperationalError, InterfaceError, InternalError, ProgrammingError)
_NO_DATABASE = "The database cannot be reached right now."
# Each request meets the same lost database; one line a second tells enough.
_outage = Seldom(seconds=1.0)


def error_response(exc: Exception, context: dict[str, Any]) -> Response | None:
    """Return the answer that `exc` stands for; None for what nobody expected.

    Set as REST framework's `EXCEPTION_HANDLER`. What it does not know is raised again, logged with
    its traceback and answered with 500 by `core.middleware`.
    """
    if isinstance(exc, InvalidInput):
        return _error(400, str(exc))
    if isinstance(exc, Overloaded):
        return _error(429 if exc.is_callers_fault else 503, str(exc), exc.retry_after)
    if isinstance(exc, UpstreamError):
        return _upstream_error(exc)
    if isinstance(exc, DATABASE_FAULTS):
        _log_outage(exc)
        return _error(503, _NO_DATABASE, DEFAULT_RETRY_AFTER)
    if isinstance(exc, Http404):
        return _error(404, "There is nothing at this path.")
    if isinstance(exc, Throttled):
        wait = exc.wait or 1  # type: ignore[attr-defined]  # missing in its stubs
        return _error(429, f"Too many requests: try again in {math.ceil(wait)} s.", wait)
    if isinstance(exc, APIException):
        return _error(exc.status_code, str(exc.detail))
    return None


def database_unavailable(exc: Exception) -> HttpResponse:
    """Return the answer to a lost database, outside of REST framework's views."""
    _log_outage(exc)
    answer = json_error(503, _NO_DATABASE)
    answer["Retry-After"] = str(math.ceil(DEFAULT_RETRY_AFTER))
    return answer


def _log_outage(exc: Exception) -> None:
    if _outage.is_due():
        logger.error("database unavailable", extra={"outcome": "db_unavailable"}, exc_info=exc)


def _upstream_error(exc: UpstreamError) -> Response:
    if isinstance(exc, UpstreamNotFound):
        return _error(404, "There is no title with this id.")
    if isinstance(exc, UpstreamBadAnswer):
        return _error(502, f"The source {exc.source} answered something unusable.")
    wait = exc.retry_after or DEFAULT_RETRY_AFTER
    return _error(503, f"The source {exc.source} cannot be asked right now ({exc.code}).", wait)


def _error(status: int, message: str, retry_after: float | None = None) -> Response:
    headers = {"Cache-Control": "no-store"}
    if retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
    return Response(error_body(status, message), status=status, headers=headers)
