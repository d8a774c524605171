"""Concurrent callers share one run of the same work."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from core.deadline import time_left
from core.errors import DeadlineExceeded
from core.services.usage import Avoided, tally

T = TypeVar("T")


class SingleFlight:
    """Runs work for the first caller of a key; callers that come meanwhile get the same result.

    `before_wait` runs in each waiting thread first, to release what must not be held while idle.
    """

    def __init__(self, source: str, *, before_wait: Callable[[], None] = lambda: None) -> None:
        self._source = source
        self._before_wait = before_wait
        self._lock = threading.Lock()
        self._running: dict[str, Future[Any]] = {}

    def run(self, key: str, work: Callable[[], T]) -> T:
        """Return the result of `work`, which runs once for all concurrent callers of `key`.

        Raises what `work` raises, in each caller, or `DeadlineExceeded` if the deadline of a
        waiting caller passes first.
        """
        result: Future[T] = Future()
        with self._lock:
            running = self._running.setdefault(key, result)
        if running is not result:
            tally.avoided(Avoided.SINGLE_FLIGHT, [self._source])
            self._before_wait()
            if not wait([running], time_left(threading.TIMEOUT_MAX)).done:
                raise DeadlineExceeded(self._source, "deadline")
            shared: T = running.result()
            return shared
        try:
            value = work()
        # It is raised here and in each waiting caller.
        except BaseException as exc:
            self._forget(key)
            result.set_exception(exc)
            raise
        self._forget(key)
        result.set_result(value)
        return value

    def _forget(self, key: str) -> None:
        # Before the result is set: a caller that has the result and calls again runs `work` again.
        with self._lock:
            del self._running[key]
