"""The optional Redis: a client that survives its failures, and Django's cache on top of it."""

import functools
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import redis
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.core.cache.backends.locmem import LocMemCache
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from core.optional_redis import SENTINEL_SCHEME, NoRedisError, RedisUnavailableError
from core.utils.stored_json import json_or

logger = logging.getLogger(__name__)

# Seconds for connecting and for each command. The default of redis-py is 5 s, for every call.
TIMEOUT = 0.1
_SENTINEL_PORT = 26_379
# Seconds without any attempt after a failure.
COOL_DOWN = 2.0

T = TypeVar("T")

_MISSING = object()


class _Client(redis.Redis):
    """The library's client, without what it does around each command.

    It prepares retries and counts for OpenTelemetry, which takes longer than the command.
    """

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command and return its reply."""
        connection = self.connection_pool.get_connection()
        try:
            # Either closes the connection if it fails.
            connection.send_command(*args)  # type: ignore[no-untyped-call]
            return self.parse_response(connection, args[0], **options)  # type: ignore[no-untyped-call]
        finally:
            self.connection_pool.release(connection)


class ResilientRedis:
    """A Redis that may fail and return while the service runs.

    After a connection failure no command is tried for `cool_down` seconds. Then one caller at a
    time tries, and the first success ends the failure. Safe to share between threads.
    """

    def __init__(
        self,
        *,
        pool: redis.ConnectionPool,
        cool_down: float = COOL_DOWN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self.client = _Client(connection_pool=pool)
        self._cool_down = cool_down
        self._clock = clock
        self._lock = threading.Lock()
        self._unavailable_until: float | None = None

    @property
    def is_away(self) -> bool:
        """Whether Redis did not answer the last time."""
        return self._unavailable_until is not None

    def run(self, command: Callable[[redis.Redis], T]) -> T:
        """Return what `command` returns, given a client.

        Raises `RedisUnavailableError` if Redis does not answer or is in its cool-down,
        `NoRedisError` if it refuses the command: out of memory, read-only, a key of another type.
        """
        self._refuse_while_away()
        try:
            result = command(self.client)
        except (redis.ConnectionError, redis.TimeoutError, OSError) as exc:
            self._note_failure(exc)
            raise RedisUnavailableError(type(exc).__name__) from exc
        except redis.RedisError as exc:
            logger.warning("redis refused a command", extra={"outcome": type(exc).__name__})
            raise NoRedisError(type(exc).__name__) from exc
        if self._unavailable_until is not None:
            self._came_back()
        return result

    def _refuse_while_away(self) -> None:
        if self._unavailable_until is None:
            return
        with self._lock:
            now = self._clock()
            if self._unavailable_until is not None and now < self._unavailable_until:
                raise RedisUnavailableError("unavailable")
            # This caller tries; the others are refused until the result is known.
            if self._unavailable_until is not None:
                self._unavailable_until = now + self._cool_down

    def _note_failure(self, exc: Exception) -> None:
        with self._lock:
            is_new = self._unavailable_until is None
            self._unavailable_until = self._clock() + self._cool_down
        # The idle connections are broken as well; each of them would fail another attempt.
        self._pool.disconnect(inuse_connections=False)
        timed_out = isinstance(exc, redis.TimeoutError)
        logger.log(
            logging.ERROR if is_new else logging.DEBUG,
            "redis is unavailable",
            extra={
                "outcome": "cache_timeout" if timed_out else "redis_unreachable",
                "error": type(exc).__name__,
            },
        )

    def _came_back(self) -> None:
        with self._lock:
            self._unavailable_until = None
        logger.info("redis is back", extra={"outcome": "cache_up"})


def connection_pool(
    url: str,
    *,
    password: str | None = None,
    db: int | None = None,
    timeout: float = TIMEOUT,
) -> redis.ConnectionPool:
    """Return a pool for the Redis at `url`; `password` and `db` override those of the URL.

    With `redis+sentinel://user:password@sentinel:26379,sentinel:26379/name/0` it is the master that
    the sentinels know by this name. They are asked for each new connection, without user and
    password.
    Neither connecting nor a command takes longer than `timeout` seconds, nor does the question to
    each sentinel. Nothing is retried.
    """
    patience: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        # Each of these saves a round trip per new connection.
        "protocol": 2,
        "driver_info": None,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    named = {"password": password, "db": db}
    options = patience | {name: value for name, value in named.items() if value is not None}
    # More than any process has threads: an exhausted pool would look like a failed Redis.
    options["max_connections"] = 1024
    if not url.startswith(SENTINEL_SCHEME):
        return redis.ConnectionPool(**parse_url(url) | options)  # type: ignore[no-untyped-call]
    login, _, rest = url.removeprefix(SENTINEL_SCHEME).rpartition("@")
    hosts, name, *number = rest.split("/")
    # What redis-py reads from an address is all the same, apart from the host.
    options = parse_url(f"redis://{login}@/{''.join(number)}") | options  # type: ignore[no-untyped-call]
    sentinels = Sentinel(  # type: ignore[no-untyped-call]
        [_host_and_port(each) for each in hosts.split(",")], sentinel_kwargs=patience
    )
    return SentinelConnectionPool(name, sentinels, **options)  # type: ignore[no-untyped-call]


def _host_and_port(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "", parts.port or _SENTINEL_PORT


@functools.cache
def shared_redis(url: str, *, password: str | None = None, db: int | None = None) -> ResilientRedis:
    """Return the process's only client of this Redis, so that all its users share the cool-down."""
    return ResilientRedis(pool=connection_pool(url, password=password, db=db))


