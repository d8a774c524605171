"""A payload as the bytes that clients get: made once, when it is stored."""

import gzip
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from films.services.sections import repairable


@dataclass(frozen=True, slots=True)
class Rendering:
    """A payload in its two codings, and what must be known of it without reading it.

    `version` is the same for equal payloads, in every process.
    """

    version: str
    body: bytes
    gzipped: bytes
    has_warnings: bool
    needs_repair: bool


def render(payload: Mapping[str, Any]) -> Rendering:
    """Return the bytes of a payload, its keys in the order in which they are."""
    body = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()
    return Rendering(
        version=hashlib.sha256(body).hexdigest()[:32],
        body=body,
        # Without a time in its header, so that every process makes the same bytes.
        gzipped=gzip.compress(body, compresslevel=6, mtime=0),
        has_warnings=bool(payload.get("warnings")),
        needs_repair=bool(repairable(payload)),
    )
