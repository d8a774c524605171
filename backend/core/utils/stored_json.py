"""JSON that was stored, and may have been damaged since."""

import json
from typing import Any


def json_or(data: str | bytes, default: Any) -> Any:
    """Return the value of JSON from a cache or the database, `default` if it is unreadable."""
    try:
        return json.loads(data)
    # RecursionError: too many nested brackets.
    except (ValueError, RecursionError):
        return default
