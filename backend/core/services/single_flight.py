"""Many callers, one piece of work."""

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from core.deadline import time_left
from core.errors import DeadlineExceeded

T = TypeVar("T")


class _Flight(Generic[T]):
    def __init__(self) -> None:
        self.landed = threading.Event()
        self.value: T | None = None
        self.error: BaseException | None = None


class SingleFlight:
    """Lets the first caller of a key work while the others wait for what comes of it.

    `before_wait` runs in each waiting thread first: it gives back what must not be held idle.
    """

    def __init__(self, source: str, *, before_wait: Callable[[], None] = lambda: None) -> None:
        self._source = source
        self._before_wait = before_wait
        self._lock = threading.Lock()
        self._flights: dict[str, _Flight[Any]] = {}

    def run(self, key: str, work: Callable[[], T]) -> T:
        """Return what `work` returns, run once for all who ask for `key` at the same time.

        Raises what it raises, to each of them, or `DeadlineExceeded` where the deadline of the
        caller passes first.
        """
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None:
                following: _Flight[T] = flight
            else:
                leading: _Flight[T] = _Flight()
                self._flights[key] = leading
        return self._follow(following) if flight is not None else self._lead(key, leading, work)

    def _lead(self, key: str, flight: _Flight[T], work: Callable[[], T]) -> T:
        try:
            flight.value = work()
        # Nothing is swallowed: it is raised here and in every follower.
        except BaseException as exc:
            flight.error = exc
            raise
        else:
            return flight.value
        finally:
            with self._lock:
                del self._flights[key]
            flight.landed.set()

    def _follow(self, flight: _Flight[T]) -> T:
        self._before_wait()
        if not flight.landed.wait(time_left(threading.TIMEOUT_MAX)):
            raise DeadlineExceeded(self._source, "deadline")
        if flight.error is not None:
            raise flight.error
        return flight.value  # type: ignore[return-value]  # landed without error: it has the value