def ping(url: str, *, password: str | None = None, db: int | None = None) -> str:
    """Send one PING to the Redis at `url`, with more patience than a request has.

    Returns its mode: `standalone`, `cluster` or `sentinel`. Raises `redis.RedisError`, `OSError`,
    or `TypeError` or `ValueError` for a malformed URL.
    """
    pool = connection_pool(url, password=password, db=db, timeout=2.0)
    with redis.Redis(connection_pool=pool) as client:
        client.ping()
        try:
            mode = str(client.info("server").get("redis_mode", "standalone"))
        except redis.ResponseError:
            # The user may lack the permission to ask.
            mode = "standalone"
    pool.disconnect()
    return mode


class ResilientRedisCache(BaseCache):
    """Django's cache in Redis, with the memory of the process as a substitute while Redis fails.

    So limits still count during a failure, in each process separately. `LOCATION` is the URL; the
    options `PASSWORD` and `DB` override those of the URL. Values are stored as JSON, so reading one
    never executes code; a value that cannot be read is a miss.
    """

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)
        options = params.get("OPTIONS", {})
        self.location = location
        self.redis = shared_redis(location, password=options.get("PASSWORD"), db=options.get("DB"))
        # LocMemCache keeps one store per name, which all threads of the process share.
        self._substitute = LocMemCache(f"substitute for {location}", params)

    def validate_key(self, key: str) -> None:
        """Accept the key. Django would look at each character for the sake of memcached."""

    def add(
        self,
        key: Any,
        value: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> bool:
        """Store the value unless the key exists; return whether it was stored."""
        name, data = self.make_and_validate_key(key, version), json.dumps(value)
        lifetime = self._lifetime(timeout)
        return self._run(
            lambda client: bool(client.set(name, data, px=lifetime, nx=True)),
            lambda: self._substitute.add(key, value, timeout, version),
        )

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """Return the value; `default` if there is none or it cannot be read."""
        name = self.make_and_validate_key(key, version)
        return self._run(
            lambda client: _decoded(client.get(name), default),
            lambda: self._substitute.get(key, default, version),
        )

    def set(
        self,
        key: Any,
        value: Any,
        timeout: float | None = DEFAULT_TIMEOUT,
        version: int | None = None,
    ) -> None:
        """Store the value in place of what the key holds, whatever type that is."""
        name, data = self.make_and_validate_key(key, version), json.dumps(value)
        lifetime = self._lifetime(timeout)
        self._run(
            lambda client: client.set(name, data, px=lifetime),
            lambda: self._substitute.set(key, value, timeout, version),
        )

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        """Return the values that exist and can be read, in one round trip."""
        names = {key: self.make_and_validate_key(key, version) for key in keys}

        def read(client: redis.Redis) -> dict[Any, Any]:
            found = zip(names, client.mget(list(names.values())), strict=True)
            values = ((key, _decoded(data, _MISSING)) for key, data in found)
            return {key: value for key, value in values if value is not _MISSING}

        return self._run(read, lambda: self._substitute.get_many(names, version))

    def touch(
        self, key: Any, timeout: float | None = DEFAULT_TIMEOUT, version: int | None = None
    ) -> bool:
        """Give the key a new lifetime; return whether it exists."""
        name, lifetime = self.make_and_validate_key(key, version), self._lifetime(timeout)
        return self._run(
            lambda client: bool(
                client.persist(name) if lifetime is None else client.pexpire(name, lifetime)
            ),
            lambda: self._substitute.touch(key, timeout, version),
        )

    def delete(self, key: Any, version: int | None = None) -> bool:
        """Remove the key; return whether it existed."""
        name = self.make_and_validate_key(key, version)
        return self._run(
            lambda client: bool(client.delete(name)),
            lambda: self._substitute.delete(key, version),
        )

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Add `delta` in one step and return the sum; `ValueError` if the key does not exist."""
        name = self.make_and_validate_key(key, version)

        def add(client: redis.Redis) -> int:
            if not client.exists(name):
                raise ValueError(f"Key {key!r} not found")
            return int(client.incrby(name, delta))

        return self._run(add, lambda: self._substitute.incr(key, delta, version))

    def clear(self) -> None:
        """Remove what this cache stored; other keys of the same database stay."""

        def delete_all(client: redis.Redis) -> None:
            for name in client.scan_iter(match=self.make_key("*"), count=1000):
                client.delete(name)

        self._substitute.clear()
        self._run(delete_all, lambda: None)

    def _lifetime(self, timeout: float | None) -> int | None:
        """Return the milliseconds that a value is kept, None if it never expires."""
        seconds = self.default_timeout if timeout is DEFAULT_TIMEOUT else timeout
        # Redis refuses 0; a millisecond has the same effect.
        return None if seconds is None else max(1, int(seconds * 1000))

    def _run(self, command: Callable[[redis.Redis], T], substitute: Callable[[], T]) -> T:
        try:
            return self.redis.run(command)
        except NoRedisError as exc:
            logger.warning("cache failed", extra={"outcome": str(exc)})
            return substitute()


def _decoded(data: bytes | str | None, default: Any) -> Any:
    if data is None:
        return default
    value = json_or(data, _MISSING)
    if value is _MISSING:
        logger.warning("unreadable value in the cache", extra={"outcome": "unreadable_value"})
        return default
    return value
