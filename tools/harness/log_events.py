"""The log lines that the code can write, read from its source."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_METHODS = {"debug", "info", "warning", "error", "exception", "log"}
_LEVELS = {"DEBUG", "INFO", "WARNING", "ERROR"}
# A message that is not written in the code.
ANY_TEXT = "…"

_Function = ast.FunctionDef | ast.Module


@dataclass(frozen=True, order=True)
class LogEvent:
    """One kind of line. A field with one possible word is `name=word`."""

    logger: str
    message: str
    levels: frozenset[str]
    fields: frozenset[str]


def log_events(backend: Path) -> set[LogEvent]:
    """Return what the modules under `backend` log, without tests, migrations and the sandbox."""
    events: dict[tuple[str, str], LogEvent] = {}
    for path in sorted(backend.rglob("*.py")):
        place = path.relative_to(backend).with_suffix("").parts
        if place[0] == "sandbox" or {"tests", "migrations"} & set(place):
            continue
        for event in _events(".".join(place), ast.parse(path.read_text())):
            key = event.logger, event.message
            known = events.get(key, event)
            fields = known.fields | event.fields
            # A field with words and other values is one with any value.
            fields = frozenset(
                each for each in fields if each.partition("=")[0] not in fields - {each}
            )
            events[key] = LogEvent(*key, known.levels | event.levels, fields)
    return set(events.values())


def _events(logger: str, module: ast.Module) -> Iterator[LogEvent]:
    for function, call in _calls(module, module):
        match call.func:
            case ast.Attribute(value=ast.Name(id="logger"), attr=method) if method in _METHODS:
                arguments = call.args[method == "log" :]
            # The handler reports lines that it dropped without a logger.
            case ast.Name(id="_warning") if logger == "core.utils.logging":
                method, arguments = "warning", call.args
            case _:
                continue
        message = arguments[0].value if isinstance(arguments[0], ast.Constant) else ANY_TEXT
        extra = [word.value for word in call.keywords if word.arg == "extra"] + arguments[1:]
        yield LogEvent(
            logger,
            str(message),
            frozenset(_levels(method, call, function, module)),
            frozenset(field for each in extra for field in _fields(each, function)),
        )


def _calls(node: ast.AST, function: _Function) -> Iterator[tuple[_Function, ast.Call]]:
    """Yield each call with the function around it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield function, child
        yield from _calls(child, child if isinstance(child, ast.FunctionDef) else function)


def _levels(method: str, call: ast.Call, function: _Function, module: ast.Module) -> set[str]:
    if method != "log":
        return {"ERROR" if method == "exception" else method.upper()}
    # The level of the call itself, else those that its function, or its module, chooses from.
    for place in (call.args[0], function, module):
        found = {
            node.attr
            for node in ast.walk(place)
            if isinstance(node, ast.Attribute) and node.attr in _LEVELS
        }
        if found:
            return found
    raise AssertionError("no level")


def _fields(extra: ast.expr, function: _Function) -> Iterator[str]:
    """Yield the fields of `extra`; of a variable, what its function puts into dictionaries."""
    for node in ast.walk(extra if isinstance(extra, ast.Dict) else function):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant):
                    yield _field(key.value, value)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            key = node.targets[0].slice
            if isinstance(key, ast.Constant):
                yield _field(key.value, node.value)


def _field(name: object, value: ast.expr) -> str:
    is_word = isinstance(value, ast.Constant) and isinstance(value.value, str)
    return f"{name}={value.value}" if is_word else str(name)
