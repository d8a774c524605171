"""TLS failures: no request is sent, no older protocol is used, and there is no retry."""

import datetime as dt
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import trustme

from core.errors import UpstreamUnavailable
from core.services.http_client import HttpClient
from core.tests.support import LogText, wire_client

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
PAST = dt.datetime(2001, 1, 1, tzinfo=dt.timezone.utc)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def client(authority: trustme.CA) -> HttpClient:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return wire_client(timeout=5, attempts=3, ssl_context=context)


class Server:
    """Accepts TLS connections one at a time, and counts connections and requests."""

    def __init__(self, handshake: Callable[[socket.socket], socket.socket]) -> None:
        self._handshake = handshake
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._socket.getsockname()[1]}/"
        self.connections = 0
        self.requests = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                try:
                    self._answer(connection)
                except OSError:
                    continue

    def _answer(self, connection: socket.socket) -> None:
        with self._handshake(connection) as secured:
            if secured.recv(65536):
                self.requests += 1
            secured.sendall(ANSWER)

    def stop(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@contextmanager
def serving(handshake: Callable[[socket.socket], socket.socket]) -> Iterator[Server]:
    server = Server(handshake)
    try:
        yield server
    finally:
        server.stop()


def tls(certificate: trustme.LeafCert) -> Callable[[socket.socket], socket.socket]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return lambda connection: context.wrap_socket(connection, server_side=True)


def test_a_server_with_a_good_certificate_gets_the_request(
    authority: trustme.CA, client: HttpClient
) -> None:
    with serving(tls(authority.issue_cert("127.0.0.1"))) as server:
        reply = client.get("imdbapi", server.url)

    assert reply.body == b"{}"
    assert server.requests == 1


@pytest.mark.parametrize(
    "certificate",
    [
        pytest.param(
            lambda ca: ca.issue_cert("127.0.0.1", not_before=PAST, not_after=PAST), id="expired"
        ),
        pytest.param(lambda ca: ca.issue_cert("elsewhere.test"), id="wrong name"),
        pytest.param(lambda ca: trustme.CA().issue_cert("127.0.0.1"), id="self-signed"),
    ],
)
def test_a_bad_certificate_is_refused_once_and_logged_as_an_error(
    authority: trustme.CA,
    client: HttpClient,
    log: LogText,
    certificate: Callable[[trustme.CA], trustme.LeafCert],
) -> None:
    untrusted = tls(certificate(authority))

    with serving(untrusted) as server, pytest.raises(UpstreamUnavailable) as caught:
        client.get("imdbapi", server.url)

    assert caught.value.reason == "tls_certificate_error"
    assert (server.connections, server.requests) == (1, 0)
    assert [line["level"] for line in log.of("upstream call")] == ["ERROR"]


def alert_for_an_old_protocol(connection: socket.socket) -> socket.socket:
    # A server that supports nothing newer than TLS 1.0 sends a fatal "protocol version" alert.
    connection.recv(65536)
    connection.sendall(b"\x15\x03\x01\x00\x02\x02\x46")
    return connection


def server_hello_of_tls_1_0(connection: socket.socket) -> socket.socket:
    connection.recv(65536)
    hello = b"\x03\x01" + bytes(32) + b"\x00" + b"\x00\x2f" + b"\x00"
    message = b"\x02" + len(hello).to_bytes(3, "big") + hello
    connection.sendall(b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message)
    return connection


def plain_http(connection: socket.socket) -> socket.socket:
    connection.recv(65536)
    connection.sendall(ANSWER)
    return connection


@pytest.mark.parametrize(
    "handshake", [alert_for_an_old_protocol, server_hello_of_tls_1_0, plain_http]
)
def test_no_older_protocol_is_negotiated(
    client: HttpClient, log: LogText, handshake: Callable[[socket.socket], socket.socket]
) -> None:
    with serving(handshake) as server, pytest.raises(UpstreamUnavailable) as caught:
        client.get("imdbapi", server.url)

    assert caught.value.reason == "tls_protocol_error"
    assert server.connections == 1
    assert [line["level"] for line in log.of("upstream call")] == ["ERROR"]


def test_a_connection_that_ends_during_the_handshake_is_retried(client: HttpClient) -> None:
    def hang_up(connection: socket.socket) -> socket.socket:
        connection.recv(65536)
        connection.shutdown(socket.SHUT_RDWR)
        raise OSError

    with serving(hang_up) as server, pytest.raises(UpstreamUnavailable) as caught:
        client.get("imdbapi", server.url)

    assert caught.value.reason == "connection_terminated"
    assert server.connections == 3
