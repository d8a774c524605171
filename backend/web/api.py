"""What all endpoints have in common: the base view, the shape of errors, and routing."""

import functools
import math
from collections.abc import Callable
from typing import Any, NoReturn

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.urls import URLPattern, path
from django.utils.module_loading import import_string
from rest_framework.request import Request
from rest_framework.serializers import CharField, DictField, Serializer
from rest_framework.views import APIView

# The known values of `reason` in an error. Clients must expect others.
REASONS = {
    "invalid_parameter": "a parameter is missing or malformed; the message names it and the rule",
    "invalid_host": "the `Host` header names no host of this service",
    "not_found": "the source has no such title",
    "unknown_route": "there is no such path",
    "method_not_allowed": "`Allow` lists the methods",
    "throttled": "this caller is too fast; `Retry-After` says when to come back",
    "internal_error": "a bug in this service",
    "bad_response": "the source answered something unusable, and nothing is stored",
    "timeout": "the source did not answer in time",
    "unavailable": "the source cannot be reached, or fails",
    "rate_limited": "the source asks for fewer calls",
    "quota_exhausted": "the calls that the source grants for the day or month are used up",
    "not_configured": "the operator has set no key for the source",
    "rejected": "the source rejects the key of this service",
    "deadline": "the time that one request may take ran out",
    "overloaded": "too many requests wait for a source already",
    "database_unavailable": "the database cannot be reached, or lacks migrations",
    "shutting_down": "this process is about to stop",
}


def not_wired() -> Any:
    """Raise `ImproperlyConfigured`. It stands in a view for a service that `as_view()` is given."""
    raise ImproperlyConfigured("as_view() was not given the service that this view needs")


class JSONView(APIView):
    """An endpoint whose `OPTIONS` lists the methods and nothing about its code."""

    def options(  # type: ignore[override]  # REST framework has a request class of its own
        self, request: Request, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """Return 204 with `Allow`."""
        return HttpResponse(status=204, content_type="application/json")


class PlainRequestView(JSONView):
    """A view whose methods get Django's request and return Django's responses.

    REST framework wraps every request to parse bodies and to choose users, versions and media
    types, and computes `Allow` for every response. For a cached answer that is a third of the time.
    """

    # Any: the types of REST framework know no other requests than its own.
    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> HttpResponse:
        """Check the throttles and call the method, with the error handling of REST framework."""
        self.request, self.args, self.kwargs = request, args, kwargs
        self.headers: dict[str, str] = {}
        name = (request.method or "").lower()
        handler = getattr(self, name, None) if name in self.http_method_names else None
        if handler is None or request.method == "OPTIONS":
            self.headers = self.default_response_headers
        try:
            self.check_throttles(request)
            response = (handler or self.http_method_not_allowed)(request, *args, **kwargs)
        # REST framework turns some into responses and raises the others again.
        except Exception as exc:  # noqa: BLE001
            response = self.handle_exception(exc)
        return self.finalize_response(request, response, *args, **kwargs)

    def raise_uncaught_exception(self, exc: Exception) -> NoReturn:
        """Raise `exc`. In debug mode REST framework would look for the renderer first."""
        raise exc


class ErrorSerializer(Serializer[dict[str, str]]):
    """The one shape of every error."""

    error_code = CharField(help_text="The HTTP status as text.")
    message = CharField(help_text="What went wrong, in a sentence for people. It may change.")
    reason = CharField(
        help_text="The cause as a stable word for programs. More values may be added; known are "
        + "; ".join(f"`{word}`: {meaning}" for word, meaning in REASONS.items())
        + "."
    )


class IndexSerializer(Serializer[dict[str, str]]):
    """What this service is, and where to go on."""

    name = CharField(help_text="The name of the service.")
    version = CharField(help_text="The version of the API.")
    documentation = CharField(help_text="Path of a page that describes the API and can try it.")
    openapi = CharField(help_text="Path of the OpenAPI document.")
    health = CharField(help_text="Path that says whether the service can do its work.")


class StatusSerializer(Serializer[dict[str, str]]):
    """The process is fine."""

    status = CharField(help_text="Always `ok`.")


class ReadinessSerializer(Serializer[dict[str, Any]]):
    """The process is ready. The state of the sources is reported and decides nothing."""

    status = CharField(help_text="Always `ok`.")
    upstreams = DictField(
        child=CharField(),
        help_text="For each source `ok`, or the code for which it is not called right now.",
    )


def error_body(status: int, reason: str, message: str) -> dict[str, str]:
    """Return the body of every error: status as text, a sentence, and one of `REASONS`."""
    return {"error_code": str(status), "message": message, "reason": reason}


class ErrorResponse(JsonResponse):
    """The response to every error. No cache may store it.

    `retry_after` is in seconds; the header has at least 1, rounded up. The access log reads
    `error_reason`.
    """

    def __init__(
        self, status: int, reason: str, message: str, *, retry_after: float | None = None
    ) -> None:
        super().__init__(
            error_body(status, reason, message),
            status=status,
            json_dumps_params={"ensure_ascii": False, "separators": (",", ":")},
        )
        self.error_reason = reason
        self["Cache-Control"] = "no-store"
        if retry_after is not None:
            self["Retry-After"] = str(max(1, math.ceil(retry_after)))


def hidden_from_schema(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """Return `view` without the attributes by which the OpenAPI document finds it."""

    def same_view(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return view(request, *args, **kwargs)

    return same_view


def loaded_on_request(name: str, **options: Any) -> Callable[..., HttpResponseBase]:
    """Return the view of the class with this full name, whose module the first request imports."""

    @functools.cache
    def loaded() -> Callable[..., HttpResponseBase]:
        view: type[APIView] = import_string(name)
        return view.as_view(**options)

    def view(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        return loaded()(request, *args, **kwargs)

    view.__name__ = name.rpartition(".")[2]
    return view


def optional_slash(route: str, view: Callable[..., HttpResponseBase]) -> list[URLPattern]:
    """Return `route`, and the same with or without the final slash, hidden from the schema."""
    other = route.removesuffix("/") if route.endswith("/") else f"{route}/"
    return [path(route, view), path(other, hidden_from_schema(view))]


def unknown_route(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
    """Return 404. It is the last route, so that Django's own page is not shown in debug mode."""
    return ErrorResponse(404, "unknown_route", "There is nothing at this path.")
