"""Headers for pages of other origins (https://fetch.spec.whatwg.org/#http-cors-protocol)."""

import functools
from typing import cast

from corsheaders.middleware import CorsMiddleware
from django.core.signals import setting_changed
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers

# The `Vary` of responses that exist plain and as gzip.
VARY = "Accept-Encoding, Origin"
# Longer `Origin` headers are checked each time, so that callers cannot fill memory with them.
_LONGEST_REMEMBERED_ORIGIN = 300


class CrossOriginMiddleware(CorsMiddleware):
    """The library's middleware, without its cost for requests that have no `Origin`.

    Those come from apps, servers and pages of our own origin. Their responses only say that one
    for another origin may differ.
    """

    async_capable = False

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Return the response, with the CORS headers that the origin gets."""
        if "HTTP_ORIGIN" in request.META:
            return cast(HttpResponseBase, super().__call__(request))
        response = cast(HttpResponseBase, self.get_response(request))
        if response.headers.get("Vary") != VARY:
            patch_vary_headers(response, ["Origin"])
        return response


def cors_headers(origin: str | None) -> list[tuple[str, str]]:
    """Return the CORS headers that the middleware adds to a GET or HEAD from this origin.

    Empty for no origin and for one that is not allowed. `Vary` is not among them: it belongs to
    every response, see `VARY`.
    """
    if origin is None:
        return []
    if len(origin) > _LONGEST_REMEMBERED_ORIGIN:
        return list(_headers_of_the_middleware(origin))
    return list(_remembered_headers(origin))


def _headers_of_the_middleware(origin: str) -> tuple[tuple[str, str], ...]:
    request = HttpRequest()
    request.method, request.path_info = "GET", "/"
    request.META["HTTP_ORIGIN"] = origin
    response = CrossOriginMiddleware(lambda _: HttpResponse())(request)
    return tuple(item for item in response.items() if item[0].startswith("access-control-"))


@functools.lru_cache(maxsize=256)
def _remembered_headers(origin: str) -> tuple[tuple[str, str], ...]:
    return _headers_of_the_middleware(origin)


@receiver(setting_changed)
def _forget_origins(*, setting: str, **kwargs: object) -> None:
    """Follow tests that override the settings on which the headers depend."""
    if setting.startswith("CORS_"):
        _remembered_headers.cache_clear()
