"""Tools for the databases of running servers: statements, locks, PostgreSQL and PgBouncer."""

import os
import selectors
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg2

from tools.harness.server import free_port, migrate

LONG_AGO = "2020-01-01 00:00:00"
_SSL_REQUEST = 80877103


def connect(url: str) -> Any:
    """Connect to the database of a server."""
    if url.startswith("sqlite"):
        return sqlite3.connect(url.removeprefix("sqlite:///"), timeout=20)
    return psycopg2.connect(url)


def execute(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements in one transaction; return the rows of the last one."""
    with closing(connect(url)) as connection:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        rows = cursor.fetchall() if cursor.description else []
        connection.commit()
    return rows


def forget_everything(url: str) -> None:
    """Delete the films and what is known about the sources."""
    tables = ("films_filmrendering", "films_film", "films_filmfetch", "core_upstreamstate")
    execute(url, *(f"DELETE FROM {table}" for table in tables))


def expire(url: str) -> None:
    """Make every stored film expired and due for a refresh."""
    execute(
        url,
        # The service locks the tables in this order; another order could deadlock with it.
        "UPDATE films_filmfetch SET retry_at = NULL",
        f"UPDATE films_film SET cached_at = '{LONG_AGO}'",
    )


def dump(url: str) -> str:
    """Return every value of every row of every table."""
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
    """Return the state and the last query of each connection of servers to the database."""
    return execute(
        url,
        "SELECT state, query FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'filmosphere'",
    )


class Gateway:
    """A TCP proxy for a PostgreSQL server that can simulate faults of the network and the server.

    `mode` applies to new connections: they are forwarded ("open"), closed ("closed"), never
    answered ("silent"), or refused because of too many connections ("full").
    """

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
    def mode(self) -> str:
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        assert mode in {"open", "closed", "silent", "full"}, mode
        self._mode = mode

    @property
    def url(self) -> str:
        user = self._parts.netloc.rpartition("@")[0]
        netloc = f"{user}@127.0.0.1:{self._port}" if user else f"127.0.0.1:{self._port}"
        return urlunsplit(self._parts._replace(netloc=netloc))

    def cut(self) -> None:
        """Close all connections, as a restart of the server does."""
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
            elif self.mode != "silent":
                answer = self._forward if self.mode == "open" else self._refuse
                threading.Thread(target=answer, args=(client,), daemon=True).start()

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
                while all(self._forward_once(key.fileobj, both) for key, _ in selector.select()):
                    pass
        except (OSError, ValueError):
            pass
        finally:
            client.close()
            server.close()

    def _forward_once(self, sock: Any, both: dict[socket.socket, socket.socket]) -> bool:
        data = sock.recv(65_536)
        both[sock].sendall(data)
        return bool(data)

    def _refuse(self, client: socket.socket) -> None:
        """Answer as PostgreSQL does when there are too many connections."""
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
    """Run a proxy in front of a PostgreSQL server."""
    proxy = Gateway(url, port=port)
    try:
        yield proxy
    finally:
        proxy.end()


@contextmanager
def locked(url: str, *statements: str) -> Iterator[None]:
    """Hold the locks of `statements` in an open transaction."""
    with closing(connect(url)) as connection:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        yield
        connection.rollback()


def eventually(condition: Any, *, seconds: float = 10.0) -> Any:
    """Wait until `condition` returns a true value and return it; fail after `seconds`."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s")


class PrivatePostgres:
    """A PostgreSQL server that belongs to a test, which can stop and continue its processes."""

    def __init__(self, url: str, data: Path, process: subprocess.Popen[bytes]) -> None:
        self.url, self._data, self._process = url, data, process

    def freeze(self) -> None:
        """Stop all its processes; the kernel still accepts connections."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let its processes continue."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the server at once, as a crash does."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.send_signal(signal.SIGCONT)
        self._process.wait(timeout=10)

    def promote(self) -> None:
        """Make a replica the primary."""
        _run_postgres_program(
            *("pg_ctl", "promote", "--wait", "--pgdata", self._data), folder=self._data.parent
        )

    def _signal(self, number: int) -> None:
        postmaster = self._process.pid
        with suppress(ProcessLookupError, FileNotFoundError):
            os.kill(postmaster, number)
            children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text()
            for child in children.split():
                with suppress(ProcessLookupError):
                    os.kill(int(child), number)


def postgres_program(name: str) -> str | None:
    """Return the path of a program of PostgreSQL, None if it is not installed."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(versions[-1]) if versions else None)


has_postgres_programs = postgres_program("initdb") is not None


