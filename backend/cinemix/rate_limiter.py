"""How many requests a client may make: a sliding window, counted in buckets."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from django.conf import settings
from redis.commands.core import Script

from core.redis import ForgivingRedis, NoRedisError, configured_redis

logger = logging.getLogger(__name__)

# Clients whose requests one process remembers; the longest quiet ones make room.
MEMORY_CLIENTS = 50_000

# The same as `_Memory.check`, in one step that no other process can come between.
# KEYS[1]: the client's hash, bucket number -> requests admitted in it.
# ARGV: microseconds in a bucket, buckets in the window, requests allowed, now in microseconds
# (empty for the clock of Redis, which all processes share).
# Returns whether the request is admitted, else the microseconds until one can be, the requests that
# remain, and the microseconds until none counts any more.
_SCRIPT = """
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
  return {1, 0, allowed - total - 1, (math.max(newest, current) + span + 1) * size - now}
end
table.sort(counted, function(a, b) return a[1] < b[1] end)
local wait = 0
for _, entry in ipairs(counted) do
  if total < allowed then break end
  total = total - entry[2]
  wait = (entry[1] + span + 1) * size - now
end
return {0, wait, 0, (newest + span + 1) * size - now}
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request is admitted, and else the seconds until one can be.

    `remaining` are the requests that would still be admitted now, `reset` the seconds until none
    counts any more of those that do.
    """

    admitted: bool
    retry_after: float = 0.0
    remaining: int = field(default=0, compare=False)
    reset: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Window:
    """At most `max_threshold` requests in any `window_size` seconds.

    Counted are the current bucket and the `window_size / bucket_size` before it, so the buckets
    that are counted always cover the whole window, however it lies across them.
    """

    window_size: int
    bucket_size: int
    max_threshold: int

    def __post_init__(self) -> None:
        """Refuse what cannot be counted."""
        if min(self.window_size, self.bucket_size, self.max_threshold) <= 0:
            raise ValueError("window, bucket and threshold must be positive")
        if self.window_size % self.bucket_size or self.bucket_size * 2 > self.window_size:
            raise ValueError("the bucket must divide the window and be at most half of it")

    @property
    def span(self) -> int:
        """The buckets before the current one that are counted with it."""
        return self.window_size // self.bucket_size

    @property
    def bucket(self) -> int:
        """Microseconds in a bucket: whole numbers, so that no rounding moves a border."""
        return self.bucket_size * 1_000_000

    def wait(self, counted: Mapping[int, int], now: int) -> float:
        """Return the seconds from `now` until enough of `counted` has fallen out of the window."""
        left, wait = sum(counted.values()), 0
        for number in sorted(counted):
            if left < self.max_threshold:
                break
            left -= counted[number]
            wait = (number + self.span + 1) * self.bucket - now
        return wait / 1_000_000

    def reset(self, counted: Mapping[int, int], now: int) -> float:
        """Return the seconds from `now` until all of `counted` has fallen out of the window."""
        return ((max(counted) + self.span + 1) * self.bucket - now) / 1_000_000


class RateLimiter:
    """Admits so many requests of each client in any window of time.

    `RateLimiter()` is the one of the settings. The counts are in Redis, exact across processes and
    machines; without one, and while it is away, each process counts for itself. `clock` gives
    seconds; without it Redis counts by its own clock.
    """

    def __init__(
        self,
        *,
        window: Window | None = None,
        get_redis: Callable[[], ForgivingRedis | None] = configured_redis,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._window = window or Window(
            settings.WINDOW_SIZE, settings.BUCKET_SIZE, settings.MAX_THRESHOLD
        )
        self._redis = get_redis()
        # Sent as its hash; redis-py sends the text to a server that does not know it yet.
        self._script = self._redis and self._redis.client.register_script(_SCRIPT)
        self._clock = clock
        self._memory = _Memory(self._window, clock or time.monotonic)

    def allow_request(self, client: str = "global") -> bool:
        """Whether one more request of `client` is admitted now; it is counted if so."""
        return self.check(client).admitted

    @property
    def limit(self) -> int:
        """The requests admitted in a window."""
        return self._window.max_threshold

    def check(self, client: str = "global") -> Verdict:
        """Admit one more request of `client` and count it, or tell when there is room for one."""
        if self._redis and self._script:
            try:
                verdict = self._ask(self._redis, self._script, client)
            except NoRedisError as exc:
                logger.warning(
                    "counting requests in this process alone",
                    extra={"outcome": "throttle_degraded", "error": str(exc)},
                )
            else:
                # Should Redis die, this process at least knows what it admitted itself.
                if verdict.admitted:
                    self._memory.record(client)
                return verdict
        return self._memory.check(client)

    def _ask(self, server: ForgivingRedis, script: Script, client: str) -> Verdict:
        window = self._window
        key = f"rate_limit:{window.window_size}:{window.bucket_size}:{client}"
        now = "" if self._clock is None else _microseconds(self._clock())
        arguments = [window.bucket, window.span, window.max_threshold, now]
        admitted, wait, left, reset = server.run(lambda _: script(keys=[key], args=arguments))
        return Verdict(admitted == 1, wait / 1_000_000, left, reset / 1_000_000)


class _Memory:
    """The same counts in this process, for its `MEMORY_CLIENTS` latest clients."""

    def __init__(self, window: Window, clock: Callable[[], float]) -> None:
        self._window = window
        self._clock = clock
        self._lock = threading.Lock()
        self._clients: OrderedDict[str, dict[int, int]] = OrderedDict()

    def check(self, client: str) -> Verdict:
        with self._lock:
            now = _microseconds(self._clock())
            counted = self._counted(client, now)
            left = self._window.max_threshold - sum(counted.values())
            if left <= 0:
                wait, reset = self._window.wait(counted, now), self._window.reset(counted, now)
                return Verdict(admitted=False, retry_after=wait, reset=reset)
            self._add(client, counted, now)
            reset = self._window.reset(counted, now)
            return Verdict(admitted=True, remaining=left - 1, reset=reset)

    def record(self, client: str) -> None:
        with self._lock:
            now = _microseconds(self._clock())
            self._add(client, self._counted(client, now), now)

    def _counted(self, client: str, now: int) -> dict[int, int]:
        current = now // self._window.bucket
        return {
            number: count
            for number, count in self._clients.get(client, {}).items()
            # A clock that was set back leaves buckets ahead; they count, within reason.
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
