"""JSON that was stored, and may have been damaged since."""

import json
from typing import Any


def json_or(data: str | bytes, default: Any) -> Any:
    """Return the value of JSON from a cache or the database, `default` if it is unreadable.

    Text with a lone surrogate, which cannot be sent, is unreadable.
    """
    try:
        value = json.loads(data)
        encoded = data.encode() if isinstance(data, str) else data
        if b"\\ud" in encoded or b"\\uD" in encoded:
            json.dumps(value, ensure_ascii=False).encode()
    # RecursionError: too many nested brackets.
    except (ValueError, RecursionError):
        return default
    return value
