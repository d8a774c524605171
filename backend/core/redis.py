"""Redis, where there is one: short waits for it, and none at all while it is away."""

import functools
import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

logger = logging.getLogger(__name__)

# redis-py would wait 5 s, for each command and over again.
TIMEOUT = 0.1
# How long nobody asks after a failure; then one caller tries.
REST = 2.0

T = TypeVar("T")

# NoRedisError       Redis did not do what it was asked: go on without
# `- RedisAwayError   it does not answer, or did not a moment ago


class NoRedisError(Exception):
    """Redis did not do what it was asked."""


class RedisAwayError(NoRedisError):
    """Redis does not answer, or did not a moment ago and was not asked."""


class ForgivingRedis:
    """A Redis that may die and come back while the service goes on.

    After a failure to answer nobody waits for it for `rest` seconds; then one caller at a time
    tries, and from the first success on it is used again. Safe to share between threads.
    """

    def __init__(
        self,
        *,
        pool: redis.ConnectionPool,
        rest: float = REST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self.client = redis.Redis(connection_pool=pool)
        self._rest = rest
        self._clock = clock
        self._lock = threading.Lock()
        self._away_until: float | None = None

    def run(self, command: Callable[[redis.Redis], T]) -> T:
        """Return what `command` returns, given a client.

        Raises `RedisAwayError` where Redis does not answer or is left alone for now, `NoRedisError`
        where it refuses: out of memory, read-only, a key of another type.
        """
        self._refuse_while_away()
        try:
            result = command(self.client)
        except (redis.ConnectionError, redis.TimeoutError, OSError) as exc:
            self._went_away(exc)
            raise RedisAwayError(type(exc).__name__) from exc
        except redis.RedisError as exc:
            logger.warning("redis refuses", extra={"outcome": type(exc).__name__})
            raise NoRedisError(type(exc).__name__) from exc
        if self._away_until is not None:
            self._came_back()
        return result

    def _refuse_while_away(self) -> None:
        if self._away_until is None:
            return
        with self._lock:
            now = self._clock()
            if self._away_until is not None and now < self._away_until:
                raise RedisAwayError("away")
            # This caller tries; the others go on without until it knows.
            if self._away_until is not None:
                self._away_until = now + self._rest

    def _went_away(self, exc: Exception) -> None:
        with self._lock:
            is_news = self._away_until is None
            self._away_until = self._clock() + self._rest
        # The idle connections are as dead; kept, each would fail another try.
        self._pool.disconnect(inuse_connections=False)
        timed_out = isinstance(exc, redis.TimeoutError)
        logger.log(
            logging.ERROR if is_news else logging.DEBUG,
            "redis is away",
            extra={
                "outcome": "cache_timeout" if timed_out else "redis_unreachable",
                "error": type(exc).__name__,
            },
        )

    def _came_back(self) -> None:
        with self._lock:
            self._away_until = None
        logger.info("redis is back", extra={"outcome": "cache_up"})


def connection_pool(
    url: str,
    *,
    password: str | None = None,
    db: int | None = None,
    timeout: float = TIMEOUT,
) -> redis.ConnectionPool:
    """Return a pool for the Redis at `url`; `password` and `db` win over what `url` says.

    Neither connecting nor a command takes longer than `timeout` seconds; nothing is tried twice.
    """
    named = {"password": password, "db": db}
    options = parse_url(url) | {  # type: ignore[no-untyped-call]
        **{name: value for name, value in named.items() if value is not None},
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        # More than any process has threads; one too many would look like a Redis that is away.
        "max_connections": 1024,
        # Each saves a round trip whenever a connection is made.
        "protocol": 2,
        "driver_info": None,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    return redis.ConnectionPool(**options)


@functools.cache
def _shared(url: str, password: str | None, db: int | None) -> ForgivingRedis:
    return ForgivingRedis(pool=connection_pool(url, password=password, db=db))


def configured_redis() -> ForgivingRedis | None:
    """Return the process's one Redis, None where the settings name none."""
    if not settings.REDIS_URL:
        return None
    return _shared(settings.REDIS_URL, settings.REDIS_PASSWORD, settings.REDIS_DB)


def ping() -> None:
    """Ask the configured Redis for a sign of life, with more patience than a request has.

    Raises whatever says that there is none.
    """
    pool = connection_pool(
        settings.REDIS_URL, password=settings.REDIS_PASSWORD, db=settings.REDIS_DB, timeout=2.0
    )
    with redis.Redis(connection_pool=pool) as client:
        client.ping()
    pool.disconnect()
