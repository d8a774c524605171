"""Regular work on the tables of the service, in a thread of its own."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from django.db.models import Q
from django.utils import timezone

from core import metrics
from core.db import DATABASE_FAULTS, release_connection
from core.models import Chore

logger = logging.getLogger(__name__)

# How often each process works, in seconds.
_ROUND_SECONDS = 60.0
# How often it checks whether a chore is due.
_LOOK_SECONDS = 600.0
_CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class RegularChore:
    """Work that is due every `interval`; `work` returns the number of rows that it changed.

    `name` is that of the chore in metrics, and of its row in the database.
    """

    name: str
    interval: timedelta
    work: Callable[[], int]


class Housekeeper:
    """A daemon thread that does `own` every minute, and those `shared` chores that are due.

    `own` is the work of each process by the name of the chore; it returns the number of rows that
    it changed. The processes agree through the database on which of them does a shared chore. If
    that one fails or is killed, the chore is due again after its interval.
    """

    def __init__(
        self,
        *,
        own: Mapping[str, Callable[[], int]],
        shared: Sequence[RegularChore],
        now: Callable[[], datetime] = timezone.now,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own = own
        self._shared = shared
        self._now = now
        self._clock = clock
        self._look_at = float("-inf")
        for name in (*own, *(chore.name for chore in shared)):
            for outcome in ("done", "failed"):
                metrics.HOUSEKEEPING_CHORES.labels(name, outcome)

    def start(self) -> None:
        """Start the thread; the first round is a minute later."""
        threading.Thread(target=self._run, name="housekeeper", daemon=True).start()

    def work(self) -> None:
        """Do one round; an error is logged and counted, and the rest of the round is done."""
        for name, work in self._own.items():
            self._do(name, work)
        if self._clock() >= self._look_at:
            self._look_at = self._clock() + _LOOK_SECONDS
            for chore in self._shared:
                self._do(chore.name, partial(self._do_if_due, chore))
        release_connection()

    def _run(self) -> None:
        while True:
            time.sleep(_ROUND_SECONDS)
            self.work()

    def _do(self, name: str, work: Callable[[], int | None]) -> None:
        """Do work that returns the number of changed rows, None if there was nothing to do."""
        try:
            rows = work()
        except DATABASE_FAULTS as exc:
            release_connection()
            outcome = type(exc).__name__
            logger.warning("housekeeping failed", extra={"chore": name, "outcome": outcome})
            metrics.HOUSEKEEPING_CHORES.labels(name, "failed").inc()
            return
        # A bug, logged with its traceback: the thread goes on with the next round.
        except Exception:
            logger.exception("unexpected error", extra={"chore": name, "outcome": "unexpected"})
            metrics.HOUSEKEEPING_CHORES.labels(name, "failed").inc()
            return
        if rows is not None:
            metrics.HOUSEKEEPING_CHORES.labels(name, "done").inc()

    def _do_if_due(self, chore: RegularChore) -> int | None:
        if not self._claim(chore):
            return None
        rows = chore.work()
        logger.info("housekeeping", extra={"chore": chore.name, "outcome": "done", "rows": rows})
        return rows

    def _claim(self, chore: RegularChore) -> bool:
        """Return whether this process has to do the chore now; at most one process has to."""
        now = self._now()
        next_at = now + chore.interval
        Chore.objects.bulk_create([Chore(name=chore.name, due_at=now)], ignore_conflicts=True)
        # A time that is more than an interval ahead comes from a wrong clock.
        is_due = Q(due_at__lte=now) | Q(due_at__gt=next_at + _CLOCK_SKEW)
        return bool(Chore.objects.filter(is_due, name=chore.name).update(due_at=next_at))
