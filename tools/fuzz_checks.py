"""Checks of every response beyond its OpenAPI description; loaded by schemathesis."""

import os
import unicodedata
from typing import Any

import jsonschema_rs
import schemathesis

CANARIES = os.environ["FUZZ_CANARIES"].encode().split()


@schemathesis.hook
def filter_query(ctx: Any, query: Any) -> bool:
    """Skip texts of invisible characters: they are refused as blank, which no pattern expresses."""
    texts = (query or {}).values()
    return not any(isinstance(text, str) and _is_invisible(text) for text in texts)


def _is_invisible(text: str) -> bool:
    categories = {unicodedata.category(character) for character in text}
    return "Cf" in categories and categories <= {"Cf", "Zs", "Zl", "Zp"}


@schemathesis.check
def standard_headers(ctx: Any, response: Any, case: Any) -> None:
    headers = response.headers
    assert headers["x-content-type-options"] == ["nosniff"], headers
    assert headers["x-correlation-id"], headers
    assert headers["content-type"], headers
    if response.status_code >= 400:
        assert headers["cache-control"] == ["no-store"], headers
        assert headers["content-type"] == ["application/json"], headers
        assert set(response.json()) == {"error_code", "message", "reason"}, response.text


@schemathesis.check
def no_key_is_exposed(ctx: Any, response: Any, case: Any) -> None:
    sent = response.content + repr(response.headers).encode()
    assert not [canary for canary in CANARIES if canary in sent]


# Only OMDb knows whether it can search for a text.
OMDB_REFUSALS = (
    "Too many titles match",
    "OMDb needs at least two characters",
    "OMDb cannot process this input",
)


@schemathesis.check
def a_valid_search_is_refused_only_by_omdb(ctx: Any, response: Any, case: Any) -> None:
    is_valid = case.meta and case.meta.generation.mode.is_positive
    is_search = case.operation.definition.raw["operationId"] == "searchMovies"
    if is_search and is_valid and response.status_code == 400:
        assert response.json()["message"].startswith(OMDB_REFUSALS), response.text


@schemathesis.check
def a_film_has_its_shape(ctx: Any, response: Any, case: Any) -> None:
    if case.operation.definition.raw["operationId"] != "getFilm" or response.status_code != 200:
        return
    component = "FilmPart" if "fields" in (case.query or {}) else "FilmDetail"
    components = case.operation.schema.raw_schema["components"]
    schema = {"$ref": f"#/components/schemas/{component}", "components": components}
    errors = jsonschema_rs.Draft202012Validator(schema).iter_errors(response.json())
    assert not [error.message for error in errors]
