"""The databases of running servers: looked into, spoiled, and reached through a faulty network."""

import selectors
import socket
import sqlite3
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg2

LONG_AGO = "2020-01-01 00:00:00"
_SSL_REQUEST = 80877103


def connect(url: str) -> Any:
    """A connection of our own to the database of a server."""
    if url.startswith("sqlite"):
        return sqlite3.connect(url.removeprefix("sqlite:///"), timeout=20)
    return psycopg2.connect(url)


def execute(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements in one transaction; gives the rows of the last one."""
    with closing(connect(url)) as connection:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        rows = cursor.fetchall() if cursor.description else []
        connection.commit()
    return rows


def forget_everything(url: str) -> None:
    """As migrated: no films, and nothing known about the sources."""
    tables = ("films_filmbody", "films_film", "films_filmfetch", "core_upstreamstate")
    execute(url, *(f"DELETE FROM {table}" for table in tables))


def expire(url: str) -> None:
    """Let every stored film be past its time, and due."""
    execute(
        url,
        # In the order of the service, which would else meet us in a deadlock.
        "UPDATE films_filmfetch SET retry_at = NULL",
        f"UPDATE films_film SET cached_at = '{LONG_AGO}'",
    )


def dump(url: str) -> str:
    """Every value of every row of every table."""
    if url.startswith("sqlite"):
        tables = execute(url, "SELECT name FROM sqlite_master WHERE type = 'table'")
    else:
        tables = execute(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return "\n".join(
        str([bytes(value) if isinstance(value, memoryview) else value for value in row])
        for (table,) in tables
        for row in execute(url, f'SELECT * FROM "{table}"')
    )


def activity(url: str) -> list[tuple[str, str]]:
    """State and last query of each connection that a server has to its database."""
    return execute(
        url,
        "SELECT state, query FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'filmosphere'",
    )


class Gateway:
    """The way to a PostgreSQL server, which can be closed, mute or crowded."""

    def __init__(self, url: str, *, port: int = 0) -> None:
        self._parts = urlsplit(url)
        self._listener = socket.create_server(("127.0.0.1", port))
        self._port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self.mode = "open"
        self._ended = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        user = self._parts.netloc.rpartition("@")[0]
        netloc = f"{user}@127.0.0.1:{self._port}" if user else f"127.0.0.1:{self._port}"
        return urlunsplit(self._parts._replace(netloc=netloc))

    def cut(self) -> None:
        """End all connections, as a restart of the server does."""
        with self._lock:
            for sock in self._sockets:
                sock.close()
            self._sockets.clear()

    def end(self) -> None:
        self._ended = True
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while not self._ended:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._sockets.append(client)
            if self.mode == "closed":
                client.close()
            elif self.mode != "mute":
                work = self._forward if self.mode == "open" else self._refuse
                threading.Thread(target=work, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        server = socket.create_connection(
            (self._parts.hostname or "127.0.0.1", self._parts.port or 5432)
        )
        with self._lock:
            self._sockets.append(server)
        both = {client: server, server: client}
        try:
            with selectors.DefaultSelector() as selector:
                for sock in both:
                    selector.register(sock, selectors.EVENT_READ)
                while all(self._passed_on(key.fileobj, both) for key, _ in selector.select()):
                    pass
        except (OSError, ValueError):
            pass
        finally:
            client.close()
            server.close()

    def _passed_on(self, sock: Any, both: dict[socket.socket, socket.socket]) -> bool:
        data = sock.recv(65_536)
        both[sock].sendall(data)
        return bool(data)

    def _refuse(self, client: socket.socket) -> None:
        """Say what PostgreSQL says when there are too many connections already."""
        try:
            (length, code) = struct.unpack("!ii", client.recv(8, socket.MSG_WAITALL))
            if code == _SSL_REQUEST:
                client.sendall(b"N")
                (length, _) = struct.unpack("!ii", client.recv(8, socket.MSG_WAITALL))
            client.recv(length - 8, socket.MSG_WAITALL)
            fields = b"SFATAL\0VFATAL\0C53300\0Msorry, too many clients already\0\0"
            client.sendall(b"E" + struct.pack("!i", len(fields) + 4) + fields)
        except OSError:
            pass
        finally:
            client.close()


@contextmanager
def gateway(url: str, *, port: int = 0) -> Iterator[Gateway]:
    way = Gateway(url, port=port)
    try:
        yield way
    finally:
        way.end()


@contextmanager
def locked(url: str, *statements: str) -> Iterator[None]:
    """Hold the locks that `statements` take."""
    with closing(connect(url)) as connection:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        yield
        connection.rollback()


def eventually(condition: Any, *, seconds: float = 10.0) -> Any:
    """What `condition` gives once that is true; fails where it stays false."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s")
