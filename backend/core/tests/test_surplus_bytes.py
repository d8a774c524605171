"""Servers that send more than one response to a request."""

import itertools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import httpx
import pytest
import trustme
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from core.services.http_client import HttpClient
from core.services.transport import DeadlineTransport
from core.tests.support import LogText, outcomes, wire_client

FORGED = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"

# A complete response and the body that belongs to it.
RESPONSES = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nreal", b"real"),
    "chunked": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nreal\r\n0\r\n\r\n",
        b"real",
    ),
    "chunked with trailers": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\nreal\r\n0\r\nA: b\r\n\r\n",
        b"real",
    ),
    "empty": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "no content with length": (b"HTTP/1.1 204 No Content\r\nContent-Length: 54\r\n\r\n", b""),
    "not found": (b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nreal", b"real"),
    "after early hints": (
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nreal",
        b"real",
    ),
}


class Server:
    """Answers `/` with the given segments, any other path with a response that holds the path.

    All segments after the first wait for `released`. `sent` is set after the last one.
    """

    def __init__(self, wrap: Callable[[socket.socket], socket.socket] | None = None) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._wrap = wrap or (lambda connection: connection)
        scheme = "https" if wrap else "http"
        self.url = f"{scheme}://127.0.0.1:{self._socket.getsockname()[1]}"
        self.greeting = b""
        self.released = threading.Event()
        self.released.set()
        self.sent = threading.Event()
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def answer_with(self, *segments: bytes) -> None:
        self._segments = [segment for segment in segments if segment]
        self.connections = 0
        self.sent.clear()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with self._wrap(connection) as wrapped:
                if self.greeting:
                    wrapped.sendall(self.greeting)
                    self.sent.set()
                while request := wrapped.recv(65536):
                    path = request.split()[1]
                    if path != b"/":
                        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(path)
                        wrapped.sendall(head + path)
                        if path == b"/close":
                            break
                        continue
                    for segment in self._segments:
                        wrapped.sendall(segment)
                        self.released.wait(5)
                    self.sent.set()
        except OSError:
            pass
        finally:
            self.sent.set()

    def stop(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


def surplus_lines(log: LogText) -> list[object]:
    return [line["host"] for line in log.lines if line.get("outcome") == "surplus_bytes"]


@pytest.mark.parametrize("kind", RESPONSES)
@pytest.mark.parametrize("surplus", [FORGED, b"x", b"\r\n", FORGED * 10_000])
def test_a_second_response_is_not_the_answer_to_the_next_request(
    server: Server, log: LogText, kind: str, surplus: bytes
) -> None:
    client = wire_client(timeout=5)
    response, body = RESPONSES[kind]
    server.answer_with(response + surplus)

    first = client.get("imdbapi", f"{server.url}/")
    second = client.get("imdbapi", f"{server.url}/second")

    assert (first.body, second.body) == (body, b"/second")
    assert server.connections == 2
    assert surplus_lines(log) == ["127.0.0.1"]
    assert len(outcomes(log.lines)) == 2


@pytest.mark.parametrize("kind", RESPONSES)
def test_a_connection_without_surplus_is_reused(server: Server, log: LogText, kind: str) -> None:
    client = wire_client(timeout=5)
    response, body = RESPONSES[kind]
    server.answer_with(response)

    bodies = [client.get("imdbapi", f"{server.url}{path}").body for path in ("/", "/a", "/", "/b")]

    assert bodies == [body, b"/a", body, b"/b"]
    assert server.connections == 1
    assert surplus_lines(log) == []


@pytest.mark.parametrize("surplus", [FORGED, b"x"])
def test_a_second_response_in_a_later_segment_is_not_an_answer(
    server: Server, log: LogText, surplus: bytes
) -> None:
    client = wire_client(timeout=5)
    response, body = RESPONSES["length"]
    server.answer_with(response, surplus)

    first = client.get("imdbapi", f"{server.url}/")
    server.sent.wait(5)
    second = client.get("imdbapi", f"{server.url}/second")

    assert (first.body, second.body) == (body, b"/second")
    assert server.connections == 2
    assert surplus_lines(log) == ["127.0.0.1"]


def test_a_connection_that_the_server_closed_is_replaced_without_a_surplus_line(
    server: Server, log: LogText
) -> None:
    client = wire_client(timeout=5)
    client.get("imdbapi", f"{server.url}/close")
    server.sent.wait(5)

    assert client.get("imdbapi", f"{server.url}/second").body == b"/second"
    assert server.connections == 2
    assert outcomes(log.lines) == ["ok", "ok"]
    assert surplus_lines(log) == []


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    kind=st.sampled_from(sorted(RESPONSES)),
    surplus=st.sampled_from([FORGED, FORGED * 2, b"HTTP/1.1 200", b"\n"]),
    cut=st.integers(0, 200),
)
@example(kind="length", surplus=FORGED, cut=42)
@example(kind="length", surplus=FORGED, cut=41)
def test_no_cut_between_segments_lets_a_second_response_through(
    server: Server, kind: str, surplus: bytes, cut: int
) -> None:
    client = wire_client(timeout=5)
    response, body = RESPONSES[kind]
    stream = response + surplus
    server.answer_with(stream[:cut], stream[cut:])

    first = client.get("imdbapi", f"{server.url}/")
    server.sent.wait(5)
    second = client.get("imdbapi", f"{server.url}/second")

    assert (first.body, second.body) == (body, b"/second")
    assert server.connections == 2


