"""Moves the clocks of a Python process by the seconds in the file that `CLOCK_OFFSET` names.

Python imports this module at start if its folder is on PYTHONPATH. The clocks are `time.time`,
`time.monotonic` and `django.utils.timezone.now`. The standard library was imported before and keeps
the real ones, so that waiting takes real time.
"""

import os
import time
from datetime import timedelta

from django.utils import timezone

_time, _monotonic, _now = time.time, time.monotonic, timezone.now


def _offset() -> float:
    with open(os.environ["CLOCK_OFFSET"], encoding="ascii") as file:  # noqa: PTH123  (the fastest)
        return float(file.read() or 0)


if os.environ.get("CLOCK_OFFSET"):
    time.time = lambda: _time() + _offset()
    time.monotonic = lambda: _monotonic() + _offset()
    timezone.now = lambda: _now() + timedelta(seconds=_offset())
