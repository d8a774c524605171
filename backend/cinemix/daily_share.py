"""A fair share of the day's OMDb calls for each client."""

from collections.abc import Callable
from datetime import datetime, timezone

from django.core.cache import cache

from core.errors import Overloaded
from core.services.limits import Quota

# The part of the remaining calls that one client may use.
SHARE = 10
_DAY = Quota("%Y-%m-%d", None)


class DailyShare:
    """Limits each client to a tenth of the OMDb calls that are left of the UTC day.

    A client may always make one call while any is left. Counts are kept in the default Django
    cache. `calls_left` returns the number of calls left for all clients, None if there is no limit.
    """

    def __init__(
        self,
        *,
        calls_left: Callable[[], int | None],
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self._calls_left = calls_left
        self._now = now

    def check(self, client: str) -> None:
        """Raise `Overloaded`, the caller's fault until midnight, if the share is used up."""
        used = cache.get(self._key(client))
        if not used or not isinstance(used, int):
            return
        left = self._calls_left()
        # If no call is left for anyone, the quota itself is the error to report.
        if left and used >= max(1, left // SHARE):
            raise Overloaded(
                "Your address has used its share of today's calls to OMDb.",
                retry_after=_DAY.seconds_left(self._now()),
                is_callers_fault=True,
            )

    def count(self, client: str, calls: int) -> None:
        """Add `calls` to the client's count of today; negative to give calls back."""
        if not calls:
            return
        key, lifetime = self._key(client), _DAY.seconds_left(self._now())
        cache.add(key, 0, lifetime)
        try:
            cache.incr(key, calls)
        except ValueError:
            # The key was evicted, or Redis failed between the two commands.
            cache.set(key, max(0, calls), lifetime)

    def _key(self, client: str) -> str:
        return f"omdb_share_{_DAY.current(self._now())}_{client}"
