"""Routes of the Cinemix surface."""

from collections.abc import Callable

from django.urls import URLPattern

from cinemix.movies import MovieService
from cinemix.rate_limiter import RateLimiter
from cinemix.views import MovieView, SearchView
from web.api import optional_slash


def movie_paths(
    *, get_movies: Callable[[], MovieService], get_limiter: Callable[[], RateLimiter]
) -> list[URLPattern]:
    """Return the routes of the two endpoints, whose views use the given services."""
    services = {"get_movies": get_movies, "get_limiter": get_limiter}
    return [
        *optional_slash("search/", SearchView.as_view(**services)),
        *optional_slash("search/id/", MovieView.as_view(**services)),
    ]
