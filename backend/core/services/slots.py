"""A bound on the requests of a process that wait for a source."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from core.errors import Overloaded


@contextmanager
def occupied(slots: threading.Semaphore, message: str) -> Iterator[None]:
    """Occupy one of `slots`; raises `Overloaded` with this message if none is free."""
    if not slots.acquire(blocking=False):
        raise Overloaded(message, retry_after=1)
    try:
        yield
    finally:
        slots.release()
