"""Helpers for the tests of this folder."""

import io
import json
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from tenacity.wait import wait_base, wait_none

from core.services.coordinator import Coordinator
from core.services.http_client import OUTCOMES, HttpClient

Handler = Callable[[httpx.Request], httpx.Response]

# Sent as a key in a header or a query; it must appear nowhere else.
CANARY = "canary-7f3a9c"

_made: list[HttpClient] = []


class LogText:
    """All log lines from DEBUG on, in the format of production."""

    def __init__(self, stream: io.StringIO) -> None:
        self._stream = stream

    def __str__(self) -> str:
        return self._stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in str(self).splitlines()]

    def of(self, message: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["message"] == message]


class InlineCoordinator(Coordinator):
    """Has no thread: it works when the test's thread, which owns the connection, wakes it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._thread = threading.get_ident()

    def wake(self) -> None:
        if threading.get_ident() == self._thread:
            self.work()


def client_of(
    handler: Handler,
    *,
    attempts: int = 3,
    wait: wait_base | None = None,
    sleep: Callable[[float], None] = lambda _: None,
    secrets: Collection[str] = (),
) -> HttpClient:
    """A client whose requests are answered by `handler`."""
    return HttpClient(
        timeout=5,
        attempts=attempts,
        ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        sleep=sleep,
        transport=lambda _: httpx.MockTransport(handler),
        secrets=secrets,
        **({"wait": wait} if wait else {}),
    )


def wire_client(
    *, timeout: float = 0.4, attempts: int = 2, ssl_context: ssl.SSLContext | None = None
) -> HttpClient:
    """A client on real sockets without waits between attempts; closed after the test."""
    client = HttpClient(
        timeout=timeout,
        attempts=attempts,
        ssl_context=ssl_context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        wait=wait_none(),
    )
    _made.append(client)
    return client


def close_clients() -> None:
    """Close the connections that this thread opened with clients of `wire_client`."""
    while _made:
        transport = getattr(_made.pop()._thread, "transport", None)
        if transport is not None:
            transport.close()


class Answers:
    """Returns one answer after the other, then the last one again, and records the requests."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        # A response can be read only once.
        stream = httpx.ByteStream(answer.content)
        return httpx.Response(answer.status_code, headers=answer.headers, stream=stream)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fail if the block takes longer; half a second is added for a busy machine."""
    started = time.monotonic()
    yield
    taken = time.monotonic() - started
    assert taken < seconds + 0.5, f"took {taken:.2f} s instead of {seconds} s"


def outcomes(lines: list[dict[str, Any]]) -> list[Any]:
    """The outcomes in the log lines of the client, one per attempt; all are values of a label."""
    found = [line["outcome"] for line in lines if line["message"] == "upstream call"]
    assert set(found) <= set(OUTCOMES)
    return found
