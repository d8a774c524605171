"""The Cinemix surface."""

import re
from collections.abc import Callable
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from cinemix import errors, openapi
from cinemix.dtos import MovieAnswer, MovieResultsAnswer
from cinemix.movies import MovieService
from cinemix.rate_limiter import RateLimiter, Verdict
from core.errors import InvalidInput
from core.imdb_id import parse_imdb_id
from core.search_text import parse_search_text
from core.throttling import ThrottledView, rate_limit_headers


def _not_wired() -> Any:
    raise ImproperlyConfigured("as_view() was not given what this view needs")


class ClientThrottle(BaseThrottle):
    """Lets the rate limiter decide, per client address behind `NUM_PROXIES` proxies."""

    def __init__(self, limiter: RateLimiter) -> None:
        self._limiter = limiter
        self._verdict: Verdict | None = None

    def allow_request(self, request: Request, view: APIView) -> bool:
        """Whether the request is admitted."""
        verdict = self._verdict = self._limiter.check(self.get_ident(request))
        return verdict.admitted

    def wait(self) -> float:
        """Return the seconds until there is room for another one."""
        return self._verdict.retry_after if self._verdict else 0.0

    def headers(self) -> dict[str, str]:
        """Return limit, what is left of it, and the seconds until all of it is back."""
        if self._verdict is None:
            return {}
        return rate_limit_headers(
            limit=self._limiter.limit,
            remaining=self._verdict.remaining,
            reset=self._verdict.reset,
        )


class _CinemixView(ThrottledView):
    get_movies: Callable[[], MovieService] = staticmethod(_not_wired)
    get_limiter: Callable[[], RateLimiter] = staticmethod(_not_wired)

    def get_throttles(self) -> list[BaseThrottle]:
        # The others are refused anyway, or are a browser's question before the request.
        counts = self.request.method in {"GET", "HEAD"}
        if not counts:
            return []
        throttle = ClientThrottle(self.get_limiter())
        self.counted_by(throttle)
        return [throttle]

    def get_exception_handler(self) -> Callable[[Exception, dict[str, Any]], Response | None]:
        return errors.error_response


class SearchView(_CinemixView):
    """`GET /api/v1/search/?query=`."""

    @openapi.search_movies
    def get(self, request: Request) -> Response:
        """Find movies, series, episodes and games by title."""
        query = parse_search_text(request.query_params.get("query"), "query")
        page = _page(request.query_params.get("page", "1"))
        return Response(MovieResultsAnswer(data=self.get_movies().search(query, page)).model_dump())


class MovieView(_CinemixView):
    """`GET /api/v1/search/id/?id=`."""

    @openapi.get_movie
    def get(self, request: Request) -> Response:
        """The details of a title."""
        imdb_id = parse_imdb_id(request.query_params.get("id", ""))
        return Response(MovieAnswer(data=self.get_movies().details(imdb_id)).model_dump())


def _page(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}", text, re.ASCII) or not 1 <= int(text) <= openapi.LAST_PAGE:
        raise InvalidInput(f"'page' is a whole number from 1 to {openapi.LAST_PAGE}.")
    return int(text)
