"""Every public path.

/api/search                        find films by text
/api/films/{imdb_id}               everything about a film
/api/films/{imdb_id}/trailer       its trailer
/api/films/{imdb_id}/streaming     where it can be streamed
/api/v1/search/                    find movies by title
/api/v1/search/id/                 the details of a movie
/api/schema, /api/docs             the OpenAPI document; a page to try it
/healthz, /readyz                  process alive; database and migrations fine
/metrics                           counters for Prometheus
"""

from django.urls import include, path, re_path

from cinemix.urls import movie_paths
from core.api import both_forms, unknown_route
from core.docs_page import DocsView, SchemaView
from core.health import HealthView, ReadinessView
from core.metrics_view import MetricsView
from filmosphere import wiring
from filmosphere.startup import is_stopping
from films.urls import film_paths

urlpatterns = [
    path(
        "api/",
        include(film_paths(get_aggregator=wiring.film_aggregator, get_search=wiring.film_search)),
    ),
    path(
        "api/v1/",
        include(movie_paths(get_movies=wiring.movies, get_limiter=wiring.rate_limiter)),
    ),
    *both_forms("api/schema", SchemaView.as_view()),
    *both_forms("api/docs", DocsView.as_view(url="/api/schema")),
    *both_forms("healthz", HealthView.as_view()),
    *both_forms(
        "readyz",
        ReadinessView.as_view(get_upstreams=wiring.upstreams, is_stopping=is_stopping),
    ),
    *both_forms("metrics", MetricsView.as_view()),
    re_path("", unknown_route),
]
