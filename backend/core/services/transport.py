"""An httpx transport for deadlines and untrusted servers.

Each blocking step ends at a deadline, and bytes that no request asked for are never an answer.
"""

import logging
import socket
import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import httpcore
import httpx

logger = logging.getLogger(__name__)

# Long enough to save handshakes in sparse traffic; the sources close idle connections after 60 s.
KEEPALIVE_SECONDS = 45.0


class NameResolutionError(httpcore.ConnectError):
    """The host name could not be resolved."""


class DeadlineTransport(httpx.HTTPTransport):
    """HTTP/1.1 over one kept connection to each host, for use by one thread.

    `seconds_left` is called before each connect, read and write and limits that step. The timeouts
    of httpx start again with each byte, so they never end an answer that arrives byte by byte.

    A connection on which a server sent more than the responses to its requests is logged, and
    closed before the next request. The responses before the surplus bytes stay valid.
    """

    def __init__(self, *, ssl_context: ssl.SSLContext, seconds_left: Callable[[], float]) -> None:
        super().__init__(verify=ssl_context, trust_env=False)
        # httpx has no public way to replace the pool that it builds.
        self._pool = _Connections(
            ssl_context=ssl_context,
            keepalive_expiry=KEEPALIVE_SECONDS,
            network_backend=_DeadlineBackend(seconds_left),
        )


class _Connections(httpcore.ConnectionPool):
    """The connections of one thread.

    What makes a pool safe for many threads takes as long as the rest of a request.
    """

    def handle_request(self, request: httpcore.Request) -> httpcore.Response:
        """Send a request over the kept connection to its host, if that still works, or a new one.

        The response before it must be closed.
        """
        origin = request.url.origin
        kept = next((each for each in self._connections if each.can_handle_request(origin)), None)
        if kept is not None:
            if kept.is_available() and not kept.has_expired():
                with suppress(httpcore.ConnectionNotAvailable):
                    return kept.handle_request(request)
            self._connections.remove(kept)
            kept.close()
        connection = self.create_connection(origin)
        response = connection.handle_request(request)
        self._connections.append(connection)
        return response

    def create_connection(self, origin: httpcore.Origin) -> httpcore.ConnectionInterface:
        return _Connection(
            origin=origin,
            ssl_context=self._ssl_context,
            keepalive_expiry=self._keepalive_expiry,
            network_backend=self._network_backend,
        )


class _Connection(httpcore.HTTPConnection):
    def has_expired(self) -> bool:
        """Whether this idle connection must not be used again."""
        if super().has_expired():
            return True
        connection = self._connection
        if not isinstance(connection, httpcore.HTTP11Connection):
            return False
        # httpcore keeps these bytes and would parse them as the next response.
        surplus, _ = connection._h11_state.trailing_data  # noqa: SLF001
        if surplus:
            _log_surplus(self._origin.host.decode("ascii"))
        return bool(surplus)


class _DeadlineBackend(httpcore.NetworkBackend):
    def __init__(self, seconds_left: Callable[[], float]) -> None:
        self._seconds_left = seconds_left
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        # Each address gets an equal share of the remaining time, so that a silent one leaves time
        # for the others and several of them do not add up.
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as exc:
            raise NameResolutionError(type(exc).__name__) from exc
        failure: Exception = httpcore.ConnectError("no address")
        for tried, (*_, address) in enumerate(found):
            try:
                granted = _granted(self._seconds_left, httpcore.ConnectTimeout)
                stream = self._sockets.connect_tcp(
                    str(address[0]), port, granted / (len(found) - tried)
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                failure = exc
            else:
                return _DeadlineStream(stream, self._seconds_left, host)
        raise failure


class _DeadlineStream(httpcore.NetworkStream):
    def __init__(
        self, stream: httpcore.NetworkStream, seconds_left: Callable[[], float], host: str
    ) -> None:
        self._stream = stream
        self._seconds_left = seconds_left
        self._host = host
        self._is_unused = True

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _granted(self._seconds_left, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        granted = _granted(self._seconds_left, httpcore.WriteTimeout)
        if buffer and self._is_readable():
            if self._is_unused:
                raise httpcore.ReadError("the server sent bytes before the first request")
            # The request is then sent over a new connection.
            raise httpcore.ConnectionNotAvailable
        self._is_unused = False
        self._stream.write(buffer, granted)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        granted = _granted(self._seconds_left, httpcore.ConnectTimeout)
        stream = self._stream.start_tls(ssl_context, server_hostname, granted)
        return _DeadlineStream(stream, self._seconds_left, self._host)

    def get_extra_info(self, info: str) -> Any:
        # httpcore asks before each request whether a kept connection is readable. `write` knows.
        return False if info == "is_readable" else self._stream.get_extra_info(info)

    def _is_readable(self) -> bool:
        """Whether the server closed the connection or sent bytes; consumes one of them.

        httpcore asks the socket only, which misses bytes that TLS has buffered, and takes the
        session tickets of TLS for bytes.
        """
        sock = self._stream.get_extra_info("socket")
        try:
            sock.settimeout(0)
            surplus = sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        if surplus:
            _log_surplus(self._host)
        return True


def _log_surplus(host: str) -> None:
    fields = {"outcome": "surplus_bytes", "host": host}
    logger.warning("connection closed after bytes that belong to no response", extra=fields)


def _granted(seconds_left: Callable[[], float], expired: type[Exception]) -> float:
    seconds = seconds_left()
    if seconds <= 0:
        raise expired("deadline")
    return seconds
