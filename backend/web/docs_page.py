"""The OpenAPI document, and a page on which to try it."""

import functools
import hashlib
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from django.http import Http404, HttpResponse
from django.utils.http import parse_etags
from drf_spectacular.renderers import (
    OpenApiJsonRenderer,
    OpenApiJsonRenderer2,
    OpenApiYamlRenderer,
    OpenApiYamlRenderer2,
)
from drf_spectacular.settings import spectacular_settings
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularSwaggerSplitView
from rest_framework.exceptions import NotAcceptable
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from web.api import JSONView

# Swagger UI sets styles on its elements. Everything else is loaded from files of this server.
_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class _YAMLOrJSON(DefaultContentNegotiation):
    def select_renderer(
        self,
        request: Request,
        renderers: Iterable[BaseRenderer],
        format_suffix: str | None = None,
    ) -> tuple[BaseRenderer, str]:
        """Choose by `?format=`, then by `Accept`, else the first renderer."""
        wanted = request.query_params.get("format")
        offered = list(renderers)
        offered = [each for each in offered if each.format == wanted] or offered
        try:
            chosen: tuple[BaseRenderer, str] = super().select_renderer(request, offered)
        except NotAcceptable:
            chosen = offered[0], str(offered[0].media_type)
        return chosen


class SchemaView(JSONView):
    """`GET /api/schema`."""

    renderer_classes = [
        OpenApiYamlRenderer,
        OpenApiYamlRenderer2,
        OpenApiJsonRenderer,
        OpenApiJsonRenderer2,
    ]
    content_negotiation_class = _YAMLOrJSON

    @extend_schema(exclude=True)
    def get(self, request: Request) -> HttpResponse:
        """Return the document, or 304 if `If-None-Match` names its version."""
        renderer = request.accepted_renderer
        # Clients that come at the same time after a start wait for one rendering.
        with _rendering:
            document, etag = _rendered(renderer.format)
        headers = {"ETag": etag, "Cache-Control": "public, max-age=300"}
        known = {tag.removeprefix("W/") for tag in parse_etags(request.META.get(_ETAGS, ""))}
        if known & {etag, "*"}:
            return HttpResponse(status=304, headers=headers)
        name = f"{spectacular_settings.TITLE}.{renderer.format}"
        headers["Content-Disposition"] = f'inline; filename="{name}"'
        return HttpResponse(
            document, content_type=f"{renderer.media_type}; charset=utf-8", headers=headers
        )


_ETAGS = "HTTP_IF_NONE_MATCH"
_rendering = threading.Lock()


@functools.cache
def _rendered(form: Literal["yaml", "json"]) -> tuple[bytes, str]:
    """Return the document and its `ETag`. Rendering takes some 40 ms of CPU time."""
    generator: Any = spectacular_settings.DEFAULT_GENERATOR_CLASS
    schema = generator().get_schema(request=None, public=True)
    renderer: Any = OpenApiYamlRenderer() if form == "yaml" else OpenApiJsonRenderer()
    document: bytes = renderer.render(schema, renderer_context={})
    return document, f'"{hashlib.sha256(document).hexdigest()[:32]}"'


class GuideView(JSONView):
    """`GET /api/guide`: the API guide as text, linked from the document and the page."""

    file = Path(__file__).parents[2] / "docs" / "API.md"

    @extend_schema(exclude=True)
    def get(self, request: Request) -> HttpResponse:
        """Return the guide. It is Markdown, but browsers show only plain text."""
        if not self.file.exists():
            raise Http404
        return HttpResponse(
            self.file.read_bytes(),
            content_type="text/plain; charset=utf-8",
            headers={"Cache-Control": "public, max-age=300"},
        )


class DocsView(JSONView, SpectacularSwaggerSplitView):
    """`GET /api/docs`."""

    template_name = "docs_page.html"

    def finalize_response(
        self, request: Request, response: Response, *args: Any, **kwargs: Any
    ) -> Response:
        """Add the policy that says what the page may load."""
        finished = super().finalize_response(request, response, *args, **kwargs)
        finished["Content-Security-Policy"] = _CONTENT_POLICY
        return finished
