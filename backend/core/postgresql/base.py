"""Django's PostgreSQL backend, with a pool of connections where the settings ask for one.

`DATABASES["default"]["POOL"]` holds the arguments of `core.postgresql.pool.ConnectionPool`, and
`DATABASES["default"]["SESSION"]` the PostgreSQL settings for its connections. Without them, as in
management commands, each thread has a connection of its own and no time limit.
"""

import functools
import threading
from collections.abc import Sequence
from typing import Any, cast

from django.db.backends.postgresql import base
from psycopg2 import InterfaceError, OperationalError, extensions

from core.postgresql.pool import (
    ConnectionPool,
    DatabaseTimeout,
    PooledConnection,
    wait_within_limit,
)


class ConnectionLost(OperationalError):
    """The server ended the connection during the statement."""


_pools: dict[str, ConnectionPool] = {}
_pools_lock = threading.Lock()
_thread = threading.local()


def give_back_connections() -> None:
    """Give back the connections that this thread holds; takes no time if it holds none."""
    for wrapper in tuple(getattr(_thread, "holders", ())):
        wrapper.close()


def connections_in_use(alias: str) -> int:
    """Return how many connections of the pool of this process for a database threads use."""
    pool = _pools.get(alias)
    return pool.in_use if pool else 0


class DatabaseWrapper(base.DatabaseWrapper):
    """A thread's access to the database; it holds a connection of the pool from its first query on.

    Django's `close()`, which also happens at the end of each request, gives the connection back.
    """

    def connect(self) -> None:
        """Take a connection from the pool, or open one where there is no pool."""
        super().connect()
        if isinstance(self.connection, PooledConnection):
            # It is given back at the end of the request at the latest; the pool checks its age.
            self.close_at = 0.0
            # The pool gives out no connection that the server closed.
            self.health_check_enabled = False

    def get_new_connection(self, conn_params: dict[str, Any]) -> extensions.connection:
        """Return a connection of the pool, or a new one where there is no pool."""
        pool = self._pool_of_process()
        if pool:
            pooled = pool.take(functools.partial(self._open, pool, conn_params))
            _thread.holders = {*getattr(_thread, "holders", ()), self}
            return pooled
        connection: extensions.connection = super().get_new_connection(conn_params)
        return connection

    def fetch_row(self, query: str, params: Sequence[object]) -> tuple[Any, ...] | None:
        """Return the first row of a query, as `core.db.fetch_row` does.

        Does not use Django's cursors, because they take longer than a short query.
        """
        pool = self._pool_of_process()
        if pool is None or self.connection is not None:
            with self.cursor() as cursor:
                cursor.execute(query, params)
                return cast("tuple[Any, ...] | None", cursor.fetchone())
        with self.wrap_database_errors:
            try:
                return self._fetch_row_from(pool, query, params, checked=False)
            except ConnectionLost:
                # The server may have been restarted. The next connection is one that works.
                return self._fetch_row_from(pool, query, params, checked=True)

    def _fetch_row_from(
        self, pool: ConnectionPool, query: str, params: Sequence[object], *, checked: bool
    ) -> tuple[Any, ...] | None:
        connection = pool.take(
            lambda: self._open(pool, self.get_connection_params()), checked=checked
        )
        try:
            with connection.cursor() as cursor:
                cursor.execute(query, params)
                return cursor.fetchone()
        except (OperationalError, InterfaceError) as exc:
            if connection.closed and not isinstance(exc, DatabaseTimeout):
                raise ConnectionLost(str(exc)) from exc
            raise
        finally:
            pool.give_back(connection)

    def _close(self) -> None:
        if isinstance(self.connection, PooledConnection):
            _thread.holders -= {self}
            self.connection.pool.give_back(self.connection)
        else:
            super()._close()  # type: ignore[misc]  # missing in its stubs

    def _pool_of_process(self) -> ConnectionPool | None:
        options = self.settings_dict.get("POOL")
        if options is None:
            return None
        with _pools_lock:
            if self.alias not in _pools:
                if options["limit"]:
                    extensions.set_wait_callback(wait_within_limit)
                max_age = self.settings_dict["CONN_MAX_AGE"]
                _pools[self.alias] = ConnectionPool(max_age=max_age, **options)
            return _pools[self.alias]

    def _open(self, pool: ConnectionPool, conn_params: dict[str, Any]) -> PooledConnection:
        """Open a connection on which the settings of `SESSION` hold.

        They are passed as start-up options. PgBouncer refuses or ignores these, and in transaction
        mode nothing may be set for a session, which other clients use as well. There the settings
        are part of each statement and last as long as its transaction. `statement_timeout` shows
        whether that is necessary: it may also be set for the role or the database.
        """
        session: dict[str, object] = self.settings_dict["SESSION"]
        ours = " ".join(f"-c {name}={value}" for name, value in session.items())
        options = f"{ours} {conn_params.get('options', '')}"
        conn_params["connection_factory"] = functools.partial(PooledConnection, pool=pool)
        connection: PooledConnection | None = None
        _start_behind(pool.silent_host, conn_params)
        if session and pool.passes_options:
            try:
                connection = super().get_new_connection({**conn_params, "options": options})
            except OperationalError as exc:
                if "startup parameter" not in str(exc):
                    raise
                pool.passes_options = False
        connection = connection or super().get_new_connection(conn_params)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            is_limited = cursor.fetchone() != ("0",)
        if session and not is_limited:
            connection.statement_prefix = "".join(
                f"SET LOCAL {name} = {value};" for name, value in session.items()
            )
            connection.cursor_factory = PrefixingCursor
        return connection


def _start_behind(silent: tuple[str, int] | None, conn_params: dict[str, Any]) -> None:
    """Let libpq try the hosts behind `silent` first: it used up the time of the last attempt."""
    hosts = str(conn_params.get("host", "")).split(",")
    ports = str(conn_params.get("port", 5432)).split(",")
    # A single port is that of all hosts.
    ports = ports * len(hosts) if len(ports) == 1 else ports
    places = list(zip(hosts, map(int, ports), strict=True))
    if len(places) > 1 and silent in places:
        start = places.index(silent) + 1
        conn_params["host"] = ",".join(hosts[start:] + hosts[:start])
        conn_params["port"] = ",".join(ports[start:] + ports[:start])


class PrefixingCursor(extensions.cursor):
    """Sends the prefix of its connection with each statement, as one message and transaction."""

    connection: PooledConnection

    def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002  (named by the base class)
        """Execute the prefix and the statement."""
        super().execute(self.connection.statement_prefix + query, vars)

    def executemany(self, query: Any, vars_list: Any) -> None:
        """Execute the prefix and the statement once for each item of `vars_list`."""
        super().executemany(self.connection.statement_prefix + query, vars_list)
