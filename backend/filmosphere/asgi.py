"""The ASGI application, for hosts that offer nothing else.

The views are synchronous, so each request costs a hop to a thread here: prefer `filmosphere.wsgi`.
"""

from django.core.asgi import get_asgi_application

from filmosphere.startup import load_settings_or_exit, reach_redis_or_exit

load_settings_or_exit(serves=True)
reach_redis_or_exit()
application = get_asgi_application()
