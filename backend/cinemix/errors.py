"""Error messages of the Cinemix surface."""

from typing import Any

from django.http import HttpResponse

from core.errors import UpstreamUnavailable
from web import exception_handler

# By error code: the cause, and whether the operator has to act.
_MESSAGES = {
    "quota_exhausted": "This service has used all its OMDb calls for today.",
    "rejected": "OMDb rejects the key of this service; the operator must replace it.",
    "not_configured": "This service has no key for OMDb; the operator must set one.",
}
_UNAVAILABLE = "OMDb is unavailable at the moment; the request is valid."
_NO_DATA_YET = "OMDb knows the title but has no data for it yet."


def error_response(exc: Exception, context: dict[str, Any]) -> HttpResponse | None:
    """Return the response of `web.exception_handler`, with a message that names OMDb."""
    if isinstance(exc, UpstreamUnavailable):
        is_unread = exc.reason == "no_data_yet"
        message = _NO_DATA_YET if is_unread else _MESSAGES.get(exc.code, _UNAVAILABLE)
        return exception_handler.upstream_unavailable(exc, message)
    return exception_handler.error_response(exc, context)
