"""The active faults, and the choice of a fault for a call."""

import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from sandbox import checks, fault_answers, fault_wires
from sandbox.call_log import Call
from sandbox.checks import InvalidRequest
from sandbox.fault_kinds import Kind

KINDS: dict[str, Kind] = {**fault_wires.KINDS, **fault_answers.KINDS}

# Options of every kind: which calls a fault applies to, and how often.
SCOPE: dict[str, checks.Check] = {
    "source": checks.text,
    "path": checks.text,
    "query": checks.text,
    "kind": checks.text,
    "times": checks.optional(checks.whole(1)),
    "skip": checks.whole(0),
    "probability": checks.number(0, 1),
}


@dataclass
class Fault:
    id: str
    kind: str
    options: Mapping[str, Any]
    source: str = "*"
    path: str = "*"
    query: str = "*"
    times: int | None = None
    skip: int = 0
    probability: float = 1.0
    fired: int = 0
    _skipped: int = field(default=0, repr=False)

    @property
    def definition(self) -> Kind:
        return KINDS[self.kind]

    def matches(self, call: Call) -> bool:
        return (
            self.source in ("*", call.source)
            and (self.times is None or self.fired < self.times)
            and fnmatchcase(call.path, self.path)
            and fnmatchcase(call.query, self.query)
        )

    def fires(self, chance: random.Random) -> bool:
        """Decide whether a matching call gets the fault; counts `skip` and `times`."""
        if self._skipped < self.skip:
            self._skipped += 1
            return False
        if self.probability < 1 and chance.random() >= self.probability:
            return False
        self.fired += 1
        return True

    def as_json(self) -> dict[str, Any]:
        scope = {name: getattr(self, name) for name in SCOPE}
        return {"id": self.id, **scope, **self.options, "fired": self.fired}


class FaultRegistry:
    """The active faults, newest first."""

    def __init__(self, sources: tuple[str, ...]) -> None:
        self._sources = sources
        self._numbers = itertools.count(1)
        self.clear()

    def clear(self) -> int:
        """Remove all faults; return how many there were."""
        removed = len(getattr(self, "_faults", ()))
        self._faults: list[Fault] = []
        self._chance = random.Random(2010)  # the same sequence after every reset
        return removed

    def add(self, description: Mapping[str, Any]) -> Fault:
        """Create a fault from its JSON description; raise InvalidRequest if it is invalid."""
        kind = KINDS.get(str(description.get("kind")))
        if kind is None:
            raise InvalidRequest(f"unknown kind {description.get('kind')!r}", sorted(KINDS))
        source = description.get("source", "*")
        if source not in ("*", *self._sources):
            raise InvalidRequest(f"unknown source {source!r}", ["*", *self._sources])
        options = {name: option.check for name, option in kind.options.items()}
        checks.apply({**SCOPE, **options}, description, of=f"kind {description['kind']!r}")
        chosen = {
            name: description.get(name, option.default) for name, option in kind.options.items()
        }
        missing = sorted(name for name, value in chosen.items() if value is ...)
        if missing:
            raise InvalidRequest(
                f"kind {description['kind']!r} needs {', '.join(missing)}", sorted(options)
            )
        scope = {name: description[name] for name in SCOPE if name in description}
        fault = Fault(id=f"f{next(self._numbers)}", options=chosen, **scope)
        self._faults.insert(0, fault)
        return fault

    def remove(self, fault_id: str) -> bool:
        kept = [fault for fault in self._faults if fault.id != fault_id]
        found = len(kept) < len(self._faults)
        self._faults = kept
        return found

    def as_json(self) -> list[dict[str, Any]]:
        return [fault.as_json() for fault in self._faults]

    def choose(self, call: Call) -> tuple[float, Fault | None]:
        """Return seconds to wait and the newest fault that fires.

        One `delay` can be combined with one other fault.
        """
        delay: Fault | None = None
        if not self._faults or call.source not in self._sources:
            return 0.0, None
        for fault in self._faults:
            if not fault.matches(call) or (fault.definition.waits and delay):
                continue
            if not fault.fires(self._chance):
                continue
            call.fault = fault.id
            if not fault.definition.waits:
                return (delay.options["seconds"] if delay else 0.0), fault
            delay = fault
        return (delay.options["seconds"] if delay else 0.0), None
