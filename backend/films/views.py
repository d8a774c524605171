"""The film surface."""

from collections.abc import Callable
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response

from core.errors import Overloaded
from core.imdb_id import parse_imdb_id
from core.search_text import parse_search_text
from core.throttling import AddressThrottle, ThrottledView
from films import openapi
from films.http_caching import accepts_gzip, film_response, part_of
from films.services.film_aggregator import FilmAggregatorService
from films.services.film_answer import FilmAnswer
from films.services.film_search import FilmSearchService

_SEARCH_HEADERS = {"Cache-Control": "public, max-age=60"}


def _not_wired() -> Any:
    raise ImproperlyConfigured("as_view() was not given the service that this view needs")


class SearchThrottle(AddressThrottle):
    """Counts searches."""

    scope = "search"
    rate_setting = "SEARCH_THROTTLE_RATE"


class MissThrottle(AddressThrottle):
    """Counts films that were not in the cache."""

    scope = "miss"
    rate_setting = "FILM_MISS_THROTTLE_RATE"


class SearchView(ThrottledView):
    """`GET /api/search?q=`."""

    get_search: Callable[[], FilmSearchService] = staticmethod(_not_wired)
    throttle_classes = [SearchThrottle]

    @openapi.search_films
    def get(self, request: Request) -> Response:
        """Find films and series by title."""
        query = request.query_params.get("q")
        wanted = parse_search_text(query, "q")
        results = self.get_search().search(wanted)
        return Response({"query": query, "results": results}, headers=_SEARCH_HEADERS)


class _FilmView(ThrottledView):
    get_aggregator: Callable[[], FilmAggregatorService] = staticmethod(_not_wired)

    def answer(self, imdb_id: str, *, gzipped: bool = False) -> FilmAnswer:
        return self.get_aggregator().answer(
            parse_imdb_id(imdb_id), gzipped=gzipped, before_fetch=self._count_miss
        )

    def _count_miss(self) -> None:
        throttle = MissThrottle()
        self.counted_by(throttle)
        if not throttle.allow_request(self.request, self):
            raise Overloaded(
                "Too many films at once that are not in the cache: come back a little later.",
                retry_after=throttle.wait() or 1,
                is_callers_fault=True,
            )


class FilmView(_FilmView):
    """`GET /api/films/{imdb_id}`."""

    @openapi.get_film
    def get(self, request: Request, imdb_id: str) -> HttpResponse:
        """Everything about a film."""
        return film_response(request, self.answer(imdb_id, gzipped=accepts_gzip(request.META)))


class TrailerView(_FilmView):
    """`GET /api/films/{imdb_id}/trailer`."""

    @openapi.get_film_trailer
    def get(self, request: Request, imdb_id: str) -> HttpResponse:
        """The trailer of a film."""
        return film_response(request, part_of(self.answer(imdb_id), "trailer"))


class StreamingView(_FilmView):
    """`GET /api/films/{imdb_id}/streaming`."""

    @openapi.get_film_streaming
    def get(self, request: Request, imdb_id: str) -> HttpResponse:
        """Where a film can be streamed."""
        return film_response(request, part_of(self.answer(imdb_id), "streaming"))
