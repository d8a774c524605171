"""Threads of its own for each upstream, so that a mute one holds up nobody who can do without."""

import itertools
import queue
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from core.deadline import time_left
from core.errors import DeadlineExceeded
from core.utils.decorators import in_callers_context

T = TypeVar("T")
_Task = tuple[int, int, Callable[[], None]]


class Bulkhead:
    """A line of work for one upstream, served by at most `concurrency` daemon threads.

    The threads do HTTP and nothing else: no database connection is ever opened in them. They start
    with the first work, so that a process that forks afterwards shares none of their sockets.
    """

    def __init__(self, source: str, *, concurrency: int) -> None:
        self._source = source
        self._concurrency = concurrency
        self._line: queue.PriorityQueue[_Task] = queue.PriorityQueue()
        self._order = itertools.count()
        self._lock = threading.Lock()
        self._threads = 0
        self._unfinished = 0

    def submit(self, work: Callable[[], T], *, priority: int = 1) -> "Future[T]":
        """Put `work` in line; a lower `priority` goes first, equal ones in order of arrival.

        The work sees the context variables of the caller. Whoever calls `result()` on the future
        gets its outcome; work whose deadline passed in line fails with `DeadlineExceeded`.
        """
        future: Future[T] = Future()

        def task() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                if time_left(1) <= 0:
                    raise DeadlineExceeded(self._source, "deadline")  # noqa: TRY301  (told below)
                future.set_result(work())
            # Nothing is swallowed: it is raised again where the result is asked for.
            except BaseException as exc:  # noqa: BLE001
                _drop_locals(exc)
                future.set_exception(exc)

        self._line.put((priority, next(self._order), in_callers_context(task)))
        self._start_thread_if_needed()
        return future

    def _start_thread_if_needed(self) -> None:
        with self._lock:
            self._unfinished += 1
            if self._threads < min(self._concurrency, self._unfinished):
                self._threads += 1
                threading.Thread(
                    target=self._serve, name=f"{self._source}-{self._threads}", daemon=True
                ).start()

    def _serve(self) -> None:
        while True:
            _, _, task = self._line.get()
            task()
            with self._lock:
                self._unfinished -= 1


def _drop_locals(exc: BaseException | None) -> None:
    """Let go of what the failed calls held, bodies of megabytes; where they were stays known."""
    while exc is not None:
        traceback.clear_frames(exc.__traceback__)
        exc = exc.__cause__ or exc.__context__


def outcome_of(future: "Future[Any]", source: str) -> Any:
    """Return what the work returned, waiting no longer than the current deadline.

    Raises what the work raised, or `DeadlineExceeded` where it is not done in time; work that has
    not begun by then never will.
    """
    # Not `result(timeout=)`: the work may raise a TimeoutError of its own.
    wait([future], timeout=time_left(threading.TIMEOUT_MAX))
    if not future.done():
        future.cancel()
        raise DeadlineExceeded(source, "deadline")
    return future.result()
