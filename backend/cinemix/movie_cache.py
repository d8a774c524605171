"""The movies that were asked for of late: in Redis, or in process memory without one."""

import functools
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta
from typing import cast

from django.conf import settings
from pydantic import BaseModel, ValidationError

from cinemix.dtos import MovieDetails
from core import metrics
from core.redis import ForgivingRedis, NoRedisError, configured_redis

logger = logging.getLogger(__name__)

# Some ten thousand movies.
MEMORY_BYTES = 16_000_000


def get_movie(movie_id: str) -> MovieDetails | None:
    """Return the movie kept under the id, None for a miss."""
    return _configured().get(movie_id)


def peek_movie(movie_id: str) -> MovieDetails | None:
    """Return what `get_movie` would, without counting a hit or a miss."""
    return _configured().peek(movie_id)


def cache_movie(movie_id: str, movie_obj: BaseModel) -> None:
    """Keep the movie for `CACHE_TTL` seconds; whatever was under the id is gone."""
    _configured().put(movie_id, movie_obj)


@functools.cache
def _configured() -> "MovieCache":
    return MovieCache(redis=configured_redis(), ttl=settings.MOVIE_CACHE_TTL)


class MemoryStore:
    """Values by key, each for a while, together no more than `max_bytes`."""

    def __init__(self, *, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._values: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._bytes = 0

    def get(self, key: str) -> bytes | None:
        """Return the value, None where there is none or its time is over."""
        with self._lock:
            value, until = self._values.get(key, (None, 0.0))
            return value if self._clock() < until else None

    def put(self, key: str, value: bytes, ttl: float) -> None:
        """Keep the value for `ttl` seconds; the oldest ones make room for it."""
        with self._lock:
            self._remove(key)
            self._values[key] = (value, self._clock() + ttl)
            self._bytes += len(key) + len(value)
            while self._bytes > self._max_bytes:
                self._remove(next(iter(self._values)))

    def _remove(self, key: str) -> None:
        value, _ = self._values.pop(key, (None, 0.0))
        if value is not None:
            self._bytes -= len(key) + len(value)


class MovieCache:
    """Keeps movies as JSON under `movie_<id>` for `ttl`.

    `redis` is None where there is none. While it is away the memory of the process stands in.
    """

    def __init__(
        self,
        *,
        redis: ForgivingRedis | None,
        ttl: timedelta,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._ttl = int(ttl.total_seconds())
        self._memory = MemoryStore(max_bytes=MEMORY_BYTES, clock=clock)

    def get(self, movie_id: str) -> MovieDetails | None:
        """Return the movie; None for a miss, which a value that is no such movie is too."""
        movie = self.peek(movie_id)
        outcome = "hit" if movie else "miss"
        metrics.MOVIE_CACHE.labels(outcome).inc()
        logger.log(logging.INFO if movie else logging.WARNING, "movie cache %s", outcome)
        return movie

    def peek(self, movie_id: str) -> MovieDetails | None:
        """Return what `get` would, without counting and telling it."""
        return _movie(movie_id, self._read(_key(movie_id)))

    def put(self, movie_id: str, movie: BaseModel) -> None:
        """Keep the movie in place of what there was under its id."""
        key, value = _key(movie_id), movie.model_dump_json().encode()
        if self._redis:
            try:
                self._redis.run(lambda client: client.set(key, value, ex=self._ttl))
            except NoRedisError as exc:
                logger.warning("movie not kept in redis", extra={"outcome": str(exc)})
            else:
                return
        self._memory.put(key, value, self._ttl)

    def _read(self, key: str) -> bytes | None:
        if self._redis:
            try:
                return cast("bytes | None", self._redis.run(lambda client: client.get(key)))
            except NoRedisError as exc:
                logger.debug("redis not read", extra={"outcome": str(exc)})
        return self._memory.get(key)


def _key(movie_id: str) -> str:
    return f"movie_{movie_id}"


def _movie(movie_id: str, value: bytes | None) -> MovieDetails | None:
    if value is None:
        return None
    try:
        movie = MovieDetails.model_validate_json(value, by_name=True, by_alias=False)
    except ValidationError:
        logger.warning("unreadable movie in the cache", extra={"outcome": "bad_value"})
        return None
    return movie if movie.id == movie_id else None
