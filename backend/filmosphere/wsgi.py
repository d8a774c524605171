"""The WSGI application that the server runs."""

from django.core.wsgi import get_wsgi_application

from filmosphere.startup import load_settings_or_exit, reach_redis_or_exit

load_settings_or_exit(serves=True)
reach_redis_or_exit()
_django = get_wsgi_application()
# Only now are there settings, and applications loaded.
from filmosphere.wiring import hot_films  # noqa: E402

application = hot_films(_django)
