"""The parts of the OpenAPI document that all endpoints share, and helpers to describe endpoints.

The descriptions of the other endpoints are in `films.openapi` and `cinemix.openapi`.
"""

from typing import Any

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.settings import spectacular_settings
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema

from core import imdb_id
from web import search_text
from web.api import (
    ErrorSerializer,
    IndexSerializer,
    ReadinessSerializer,
    StatusSerializer,
    error_body,
)
from web.health import HealthView, ReadinessView
from web.index import IndexView, index
from web.metrics_view import MetricsView

IMDB_ID = {"type": "string", "pattern": "^tt[0-9]+$", "maxLength": imdb_id.MAX_LENGTH}
# JavaScript without the flag `u` reads only four digits.
_INVISIBLE = "".join(
    rf"\u{first:04x}-\u{last:04x}" for first, last in search_text.INVISIBLE if last < 0x10000
)
SEARCH_TEXT = {
    "type": "string",
    "minLength": 1,
    "maxLength": search_text.MAX_LENGTH,
    # Control characters nowhere, and at least one visible character.
    "pattern": (
        r"^[^\x00-\x1f\x7f-\x9f]*"
        rf"[^\s\x00-\x1f\x7f-\x9f{_INVISIBLE}]"
        r"[^\x00-\x1f\x7f-\x9f]*$"
    ),
}
TOO_FAST = "The caller sends too many requests. `Retry-After` says when to retry."


def response_header(
    name: str, description: str, *, on: list[int] | bool = True, kind: type = str
) -> OpenApiParameter:
    """Return a header of the answers with the statuses `on`; True stands for all statuses."""
    statuses = on if isinstance(on, bool) else [str(status) for status in on]
    return OpenApiParameter(
        name, kind, OpenApiParameter.HEADER, description=description, response=statuses
    )


_COMMON_HEADERS = [
    OpenApiParameter(
        "X-Correlation-ID",
        str,
        OpenApiParameter.HEADER,
        description=(
            "An id for this request in our logs and those of the sources: 1 to 64 characters of "
            "`A-Z a-z 0-9 . _ -`. If it is missing or invalid, the server generates one."
        ),
    ),
    response_header("X-Correlation-ID", "The id of this request in the logs."),
    response_header(
        "Cache-Control", "How long caches may store the answer; errors are `no-store`."
    ),
    response_header("Allow", "The methods that the path supports.", on=[405]),
    response_header(
        "Retry-After", "Seconds after which a retry makes sense.", on=[429, 503], kind=int
    ),
]


def rate_limit_headers(*statuses: int) -> list[OpenApiParameter]:
    """Return the headers that say how much of a rate limit is left."""
    return [
        response_header(f"X-RateLimit-{name}", text, on=list(statuses), kind=int)
        for name, text in (
            ("Limit", "Requests that one address may send in a window of time."),
            ("Remaining", "Requests that are left."),
            ("Reset", "Seconds until all of them are available again."),
        )
    ]


class ServiceSchema(AutoSchema):
    """Adds the headers that all endpoints have."""

    def get_auth(self) -> list[dict[str, Any]]:
        """Return nothing: `open_to_all` says once that no endpoint needs a login."""
        return []

    def get_override_parameters(self) -> list[Any]:
        """Return the headers that all endpoints have."""
        return _COMMON_HEADERS


def example(name: str, value: Any, summary: str = "") -> OpenApiExample:
    """Return an example of a response body."""
    return OpenApiExample(name, value, summary=summary, response_only=True)


_USUAL_REASONS = {
    400: "invalid_parameter",
    404: "not_found",
    405: "method_not_allowed",
    429: "throttled",
    502: "bad_response",
    503: "unavailable",
}


def error(
    status: int, description: str, message: str, *, reason: str | None = None
) -> dict[int, OpenApiResponse]:
    """Return an error response for the document; `message` and `reason` are the example's.

    Without `reason`, the example has the usual one of the status.
    """
    body = error_body(status, reason or _USUAL_REASONS[status], message)
    shown = [example("Error", body)]
    return {status: OpenApiResponse(ErrorSerializer, description, shown)}


WRONG_METHOD = error(405, "Another method than GET, HEAD or OPTIONS.", 'Method "POST" not allowed.')


def ok(shape: Any, description: str, *examples: OpenApiExample) -> dict[int, OpenApiResponse]:
    """Return the response with status 200 for the document."""
    return {200: OpenApiResponse(shape, description, list(examples))}


get_index = extend_schema(
    operation_id="getIndex",
    tags=["Service"],
    summary="Name, version and links",
    description="The same at `/api/`.",
    responses={
        **ok(
            IndexSerializer,
            "Name, version and paths.",
            example("Index", index(spectacular_settings.VERSION)),
        ),
        **WRONG_METHOD,
    },
)

get_health = extend_schema(
    operation_id="getHealth",
    tags=["Service"],
    summary="Is the process alive?",
    description="Answers 200 as long as the process can answer at all.",
    responses={
        **ok(StatusSerializer, "The process is alive.", example("Fine", {"status": "ok"})),
        **WRONG_METHOD,
    },
)

get_readiness = extend_schema(
    operation_id="getReadiness",
    tags=["Service"],
    summary="Can the process serve requests?",
    description=(
        "Only the database decides, because stored films are served without the sources. The state "
        "of each source is reported too."
    ),
    responses={
        **ok(
            ReadinessSerializer,
            "The database is reachable and has all migrations.",
            example(
                "Fine",
                {
                    "status": "ok",
                    "upstreams": {"imdbapi": "ok", "kinocheck": "ok", "watchmode": "ok"},
                },
            ),
        ),
        **WRONG_METHOD,
        **error(
            503,
            "The database is unreachable or lacks migrations.",
            "The database lacks migrations: run manage.py migrate.",
            reason="database_unavailable",
        ),
    },
)


get_metrics = extend_schema(
    operation_id="getMetrics",
    tags=["Service"],
    summary="Counters for Prometheus",
    description="Requests, calls to the sources, hits and misses, summed over all processes.",
    responses={
        (200, "text/plain"): OpenApiResponse(
            OpenApiTypes.STR, "All counters in the text format of Prometheus."
        ),
        **WRONG_METHOD,
    },
)

OPERATIONS = {
    IndexView: get_index,
    HealthView: get_health,
    ReadinessView: get_readiness,
    MetricsView: get_metrics,
}


def share_headers(
    result: dict[str, Any], generator: object, request: object, *, public: bool
) -> dict[str, Any]:
    """Move the response headers into the components; a postprocessing hook."""
    shared: dict[str, Any] = {}
    for methods in result["paths"].values():
        for operation in methods.values():
            for response in operation["responses"].values():
                for name, header in response.get("headers", {}).items():
                    shared[name] = header
                    response["headers"][name] = {"$ref": f"#/components/headers/{name}"}
    result["components"]["headers"] = dict(sorted(shared.items()))
    return result


def without_titles(
    result: dict[str, Any], generator: object, request: object, *, public: bool
) -> dict[str, Any]:
    """Remove the titles that pydantic derives from names; a postprocessing hook."""
    for schema in result["components"]["schemas"].values():
        schema.pop("title", None)
        for field in schema.get("properties", {}).values():
            field.pop("title", None)
    return result


def open_to_all(
    result: dict[str, Any], generator: object, request: object, *, public: bool
) -> dict[str, Any]:
    """State that no endpoint needs a login; a postprocessing hook."""
    return result | {"security": []}
