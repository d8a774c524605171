"""Wrappers for functions that run in another thread than their caller."""

from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def in_callers_context(function: Callable[P, R]) -> Callable[P, R]:
    """Return `function` bound to a copy of the caller's current context variables.

    The correlation id, the film and the deadline are then the same in the thread that runs it.
    Each call makes its own copy, because two threads cannot run in one context at the same time.
    """
    return partial(copy_context().run, function)
