"""A payload as the bytes that clients get: made once, when it is stored."""

import gzip
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from films.services.sections import SECTIONS, repairable

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True)
_KEYS = ("imdb_id", "title", *(section.name for section in SECTIONS), "warnings")


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
    """Return the bytes of a payload: the same, whether it comes from the sources or the database.

    A `jsonb` column does not keep the order of keys: inside the sections it is that of their names.
    """
    parts = (f'"{key}":{_JSON.encode(payload[key])}' for key in _KEYS if key in payload)
    body = f"{{{','.join(parts)}}}".encode()
    return Rendering(
        version=hashlib.sha256(body).hexdigest()[:32],
        body=body,
        # Without a time in its header, so that every process makes the same bytes.
        gzipped=gzip.compress(body, compresslevel=6, mtime=0),
        has_warnings=bool(payload.get("warnings")),
        needs_repair=bool(repairable(payload)),
    )
