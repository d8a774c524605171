"""Where the answer to the current request came from: ambient, like its correlation id."""

from contextvars import ContextVar

# If the parts of an answer have several origins, the last one in this order counts.
OUTCOMES = ("none", "memory", "row", "stale", "miss", "partial")

_current: ContextVar[str] = ContextVar("cache_outcome", default="none")


def forget_outcome() -> None:
    """Start a request: nothing was looked up so far."""
    _current.set("none")


def note_outcome(outcome: str) -> None:
    """Note one of `OUTCOMES` for the current request.

    `memory` is the memory of a process or Redis, `row` a stored film, `stale` one that is expired,
    `miss` a fetch, `partial` a fetch that left sections for later, `none` none of these.
    """
    _current.set(max(_current.get(), outcome, key=OUTCOMES.index))


def current_outcome() -> str:
    """Return what was noted for the current request."""
    return _current.get()
