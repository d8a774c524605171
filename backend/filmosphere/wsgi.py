"""The WSGI application that the server runs."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from django.core.wsgi import get_wsgi_application

from core import tracing
from core.postgresql.base import give_back_connections
from filmosphere.startup import (
    limit_connections,
    load_settings_or_exit,
    reach_redis_or_exit,
    start_tracing,
)

if TYPE_CHECKING:
    from core.spans import Spans

load_settings_or_exit(serves=True)
limit_connections()
reach_redis_or_exit()
_django = get_wsgi_application()
# It needs the settings and the applications.
from filmosphere.observation import observe  # noqa: E402
from filmosphere.wiring import fast_path, housekeeper  # noqa: E402
from web.fast_path import Application, Environ, StartResponse, with_fallback  # noqa: E402
from web.request_context import URLCONF  # noqa: E402


def _giving_back(application: Application) -> Application:
    """Give the database connections of a request back in the thread that used them.

    Django does this when the server closes the response. granian closes it in another thread, and
    not at all if it is a list.
    """

    def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        try:
            return application(environ, start_response)
        finally:
            give_back_connections()

    return answer


def _at_operations_port(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return _django({**environ, URLCONF: "api.operations_urls"}, start_response)


def _traced(spans: "Spans", application: Application) -> Application:
    def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        with spans.request(environ):
            return application(environ, start_response)

    return answer


application = _giving_back(with_fallback(fast_path(_django), _django))
operations = _giving_back(_at_operations_port)
housekeeper().start()
observe()
start_tracing()
if tracing.spans:
    application = _traced(tracing.spans, application)
