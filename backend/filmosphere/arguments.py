"""Values of arguments that several management commands have."""

import re
from argparse import ArgumentTypeError
from datetime import timedelta

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_LONGEST_AGE = timedelta(days=36_500)


def age(text: str) -> timedelta:
    """Return an age such as `30m`, `12h` or `7d`, the value of an argument."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})([mhd])", text, re.ASCII)
    if not match:
        raise ArgumentTypeError("an age is a number and m, h or d, such as 30m, 12h or 7d")
    value = timedelta(**{_UNITS[match[2]]: int(match[1])})
    if value > _LONGEST_AGE:
        raise ArgumentTypeError("an age is at most 100 years, 36500d")
    return value


def count(text: str) -> int:
    """Return a number of films, the value of an argument."""
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text, re.ASCII):
        raise ArgumentTypeError("a number of films is a whole number from 1")
    return int(text)
