"""The `Retry-After` header (RFC 9110, section 10.2.3)."""

import re
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

# A source that asks for a longer wait, such as a year, is tried again after this many seconds.
LONGEST = 900.0


def seconds_to_wait(header: str | None, now: datetime) -> float | None:
    """Return how many seconds after `now` the source wants the next request, at most `LONGEST`.

    The header holds seconds or an HTTP date. None if it is absent, neither of the two, zero or in
    the past: such a header gives no reason to wait.
    """
    text = (header or "").strip()
    if re.fullmatch(r"[0-9]{1,20}", text):
        seconds = float(text)
    else:
        try:
            moment = parsedate_to_datetime(text)
        except (TypeError, ValueError, IndexError, OverflowError):
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        seconds = (moment - now).total_seconds()
    return min(seconds, LONGEST) if seconds > 0 else None
