"""The real paths, and some that fail in ways in which no real view should."""

from typing import Any, NoReturn

from django.core.exceptions import SuspiciousOperation
from django.db import InterfaceError, InternalError, OperationalError, ProgrammingError
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import include, path
from rest_framework.exceptions import Throttled
from rest_framework.request import Request
from rest_framework.response import Response

from core.cache_outcome import note_outcome
from core.errors import (
    DeadlineExceeded,
    InvalidInput,
    Overloaded,
    UpstreamBadAnswer,
    UpstreamNotConfigured,
    UpstreamNotFound,
    UpstreamQuotaExhausted,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from core.tests.support import CANARY
from web.api import JSONView

ERRORS = {
    "bug": ZeroDivisionError(CANARY),
    "input": InvalidInput("That cannot be meant."),
    "no-route": Http404(),
    "too-fast": Overloaded("Too many.", retry_after=2.5, is_callers_fault=True),
    "too-busy": Overloaded("Too busy.", retry_after=1),
    "not-found": UpstreamNotFound("imdbapi", "not_found"),
    "bad-answer": UpstreamBadAnswer("imdbapi", "bad_json"),
    "unavailable": UpstreamUnavailable("imdbapi", "http_5xx"),
    "in-3-s": UpstreamUnavailable("imdbapi", "http_5xx", retry_after=2.1),
    "at-once": UpstreamUnavailable("imdbapi", "http_5xx", retry_after=0.0),
    "in-an-instant": UpstreamUnavailable("imdbapi", "http_5xx", retry_after=0.01),
    "timeout": UpstreamTimeout("imdbapi", "http_response_timeout"),
    "quota": UpstreamQuotaExhausted("imdbapi", "quota"),
    "no-key": UpstreamNotConfigured("imdbapi", "no_key"),
    "bad-key": UpstreamRejected("imdbapi", "bad_key"),
    "rate-limited": UpstreamRateLimited("imdbapi", "rate_limited", retry_after=30),
    "deadline": DeadlineExceeded("imdbapi", "deadline"),
    "database": OperationalError("connection to server at 10.0.0.1 failed"),
    "connection": InterfaceError("connection already closed"),
    "read-only": InternalError("cannot execute INSERT in a read-only transaction"),
    "not-migrated": ProgrammingError('relation "films_film" does not exist'),
    "throttled": Throttled(wait=7.5),
    "throttled-for-unknown-time": Throttled(),
    "suspicious": SuspiciousOperation("too many fields"),
}


class Crash(JSONView):
    def get(self, request: Request, error: str) -> NoReturn:
        raise ERRORS[error]


class Unprintable(JSONView):
    def get(self, request: Request) -> Response:
        return Response({"not JSON": object()})


def plain_crash(request: HttpRequest, **_: Any) -> NoReturn:
    raise ZeroDivisionError


def from_a_row(request: HttpRequest) -> HttpResponse:
    note_outcome("row")
    return HttpResponse(b"{}", content_type="application/json")


urlpatterns = [
    path("from-a-row", from_a_row),
    path("crash/plain", plain_crash),
    path("crash/unprintable", Unprintable.as_view()),
    path("crash/<error>", Crash.as_view()),
    path("", include("api.urls")),
]


class FaultyMiddleware:
    """Fails at every request."""

    def __init__(self, get_response: object) -> None:
        pass

    def __call__(self, request: HttpRequest) -> NoReturn:
        raise ZeroDivisionError
