"""Comparison of responses with documents, and of OpenAPI documents with each other."""

import re
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator

ABSENT = object()

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")

# Prose in OpenAPI documents, which may differ.
_PROSE = {"description", "summary", "example", "examples", "tags", "title"}


def _closed(node: Any) -> Any:
    """Return the schema with no field allowed but the described ones."""
    if isinstance(node, list):
        return [_closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    schema = {name: _closed(value) for name, value in node.items()}
    return schema | ({"additionalProperties": False} if "properties" in schema else {})


def validator(document: dict[str, Any], component: str, *, closed: bool) -> Draft202012Validator:
    """Return a validator for a component schema of an OpenAPI 3.1 document.

    If `closed`, fields that are not described are errors.
    """
    components = _closed(document["components"]) if closed else document["components"]
    root = {"$ref": f"#/components/schemas/{component}", "components": components}
    return Draft202012Validator(root)


def in_openapi_3_1(node: Any) -> Any:
    """Convert a part of an OpenAPI 3.0 document to 3.1: the ways to say that null is allowed."""
    if isinstance(node, list):
        return [in_openapi_3_1(item) for item in node]
    if not isinstance(node, dict):
        return node
    schema = {name: in_openapi_3_1(value) for name, value in node.items()}
    null = {"type": "null"}
    if schema.pop("nullable", False) is True:
        prose = {name: schema.pop(name) for name in _PROSE & schema.keys()}
        return {"anyOf": [schema, null], **prose}
    if {"enum": [None]} in schema.get("oneOf", ()):
        schema["anyOf"] = [*schema.pop("oneOf")[:-1], null]
    if len(schema.get("allOf", ())) == 1:
        # Beside a reference, 3.0 allows no description.
        schema |= schema.pop("allOf")[0]
    return schema


def differences(shown: Any, real: Any, at: str = "$") -> Iterator[str]:
    """Yield the places where `shown` is not a shortened form of `real`.

    It may omit keys of an object, items of a list (but not all), and the end of a text, which an
    ellipsis replaces. Times that depend on when a response is made (`resets_at`) may differ.
    """
    if isinstance(shown, dict) and isinstance(real, dict):
        for name, value in shown.items():
            found = real.get(name, ABSENT)
            if not (name.endswith("_at") and _are_times(value, found)):
                yield from differences(value, found, f"{at}.{name}")
    elif isinstance(shown, list) and isinstance(real, list):
        yield from _in_lists(shown, real, at)
    elif not _is_shortened_text(shown, real) and (shown != real or type(shown) is not type(real)):
        yield f"{at} is {real!r}"


def _in_lists(shown: list, real: list, at: str) -> Iterator[str]:
    rest = iter(real)
    for number, item in enumerate(shown):
        if not any(not list(differences(item, other)) for other in rest):
            yield f"{at}[{number}] is missing or in another place"
    if bool(shown) != bool(real):
        yield f"{at} is empty in one of them"


def _are_times(*values: Any) -> bool:
    return all(isinstance(each, str) and _TIME.fullmatch(each) for each in values)


def _is_shortened_text(shown: Any, real: Any) -> bool:
    both = isinstance(shown, str) and isinstance(real, str)
    return both and shown.endswith("…") and real.startswith(shown[:-1])


def requests_in(folder: dict) -> list[dict]:
    """Return the requests of a Postman collection in their order, whatever folder they are in."""
    return [
        request
        for item in folder["item"]
        for request in (requests_in(item) if "item" in item else [item])
    ]


def broken_promises(promised: dict[str, Any], kept: dict[str, Any]) -> list[str]:
    """Return the places where the document `kept` lacks or contradicts the document `promised`.

    `promised` is in OpenAPI 3.0, `kept` in 3.1.
    """
    return sorted(set(_Promises(in_openapi_3_1(promised), kept).broken()))


class _Promises:
    def __init__(self, promised: dict[str, Any], kept: dict[str, Any]) -> None:
        self._promised, self._kept = promised, kept
        self._seen: set[tuple[str, str]] = set()

    def broken(self) -> Iterator[str]:
        if self._promised["info"]["title"] != self._kept["info"]["title"]:
            yield "the title differs"
        for kind in ("paths", "components"):
            yield from self._compare(self._promised[kind], self._kept.get(kind, {}), kind)

    def _compare(self, promised: Any, kept: Any, at: str) -> Iterator[str]:
        ours, theirs = _name(promised), _name(kept)
        if ours or theirs:
            pair = (ours, theirs or at)
            if pair in self._seen:
                return
            self._seen.add(pair)
            promised, kept = _resolve(promised, self._promised), _resolve(kept, self._kept)
        if isinstance(promised, dict) and isinstance(kept, dict):
            yield from self._objects(promised, kept, at)
        elif at.endswith(".parameters"):
            yield from self._parameters(promised, kept, at)
        elif at.endswith(".required") and isinstance(promised, list):
            yield from (f"{at}: {name} is not" for name in promised if name not in kept)
        elif isinstance(promised, list) and isinstance(kept, list) and len(promised) == len(kept):
            for number, (one, other) in enumerate(zip(promised, kept, strict=True)):
                yield from self._compare(one, other, f"{at}[{number}]")
        elif promised != kept:
            yield f"{at}: {kept!r} instead of {promised!r}"

    def _objects(self, promised: dict, kept: dict, at: str) -> Iterator[str]:
        is_map_of_names = at.endswith((".properties", ".schemas", ".headers"))
        for name, value in promised.items():
            if name in _PROSE and not is_map_of_names:
                continue
            # Components other than schemas may be arranged differently.
            if at == "components" and name != "schemas":
                continue
            if name in kept:
                yield from self._compare(value, kept[name], f"{at}.{name}")
            else:
                yield f"{at}.{name} is missing"
        if not is_map_of_names:
            narrowing = {"enum", "pattern", "format", "anyOf", "oneOf", "additionalProperties"}
            new = narrowing & (set(kept) - set(promised))
            if at.startswith("components") or at.endswith(".schema"):
                yield from (f"{at}.{name} is new" for name in new)

    def _parameters(self, promised: list, kept: list, at: str) -> Iterator[str]:
        ours, theirs = (
            {(each["in"], each["name"]): each for each in (_resolve(one, root) for one in side)}
            for side, root in ((promised, self._promised), (kept, self._kept))
        )
        for place, parameter in ours.items():
            name = f"{at}[{place[1]}]"
            if place not in theirs:
                yield f"{name} is missing"
                continue
            if theirs[place].get("required", False) and not parameter.get("required", False):
                yield f"{name} is required now"
            yield from self._compare(parameter["schema"], theirs[place]["schema"], f"{name}.schema")
        for place in theirs.keys() - ours.keys():
            if theirs[place].get("required", False):
                yield f"{at}[{place[1]}] is new and required"


def _name(node: Any) -> str:
    return node.get("$ref", "") if isinstance(node, dict) else ""


def _resolve(node: Any, root: dict[str, Any]) -> Any:
    while isinstance(node, dict) and "$ref" in node:
        found: Any = root
        for step in node["$ref"].removeprefix("#/").split("/"):
            found = found.get(step, {})
        node = found
    return node
