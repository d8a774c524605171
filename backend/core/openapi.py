"""What the OpenAPI document says of every endpoint, and the pieces that surfaces describe theirs with.

Surfaces keep their descriptions in an `openapi` module of their own, so that views stay readable.
"""

from typing import Any

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema

from core.api import ErrorSerializer, StatusSerializer, error_body

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


class ServiceSchema(AutoSchema):  # type: ignore[misc]  # the package has no types
    """Adds to each endpoint the headers that all of them know."""

    def get_override_parameters(self) -> list[OpenApiParameter]:
        """Return the headers that all endpoints know."""
        return _OF_EVERY_ENDPOINT


def error(status: int, description: str, message: str) -> dict[int, OpenApiResponse]:
    """Return a response in the one shape of errors; `message` is one that clients meet."""
    example = OpenApiExample("Error", error_body(status, message), response_only=True)
    return {status: OpenApiResponse(ErrorSerializer, description, [example])}


WRONG_METHOD = error(405, "Another method than GET, HEAD or OPTIONS.", 'Method "POST" not allowed.')


def _ok(description: str) -> dict[int, OpenApiResponse]:
    example = OpenApiExample("Fine", {"status": "ok"}, response_only=True)
    return {200: OpenApiResponse(StatusSerializer, description, [example])}


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
    description="Looks at the database only: films that are stored can be shown without a source.",
    responses={
        **_ok("The database can be reached and has every migration."),
        **WRONG_METHOD,
        **error(
            503,
            "The database cannot be reached, or lacks migrations.",
            "The database lacks migrations: run manage.py migrate.",
        ),
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
