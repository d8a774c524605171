"""A bounded pool of PostgreSQL connections whose waits for the server have a time limit."""

import select
import threading
import time
from collections import deque
from collections.abc import Callable
from weakref import WeakSet

import psycopg2
from psycopg2 import extensions

# The states of a connection whose server was found and accepted it.
_ESTABLISHED = (extensions.STATUS_READY, extensions.STATUS_BEGIN)


class DatabaseTimeout(psycopg2.OperationalError):
    """The server did not answer within the limit of the client; the connection is closed."""


class PoolExhausted(psycopg2.OperationalError):
    """No connection was free in time."""


class PooledConnection(extensions.connection):
    """A connection that belongs to a pool."""

    def __init__(self, dsn: str, *, pool: "ConnectionPool") -> None:
        self.pool = pool
        # Put before every statement where the server does not have the limits of the session.
        self.statement_prefix = ""
        self.opened_at = self.idle_since = time.monotonic()
        self._reader: select.poll | None = None
        super().__init__(dsn)

    @property
    def reader(self) -> select.poll:
        """Polls for what the server sends. Only once the connection is established."""
        if self._reader is None:
            self._reader = select.poll()
            self._reader.register(self.fileno(), select.POLLIN)
        return self._reader

    @property
    def is_reusable(self) -> bool:
        """Whether the connection is open, outside of a transaction and in autocommit mode."""
        status = extensions.TRANSACTION_STATUS_IDLE
        return self.closed == 0 and self.autocommit and self.get_transaction_status() == status

    @property
    def is_abandoned(self) -> bool:
        """Whether the server ended the connection while it was idle."""
        # An idle server sends nothing but the reason why it closes the connection, or a notice.
        return bool(self.reader.poll(0))


