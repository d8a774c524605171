"""Wrappers for functions that run in another thread than the one that asked for them."""

from collections.abc import Callable
from contextvars import copy_context
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def in_callers_context(function: Callable[P, R]) -> Callable[P, R]:
    """Return `function` bound to the caller's context variables as they are now.

    Correlation id, film and deadline follow the work into the thread that does it.
    Each wrapped function has a copy of its own, so two may run at the same time.
    """
    context = copy_context()

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        return context.run(function, *args, **kwargs)

    return run
