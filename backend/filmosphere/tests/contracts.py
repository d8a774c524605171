"""What it takes to hold answers against documents, and documents against each other."""

import copy
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator

ABSENT = object()

# What OpenAPI says for people; it may be told in other words.
_PROSE = {"description", "summary", "example", "examples", "tags", "title"}


def _as_json_schema(node: Any, *, closed: bool) -> Any:
    """OpenAPI 3.0.3 in the words of JSON Schema; `closed` admits no field without a description."""
    if isinstance(node, list):
        return [_as_json_schema(item, closed=closed) for item in node]
    if not isinstance(node, dict):
        return node
    schema = {name: _as_json_schema(value, closed=closed) for name, value in node.items()}
    if schema.pop("nullable", False) is True:
        schema["type"] = [schema["type"], "null"]
    if closed and "properties" in schema:
        schema["additionalProperties"] = False
    return schema


def validator(document: dict[str, Any], component: str, *, closed: bool) -> Draft202012Validator:
    """What holds an answer against a component of an OpenAPI document."""
    components = _as_json_schema(copy.deepcopy(document["components"]), closed=closed)
    root = {"$ref": f"#/components/schemas/{component}", "components": components}
    return Draft202012Validator(root)


def differences(shown: Any, real: Any, at: str = "$") -> Iterator[str]:
    """Where `shown` is something else than `real` cut short.

    Cut may be: keys of an object, items of a list (but not all of them), the end of a text, in
    place of which there is an ellipsis.
    """
    if isinstance(shown, dict) and isinstance(real, dict):
        for name, value in shown.items():
            yield from differences(value, real.get(name, ABSENT), f"{at}.{name}")
    elif isinstance(shown, list) and isinstance(real, list):
        yield from _in_lists(shown, real, at)
    elif not _is_text_cut(shown, real) and (shown != real or type(shown) is not type(real)):
        yield f"{at} is {real!r}"


def _in_lists(shown: list, real: list, at: str) -> Iterator[str]:
    rest = iter(real)
    for number, item in enumerate(shown):
        if not any(not list(differences(item, other)) for other in rest):
            yield f"{at}[{number}] is not there, or in another place"
    if bool(shown) != bool(real):
        yield f"{at} is empty in one of them"


def _is_text_cut(shown: Any, real: Any) -> bool:
    both = isinstance(shown, str) and isinstance(real, str)
    return both and shown.endswith("…") and real.startswith(shown[:-1])


def broken_promises(promised: dict[str, Any], kept: dict[str, Any]) -> list[str]:
    """Where the document `kept` lacks what the document `promised` has, or says otherwise."""
    return sorted(set(_Promises(promised, kept).broken()))


class _Promises:
    def __init__(self, promised: dict[str, Any], kept: dict[str, Any]) -> None:
        self._promised, self._kept = promised, kept
        self._seen: set[tuple[str, str]] = set()

    def broken(self) -> Iterator[str]:
        if self._promised["info"]["title"] != self._kept["info"]["title"]:
            yield "the title is another one"
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
            # How a document is cut into pieces beside its schemas is its own business.
            if at == "components" and name != "schemas":
                continue
            if name in kept:
                yield from self._compare(value, kept[name], f"{at}.{name}")
            else:
                yield f"{at}.{name} is gone"
        if not is_map_of_names:
            new = {"nullable", "enum", "pattern", "format", "oneOf"} & (set(kept) - set(promised))
            if at.startswith("components") or at.endswith(".schema"):
                yield from (f"{at}.{name} was not promised" for name in new)

    def _parameters(self, promised: list, kept: list, at: str) -> Iterator[str]:
        ours, theirs = (
            {(each["in"], each["name"]): each for each in (_resolve(one, root) for one in side)}
            for side, root in ((promised, self._promised), (kept, self._kept))
        )
        for place, parameter in ours.items():
            name = f"{at}[{place[1]}]"
            if place not in theirs:
                yield f"{name} is gone"
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
