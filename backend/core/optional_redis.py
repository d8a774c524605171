"""What the service must know of Redis before it is clear whether there is one.

The client (`core.redis`) takes a tenth of a second to import, so only a configured Redis loads it.
"""

from typing import TYPE_CHECKING

from django.core.cache import caches

if TYPE_CHECKING:
    from core.redis import ResilientRedis

# The scheme of the address of a master that sentinels watch.
SENTINEL_SCHEME = "redis+sentinel://"

# NoRedisError       Redis did not execute the command
# `- RedisUnavailableError   it does not answer, or is in its cool-down


class NoRedisError(Exception):
    """Redis did not execute the command."""


class RedisUnavailableError(NoRedisError):
    """Redis does not answer, or failed a moment ago and was not tried."""


def configured_redis() -> "ResilientRedis | None":
    """Return the Redis of Django's default cache, None if that cache is in process memory."""
    return getattr(caches["default"], "redis", None)


def prefixed_key(key: str, key_prefix: str, version: int) -> str:
    """Return the key with its prefix alone, for a cache whose keys others rely on."""
    return f"{key_prefix}{key}"
