"""The paths of the Cinemix surface."""

from collections.abc import Callable

from django.urls import URLPattern

from cinemix.movies import MovieService
from cinemix.rate_limiter import RateLimiter
from cinemix.views import MovieView, SearchView
from core.api import both_forms


def movie_paths(
    *, get_movies: Callable[[], MovieService], get_limiter: Callable[[], RateLimiter]
) -> list[URLPattern]:
    """Return the routes, each view with the services that it asks."""
    services = {"get_movies": get_movies, "get_limiter": get_limiter}
    return [
        *both_forms("search/", SearchView.as_view(**services)),
        *both_forms("search/id/", MovieView.as_view(**services)),
    ]
