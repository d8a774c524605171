"""Django's cache, in a Redis that may die."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

import redis
from django.core.cache.backends.redis import RedisCache, RedisCacheClient, RedisSerializer
from django.core.exceptions import ImproperlyConfigured

from core.redis import NoRedisError, configured_redis

logger = logging.getLogger(__name__)

T = TypeVar("T")


class ForgivingRedisCache(RedisCache):
    """Django's Redis cache, except that what Redis fails to do is a logged miss, no exception.

    It is in the Redis of `core.redis`, which everybody in the process shares: once one of them
    found it away, nobody waits for it. Whatever cannot be read back is a miss too.
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

    def get_client(self, key: Any = None, *, write: bool = False) -> redis.Redis:
        return self._redis.client

    def add(self, key: Any, value: Any, timeout: Any) -> bool:
        return self._forgiven(False, super().add, key, value, timeout)

    def get(self, key: Any, default: Any) -> Any:
        return self._forgiven(default, super().get, key, default)

    def set(self, key: Any, value: Any, timeout: Any) -> None:
        self._forgiven(None, super().set, key, value, timeout)

    def touch(self, key: Any, timeout: Any) -> bool:
        return self._forgiven(False, super().touch, key, timeout)

    def delete(self, key: Any) -> bool:
        return self._forgiven(False, super().delete, key)

    def get_many(self, keys: Iterable[Any]) -> dict[Any, Any]:
        return self._forgiven({}, super().get_many, keys)

    def has_key(self, key: Any) -> bool:
        return self._forgiven(False, super().has_key, key)

    def incr(self, key: Any, delta: int) -> Any:
        try:
            return self._redis.run(lambda _: super(_ForgivingClient, self).incr(key, delta))
        except NoRedisError as exc:
            # What every cache of Django says to a key that is not there.
            raise ValueError(f"Key '{key}' not found.") from exc

    def set_many(self, data: Mapping[Any, Any], timeout: Any) -> None:
        self._forgiven(None, super().set_many, data, timeout)

    def delete_many(self, keys: Iterable[Any]) -> None:
        self._forgiven(None, super().delete_many, keys)

    def delete_matching(self, pattern: str) -> None:
        def delete_all(client: redis.Redis) -> None:
            for key in client.scan_iter(match=pattern, count=1000):
                client.delete(key)

        self._forgiven(None, delete_all, self._redis.client)

    def _forgiven(self, otherwise: T, method: Callable[..., T], *arguments: Any) -> T:
        try:
            return self._redis.run(lambda _: method(*arguments))
        except NoRedisError as exc:
            # A cache is never the only copy: its caller goes on as with an empty one.
            logger.warning("cache failed", extra={"outcome": str(exc)})
            return otherwise


class _Serializer(RedisSerializer):
    def loads(self, data: Any) -> Any:
        try:
            return super().loads(data)
        # A value that somebody else wrote can make pickle raise anything at all.
        except Exception as exc:
            raise NoRedisError("unreadable_value") from exc
