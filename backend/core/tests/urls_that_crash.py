"""The real paths, and some that go wrong in ways that no view of ours is meant to."""

from typing import Any, NoReturn

from django.core.exceptions import SuspiciousOperation
from django.db import InterfaceError, InternalError, OperationalError, ProgrammingError
from django.http import HttpRequest
from django.urls import include, path
from rest_framework.exceptions import Throttled
from rest_framework.request import Request
from rest_framework.response import Response

from core.api import JSONView
from core.errors import (
    DeadlineExceeded,
    InvalidInput,
    UpstreamBadAnswer,
    UpstreamNotFound,
    UpstreamRateLimited,
    UpstreamUnavailable,
)
from core.tests.support import CANARY

ERRORS = {
    "bug": ZeroDivisionError(CANARY),
    "input": InvalidInput("That cannot be meant."),
    "not-found": UpstreamNotFound("imdbapi", "not_found"),
    "bad-answer": UpstreamBadAnswer("imdbapi", "bad_json"),
    "unavailable": UpstreamUnavailable("imdbapi", "http_5xx"),
    "in-3-s": UpstreamUnavailable("imdbapi", "http_5xx", retry_after=2.1),
    "at-once": UpstreamUnavailable("imdbapi", "http_5xx", retry_after=0.0),
    "rate-limited": UpstreamRateLimited("imdbapi", "rate_limited", retry_after=30),
    "deadline": DeadlineExceeded("imdbapi", "deadline"),
    "database": OperationalError("connection to server at 10.0.0.1 failed"),
    "connection": InterfaceError("connection already closed"),
    "read-only": InternalError("cannot execute INSERT in a read-only transaction"),
    "not-migrated": ProgrammingError('relation "films_film" does not exist'),
    "throttled": Throttled(wait=7.5),
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


urlpatterns = [
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
