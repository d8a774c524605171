"""Django's cache, in a Redis that may die."""

import logging
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, cast

import redis
from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.redis import RedisCache, RedisCacheClient, RedisSerializer
from django.core.exceptions import ImproperlyConfigured

from core.redis import NoRedisError, configured_redis

logger = logging.getLogger(__name__)

_MOST_IN_MEMORY = 10_000


class ForgivingRedisCache(RedisCache):
    """Django's Redis cache, and what Redis fails to do is logged and done in the process's memory.

    So limits still count while it is away, each process for itself. It is in the Redis of
    `core.redis`, which everybody in the process shares: once one of them found it away, nobody
    waits for it. Whatever cannot be read back is a miss.
    """

    def __init__(self, server: str, params: dict[str, Any]) -> None:
        super().__init__(server, params)
        self._class = _ForgivingClient

    def clear(self) -> None:
        """Remove what this cache stored; others keep their keys in the same database."""
        cast("_ForgivingClient", self._cache).delete_matching(f"{self.key_prefix}:*")


class _ForgivingClient(RedisCacheClient):
    def __init__(self, servers: list[str], **options: Any) -> None:
        super().__init__(servers, serializer=_Serializer, **options)
        shared = configured_redis()
        if shared is None:
            raise ImproperlyConfigured("the cache is to be in Redis, but REDIS_URL is empty")
        self._redis = shared
        # Its keys come made.
        self._memory = LocMemCache(
            "while Redis is away",
            {"KEY_FUNCTION": lambda key, *_: key, "OPTIONS": {"MAX_ENTRIES": _MOST_IN_MEMORY}},
        )

    def get_client(self, key: Any = None, *, write: bool = False) -> redis.Redis:
        return self._redis.client

    def add(self, key: Any, value: Any, timeout: Any) -> bool:
        return bool(self._done("add", key, value, timeout))

    def get(self, key: Any, default: Any) -> Any:
        return self._done("get", key, default)

    def set(self, key: Any, value: Any, timeout: Any) -> None:
        self._done("set", key, value, timeout)

    def touch(self, key: Any, timeout: Any) -> bool:
        return bool(self._done("touch", key, timeout))

    def delete(self, key: Any) -> bool:
        return bool(self._done("delete", key))

    def get_many(self, keys: Iterable[Any]) -> dict[Any, Any]:
        return cast(dict[Any, Any], self._done("get_many", list(keys)))

    def has_key(self, key: Any) -> bool:
        return bool(self._done("has_key", key))

    def incr(self, key: Any, delta: int) -> Any:
        return self._done("incr", key, delta)

    def set_many(self, data: Mapping[Any, Any], timeout: Any) -> None:
        self._done("set_many", data, timeout)

    def delete_many(self, keys: Iterable[Any]) -> None:
        self._done("delete_many", list(keys))

    def delete_matching(self, pattern: str) -> None:
        def delete_all(client: redis.Redis) -> None:
            for key in client.scan_iter(match=pattern, count=1000):
                client.delete(key)

        self._memory.clear()
        try:
            self._redis.run(delete_all)
        except NoRedisError as exc:
            _tell(exc)

    def _done(self, method: str, *arguments: Any) -> Any:
        """Return what the method of that name does, in Redis or else in memory."""
        in_redis = partial(getattr(super(), method), *arguments)
        try:
            return self._redis.run(lambda _: in_redis())
        except NoRedisError as exc:
            _tell(exc)
            return getattr(self._memory, method)(*arguments)


def _tell(exc: NoRedisError) -> None:
    logger.warning("cache failed", extra={"outcome": str(exc)})


class _Serializer(RedisSerializer):
    def loads(self, data: Any) -> Any:
        try:
            return super().loads(data)
        # A value that somebody else wrote can make pickle raise anything at all.
        except Exception as exc:
            raise NoRedisError("unreadable_value") from exc
