"""`/`, for people and programs that know nothing but the host."""

from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response

from web.api import JSONView


def index(version: str) -> dict[str, Any]:
    """Return the answer of `/`."""
    return {
        "name": "Filmosphere",
        "version": version,
        "documentation": "/api/docs",
        "openapi": "/api/schema",
        "health": "/readyz",
    }


class IndexView(JSONView):
    """`GET /`; `version` is that of the API."""

    version = ""

    def get(self, request: Request) -> Response:
        """Return name, version, and the paths of the documents and of the health check."""
        return Response(index(self.version), headers={"Cache-Control": "public, max-age=300"})
