"""The OpenAPI document, and a page on which to try it: the library's views, with our manners."""

from collections.abc import Iterable
from typing import Any

from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView
from rest_framework.exceptions import NotAcceptable
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from core.api import JSONView

# Swagger UI sets styles on its elements; all else comes from files of this server.
_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class _JSONErrors(JSONView):
    def finalize_response(
        self, request: Request, response: Response, *args: Any, **kwargs: Any
    ) -> Response:
        """Return the answer; errors are JSON whatever the page is."""
        if response.exception or response.data is None:
            request.accepted_renderer = JSONRenderer()
            request.accepted_media_type = JSONRenderer.media_type
        return super().finalize_response(request, response, *args, **kwargs)


class _YAMLOrJSON(DefaultContentNegotiation):
    def select_renderer(
        self,
        request: Request,
        renderers: Iterable[BaseRenderer],
        format_suffix: str | None = None,
    ) -> tuple[BaseRenderer, str]:
        """Choose by `?format=`, then by `Accept`; the first where that cannot be had."""
        wanted = request.query_params.get("format")
        offered = list(renderers)
        offered = [each for each in offered if each.format == wanted] or offered
        try:
            chosen: tuple[BaseRenderer, str] = super().select_renderer(request, offered)
        except NotAcceptable:
            chosen = offered[0], str(offered[0].media_type)
        return chosen


class SchemaView(_JSONErrors, SpectacularAPIView):
    """`GET /api/schema`."""

    content_negotiation_class = _YAMLOrJSON

    def _get_version_parameter(self, request: Request) -> None:
        """Know no `?version=`: the library shows it in the document and in a header."""


class DocsView(_JSONErrors, SpectacularSwaggerSplitView):
    """`GET /api/docs`."""

    def finalize_response(
        self, request: Request, response: Response, *args: Any, **kwargs: Any
    ) -> Response:
        """Return the page with what it may load."""
        finished = super().finalize_response(request, response, *args, **kwargs)
        finished["Content-Security-Policy"] = _CONTENT_POLICY
        return finished
