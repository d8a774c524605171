"""The Cinemix surface."""

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse
from pydantic import BaseModel
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from cinemix import errors
from cinemix.fast_path import DECISION, envelope, movie_id_of, search_of
from cinemix.known_answers import SEARCH_SECONDS
from cinemix.movies import MovieService
from cinemix.rate_limiter import Decision, RateLimiter
from web.api import PlainRequestView, not_wired
from web.client_address import client_address
from web.throttling import ThrottledView, rate_limit_headers


class ClientThrottle(BaseThrottle):
    """Applies the rate limiter per client address."""

    def __init__(self, limiter: RateLimiter, client: str) -> None:
        self._limiter = limiter
        self._client = client
        self._decision: Decision | None = None

    def allow_request(self, request: HttpRequest, view: APIView) -> bool:
        """Count the request, and return whether it is admitted."""
        decision: Decision = request.META.get(DECISION) or self._limiter.check(self._client)
        self._decision = decision
        return decision.admitted

    def wait(self) -> float:
        """Return the seconds until the next request can be admitted."""
        return self._decision.retry_after if self._decision else 0.0

    def headers(self) -> dict[str, str]:
        """Return the limit, the remaining requests, and the seconds until the window is empty."""
        if self._decision is None:
            return {}
        return rate_limit_headers(
            limit=self._limiter.limit,
            remaining=self._decision.remaining,
            reset=self._decision.reset,
        )


class _CinemixView(ThrottledView, PlainRequestView):
    get_movies: Callable[[], MovieService] = staticmethod(not_wired)
    get_limiter: Callable[[], RateLimiter] = staticmethod(not_wired)

    def get_throttles(self) -> list[BaseThrottle]:
        # Other methods are refused with 405 or are CORS preflight requests.
        counts = self.request.method in {"GET", "HEAD"}
        if not counts:
            return []
        self.client = client_address(self.request)
        throttle = ClientThrottle(self.get_limiter(), self.client)
        self.counted_by(throttle)
        return [throttle]

    def get_exception_handler(self) -> Callable[[Exception, dict[str, Any]], HttpResponse | None]:
        return errors.error_response


class SearchView(_CinemixView):
    """`GET /api/v1/search/?query=`."""

    def get(self, request: HttpRequest) -> HttpResponse:
        """Find movies, series, episodes and games by title."""
        query, page = search_of(request)
        results = self.get_movies().search(query, page, client=self.client)
        return _success(results, max_age=SEARCH_SECONDS)


class MovieView(_CinemixView):
    """`GET /api/v1/search/id/?id=`."""

    def get(self, request: HttpRequest) -> HttpResponse:
        """Return the details of a title."""
        imdb_id = movie_id_of(request)
        cached = self.get_movies().details(imdb_id, client=self.client)
        return _success(cached.movie, max_age=cached.seconds_left)


def _success(data: BaseModel, *, max_age: int) -> HttpResponse:
    """Return `data` in the envelope; `max_age` is in seconds."""
    return HttpResponse(
        envelope(data),
        content_type="application/json",
        headers={"Cache-Control": f"public, max-age={max_age}"},
    )
