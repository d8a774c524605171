"""Types for the definition of fault kinds, which are in fault_answers and fault_wires."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sandbox import checks
from sandbox.call_log import Call
from sandbox.messages import Request, Response
from sandbox.upstream import Upstream

Options = Mapping[str, Any]


class Wire(Protocol):
    """The client connection, for faults that a complete response cannot express."""

    async def send(self, data: bytes) -> None:
        """Write data; return when the buffer accepts more, so that memory stays bounded."""

    def reset(self) -> None:
        """Close with RST, which discards data in transit."""


@dataclass
class Exchange:
    """A request that is being answered."""

    request: Request
    upstream: Upstream
    call: Call

    def healthy(self) -> Response:
        """Return the response without a fault. It counts against quotas."""
        return self.upstream.answer(self.request)


@dataclass(frozen=True)
class Option:
    """An option of a fault kind; without a default it is required."""

    check: checks.Check
    default: Any = ...


@dataclass(frozen=True)
class Kind:
    """Makes a response or takes over the connection; `delay` does neither, it only waits."""

    options: Mapping[str, Option]
    respond: Callable[[Exchange, Options], Response] | None = None
    take_over: Callable[[Wire, Exchange, Options], Awaitable[None]] | None = None

    @property
    def waits(self) -> bool:
        return self.respond is None and self.take_over is None
