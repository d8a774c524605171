"""The film surface."""

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import SimpleRateThrottle
from rest_framework.views import APIView

from core.api import ErrorSerializer, JSONView
from core.errors import Overloaded
from core.imdb_id import parse_imdb_id
from core.search_text import parse_search_text
from films.serializers import (
    FilmSerializer,
    SearchSerializer,
    StreamingSerializer,
    TrailerSerializer,
)
from films.services.film_aggregator import FilmAggregatorService
from films.services.film_search import FilmSearchService

_FILM_ERRORS = dict.fromkeys((400, 404, 405, 502, 503), ErrorSerializer)
_SEARCH_ERRORS = dict.fromkeys((400, 405, 429, 502, 503), ErrorSerializer)


def _not_wired() -> Any:
    raise ImproperlyConfigured("as_view() was not given the service that this view needs")


class _AddressThrottle(SimpleRateThrottle):
    """Counts something per client address; `rate_setting` names the setting with the rate."""

    rate_setting: str

    def get_rate(self) -> str | None:
        """Return the rate, None for no limit."""
        rate: str | None = getattr(settings, self.rate_setting)
        return rate

    def get_cache_key(self, request: Request, view: APIView) -> str:
        """Return the key under which this client is counted."""
        return f"throttle_{self.scope}_{self.get_ident(request)}"


class SearchThrottle(_AddressThrottle):
    """Counts searches."""

    scope = "search"
    rate_setting = "SEARCH_THROTTLE_RATE"


class MissThrottle(_AddressThrottle):
    """Counts films that were not in the cache."""

    scope = "miss"
    rate_setting = "FILM_MISS_THROTTLE_RATE"


class SearchView(JSONView):
    """`GET /api/search?q=`."""

    get_search: Callable[[], FilmSearchService] = staticmethod(_not_wired)
    throttle_classes = [SearchThrottle]

    @extend_schema(
        operation_id="searchFilms",
        parameters=[OpenApiParameter("q", str, required=True, description="What to look for.")],
        responses={200: SearchSerializer, **_SEARCH_ERRORS},
    )
    def get(self, request: Request) -> Response:
        """Find films and series by title."""
        query = request.query_params.get("q")
        wanted = parse_search_text(query, "q")
        return Response({"query": query, "results": self.get_search().search(wanted)})


class _FilmView(JSONView):
    get_aggregator: Callable[[], FilmAggregatorService] = staticmethod(_not_wired)

    def payload(self, imdb_id: str) -> dict[str, Any]:
        return self.get_aggregator().film(parse_imdb_id(imdb_id), before_fetch=self._count_miss)

    def _count_miss(self) -> None:
        throttle = MissThrottle()
        if not throttle.allow_request(self.request, self):
            raise Overloaded(
                "Too many films at once that are not in the cache: come back a little later.",
                retry_after=throttle.wait() or 1,
                is_callers_fault=True,
            )


class FilmView(_FilmView):
    """`GET /api/films/{imdb_id}`."""

    @extend_schema(operation_id="getFilm", responses={200: FilmSerializer, **_FILM_ERRORS})
    def get(self, request: Request, imdb_id: str) -> Response:
        """Everything about a film."""
        return Response(self.payload(imdb_id))


class TrailerView(_FilmView):
    """`GET /api/films/{imdb_id}/trailer`."""

    @extend_schema(
        operation_id="getFilmTrailer", responses={200: TrailerSerializer, **_FILM_ERRORS}
    )
    def get(self, request: Request, imdb_id: str) -> Response:
        """The trailer of a film."""
        return Response({"imdb_id": imdb_id, "trailer": self.payload(imdb_id)["trailer"]})


class StreamingView(_FilmView):
    """`GET /api/films/{imdb_id}/streaming`."""

    @extend_schema(
        operation_id="getFilmStreaming", responses={200: StreamingSerializer, **_FILM_ERRORS}
    )
    def get(self, request: Request, imdb_id: str) -> Response:
        """Where a film can be streamed."""
        return Response({"imdb_id": imdb_id, "streaming": self.payload(imdb_id)["streaming"]})
