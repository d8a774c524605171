"""The paths of the film surface."""

from collections.abc import Callable

from django.urls import URLPattern, path

from core.api import both_forms, unlisted
from films.services.film_aggregator import FilmAggregatorService
from films.services.film_search import FilmSearchService
from films.views import FilmView, SearchView, StreamingView, TrailerView


def film_paths(
    *,
    get_aggregator: Callable[[], FilmAggregatorService],
    get_search: Callable[[], FilmSearchService],
) -> list[URLPattern]:
    """Return the routes, each view with the service that it asks."""
    film = {"get_aggregator": get_aggregator}
    return [
        *both_forms("search", SearchView.as_view(get_search=get_search)),
        # An id that is missing is as malformed as any other.
        path("films/", unlisted(FilmView.as_view(**film)), {"imdb_id": ""}),
        *both_forms("films/<str:imdb_id>", FilmView.as_view(**film)),
        *both_forms("films/<str:imdb_id>/trailer", TrailerView.as_view(**film)),
        *both_forms("films/<str:imdb_id>/streaming", StreamingView.as_view(**film)),
    ]
