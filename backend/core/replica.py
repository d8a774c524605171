"""A replica of the database: a copy to read from, which may lag, fail and return."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from core.db import DATABASE_FAULTS, fetch_row
from core.metrics import REPLICA_CURRENT

logger = logging.getLogger(__name__)

# The key in `settings.DATABASES`.
ALIAS = "replica"
# Seconds between two checks of the lag.
_CHECK_SECONDS = 1.0
# Seconds without any attempt after a failure, and how long a lagging replica is used if the primary
# failed.
COOL_DOWN_SECONDS = 5.0

# Whether everything that was received is applied, while something can be received; and the seconds
# since the last transaction that was applied. A server that was promoted has everything.
_LAG = """
    SELECT NOT pg_is_in_recovery()
             OR coalesce(pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn(), false)
                AND EXISTS (SELECT FROM pg_stat_wal_receiver WHERE pid IS NOT NULL),
           extract(epoch FROM now() - pg_last_xact_replay_timestamp())::float
"""


class Replica:
    """A streaming replica of the PostgreSQL of `settings.DATABASES["default"]`.

    It `is_current` while it answers and lacks at most what happened in the last `longest_lag`
    seconds. After a failure nothing is tried for `COOL_DOWN_SECONDS`. Safe to share between
    threads.
    """

    def __init__(
        self,
        *,
        longest_lag: float,
        fetch: Callable[[str, Sequence[object]], Any] = lambda query, params: fetch_row(
            query, params, alias=ALIAS
        ),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._longest_lag = longest_lag
        self._fetch = fetch
        self._clock = clock
        self._checking = threading.Lock()
        self._check_at = 0.0
        self._state = "unknown"
        self._had_everything_at = float("-inf")
        self._unavailable_until = float("-inf")
        self._trusted_until = float("-inf")

    @property
    def is_current(self) -> bool:
        """Whether to read from the replica first. Checks its lag at most once a second."""
        now = self._clock()
        # One thread checks the lag, the others use the last result.
        if now >= self._check_at and self._checking.acquire(blocking=False):
            try:
                if now >= self._check_at:
                    self._check()
            finally:
                self._checking.release()
        return self._state == "current" or (self._state == "lagging" and now < self._trusted_until)

    def trust(self) -> None:
        """Read from the replica for a while even if it lags, because the primary failed."""
        self._trusted_until = self._clock() + COOL_DOWN_SECONDS

    def fetch_row(self, query: str, params: Sequence[object]) -> tuple[Any, ...] | None:
        """Return the first row of a query; None if there is none, or the replica fails."""
        if self._clock() < self._unavailable_until:
            return None
        try:
            row: tuple[Any, ...] | None = self._fetch(query, params)
        except DATABASE_FAULTS as exc:
            self._note_failure(exc)
            return None
        return row

    def _check(self) -> None:
        row = self.fetch_row(_LAG, ())
        now = self._clock()
        if row is None:
            self._check_at = self._unavailable_until
            return
        has_everything, since_last_transaction = row
        if has_everything:
            self._had_everything_at = now
        lag = now - self._had_everything_at
        if since_last_transaction is not None:
            # In an idle database that is longer than the lag.
            lag = min(lag, since_last_transaction)
        self._check_at = now + _CHECK_SECONDS
        self._note("current" if lag <= self._longest_lag else "lagging")

    def _note_failure(self, exc: Exception) -> None:
        self._unavailable_until = self._check_at = self._clock() + COOL_DOWN_SECONDS
        self._note("unavailable", error=type(exc).__name__)

    def _note(self, state: str, *, error: str | None = None) -> None:
        if state == self._state:
            return
        self._state = state
        REPLICA_CURRENT.set(state == "current")
        logger.log(
            logging.INFO if state == "current" else logging.WARNING,
            "the state of the replica changed",
            extra={"outcome": f"replica_{state}", "error": error},
        )
