"""What all our endpoints have in common."""

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.urls import URLPattern, path
from django.views.decorators.csrf import csrf_exempt
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import CharField, DictField, Serializer
from rest_framework.views import APIView


class JSONView(APIView):
    """An endpoint whose `OPTIONS` tells the methods and nothing about its code."""

    # REST framework hands its views a request of its own.
    def options(  # type: ignore[override]
        self, request: Request, *args: Any, **kwargs: Any
    ) -> Response:
        """Answer 204 with `Allow`."""
        return Response(status=204, headers={"Allow": ", ".join(self.allowed_methods)})


class ErrorSerializer(Serializer[dict[str, str]]):
    """The one shape of every error."""

    error_code = CharField(help_text="The HTTP status as text.")
    message = CharField(help_text="What went wrong, in a sentence.")


class StatusSerializer(Serializer[dict[str, str]]):
    """All is well."""

    status = CharField(help_text="Always `ok`.")


class ReadinessSerializer(Serializer[dict[str, Any]]):
    """All is well here; how the sources do is told and decides nothing."""

    status = CharField(help_text="Always `ok`.")
    upstreams = DictField(
        child=CharField(),
        help_text="For each source `open`, or the code for which it is not asked right now.",
    )


def error_body(status: int, message: str) -> dict[str, str]:
    """Return the one shape in which every error is told: status as text, and a sentence."""
    return {"error_code": str(status), "message": message}


def json_error(status: int, message: str) -> JsonResponse:
    """Return an error outside of REST framework's views; nobody may store it."""
    return JsonResponse(
        error_body(status, message), status=status, headers={"Cache-Control": "no-store"}
    )


def unlisted(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """Return `view` without what makes the OpenAPI document list it."""

    @csrf_exempt
    def same_view(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return view(request, *args, **kwargs)

    return same_view


def both_forms(route: str, view: Callable[..., HttpResponseBase]) -> list[URLPattern]:
    """Return `route`, and unlisted the same with, or without, the final slash."""
    other = route.removesuffix("/") if route.endswith("/") else f"{route}/"
    return [path(route, view), path(other, unlisted(view))]


# Without the exemption a POST to nowhere would get Django's HTML page about cookies.
@csrf_exempt
def unknown_route(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
    """Answer 404; routed last, so that Django's own page is not shown in debug either."""
    return json_error(404, "There is nothing at this path.")
