"""Redis servers that misbehave, and the address of a real one if there is one."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

REDIS_URL = os.environ.get("REDIS_URL", "")
needs_redis = pytest.mark.skipif(not REDIS_URL, reason="needs a Redis, named by REDIS_URL")


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class OddRedis:
    """Accepts every connection; sends `answer` to every command, or nothing if it is empty."""

    def __init__(self, listener: socket.socket) -> None:
        self.url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
        self.connections = 0
        self.answer = b""
        self.received = b""
        self._listener = listener
        self._open: list[socket.socket] = []

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._talk, args=[connection], daemon=True).start()

    def hang_up(self) -> None:
        for connection in self._open:
            connection.close()

    def _talk(self, connection: socket.socket) -> None:
        try:
            while received := connection.recv(65536):
                self.received += received
                if self.answer:
                    connection.sendall(self.answer)
        except OSError:
            return


@contextmanager
def odd_redis() -> Iterator[OddRedis]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = OddRedis(listener)
        threading.Thread(target=server.serve, daemon=True).start()
        yield server
        # Wakes `accept`, which closing the listener alone does not.
        listener.shutdown(socket.SHUT_RDWR)
        server.hang_up()