class ConnectionPool:
    """Up to `size` connections for the threads of a process, each used by one thread at a time.

    `limit` is the longest wait for the server, in seconds, while connecting and in each statement;
    None: no limit.
    A thread waits up to `patience` seconds for a free connection, and half of that if meanwhile
    none was taken or given back. A connection is closed when it is `max_age` seconds old (None:
    at any age) or was idle for `max_idle` seconds.

    After the server did not answer in time, `take` fails at once for all threads but one, which
    tries to connect every `rest` seconds, until a connection is made or refused.
    """

    def __init__(
        self,
        *,
        size: int,
        limit: float | None,
        patience: float,
        max_age: float | None,
        max_idle: float = 30.0,
        rest: float = 1.0,
    ) -> None:
        self.limit = limit
        # False once the server, or a pooler in front of it, refused start-up options.
        self.passes_options = True
        # The host and port that did not answer in time, the last time that this happened.
        self.silent_host: tuple[str, int] | None = None
        self._size = size
        self._patience = patience
        self._max_age = max_age
        self._max_idle = max_idle
        self._rest = rest
        self._lock = threading.Lock()
        # One for each thread that wants a connection, in the order in which they came.
        self._queue: deque[threading.Condition] = deque()
        self._idle: list[PooledConnection] = []
        # Weak: a thread that ends without giving its connection back must not keep a place.
        self._taken: WeakSet[PooledConnection] = WeakSet()
        self._opening = 0
        self._last_change = 0.0
        self._suspended_until: float | None = None
        self._closes_idle = False

    @property
    def in_use(self) -> int:
        """The number of connections that threads use."""
        return len(self._taken)

    def take(
        self, connect: Callable[[], PooledConnection], *, checked: bool = True
    ) -> PooledConnection:
        """Return an idle connection, or a new one from `connect` where fewer than `size` are open.

        Unless `checked`, the server may have ended the connection while it was idle: for callers
        that try again, because the check takes as long as a part of a query.
        Raises `PoolExhausted` if none is free in time, and `DatabaseTimeout` while the server is
        known not to answer.
        """
        with self._lock:
            connection = self._wait_for_place(checked=checked)
            if connection:
                return connection
            self._opening += 1
            self._last_change = time.monotonic()
        try:
            connection = connect()
        except BaseException as exc:
            with self._lock:
                self._opening -= 1
                if not isinstance(exc, DatabaseTimeout):
                    self._suspended_until = None
                self._wake_first()
            raise
        with self._lock:
            self._opening -= 1
            self._taken.add(connection)
            self._suspended_until = None
            self._last_change = time.monotonic()
        return connection

    def give_back(self, connection: PooledConnection) -> None:
        """Keep the connection for the next thread, or close it where it must not be used again."""
        now = time.monotonic()
        is_young = self._max_age is None or now - connection.opened_at < self._max_age
        keep = is_young and connection.is_reusable and self._suspended_until is None
        if not keep:
            connection.close()
        with self._lock:
            self._taken.discard(connection)
            self._last_change = connection.idle_since = now
            if keep:
                self._idle.append(connection)
                self._start_to_close_idle()
            self._wake_first()

    def suspend(self) -> None:
        """Note that the server did not answer in time."""
        with self._lock:
            self._suspended_until = time.monotonic() + self._rest
            # They lead to the same server.
            suspects, self._idle = self._idle, []
            for turn in self._queue:
                turn.notify()
        for connection in suspects:
            connection.close()

    def _wait_for_place(self, *, checked: bool) -> PooledConnection | None:
        """Return an idle connection; None where there is room for a new one."""
        # Most often no thread waits, and the condition would take longer than the rest.
        if (
            not self._queue
            and self._suspended_until is None
            and (free := self._pop_idle(checked=checked))
        ):
            return free
        started = time.monotonic()
        turn = threading.Condition(self._lock)
        self._queue.append(turn)
        try:
            while True:
                self._fail_while_suspended()
                if self._queue[0] is turn:
                    if connection := self._pop_idle(checked=checked):
                        return connection
                    if len(self._taken) + self._opening < self._size:
                        return None
                ends = min(started + self._patience, self._last_change + self._patience / 2)
                remaining = ends - time.monotonic()
                if remaining <= 0:
                    raise PoolExhausted("all database connections of this process are in use")
                turn.wait(remaining)
        finally:
            self._queue.remove(turn)
            self._wake_first()

    def _wake_first(self) -> None:
        if self._queue:
            self._queue[0].notify()

    def _pop_idle(self, *, checked: bool) -> PooledConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if not (checked and connection.is_abandoned):
                self._taken.add(connection)
                self._last_change = time.monotonic()
                return connection
            connection.close()
        return None

    def _fail_while_suspended(self) -> None:
        if self._suspended_until is None:
            return
        now = time.monotonic()
        if now < self._suspended_until:
            raise DatabaseTimeout("the database did not answer a moment ago")
        # This thread tries; the others fail until it is known whether the server answers.
        self._suspended_until = now + (self.limit or 0.0) + self._rest

    def _start_to_close_idle(self) -> None:
        if not self._closes_idle:
            self._closes_idle = True
            threading.Thread(target=self._close_idle, name="close-idle", daemon=True).start()

    def _close_idle(self) -> None:
        is_needed = True
        while is_needed:
            time.sleep(self._max_idle / 2)
            with self._lock:
                oldest = time.monotonic() - self._max_idle
                expired = [each for each in self._idle if each.idle_since <= oldest]
                self._idle = [each for each in self._idle if each.idle_since > oldest]
                is_needed = self._closes_idle = bool(self._idle)
            for connection in expired:
                connection.close()


def wait_within_limit(connection: extensions.connection) -> None:
    """Wait for the server, on connections of a pool no longer than the pool's limit.

    For `psycopg2.extensions.set_wait_callback`. Raises `DatabaseTimeout`, after which psycopg2
    closes the connection.
    """
    pooled = connection if isinstance(connection, PooledConnection) else None
    limit = pooled.pool.limit if pooled else None
    ends = limit and time.monotonic() + limit
    while (state := connection.poll()) != extensions.POLL_OK:
        reads = state == extensions.POLL_READ
        if pooled and reads and pooled.status in _ESTABLISHED:
            poller = pooled.reader
        else:
            # A new one each time, because psycopg2 connects to the addresses of a host in turn.
            poller = select.poll()
            poller.register(connection.fileno(), select.POLLIN if reads else select.POLLOUT)
        if pooled is None or ends is None:
            poller.poll()
        elif not poller.poll(max(0.0, ends - time.monotonic()) * 1000):
            pooled.pool.silent_host = (connection.info.host, connection.info.port)
            pooled.pool.suspend()
            raise DatabaseTimeout(f"the database did not answer within {limit:g} s")
