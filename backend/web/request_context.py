"""The outermost middleware: correlation id, log line, and errors as JSON."""

import functools
import logging
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from django.core.exceptions import DisallowedHost, SuspiciousOperation
from django.core.signals import setting_changed
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, URLResolver
from prometheus_client import Counter, Histogram

from core import metrics, tracing
from core.cache_outcome import current_outcome, forget_outcome
from core.utils.logging import correlation_id, film_id
from web.api import ErrorResponse, unknown_route

logger = logging.getLogger(__name__)

# RFC 9110, 8.6: a 204 must not have Content-Length, a 304 need not.
_WITHOUT_BODY = frozenset({204, 304})
_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


# Load balancers, kubelet and Prometheus send an address as `Host`, which is in no configuration.
_FOR_ANY_HOST = frozenset({"/healthz", "/healthz/", "/readyz", "/readyz/", "/metrics", "/metrics/"})
# Our server sets this key of the WSGI environment for requests at the operations port, which are
# for any host: to the module with the paths there.
URLCONF = "filmosphere.urlconf"
# Longer `Host` headers are checked each time, so that callers cannot fill memory with them.
_LONGEST_REMEMBERED_HOST = 300


class RequestContextMiddleware:
    """Sets the correlation id of the request, returns it, and writes the access log.

    It is the outermost middleware, so it also checks the `Host` header: for a host that is not
    allowed, Django's own page is HTML in debug mode.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Return a response in any case, with `X-Correlation-ID`, and log the request."""
        identifier = accepted_id(request.META.get("HTTP_X_CORRELATION_ID", ""))
        started = time.monotonic()
        forget_outcome()
        with in_request_context(identifier):
            response = self._respond(request)
            response["X-Correlation-ID"] = identifier
            response.setdefault("X-Content-Type-Options", "nosniff")
            response.setdefault("Content-Type", "application/json")
            if response.status_code not in _WITHOUT_BODY and not response.streaming:
                response.setdefault("Content-Length", str(len(response.content)))
            log_request(
                _route(request),
                method=request.method,
                path=request.path,
                status=response.status_code,
                started=started,
                cache=current_outcome(),
                reason=getattr(response, "error_reason", ""),
                size=_body_size(request, response),
            )
            return response

    def process_view(self, request: HttpRequest, *_: object) -> None:
        """Count the request as one in progress; Django has just found its route."""
        metrics.REQUESTS_IN_PROGRESS.labels(_route(request)).inc()

    def _respond(self, request: HttpRequest) -> HttpResponse:
        urlconf = request.META.get(URLCONF)
        if urlconf:
            request.urlconf = urlconf
        elif request.path_info not in _FOR_ANY_HOST and not is_allowed_host(request.META):
            return ErrorResponse(
                400, "invalid_host", "This service does not answer to that host name."
            )
        if not request.path_info.startswith("/"):
            # `OPTIONS *`, for which Django has a page of its own.
            return unknown_route(request)
        try:
            return self._get_response(request)
        # Raised by another middleware; Django's own page for it is HTML.
        except Exception as exc:  # noqa: BLE001
            return self.process_exception(request, exc)
        finally:
            if request.resolver_match is not None:
                metrics.REQUESTS_IN_PROGRESS.labels(_route(request)).dec()

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse:
        """Return the response for an unexpected exception: a bug, logged with its traceback."""
        if isinstance(exception, SuspiciousOperation):
            return ErrorResponse(400, "invalid_parameter", "The request is malformed.")
        logger.error("unexpected error", exc_info=exception)
        return ErrorResponse(500, "internal_error", "Something went wrong on our side.")


def routes(patterns: Iterable[URLPattern | URLResolver], prefix: str = "") -> Iterator[str]:
    """Yield the routes under which requests to these URL patterns are counted."""
    for each in patterns:
        route = f"{prefix}{each.pattern}"
        if isinstance(each, URLResolver):
            yield from routes(each.url_patterns, route)
        else:
            yield "unknown" if each.callback is unknown_route else route or "/"


