"""The time limit for all work that one request causes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Deadline:
    """A point in time on a monotonic clock, `seconds` from now."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock() + seconds

    def left(self) -> float:
        """Return the remaining seconds, at least 0."""
        return max(0.0, self._at - self._clock())


_current: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


@contextmanager
def deadline_of(deadline: Deadline) -> Iterator[Deadline]:
    """Apply `deadline` to everything called inside, also in threads that run in this context."""
    token = _current.set(deadline)
    try:
        yield deadline
    finally:
        _current.reset(token)


def time_left(limit: float) -> float:
    """Return `limit` or the remaining seconds of the current deadline, whichever is less."""
    deadline = _current.get()
    return limit if deadline is None else min(limit, deadline.left())
