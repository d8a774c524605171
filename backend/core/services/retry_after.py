"""The `Retry-After` header (RFC 9110, section 10.2.3)."""

import re
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

# A source that asks for a year is asked again after this many seconds all the same.
LONGEST = 900.0


def seconds_to_wait(header: str | None, now: datetime) -> float | None:
    """Return the seconds that `header` asks to wait from `now`, between 0 and `LONGEST`.

    The header holds seconds or an HTTP date. None where it is absent or neither of the two.
    """
    text = (header or "").strip()
    if re.fullmatch(r"[0-9]{1,20}", text):
        return min(float(text), LONGEST)
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return min(max((moment - now).total_seconds(), 0.0), LONGEST)
