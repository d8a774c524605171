"""Which call gets which fault."""

import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from sandbox import checks, fault_answers, fault_wires
from sandbox.checks import Refusal
from sandbox.fault_kinds import Kind
from sandbox.ledger import Call

KINDS: dict[str, Kind] = {**fault_wires.KINDS, **fault_answers.KINDS}

# Which calls a fault concerns, and how often.
AIM: dict[str, checks.Check] = {
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
    _let_through: int = field(default=0, repr=False)

    @property
    def made_of(self) -> Kind:
        return KINDS[self.kind]

    def concerns(self, call: Call) -> bool:
        return (
            self.source in ("*", call.source)
            and (self.times is None or self.fired < self.times)
            and fnmatchcase(call.path, self.path)
            and fnmatchcase(call.query, self.query)
        )

    def fires(self, chance: random.Random) -> bool:
        """Asked once for each call it concerns; keeps count."""
        if self._let_through < self.skip:
            self._let_through += 1
            return False
        if self.probability < 1 and chance.random() >= self.probability:
            return False
        self.fired += 1
        return True

    def as_json(self) -> dict[str, Any]:
        aim = {name: getattr(self, name) for name in AIM}
        return {"id": self.id, **aim, **self.options, "fired": self.fired}


class FaultBook:
    """The faults in force, newest first."""

    def __init__(self, sources: tuple[str, ...]) -> None:
        self._sources = sources
        self._numbers = itertools.count(1)
        self.clear()

    def clear(self) -> int:
        """Forget all faults; says how many there were."""
        gone = len(getattr(self, "_faults", ()))
        self._faults: list[Fault] = []
        self._chance = random.Random(2010)  # the same run of luck after every reset
        return gone

    def add(self, wish: Mapping[str, Any]) -> Fault:
        """A new fault from its JSON description, or Refusal."""
        kind = KINDS.get(str(wish.get("kind")))
        if kind is None:
            raise Refusal(f"unknown kind {wish.get('kind')!r}", sorted(KINDS))
        source = wish.get("source", "*")
        if source not in ("*", *self._sources):
            raise Refusal(f"unknown source {source!r}", ["*", *self._sources])
        options = {name: option.check for name, option in kind.options.items()}
        checks.apply({**AIM, **options}, wish, of=f"kind {wish['kind']!r}")
        chosen = {name: wish.get(name, option.default) for name, option in kind.options.items()}
        missing = sorted(name for name, value in chosen.items() if value is ...)
        if missing:
            raise Refusal(f"kind {wish['kind']!r} needs {', '.join(missing)}", sorted(options))
        aim = {name: wish[name] for name in AIM if name in wish}
        fault = Fault(id=f"f{next(self._numbers)}", options=chosen, **aim)
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
        """Seconds to wait, and the newest fault that fires. One delay combines with one other."""
        delay: Fault | None = None
        if not self._faults or call.source not in self._sources:
            return 0.0, None
        for fault in self._faults:
            if not fault.concerns(call) or (fault.made_of.waits and delay):
                continue
            if not fault.fires(self._chance):
                continue
            call.fault = fault.id
            if not fault.made_of.waits:
                return (delay.options["seconds"] if delay else 0.0), fault
            delay = fault
        return (delay.options["seconds"] if delay else 0.0), None
