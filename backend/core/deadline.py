"""The one time limit that holds for all work done on behalf of a request."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Deadline:
    """A point in time, on a clock that only goes forward."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock() + seconds

    def left(self) -> float:
        """Return the seconds that are left, never below 0."""
        return max(0.0, self._at - self._clock())

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return self.left() <= 0


_current: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


@contextmanager
def deadline_of(deadline: Deadline) -> Iterator[Deadline]:
    """Make `deadline` hold for everything called inside, also in threads given this context."""
    token = _current.set(deadline)
    try:
        yield deadline
    finally:
        _current.reset(token)


def time_left(limit: float) -> float:
    """Return `limit` seconds, or what the current deadline leaves where that is less."""
    deadline = _current.get()
    return limit if deadline is None else min(limit, deadline.left())
