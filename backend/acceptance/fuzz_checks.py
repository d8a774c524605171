"""What every answer has, beyond its OpenAPI description; loaded by schemathesis."""

import os
import unicodedata
from typing import Any

import schemathesis

CANARIES = os.environ["FUZZ_CANARIES"].encode().split()


@schemathesis.hook
def filter_query(ctx: Any, query: Any) -> bool:
    """Leave out texts in which nothing can be seen: refused as blank, but no pattern can tell."""
    texts = (query or {}).values()
    return not any(isinstance(text, str) and _is_invisible(text) for text in texts)


def _is_invisible(text: str) -> bool:
    categories = {unicodedata.category(character) for character in text}
    return "Cf" in categories and categories <= {"Cf", "Zs", "Zl", "Zp"}


@schemathesis.check
def manners(ctx: Any, response: Any, case: Any) -> None:
    headers = response.headers
    assert headers["x-content-type-options"] == ["nosniff"], headers
    assert headers["x-correlation-id"], headers
    assert headers["content-type"], headers
    if response.status_code >= 400:
        assert headers["cache-control"] == ["no-store"], headers
        assert headers["content-type"] == ["application/json"], headers
        assert set(response.json()) == {"error_code", "message"}, response.text


@schemathesis.check
def no_key_shows(ctx: Any, response: Any, case: Any) -> None:
    sent = response.content + repr(response.headers).encode()
    assert not [canary for canary in CANARIES if canary in sent]


@schemathesis.check
def only_too_many_matches(ctx: Any, response: Any, case: Any) -> None:
    is_fit = case.meta and case.meta.generation.mode.is_positive
    if is_fit and response.status_code == 400:
        assert "Too many titles match" in response.text
