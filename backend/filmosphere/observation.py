"""Connects the metrics with the objects of this process whose state they show."""

import logging
import threading
from collections.abc import Iterable
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS
from django.urls import get_resolver
from prometheus_client import REGISTRY
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from core import metrics
from core.db import DATABASE_FAULTS, release_connection
from core.optional_redis import NoRedisError, configured_redis
from core.postgresql.base import connections_in_use
from core.replica import ALIAS as REPLICA_ALIAS
from core.replica import Replica
from core.services import http_client
from core.services.source import Priority, Source
from core.services.usage import Avoided, tally
from filmosphere import wiring
from films import fast_path
from web.request_context import metrics_of, routes

if TYPE_CHECKING:
    from core.redis import ResilientRedis

logger = logging.getLogger(__name__)

# Why a circuit breaker may be open.
_BREAKER_CODES = (
    "unavailable",
    "timeout",
    "deadline",
    "rate_limited",
    "quota_exhausted",
    "rejected",
)


def observe() -> None:
    """Let the metrics of this process show its state from now on; called once at its start."""
    version = settings.SPECTACULAR_SETTINGS["VERSION"]
    metrics.BUILD_INFO.labels(version, settings.APP_REVISION).set(1)
    metrics.WORKERS.set(1)
    for route in routes(get_resolver().url_patterns):
        metrics.REQUESTS_IN_PROGRESS.labels(route)
    for status, cache in product((200, 304), ("memory", "row")):
        metrics_of(fast_path.ROUTE, status, cache)
    for source in wiring.sources().values():
        _observe_source(source)
    for surface, slots, size in (
        ("films", wiring.miss_slots(), settings.COLD_CONCURRENCY),
        ("cinemix", wiring.movie_miss_slots(), settings.MOVIE_COLD_CONCURRENCY),
    ):
        metrics.MISS_SLOTS_IN_USE.labels(surface).set_function(partial(_in_use, slots, size))
    background = wiring.background()
    metrics.BACKGROUND_QUEUE_LENGTH.set_function(lambda: background.queue_length)
    _observe_connections("primary", DEFAULT_DB_ALIAS)
    # Each process is taken for well until it has asked.
    metrics.DATABASE_UP.set(1)
    replica = wiring.replica()
    if replica:
        _observe_connections("replica", REPLICA_ALIAS)
        metrics.REPLICA_CURRENT.set(1)
        REGISTRY.register(metrics.REPLICA_CURRENT)
    redis = configured_redis()
    if redis:
        metrics.REDIS_UP.set_function(lambda: not redis.is_away)
        REGISTRY.register(metrics.REDIS_UP)
    REGISTRY.register(_Observer(redis=redis, replica=replica))
    # Collectors are asked in the order in which they were registered.
    REGISTRY.register(metrics.UPSTREAM_CALLS_AVOIDED)


def _observe_connections(database: str, alias: str) -> None:
    in_use = partial(connections_in_use, alias)
    metrics.DB_CONNECTIONS_IN_USE.labels(database).set_function(in_use)


def _in_use(slots: threading.Semaphore, size: int) -> int:
    return size - slots._value  # noqa: SLF001  (it has no other way to ask)


def _observe_source(source: Source) -> None:
    for outcome in http_client.OUTCOMES:
        metrics.UPSTREAM_CALLS.labels(source.name, outcome)
        metrics.UPSTREAM_REQUEST_DURATION.labels(source.name, outcome)
    for why in Avoided:
        metrics.UPSTREAM_CALLS_AVOIDED.labels(source.name, why.value)
    for code in _BREAKER_CODES:
        is_open = partial(source.breaker.is_open_for, code)
        metrics.CIRCUIT_BREAKER_OPEN.labels(source.name, code).set_function(is_open)
    for priority in Priority:
        queued = partial(source.queued, priority)
        name = priority.name.lower()
        metrics.UPSTREAM_QUEUE_LENGTH.labels(source.name, name).set_function(queued)
    metrics.UPSTREAM_THREADS_BUSY.labels(source.name).set_function(lambda: source.threads_busy)


class _Observer(Collector):
    """Asks the database, its replica and Redis for their state each time the metrics are read.

    It does so in a thread of its own, and the next reading shows the result: the metrics are there
    when none of them answers.
    """

    def __init__(self, *, redis: "ResilientRedis | None", replica: Replica | None) -> None:
        self._redis = redis
        self._replica = replica
        self._lock = threading.Lock()
        self._is_started = False
        self._is_asked = threading.Event()

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        tally.add_up_hits()
        # Not at the start: a process that forks its workers must not have the thread.
        with self._lock:
            if not self._is_started:
                self._is_started = True
                threading.Thread(target=self._observe, name="observer", daemon=True).start()
        self._is_asked.set()
        return ()

    def _observe(self) -> None:
        while True:
            self._is_asked.wait()
            self._is_asked.clear()
            try:
                if self._redis:
                    self._redis.run(lambda client: client.ping())
            # Its client has logged it, and is in its cool-down.
            except NoRedisError:
                pass
            if self._replica:
                # It shows the result itself.
                self._replica.is_current  # noqa: B018
            try:
                _read_quotas()
                metrics.DATABASE_UP.set(1)
            except DATABASE_FAULTS as exc:
                metrics.DATABASE_UP.set(0)
                logger.warning("quotas could not be read", extra={"outcome": type(exc).__name__})
            finally:
                release_connection()


def _read_quotas() -> None:
    limits = wiring.upstream_limits()
    for name, row in limits.read(wiring.ALL_SOURCES).items():
        left = limits.status(name, row).left
        if left is not None:
            metrics.UPSTREAM_QUOTA_REMAINING.labels(name).set(left)
        else:
            metrics.UPSTREAM_QUOTA_REMAINING.remove(name)