def _route(request: HttpRequest) -> str:
    """Return the URL pattern that matched, "unknown" without one. Paths would be too many."""
    match = request.resolver_match
    if match is None or match.func is unknown_route:
        return "unknown"
    return match.route or "/"


def _body_size(request: HttpRequest, response: HttpResponse) -> int:
    """Return the bytes of the body that is sent."""
    if request.method == "HEAD":
        return 0
    if response.streaming:
        return int(response.get("Content-Length", "0"))
    return len(response.content)


def is_allowed_host(environ: Mapping[str, Any]) -> bool:
    """Whether `HttpRequest.get_host` of Django accepts the host of this WSGI environment."""
    host = environ.get("HTTP_HOST")
    if host is None or len(host) > _LONGEST_REMEMBERED_HOST:
        return _is_accepted(environ)
    return _is_accepted_header(host)


@functools.lru_cache(maxsize=256)
def _is_accepted_header(host: str) -> bool:
    return _is_accepted({"HTTP_HOST": host})


def _is_accepted(environ: Mapping[str, Any]) -> bool:
    request = HttpRequest()
    request.META = dict(environ)
    try:
        request.get_host()
    except DisallowedHost:
        return False
    return True


@receiver(setting_changed)
def _forget_hosts(*, setting: str, **kwargs: object) -> None:
    """Follow tests that override the settings on which hosts depend."""
    if setting in {"ALLOWED_HOSTS", "DEBUG"}:
        _is_accepted_header.cache_clear()


def accepted_id(sent: str) -> str:
    """Return the correlation id that the caller sent if it is harmless, else a new one."""
    if sent and _ACCEPTED_ID.fullmatch(sent):
        return sent
    # Ids have to differ, not to be secret. To read random numbers of the kernel hands the
    # interpreter to another thread, which takes as long as the rest of a hit.
    return f"{random.getrandbits(128):032x}"


class in_request_context:  # noqa: N801  (used as a function)
    """Adds the correlation id and the film to all log lines written within.

    A class, because a generator takes three times as long.
    """

    __slots__ = ("_film", "_identifier", "_tokens")

    def __init__(self, identifier: str, *, film: str = "-") -> None:
        self._identifier, self._film = identifier, film

    def __enter__(self) -> None:
        self._tokens = correlation_id.set(self._identifier), film_id.set(self._film)

    def __exit__(self, *_: object) -> None:
        id_token, film_token = self._tokens
        correlation_id.reset(id_token)
        film_id.reset(film_token)


def log_request(
    route: str,
    *,
    method: str | None,
    path: str,
    status: int,
    started: float,
    cache: str = "none",
    reason: str = "",
    size: int = 0,
) -> None:
    """Count and time an answered request under its `route`, and write its line of the access log.

    `started` is a time of `time.monotonic`. `cache` is where the answer came from, one of
    `core.cache_outcome.OUTCOMES`. `reason` is that of an error, `size` the bytes of the body.
    """
    seconds = time.monotonic() - started
    requests, durations = metrics_of(route, status, cache)
    requests.inc()
    durations.observe(seconds)
    if tracing.spans:
        tracing.spans.note_answer(route, method=method, status=status, cache=cache, reason=reason)
    if logger.isEnabledFor(logging.INFO):
        fields: dict[str, object] = {
            "method": method,
            "path": path,
            "status": status,
            "ms": round(seconds * 1000, 1),
            "bytes": size,
            "cache": cache,
        }
        if reason:
            fields["reason"] = reason
        logger.info("request", extra=fields)


# To find the samples of labels takes the library longer than to count in them.
@functools.cache
def metrics_of(route: str, status: int, cache: str) -> tuple[Counter, Histogram]:
    """Return where requests with these labels are counted and timed."""
    return (
        metrics.REQUESTS.labels(route, status),
        metrics.REQUEST_DURATION.labels(route, status, cache),
    )
