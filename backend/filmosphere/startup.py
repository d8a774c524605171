"""What every way of starting the project does first."""

import logging
import os
import sys
from pathlib import Path
from typing import cast

import redis
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.log import configure_logging

from core.redis import ping

logger = logging.getLogger(__name__)

# Set for server processes by whoever started them and asked Redis already: one that is replaced
# later must come up even if Redis has died meanwhile.
REDIS_WAS_THERE = "FILMOSPHERE_REDIS_WAS_THERE"
# Names a file that whoever started the server processes makes before it stops them.
STOPPING = "FILMOSPHERE_STOPPING"
# gunicorn takes this status to mean that starting another worker is of no use.
NO_REDIS = 3


def load_settings_or_exit(*, serves: bool = False) -> None:
    """Load the settings; a setting that is missing or malformed ends the process.

    Exits with status 1 and one line on standard error that names the setting. In a process that
    `serves`, queries have the time limits that a migration must not have.
    """
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "filmosphere.settings")
    try:
        settings.SECRET_KEY  # noqa: B018  (any attribute makes Django import the module)
    except ImproperlyConfigured as exc:
        sys.exit(f"filmosphere: {exc}")
    if serves:
        options = cast("dict[str, object]", settings.DATABASES["default"]["OPTIONS"])
        options.update(settings.SERVING_DATABASE_OPTIONS)


def is_stopping() -> bool:
    """Whether this process is about to be stopped, and should get no more requests."""
    return Path(os.environ[STOPPING]).exists() if STOPPING in os.environ else False


def reach_redis_or_exit() -> None:
    """Make sure that a Redis that is configured answers, as every server does before it serves.

    Exits with status 3 and an error line in the log where it does not.
    """
    if not settings.REDIS_URL or REDIS_WAS_THERE in os.environ:
        return
    configure_logging(settings.LOGGING_CONFIG, settings.LOGGING)
    try:
        ping()
    # TypeError and ValueError: what redis-py says to odd options in the query of the URL.
    except (redis.RedisError, OSError, TypeError, ValueError) as exc:
        logger.error(  # noqa: TRY400  (the line says all; a traceback would bury it)
            "REDIS_URL is set but Redis cannot be reached",
            extra={"outcome": "redis_unreachable", "error": type(exc).__name__},
        )
        sys.exit(NO_REDIS)
