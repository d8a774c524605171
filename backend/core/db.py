"""The thread's database connection, and which exceptions mean that the database is unavailable."""

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, cast

from django.db import (
    DEFAULT_DB_ALIAS,
    InterfaceError,
    InternalError,
    OperationalError,
    ProgrammingError,
    connection,
    connections,
)

# The database is unreachable (OperationalError, InterfaceError), is a standby that accepts no
# writes (InternalError), or has no tables yet (ProgrammingError).
DATABASE_FAULTS = (OperationalError, InterfaceError, InternalError, ProgrammingError)


def release_connection() -> None:
    """Give up the thread's database connection, so that the thread holds none while it waits.

    The next query of the thread takes a connection again. Within a transaction nothing happens.
    """
    if not connection.in_atomic_block:
        connection.close()


def fetch_row(
    query: str, params: Sequence[object], *, alias: str = DEFAULT_DB_ALIAS
) -> tuple[Any, ...] | None:
    """Return the first row of a query in SQL; None if there is none.

    For the one query of an answer from storage. In server processes on PostgreSQL this is the
    fastest way, the thread holds no connection afterwards, and a connection that the server ended
    meanwhile is replaced once. Raises one of `DATABASE_FAULTS` if the database is unavailable.
    """
    database = connections[alias]
    fetch = getattr(database, "fetch_row", None)
    if fetch:
        return cast("tuple[Any, ...] | None", fetch(query, params))
    with database.cursor() as cursor:
        cursor.execute(query, params)
        return cast("tuple[Any, ...] | None", cursor.fetchone())


def aware(value: Any) -> Any:
    """Return a value of a row; a time in UTC has its time zone, which SQLite does not keep."""
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=timezone.utc)
    return value
