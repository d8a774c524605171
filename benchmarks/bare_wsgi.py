"""The least that WSGI applications do: the bytes of the file that `BODY` names, or a bare 304."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

_BODY = Path(os.environ["BODY"]).read_bytes()
_HEADERS = [("Content-Type", "application/json"), ("Content-Length", str(len(_BODY)))]


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Return the body."""
    start_response("200 OK", _HEADERS)
    return [_BODY]


def not_modified(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Return a 304."""
    start_response("304 Not Modified", [("ETag", '"1"')])
    return []
