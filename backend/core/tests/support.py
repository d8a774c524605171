"""What several tests of this folder build."""

import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from tenacity.wait import wait_base, wait_none

from core.services.http_client import HttpClient

Handler = Callable[[httpx.Request], httpx.Response]

# In a header or a query of ours, it must turn up nowhere else.
CANARY = "canary-7f3a9c"

_made: list[HttpClient] = []


def client_of(
    handler: Handler,
    *,
    attempts: int = 3,
    wait: wait_base | None = None,
    sleep: Callable[[float], None] = lambda _: None,
) -> HttpClient:
    """A client whose every request is answered by `handler`."""
    return HttpClient(
        timeout=5,
        attempts=attempts,
        ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        sleep=sleep,
        transport=lambda _: httpx.MockTransport(handler),
        **({"wait": wait} if wait else {}),
    )


def wire_client(
    *, timeout: float = 0.4, attempts: int = 2, ssl_context: ssl.SSLContext | None = None
) -> HttpClient:
    """A client on real sockets that does not wait between attempts; closed after the test."""
    client = HttpClient(
        timeout=timeout,
        attempts=attempts,
        ssl_context=ssl_context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        wait=wait_none(),
    )
    _made.append(client)
    return client


def close_clients() -> None:
    """Close what this thread opened through clients of `wire_client`."""
    while _made:
        client = getattr(_made.pop()._thread, "client", None)
        if client is not None:
            client.close()


class Answers:
    """Gives one answer after the other, the last one for ever, and remembers the requests."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        # A response can be read once only.
        stream = httpx.ByteStream(answer.content)
        return httpx.Response(answer.status_code, headers=answer.headers, stream=stream)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fails where what is inside takes longer, with half a second to spare for a busy machine."""
    started = time.monotonic()
    yield
    taken = time.monotonic() - started
    assert taken < seconds + 0.5, f"took {taken:.2f} s instead of {seconds} s"


def outcomes(lines: list[dict[str, Any]]) -> list[Any]:
    """The outcomes in the log lines of the client, one for each attempt."""
    return [line["outcome"] for line in lines if line["message"] == "upstream call"]