@contextmanager
def private_postgres() -> Iterator[PrivatePostgres]:
    """Run a server with an empty database `films`; remove it afterwards."""
    with _folder_of_postgres() as data:
        _run_postgres_program(
            *("initdb", "--pgdata", data, "--username", "films"),
            *("--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync"),
            folder=data.parent,
        )
        with _postgres_on(data) as server:
            system = f"{server.url.removesuffix('films')}postgres"
            with closing(psycopg2.connect(system)) as connection:
                connection.autocommit = True
                connection.cursor().execute("CREATE DATABASE films")
            yield server


@contextmanager
def migrated_postgres() -> Iterator[PrivatePostgres]:
    """Run a server as `private_postgres` does, whose database has all tables."""
    with private_postgres() as running:
        migrate(running.url)
        yield running


@contextmanager
def streaming_replica(primary: PrivatePostgres) -> Iterator[PrivatePostgres]:
    """Run a read-only streaming replica of a server; remove it afterwards."""
    with _folder_of_postgres() as data:
        _run_postgres_program(
            *("pg_basebackup", "--dbname", primary.url, "--pgdata", data, "--write-recovery-conf"),
            *("--checkpoint", "fast", "--no-sync"),
            folder=data.parent,
        )
        with _postgres_on(data) as server:
            yield server


@contextmanager
def _folder_of_postgres() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="filmosphere-postgres-"))
    if owner := _not_root():
        shutil.chown(folder, **owner)
    try:
        yield folder / "data"
    finally:
        shutil.rmtree(folder)


def _run_postgres_program(name: str, *arguments: str | Path, folder: Path) -> None:
    program = postgres_program(name)
    subprocess.run(
        [program, *arguments], check=True, stdout=subprocess.DEVNULL, cwd=folder, **_not_root()
    )


@contextmanager
def _postgres_on(data: Path) -> Iterator[PrivatePostgres]:
    port = free_port()
    folder = data.parent
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [str(postgres_program("postgres")), "-D", data, *options.split(), "-c", "fsync=off"],
            stdout=log,
            stderr=log,
            cwd=folder,
            **_not_root(),
        )
    server = PrivatePostgres(f"postgres://films@127.0.0.1:{port}/films", data, process)
    try:
        eventually(lambda: _is_up(f"postgres://films@127.0.0.1:{port}/postgres"))
        yield server
    finally:
        server.thaw()
        server.kill()


has_pgbouncer = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin") is not None


class PgBouncer:
    """A running PgBouncer; `url` is its `DATABASE_URL`."""

    def __init__(self, url: str, ini: Path, process: subprocess.Popen[bytes]) -> None:
        self.url, self._ini, self._process = url, ini, process

    def move_to(self, postgres: PrivatePostgres) -> None:
        """Pass further queries on to another server."""
        _, _, settings = self._ini.read_text().partition("[pgbouncer]")
        self._ini.write_text(f"{_database_line(postgres)}[pgbouncer]{settings}")
        self._process.send_signal(signal.SIGHUP)


@contextmanager
def pgbouncer(postgres: PrivatePostgres, **options: str) -> Iterator[str]:
    """Run PgBouncer in transaction mode in front of a server; yield its `DATABASE_URL`."""
    with movable_pgbouncer(postgres, **options) as running:
        yield running.url


@contextmanager
def movable_pgbouncer(postgres: PrivatePostgres, **options: str) -> Iterator[PgBouncer]:
    """Run PgBouncer in transaction mode in front of a server, which may be replaced by another."""
    port = free_port()
    settings = {
        "listen_addr": "127.0.0.1",
        "listen_port": str(port),
        "unix_socket_dir": "",
        "auth_type": "any",
        "pool_mode": "transaction",
        "default_pool_size": "4",
        **options,
    }
    with tempfile.TemporaryDirectory(prefix="filmosphere-pgbouncer-") as folder:
        Path(folder).chmod(0o755)
        ini = Path(folder) / "pgbouncer.ini"
        lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
        ini.write_text(f"{_database_line(postgres)}[pgbouncer]\n{lines}")
        process = subprocess.Popen(
            ["pgbouncer", "--quiet", ini],
            env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"},
            stderr=subprocess.DEVNULL,
            **_not_root(),
        )
        try:
            url = f"postgres://films@127.0.0.1:{port}/films"
            eventually(lambda: _is_up(url))
            yield PgBouncer(url, ini, process)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=10)


def _database_line(postgres: PrivatePostgres) -> str:
    target = urlsplit(postgres.url)
    return f"[databases]\nfilms = host={target.hostname} port={target.port} user=films\n"


def _not_root() -> dict[str, Any]:
    # Neither PostgreSQL nor PgBouncer run as root.
    return {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}


def _is_up(url: str) -> bool:
    with suppress(psycopg2.OperationalError):
        psycopg2.connect(url).close()
        return True
    return False
