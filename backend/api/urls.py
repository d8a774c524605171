"""Every public path.

/api/search                        find films by text
/api/films/{imdb_id}               everything about a film
/api/films/{imdb_id}/trailer       its trailer
/api/films/{imdb_id}/streaming     where it can be streamed
/api/v1/search/                    find movies by title
/api/v1/search/id/                 the details of a movie
/, /api/                           name, version, and where to go on
/api/schema, /api/docs, /api/guide the OpenAPI document; a page to try it; the guide as text
/healthz, /readyz                  process alive; database and migrations fine
/metrics                           metrics for Prometheus, unless they have a port of their own
"""

from django.urls import include, path, re_path

from api.operations_urls import health_paths, metrics_paths
from cinemix.urls import movie_paths
from filmosphere import startup, wiring
from films.urls import film_paths
from web.api import hidden_from_schema, loaded_on_request, optional_slash, unknown_route
from web.index import IndexView

_index = IndexView.as_view(version=wiring.version())

urlpatterns = [
    # First, because Django would try all paths of films before these.
    path(
        "api/v1/",
        include(movie_paths(get_movies=wiring.movies, get_limiter=wiring.rate_limiter)),
    ),
    path(
        "api/",
        include(
            film_paths(
                get_aggregator=wiring.film_aggregator,
                get_cache=wiring.film_cache,
                get_search=wiring.film_search,
                get_pages=wiring.section_pages,
                get_sources=wiring.source_infos,
                regions=wiring.regions(),
                longest_wait=wiring.longest_wait(),
            )
        ),
    ),
    path("", _index),
    path("api", hidden_from_schema(_index)),
    path("api/", hidden_from_schema(_index)),
    # The generator of the document takes a tenth of the time and the memory of a start.
    *optional_slash("api/schema", loaded_on_request("web.docs_page.SchemaView")),
    *optional_slash("api/guide", loaded_on_request("web.docs_page.GuideView")),
    *optional_slash("api/docs", loaded_on_request("web.docs_page.DocsView", url="/api/schema")),
    *health_paths,
    *([] if startup.process.has_operations_port else metrics_paths),
    re_path("", unknown_route),
]
