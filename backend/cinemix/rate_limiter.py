"""Rate limit per client: a sliding window counter made of buckets."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from django.conf import settings

from core.optional_redis import NoRedisError, configured_redis

if TYPE_CHECKING:
    from redis.commands.core import Script

    from core.redis import ResilientRedis

logger = logging.getLogger(__name__)

# The number of clients counted in process memory.
MEMORY_CLIENTS = 50_000

# The same algorithm as `_LocalCounts.check`, executed atomically.
# KEYS[1]: a hash per client, bucket number -> admitted requests. Others: values to read.
# ARGV: bucket size in microseconds, buckets in the window, admitted requests per window, current
# time in microseconds (empty: the clock of Redis, which all processes share).
# Returns: 1 if admitted, else 0; microseconds until the next request can be admitted; remaining
# requests; microseconds until the window is empty; the values read.
_SCRIPT = """
local values = KEYS[2] and redis.call('MGET', unpack(KEYS, 2)) or {}
local size, span, allowed = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local now = tonumber(ARGV[4])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then redis.call('DEL', KEYS[1]) end
local current = math.floor(now / size)
local stored, counted, total, newest = redis.call('HGETALL', KEYS[1]), {}, 0, 0
for i = 1, #stored, 2 do
  local bucket, count = tonumber(stored[i]), tonumber(stored[i + 1])
  if bucket and count and math.abs(current - bucket) <= span then
    counted[#counted + 1] = {bucket, count}
    total = total + count
    newest = math.max(newest, bucket)
  else
    redis.call('HDEL', KEYS[1], stored[i])
  end
end
if total < allowed then
  redis.call('HINCRBY', KEYS[1], string.format('%.0f', current), 1)
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil((span + 1) * size / 1000)))
  return {1, 0, allowed - total - 1, (math.max(newest, current) + span + 1) * size - now, values}
end
table.sort(counted, function(a, b) return a[1] < b[1] end)
local wait = 0
for _, entry in ipairs(counted) do
  if total < allowed then break end
  total = total - entry[2]
  wait = (entry[1] + span + 1) * size - now
