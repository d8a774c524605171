"""What a kind of fault is made of. The kinds themselves are in fault_answers and fault_wires."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sandbox import checks
from sandbox.ledger import Call
from sandbox.messages import Request, Response
from sandbox.upstream import Upstream

Options = Mapping[str, Any]


class Wire(Protocol):
    """The client's connection, for faults that no ordinary answer can express."""

    async def send(self, data: bytes) -> None:
        """Returns once there is room for more, so an endless sender holds next to nothing."""

    def reset(self) -> None:
        """RST: what has not arrived yet never will."""


@dataclass
class Ask:
    """A request on its way to an answer."""

    request: Request
    upstream: Upstream
    call: Call

    def real(self) -> Response:
        """The healthy answer. Counts against quotas like any other."""
        return self.upstream.answer(self.request)


@dataclass(frozen=True)
class Option:
    """`default=...` makes it required."""

    check: checks.Check
    default: Any = ...


@dataclass(frozen=True)
class Kind:
    """Either makes an answer or plays on the wire; `delay` does neither, it only waits."""

    options: Mapping[str, Option]
    answer: Callable[[Ask, Options], Response] | None = None
    play: Callable[[Wire, Ask, Options], Awaitable[None]] | None = None

    @property
    def waits(self) -> bool:
        return self.answer is None and self.play is None
