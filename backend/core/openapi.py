"""What the OpenAPI document says of every endpoint, and pieces to describe them with.

Surfaces keep their descriptions in an `openapi` module of their own, so that views stay readable.
"""

from typing import Any

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema

from core import imdb_id, search_text
from core.api import ErrorSerializer, ReadinessSerializer, StatusSerializer, error_body

IMDB_ID = {"type": "string", "pattern": "^tt[0-9]+$", "maxLength": imdb_id.MAX_LENGTH}
SEARCH_TEXT = {
    "type": "string",
    "minLength": 1,
    "maxLength": search_text.MAX_LENGTH,
    "pattern": r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$",
}
TOO_FAST = "The caller was too fast: `Retry-After` tells when to come back."


def response_header(
    name: str, description: str, *, on: list[int] | bool = True, kind: type = str
) -> OpenApiParameter:
    """Return a header of the answers with the statuses `on`, of all answers where it is True."""
    statuses = on if isinstance(on, bool) else [str(status) for status in on]
    return OpenApiParameter(
        name, kind, OpenApiParameter.HEADER, description=description, response=statuses
    )


_OF_EVERY_ENDPOINT = [
    OpenApiParameter(
        "X-Correlation-ID",
        str,
        OpenApiParameter.HEADER,
        description=(
            "A name for this request in logs, ours and those of our sources: 1 to 64 of "
            "`A-Z a-z 0-9 . _ -`. Anything else is replaced by a new one."
        ),
    ),
    response_header("X-Correlation-ID", "The name of this request in logs."),
    response_header("Cache-Control", "How long caches may keep the answer; errors are `no-store`."),
    response_header("Allow", "The methods that there are.", on=[405]),
    response_header(
        "Retry-After", "Seconds after which another try makes sense.", on=[429, 503], kind=int
    ),
]


def rate_limit_headers(*statuses: int) -> list[OpenApiParameter]:
    """Return the headers with which a limited surface tells how much of the limit is left."""
    return [
        response_header(f"X-RateLimit-{name}", text, on=list(statuses), kind=int)
        for name, text in (
            ("Limit", "Requests that one address may make in a window of time."),
            ("Remaining", "How many of them are left."),
            ("Reset", "Seconds until all of them are back."),
        )
    ]


class ServiceSchema(AutoSchema):
    """Adds to each endpoint the headers that all of them know."""

    def get_override_parameters(self) -> list[Any]:
        """Return the headers that all endpoints know."""
        return _OF_EVERY_ENDPOINT


def example(name: str, value: Any, summary: str = "") -> OpenApiExample:
    """Return a body that clients may meet."""
    return OpenApiExample(name, value, summary=summary, response_only=True)


def error(status: int, description: str, message: str) -> dict[int, OpenApiResponse]:
    """Return a response in the one shape of errors; `message` is one that clients meet."""
    shown = [example("Error", error_body(status, message))]
    return {status: OpenApiResponse(ErrorSerializer, description, shown)}


WRONG_METHOD = error(405, "Another method than GET, HEAD or OPTIONS.", 'Method "POST" not allowed.')


def _ok(description: str) -> dict[int, OpenApiResponse]:
    return {
        200: OpenApiResponse(StatusSerializer, description, [example("Fine", {"status": "ok"})])
    }


get_health = extend_schema(
    operation_id="getHealth",
    tags=["Service"],
    summary="Is the process alive?",
    description="Answers 200 as long as the process can answer at all.",
    responses={**_ok("The process is alive."), **WRONG_METHOD},
)

get_readiness = extend_schema(
    operation_id="getReadiness",
    tags=["Service"],
    summary="Can the process do its work?",
    description=(
        "Looks at the database only: films that are stored can be shown without a source. How each"
        " source stands is told beside it."
    ),
    responses={
        200: OpenApiResponse(
            ReadinessSerializer,
            "The database can be reached and has every migration.",
            [
                example(
                    "Fine",
                    {
                        "status": "ok",
                        "upstreams": {"imdbapi": "open", "kinocheck": "open", "watchmode": "open"},
                    },
                )
            ],
        ),
        **WRONG_METHOD,
        **error(
            503,
            "The database cannot be reached, or lacks migrations.",
            "The database lacks migrations: run manage.py migrate.",
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


def share_headers(
    result: dict[str, Any], generator: object, request: object, *, public: bool
) -> dict[str, Any]:
    """Describe each response header once, among the components; a postprocessing hook."""
    shared: dict[str, Any] = {}
    for methods in result["paths"].values():
        for operation in methods.values():
            for response in operation["responses"].values():
                for name, header in response.get("headers", {}).items():
                    shared[name] = header
                    response["headers"][name] = {"$ref": f"#/components/headers/{name}"}
    result["components"]["headers"] = dict(sorted(shared.items()))
    return result


def null_as_alternative(
    result: dict[str, Any], generator: object, request: object, *, public: bool
) -> dict[str, Any]:
    """Say of a component that may be null that it is one of it and null; a postprocessing hook.

    Beside `allOf`, `nullable` means nothing in OpenAPI 3.0.3: null would not pass.
    """
    for schema in result["components"]["schemas"].values():
        for field in schema.get("properties", {}).values():
            if "allOf" in field and field.pop("nullable", False):
                field["oneOf"] = [*field.pop("allOf"), {"enum": [None]}]
    return result