end
return {0, wait, 0, (newest + span + 1) * size - now, values}
"""


@dataclass(frozen=True, slots=True)
class Decision:
    """The result of a rate limit check.

    `retry_after` is the number of seconds until a refused client can be admitted, `remaining` the
    number of requests that would be admitted now, `reset` the number of seconds until the window
    is empty. `values` are what Redis has under the names that were asked for, None for each that
    it does not have; empty if Redis was not asked.
    """

    admitted: bool
    retry_after: float = 0.0
    remaining: int = field(default=0, compare=False)
    reset: float = field(default=0.0, compare=False)
    values: Sequence[bytes | None] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Window:
    """At most `max_threshold` requests in any `window_size` seconds.

    The current bucket and the `window_size / bucket_size` buckets before it are counted. Together
    they always cover the whole window.
    """

    window_size: int
    bucket_size: int
    max_threshold: int

    def __post_init__(self) -> None:
        """Raise `ValueError` for sizes that cannot be counted in buckets."""
        if min(self.window_size, self.bucket_size, self.max_threshold) <= 0:
            raise ValueError("window, bucket and threshold must be positive")
        if self.window_size % self.bucket_size or self.bucket_size * 2 > self.window_size:
            raise ValueError("the bucket must divide the window and be at most half of it")

    @property
    def span(self) -> int:
        """The number of buckets before the current one that are counted."""
        return self.window_size // self.bucket_size

    @property
    def bucket(self) -> int:
        """The bucket size in microseconds, an integer so that the borders are exact."""
        return self.bucket_size * 1_000_000

    def wait(self, counted: Mapping[int, int], now: int) -> float:
        """Return the seconds from `now` until one more request can be admitted."""
        left, wait = sum(counted.values()), 0
        for number in sorted(counted):
            if left < self.max_threshold:
                break
            left -= counted[number]
            wait = (number + self.span + 1) * self.bucket - now
        return wait / 1_000_000

    def reset(self, counted: Mapping[int, int], now: int) -> float:
        """Return the seconds from `now` until the window is empty."""
        return ((max(counted) + self.span + 1) * self.bucket - now) / 1_000_000


class RateLimiter:
    """Limits the requests of each client in any window of time.

    `RateLimiter()` takes the window from the Django settings. Counts are stored in Redis and are
    exact across processes. Without Redis, or while it is unavailable, each process counts alone.
    `clock` returns seconds; by default Redis uses its own clock.
    """

    def __init__(
        self,
        *,
        window: Window | None = None,
        get_redis: "Callable[[], ResilientRedis | None]" = configured_redis,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._window = window or Window(
            settings.WINDOW_SIZE, settings.BUCKET_SIZE, settings.MAX_THRESHOLD
        )
        self._redis = get_redis()
        # redis-py sends the hash of the script, and its text only if the server lacks it.
        self._script = self._redis and self._redis.client.register_script(_SCRIPT)
        self._clock = clock
        self._local = _LocalCounts(self._window, clock or time.monotonic)

    def allow_request(self, client: str = "global") -> bool:
        """Return whether a request of `client` is admitted now. Admitted requests are counted."""
        return self.check(client).admitted

    @property
    def limit(self) -> int:
        """The number of requests admitted in a window."""
        return self._window.max_threshold

    def check(self, client: str = "global", *, names: Sequence[str] = ()) -> Decision:
        """Count a request of `client` if it is admitted, and return the decision.

        In the same round trip, the values under `names` are read from Redis.
        """
        if self._redis and self._script:
            try:
                decision = self._ask(self._redis, self._script, client, names)
            except NoRedisError as exc:
                logger.warning(
                    "rate limit counted in process memory",
                    extra={"outcome": "throttle_degraded", "error": str(exc)},
                )
            else:
                # If Redis fails later, this process still counts its own admitted requests.
                if decision.admitted:
                    self._local.record(client)
                return decision
        return self._local.check(client)

    def _ask(
        self, server: "ResilientRedis", script: "Script", client: str, names: Sequence[str]
    ) -> Decision:
        window = self._window
        key = f"rate_limit:{window.window_size}:{window.bucket_size}:{client}"
        now = "" if self._clock is None else _microseconds(self._clock())
        arguments = [window.bucket, window.span, window.max_threshold, now]
        admitted, wait, left, reset, values = server.run(
            lambda _: script(keys=[key, *names], args=arguments)
        )
        return Decision(admitted == 1, wait / 1_000_000, left, reset / 1_000_000, values)


class _LocalCounts:
    """Counts in process memory for the `MEMORY_CLIENTS` most recently admitted clients."""

    def __init__(self, window: Window, clock: Callable[[], float]) -> None:
        self._window = window
        self._clock = clock
        self._lock = threading.Lock()
        self._clients: OrderedDict[str, dict[int, int]] = OrderedDict()

    def check(self, client: str) -> Decision:
        with self._lock:
            now = _microseconds(self._clock())
            counted = self._counted(client, now)
            left = self._window.max_threshold - sum(counted.values())
            if left <= 0:
                wait, reset = self._window.wait(counted, now), self._window.reset(counted, now)
                return Decision(admitted=False, retry_after=wait, reset=reset)
            self._add(client, counted, now)
            reset = self._window.reset(counted, now)
            return Decision(admitted=True, remaining=left - 1, reset=reset)

    def record(self, client: str) -> None:
        with self._lock:
            now = _microseconds(self._clock())
            self._add(client, self._counted(client, now), now)

    def _counted(self, client: str, now: int) -> dict[int, int]:
        current = now // self._window.bucket
        return {
            number: count
            for number, count in self._clients.get(client, {}).items()
            # If the clock was set back, buckets up to one window ahead count as well.
            if abs(current - number) <= self._window.span
        }

    def _add(self, client: str, counted: dict[int, int], now: int) -> None:
        current = now // self._window.bucket
        counted[current] = counted.get(current, 0) + 1
        self._clients[client] = counted
        self._clients.move_to_end(client)
        if len(self._clients) > MEMORY_CLIENTS:
            self._clients.popitem(last=False)


def _microseconds(seconds: float) -> int:
    return int(seconds * 1_000_000)
