"""The operations port: health and metrics, also while all request threads are busy.

Every worker listens there, so that one that hangs does not matter. Connections are read by one
thread, which waits for none of them, and requests are answered by a few others.
"""

import asyncio
import email
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any
from urllib.parse import unquote
from wsgiref.handlers import SimpleHandler

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

# For the request, and again for the answer, in seconds.
_PATIENCE = 5.0
_HEADER_BYTES = 16_384
# Above this, the oldest connection is closed: files are needed for requests elsewhere.
_CONNECTIONS = 128
# A check of the database may take seconds.
_THREADS = 8


def serve(listener: socket.socket, application: Application) -> None:
    """Answer at `listener` from now on, in threads of its own; each connection has one request."""
    port = _OperationsPort(application)
    threading.Thread(
        target=lambda: asyncio.run(port.serve(listener)), name="operations", daemon=True
    ).start()


class _OperationsPort:
    def __init__(self, application: Application) -> None:
        self._application = application
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="operations")
        # In the order in which they were opened.
        self._open: dict[asyncio.StreamWriter, None] = {}

    async def serve(self, listener: socket.socket) -> None:
        server = await asyncio.start_server(self._talk, sock=listener, limit=_HEADER_BYTES)
        await server.serve_forever()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[writer] = None
        if len(self._open) > _CONNECTIONS:
            next(iter(self._open)).transport.abort()
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _PATIENCE)
            loop = asyncio.get_running_loop()
            answer = await loop.run_in_executor(self._pool, self._answer, head)
            # Wait until the client has taken all of it.
            writer.transport.set_write_buffer_limits(0)
            writer.write(answer)
            await asyncio.wait_for(writer.drain(), _PATIENCE)
            writer.close()
        # The client is too slow or gone, or sent no HTTP.
        except (asyncio.TimeoutError, EOFError, OSError, ValueError, asyncio.LimitOverrunError):
            writer.transport.abort()
        finally:
            del self._open[writer]

    def _answer(self, head: bytes) -> bytes:
        """Return the response to a request, whose body is ignored.

        Raises `ValueError` if `head` is not that of a request.
        """
        request_line, _, fields = head.decode("latin-1").partition("\r\n")
        method, target, protocol = request_line.split(" ")
        path, _, query = target.partition("?")
        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": unquote(path, "latin-1"),
            "QUERY_STRING": query,
            "SERVER_PROTOCOL": protocol,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "0",
        }
        for name, value in email.message_from_string(fields).items():
            if "_" not in name:
                environ[f"HTTP_{name.upper().replace('-', '_')}"] = value
        sent = BytesIO()
        handler = _Handler(BytesIO(), sent, sys.stderr, environ)
        handler.run(self._application)
        response = sent.getvalue()
        if method == "HEAD":
            response = response[: response.index(b"\r\n\r\n") + 4]
        return response


class _Handler(SimpleHandler):
    """Answers in HTTP/1.0, which has one request for each connection."""

    # No `Server` header.
    server_software = ""
