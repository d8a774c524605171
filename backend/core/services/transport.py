"""An httpx transport whose every blocking step ends when its time is up."""

import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Any

import httpcore
import httpx

# Sparse traffic should not pay for a handshake each time; sources drop idle connections at 60 s.
KEEPALIVE_SECONDS = 45.0


class NameResolutionError(httpcore.ConnectError):
    """The host name could not be resolved."""


class DeadlineTransport(httpx.HTTPTransport):
    """HTTP/1.1 over at most a handful of kept connections, for use by one thread.

    `seconds_left` is asked before each connect, read and write; the step may take that long and
    no longer. The timeouts of httpx count from the last byte and so never end a dripped answer.
    """

    def __init__(self, *, ssl_context: ssl.SSLContext, seconds_left: Callable[[], float]) -> None:
        super().__init__(verify=ssl_context, trust_env=False)
        # httpx has no public way to hand a network backend to the pool it builds.
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl_context,
            max_connections=4,
            max_keepalive_connections=4,
            keepalive_expiry=KEEPALIVE_SECONDS,
            http1=True,
            http2=False,
            network_backend=_DeadlineBackend(seconds_left),
        )


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
        # Address by address, so that four of them that stay mute share one time limit, and one
        # that does leaves time for the others.
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
                return _DeadlineStream(stream, self._seconds_left)
        raise failure


class _DeadlineStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, seconds_left: Callable[[], float]) -> None:
        self._stream = stream
        self._seconds_left = seconds_left

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _granted(self._seconds_left, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _granted(self._seconds_left, httpcore.WriteTimeout))

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
        return _DeadlineStream(stream, self._seconds_left)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _granted(seconds_left: Callable[[], float], expired: type[Exception]) -> float:
    seconds = seconds_left()
    if seconds <= 0:
        raise expired("deadline")
    return seconds
