"""Identical work that is asked for several times at once is done once."""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any

from core.services.bulkhead import outcome_of


class SingleFlight:
    """Lets whoever asks while the same work is under way wait for its outcome."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._flights: dict[Hashable, Future[Any]] = {}

    def run(self, key: Hashable, work: Callable[[], Any]) -> Any:
        """Return what `work` returns, or what the work under way for `key` returns.

        Raises what that work raises, or `DeadlineExceeded` where the current deadline passes
        before somebody else's work is done.
        """
        with self._lock:
            flight = self._flights.get(key)
            leads = flight is None
            if flight is None:
                flight = self._flights[key] = Future()
                # From here on none of those who wait can cancel it for the others.
                flight.set_running_or_notify_cancel()
        if leads:
            self._fly(key, flight, work)
        return outcome_of(flight, self._source)

    def _fly(self, key: Hashable, flight: "Future[Any]", work: Callable[[], Any]) -> None:
        try:
            result = work()
        # Nothing is swallowed: it is raised again in everybody who waits, the leader too.
        except BaseException as exc:  # noqa: BLE001
            self._land(key)
            flight.set_exception(exc)
        else:
            self._land(key)
            flight.set_result(result)

    def _land(self, key: Hashable) -> None:
        with self._lock:
            del self._flights[key]
