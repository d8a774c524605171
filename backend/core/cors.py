"""Headers for pages of other origins (https://fetch.spec.whatwg.org/#http-cors-protocol)."""

from typing import cast

from corsheaders.middleware import CorsMiddleware
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers

# What the answers for films say by themselves.
VARY = "Accept-Encoding, Origin"


class CrossOriginMiddleware(CorsMiddleware):
    """Costs those next to nothing who send no `Origin`: apps, servers, pages of our own origin.

    Them it only tells that another one may be answered otherwise.
    """

    async_capable = False

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer, with the CORS headers that the origin is allowed."""
        if "HTTP_ORIGIN" in request.META:
            return cast(HttpResponseBase, super().__call__(request))
        response = cast(HttpResponseBase, self.get_response(request))
        if response.headers.get("Vary") != VARY:
            patch_vary_headers(response, ["Origin"])
        return response
