"""The `Prefer` header (RFC 7240)."""

import re

# One preference: a token, and a value that may be quoted; parameters after `;` are ignored.
_WAIT = re.compile(r'\s*wait\s*=\s*"?([0-9]{1,4})"?\s*(?:;.*)?', re.ASCII | re.IGNORECASE)


def preferred_wait(header: str | None, *, longest: float) -> int | None:
    """Return the seconds of `wait=N`, None without a valid one.

    N is a whole number from 0 to `longest`; anything else is ignored, as the RFC says. If the
    preference is given twice, the first one counts.
    """
    for item in (header or "").split(","):
        if re.split("[=;]", item, maxsplit=1)[0].strip().lower() == "wait":
            match = _WAIT.fullmatch(item)
            return int(match[1]) if match and int(match[1]) <= longest else None
    return None