# Bytes that arrive after the pool has chosen the connection


class Transport(DeadlineTransport):
    """Calls `before_step` before each connect, read and write."""

    def __init__(self) -> None:
        self.before_step: Callable[[], object] = lambda: None
        super().__init__(
            ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), seconds_left=self._seconds_left
        )

    def _seconds_left(self) -> float:
        self.before_step()
        return 5.0


def test_bytes_that_arrive_just_before_the_request_are_not_its_answer(
    server: Server, log: LogText
) -> None:
    response, body = RESPONSES["length"]
    server.released.clear()
    server.answer_with(response, FORGED)
    transport = Transport()

    def release() -> None:
        server.released.set()
        server.sent.wait(5)

    with httpx.Client(transport=transport) as client:
        first = client.get(f"{server.url}/")
        transport.before_step = release
        second = client.get(f"{server.url}/second")

    assert (first.content, second.content) == (body, b"/second")
    assert server.connections == 2
    assert surplus_lines(log) == ["127.0.0.1"]


def test_bytes_before_the_first_request_are_not_its_answer(server: Server, log: LogText) -> None:
    server.greeting = FORGED
    transport = Transport()
    # The first step is the connect, the second one the write.
    steps = itertools.count()
    transport.before_step = lambda: next(steps) and server.sent.wait(5)

    with httpx.Client(transport=transport) as client, pytest.raises(httpx.ReadError):
        client.get(f"{server.url}/")

    assert surplus_lines(log) == ["127.0.0.1"]


# TLS


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_server(authority: trustme.CA) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server = Server(lambda connection: context.wrap_socket(connection, server_side=True))
    yield server
    server.stop()


@pytest.fixture
def tls_client(authority: trustme.CA) -> HttpClient:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return wire_client(timeout=5, ssl_context=context)


@pytest.mark.parametrize("cut", [40, 42, 60, 1000])
def test_a_second_response_over_tls_is_not_an_answer(
    tls_server: Server, tls_client: HttpClient, log: LogText, cut: int
) -> None:
    response, body = RESPONSES["length"]
    stream = response + FORGED
    tls_server.answer_with(stream[:cut], stream[cut:])

    first = tls_client.get("imdbapi", f"{tls_server.url}/")
    tls_server.sent.wait(5)
    second = tls_client.get("imdbapi", f"{tls_server.url}/second")

    assert (first.body, second.body) == (body, b"/second")
    assert tls_server.connections == 2
    assert surplus_lines(log) == ["127.0.0.1"]


def test_a_tls_connection_without_surplus_is_reused(
    tls_server: Server, tls_client: HttpClient
) -> None:
    for path in (b"/a", b"/b", b"/c"):
        assert tls_client.get("imdbapi", f"{tls_server.url}{path.decode()}").body == path

    assert tls_server.connections == 1
