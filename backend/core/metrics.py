"""What is measured for Prometheus (`docs/operations/metrics.md`).

No label ever holds text from a caller or a source: each has a fixed set of values. Samples are
created by the modules that count, or by `filmosphere.observation`, before anything happens, so that
a rate can be computed from the first event on.

Each process measures for itself; `web.metrics_exchange` combines the processes. Gauges are summed
unless their `multiprocess_mode` is another one.
"""

import logging
from collections.abc import Iterator

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from core.utils.logging import NonBlockingHandler

# The time at which each sample was created is not needed, and there are hundreds of them.
disable_created_metrics()  # type: ignore[no-untyped-call]  # missing in its types

# --- Requests

REQUESTS = Counter("filmosphere_requests", "Requests answered.", ["route", "status"])
REQUEST_DURATION = Histogram(
    "filmosphere_request_duration_seconds",
    "Time from the arrival of a request in a thread to its answer.",
    ["route", "status", "cache"],
    buckets=(0.0001, 0.0005, 0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20),
)
REQUESTS_IN_PROGRESS = Gauge(
    "filmosphere_requests_in_progress", "Requests that are being answered.", ["route"]
)
MISS_SLOTS_IN_USE = Gauge(
    "filmosphere_miss_slots_in_use", "Requests that may wait for a source.", ["surface"]
)
MOVIE_CACHE = Counter(
    "filmosphere_movie_cache", "Look-ups in the movie cache of Cinemix.", ["outcome"]
)

# --- Sources

UPSTREAM_CALLS = Counter(
    "filmosphere_upstream_calls", "Attempts to call a film source.", ["source", "outcome"]
)
UPSTREAM_REQUEST_DURATION = Histogram(
    "filmosphere_upstream_request_duration_seconds",
    "Time that an attempt to call a film source took.",
    ["source", "outcome"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
# Registered after the observer, which adds the hits up.
UPSTREAM_CALLS_AVOIDED = Counter(
    "filmosphere_upstream_calls_avoided",
    "Calls that were not made.",
    ["source", "why"],
    registry=None,
)
CIRCUIT_BREAKER_OPEN = Gauge(
    "filmosphere_circuit_breaker_open",
    "1 while a source is not called for this reason, else 0.",
    ["source", "code"],
    multiprocess_mode="max",
)
UPSTREAM_QUOTA_REMAINING = Gauge(
    "filmosphere_upstream_quota_remaining",
    "Calls that a source still grants in its period, where its limit is known.",
    ["source"],
    multiprocess_mode="min",
)
UPSTREAM_QUEUE_LENGTH = Gauge(
    "filmosphere_upstream_queue_length", "Calls that wait for a source.", ["source", "priority"]
)
UPSTREAM_THREADS_BUSY = Gauge(
    "filmosphere_upstream_threads_busy", "Threads that call a source.", ["source"]
)

# --- Background

BACKGROUND_QUEUE_LENGTH = Gauge(
    "filmosphere_background_queue_length", "Films that wait for a fetch in the background."
)
BACKGROUND_JOBS = Counter(
    "filmosphere_background_jobs", "Films handled in the background.", ["outcome"]
)

HOUSEKEEPING_CHORES = Counter(
    "filmosphere_housekeeping_chores",
    "Work of the service on its own tables.",
    ["chore", "outcome"],
)

# --- What the service stands on

DB_QUERY_DURATION = Histogram(
    "filmosphere_db_query_duration_seconds",
    "Time of database work, the wait for a connection included.",
    ["query"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 0.5, 1, 2.5),
)
DB_CONNECTIONS_IN_USE = Gauge(
    "filmosphere_db_connections_in_use", "Connections of the pool that threads use.", ["database"]
)
DATABASE_UP = Gauge(
    "filmosphere_database_up",
    "1 if the database answered when it was last asked, else 0.",
    multiprocess_mode="min",
)
# Registered where there is a Redis.
REDIS_UP = Gauge(
    "filmosphere_redis_up",
    "1 if Redis answered when it was last used, else 0.",
    multiprocess_mode="min",
    registry=None,
)
# Registered where there is a replica.
REPLICA_CURRENT = Gauge(
    "filmosphere_replica_current",
    "1 while stored films are read from the replica first, else 0.",
    multiprocess_mode="min",
    registry=None,
)
WORKERS = Gauge("filmosphere_workers", "Server processes.")
BUILD_INFO = Gauge(
    "filmosphere_build_info", "The version of the service that runs.", ["version", "revision"]
)


class _LogLines(Collector):
    """The lines that the handlers of this process dropped."""

    def collect(self) -> Iterator[Metric]:
        handlers = logging.getLogger().handlers
        yield CounterMetricFamily(
            "filmosphere_log_lines_dropped",
            "Log lines for which there was no room.",
            value=sum(each.dropped for each in handlers if isinstance(each, NonBlockingHandler)),
        )


REGISTRY.register(_LogLines())
