"""The ASGI application, for hosts that offer nothing else.

The views are synchronous, so each request costs a hop to a thread here, and there is no fast path
(`docs/operations/deploy.md`, "Other servers"): prefer `filmosphere.wsgi`.
"""

from django.core.asgi import get_asgi_application

from filmosphere.startup import (
    limit_connections,
    load_settings_or_exit,
    reach_redis_or_exit,
    start_tracing,
)

load_settings_or_exit(serves=True)
limit_connections()
reach_redis_or_exit()
application = get_asgi_application()
# It needs the settings and the applications.
from filmosphere.observation import observe  # noqa: E402
from filmosphere.wiring import housekeeper  # noqa: E402

housekeeper().start()
observe()
start_tracing()
