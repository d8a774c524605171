"""Load in an open loop: requests are sent when they are due, whatever the server has answered.

A latency counts from the moment at which the request was due, so that a server that stalls is
charged with all requests that it delays (no coordinated omission). One thread sends on many
connections; what it cannot send in time because all of them wait counts as latency too.
"""

import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tools.bench.load import Target

CONNECTIONS = 128
# How long after the last request is due answers are waited for.
_PATIENCE = 10.0


@dataclass
class Schedule:
    """Requests that are due at a constant rate, and the latencies of those that were answered."""

    rate: float
    number: int
    started: float
    sent: int = 0
    latencies: list[float] = field(default_factory=list)

    @property
    def due_at(self) -> float:
        """When the next request is due; infinite after the last."""
        return self.started + self.sent / self.rate if self.sent < self.number else float("inf")

    def send(self) -> float:
        """Take the next request; return when it was due."""
        due = self.due_at
        self.sent += 1
        return due

    def answered(self, due: float, now: float) -> None:
        """Record the answer of the request that was due then."""
        self.latencies.append(now - due)

    @property
    def is_over(self) -> bool:
        """Whether all requests are answered."""
        return len(self.latencies) == self.number


@dataclass(frozen=True)
class Point:
    """Requests per second that were offered and answered, and latencies in milliseconds.

    `busy` is the share of time in which the generator had something to do. Where it is near 1, the
    latencies are its own.
    """

    offered: float
    achieved: float
    p50: float
    p99: float
    busy: float


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest of the sorted values that so many percent do not exceed."""
    return values[max(0, -(-len(values) * percent // 100).__int__() - 1)]


class Generator:
    """Sends one request again and again, on connections that stay open."""

    def __init__(self, target: Target) -> None:
        parts = urlsplit(target.url)
        self._address = (parts.hostname, parts.port)
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        lines = [f"GET {path} HTTP/1.1", f"Host: {parts.netloc}", *target.headers]
        self._request = "\r\n".join([*lines, "", ""]).encode()
        self._buffer = bytearray(1 << 20)
        self._body = 0

    def offer(self, rate: float, *, seconds: float) -> Point:
        """Offer so many requests per second, for some seconds; return what became of them."""
        sockets = [self._connect() for _ in range(CONNECTIONS)]
        try:
            self._body = self._length_of_body(sockets[0])
            return self._run(sockets, rate, seconds)
        finally:
            for each in sockets:
                each.close()

    def _connect(self) -> socket.socket:
        connected = socket.create_connection(self._address, timeout=5)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected

    def _length_of_body(self, connection: socket.socket) -> int:
        """Make one request; all others have an answer of the same length."""
        connection.sendall(self._request)
        text = b""
        while b"\r\n\r\n" not in text:
            text += connection.recv(1 << 20)
        head, _, body = text.partition(b"\r\n\r\n")
        assert head[9:12] in {b"200", b"304"}, head
        lengths = [
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        ]
        length = lengths[0] if lengths and head[9:12] == b"200" else 0
        while len(body) < length:
            body += connection.recv(1 << 20)
        return length

    def _run(self, sockets: list[socket.socket], rate: float, seconds: float) -> Point:
        poll = select.epoll()
        by_number = {each.fileno(): each for each in sockets}
        for number, each in by_number.items():
            each.setblocking(False)
            poll.register(number, select.EPOLLIN)
        free = list(by_number)
        # By connection: when its request was due, and how many bytes are still to come (None: all).
        waiting: dict[int, tuple[float, int | None]] = {}
        started = now = time.monotonic()
        plan = Schedule(rate, int(rate * seconds), started)
        gives_up, idle = started + seconds + _PATIENCE, 0.0
        while not plan.is_over and now < gives_up:
            while free and plan.due_at <= now:
                number = free.pop()
                waiting[number] = (plan.send(), None)
                by_number[number].send(self._request)
            events = poll.poll(0)
            before, now = now, time.monotonic()
            if not events and plan.due_at > now:
                idle += now - before
            for number, _ in events:
                due, left = waiting.pop(number)
                left = self._read(by_number[number], left)
                if left:
                    waiting[number] = (due, left)
                else:
                    plan.answered(due, time.monotonic())
                    free.append(number)
        poll.close()
        # What was not answered has waited at least until now.
        unanswered = [now - due for due, _ in waiting.values()]
        unsent = [now - plan.send() for _ in range(plan.number - plan.sent)]
        times = sorted([*plan.latencies, *unanswered, *unsent])
        return Point(
            offered=rate,
            achieved=len(plan.latencies) / (now - started),
            p50=percentile(times, 50) * 1000,
            p99=percentile(times, 99) * 1000,
            busy=1 - idle / (now - started),
        )

    def _read(self, connection: socket.socket, left: int | None) -> int:
        """Read what has arrived; return how many bytes of the answer are still to come."""
        received = connection.recv_into(self._buffer)
        assert received, "the server closed a connection"
        if left is not None:
            return left - received
        end = self._buffer.find(b"\r\n\r\n", 0, received)
        assert end > 0, "the head of an answer came in parts"
        head = bytes(self._buffer[:end])
        assert head[9:12] in {b"200", b"304"}, head
        return end + 4 + self._body - received
