"""The first steps of every start, and the state of a server process."""

import logging
import os
import sys
import threading
from dataclasses import dataclass, field

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.log import configure_logging

from web.metrics_exchange import Address, ask, own_metrics

logger = logging.getLogger(__name__)

# gunicorn takes this exit status to mean that another worker would not start either.
NO_REDIS = 3


@dataclass
class ServerProcess:
    """The state of this process that its supervisor sets; workers inherit it from there."""

    # Set when the process is about to be stopped.
    stopping: threading.Event = field(default_factory=threading.Event)
    # Where to ask for the metrics of all workers, if there are several.
    metrics_hub: Address = None
    # Whether health and metrics have a port of their own.
    has_operations_port: bool = False
    # A worker that replaces another one starts even if Redis failed meanwhile.
    has_reached_redis: bool = False


process = ServerProcess()


def is_stopping() -> bool:
    """Whether this process is about to be stopped, and should get no more requests."""
    return process.stopping.is_set()


def metrics() -> str:
    """Return the metrics of all workers, in the text format of Prometheus."""
    return ask(process.metrics_hub) if process.metrics_hub else own_metrics()


def load_settings_or_exit(*, serves: bool = False) -> None:
    """Load the settings; a setting that is missing or malformed ends the process.

    Exits with status 1 and one line on standard error that names the setting. To a process that
    `serves`, the database must be configured, unless in debug or with the sandbox.
    """
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "filmosphere.settings")
    try:
        settings.SECRET_KEY  # noqa: B018  (any attribute makes Django import the module)
    except ImproperlyConfigured as exc:
        sys.exit(f"filmosphere: {exc}")
    is_enough = settings.DATABASE_IS_GIVEN or settings.SANDBOX or settings.DEBUG
    if serves and not is_enough:
        sys.exit("filmosphere: DATABASE_URL is missing: films would be lost with this machine")


def limit_connections() -> None:
    """Give this process pooled connections with time limits, which a migration must not have."""
    for alias, options in settings.SERVING_DATABASES.items():
        settings.DATABASES[alias].update(options)


def start_tracing() -> None:
    """Export spans of this process from now on, if the settings ask for it.

    To be called after the last fork: it starts a thread.
    """
    if settings.OTEL_EXPORTER_OTLP_ENDPOINT:
        from filmosphere import traces  # noqa: PLC0415  (an extra, which may not be installed)

        traces.start()


def reach_redis_or_exit() -> None:
    """Make sure that a configured Redis answers, as every server does before it serves.

    Exits with status 3 and an error line in the log if it does not, or if it is a node of a cluster
    or a sentinel, which cannot do what a single Redis does. Of a master with sentinels, it is the
    master that has to answer.
    """
    if not settings.REDIS_URL or process.has_reached_redis:
        return
    import redis  # noqa: PLC0415  (most services have none)

    from core.redis import ping  # noqa: PLC0415  (the same)

    configure_logging(settings.LOGGING_CONFIG, settings.LOGGING)
    try:
        mode = ping(settings.REDIS_URL, password=settings.REDIS_PASSWORD, db=settings.REDIS_DB)
    # TypeError and ValueError: redis-py raises them for invalid options in the query of the URL.
    except (redis.RedisError, OSError, TypeError, ValueError) as exc:
        logger.error(  # noqa: TRY400  (a traceback would hide the line)
            "REDIS_URL is set but Redis cannot be reached",
            extra={"outcome": "redis_unreachable", "error": type(exc).__name__},
        )
        sys.exit(NO_REDIS)
    if mode != "standalone":
        logger.error(
            "REDIS_URL must name a single Redis, or a master as redis+sentinel://",
            extra={"outcome": "redis_unsupported", "mode": mode},
        )
        sys.exit(NO_REDIS)
    process.has_reached_redis = True
