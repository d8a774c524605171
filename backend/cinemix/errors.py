"""How Cinemix tells its callers what went wrong."""

from typing import Any

from rest_framework.response import Response

from core import exception_handler
from core.errors import UpstreamUnavailable

# By code, each saying whether anybody but us can do something about it.
_OURS = {
    "quota_exhausted": "All calls that this service may make to OMDb today are used up.",
    "rejected": "OMDb refuses the key of this service; its operator has to see to that.",
    "not_configured": "This service has no key for OMDb; its operator has to see to that.",
}
_THEIRS = "OMDb cannot be asked right now; nothing is wrong with the request."
_NO_DATA_YET = "OMDb knows the title but cannot give its data yet."


def error_response(exc: Exception, context: dict[str, Any]) -> Response | None:
    """Return the answer that `exc` stands for, as `core.exception_handler` does, in our words."""
    response = exception_handler.error_response(exc, context)
    if response is not None and isinstance(exc, UpstreamUnavailable):
        words = _NO_DATA_YET if exc.reason == "no_data_yet" else _OURS.get(exc.code, _THEIRS)
        response.data["message"] = words
    return response
