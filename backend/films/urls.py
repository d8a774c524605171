"""The paths of the film surface."""

from collections.abc import Callable
from typing import Any

from django.urls import URLPattern, path

from films.payload import SECTION_NAMES
from films.services.fan_out import SectionPages
from films.services.film_aggregator import FilmAggregatorService
from films.services.film_cache import FilmCacheService
from films.services.film_search import FilmSearchService
from films.views import (
    SECTION_VIEWS,
    FilmsView,
    FilmView,
    SearchView,
    SectionView,
    SourcesView,
    StreamingView,
)
from web.api import hidden_from_schema, optional_slash


def film_paths(
    *,
    get_aggregator: Callable[[], FilmAggregatorService],
    get_cache: Callable[[], FilmCacheService],
    get_search: Callable[[], FilmSearchService],
    get_pages: Callable[[], SectionPages],
    get_sources: Callable[[], list[dict[str, Any]]],
    regions: tuple[str, ...],
    longest_wait: float,
) -> list[URLPattern]:
    """Return the routes, each view with the services that it calls."""
    film = {"get_aggregator": get_aggregator, "get_cache": get_cache, "longest_wait": longest_wait}
    routes = [
        *optional_slash("search", SearchView.as_view(get_search=get_search)),
        *optional_slash("sources", SourcesView.as_view(get_sources=get_sources)),
        path("films", FilmsView.as_view(**film)),
        # An id that is missing is as malformed as any other.
        path("films/", hidden_from_schema(FilmView.as_view(**film)), {"imdb_id": ""}),
        *optional_slash("films/<str:imdb_id>", FilmView.as_view(**film)),
    ]
    for name in SECTION_NAMES:
        base = SECTION_VIEWS.get(name, SectionView)
        # A class of its own, because the OpenAPI document describes classes.
        view: type[SectionView] = type(f"{name}_view", (base,), {"section": name})
        options: dict[str, Any] = {**film, "get_pages": get_pages}
        if issubclass(view, StreamingView):
            options["regions"] = regions
        routes += optional_slash(f"films/<str:imdb_id>/{name}", view.as_view(**options))
    return routes
