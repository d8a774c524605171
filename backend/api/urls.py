"""Every public path.

/api/search                        find films by text
/api/films/{imdb_id}               everything about a film
/api/films/{imdb_id}/trailer       its trailer
/api/films/{imdb_id}/streaming     where it can be streamed
/healthz, /readyz                  process alive; database and migrations fine
"""

from django.urls import include, path, re_path

from core.api import both_forms, unknown_route
from core.health import HealthView, ReadinessView
from filmosphere import wiring
from films.urls import film_paths

urlpatterns = [
    path(
        "api/",
        include(film_paths(get_aggregator=wiring.film_aggregator, get_search=wiring.film_search)),
    ),
    *both_forms("healthz", HealthView.as_view()),
    *both_forms("readyz", ReadinessView.as_view()),
    re_path("", unknown_route),
]
