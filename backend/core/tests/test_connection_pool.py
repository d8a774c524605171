"""The pool of database connections, on the PostgreSQL server of the tests."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psycopg2
import pytest
from django.db import connection
from psycopg2 import extensions

from core.postgresql.pool import (
    ConnectionPool,
    DatabaseTimeout,
    PooledConnection,
    PoolExhausted,
    wait_within_limit,
)

pytestmark = pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no server")


@pytest.fixture(autouse=True)
def _limited_waits():
    extensions.set_wait_callback(wait_within_limit)
    yield
    extensions.set_wait_callback(None)


class Database:
    """A pool together with what opens its connections."""

    def __init__(self, **options):
        defaults = {"size": 2, "limit": 0.3, "patience": 0.2, "max_age": None}
        self.pool = ConnectionPool(**defaults | options)
        self.opened = []
        given = connection.settings_dict
        self.params = {
            "dbname": "postgres",
            "user": given["USER"],
            "password": given["PASSWORD"],
            "host": given["HOST"],
            "port": given["PORT"] or 5432,
        }

    def open(self):
        made = psycopg2.connect(
            **self.params, connection_factory=partial(PooledConnection, pool=self.pool)
        )
        made.autocommit = True
        self.opened.append(made)
        return made

    def take(self):
        return self.pool.take(self.open)

    def ask(self, query="SELECT 1"):
        taken = self.take()
        try:
            with taken.cursor() as cursor:
                cursor.execute(query)
                return cursor.fetchone()[0]
        finally:
            self.pool.give_back(taken)


@pytest.fixture
def make():
    made = []

    def make(**options):
        made.append(Database(**options))
        return made[-1]

    yield make
    for database in made:
        for opened in database.opened:
            opened.close()


def test_a_connection_is_used_again(make):
    database = make()

    assert [database.ask("SELECT 1"), database.ask("SELECT 2")] == [1, 2]

    assert len(database.opened) == 1


def test_there_are_never_more_connections_than_the_pool_is_large(make):
    database = make(size=3, patience=5)

    with ThreadPoolExecutor(24) as threads:
        answers = list(threads.map(lambda n: database.ask(f"SELECT {n}"), range(300)))

    assert answers == list(range(300))
    assert len(database.opened) <= 3


def test_a_thread_waits_for_a_connection_that_is_given_back(make):
    database = make(size=1, patience=2)
    taken = database.take()
    threading.Timer(0.1, database.pool.give_back, [taken]).start()

    assert database.take() is taken


def test_a_thread_that_waits_in_vain_fails_in_time(make):
    database = make(size=1, patience=0.2)
    database.take()
    started = time.monotonic()

    with pytest.raises(PoolExhausted):
        database.take()

    assert 0.05 < time.monotonic() - started < 0.3


def test_where_no_connection_moves_threads_that_come_later_do_not_wait(make):
    database = make(size=1, patience=0.2)
    database.take()
    time.sleep(0.15)
    started = time.monotonic()

    with pytest.raises(PoolExhausted):
        database.take()

    assert time.monotonic() - started < 0.05


def test_a_statement_that_takes_too_long_is_given_up_and_its_connection_closed(make):
    database = make()
    taken = database.take()
    started = time.monotonic()

    with pytest.raises(DatabaseTimeout), taken.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(5)")

    assert time.monotonic() - started < 1
    assert taken.closed


def test_after_a_timeout_threads_fail_at_once_until_one_of_them_reaches_the_server(make):
    database = make(rest=0.2)
    with pytest.raises(DatabaseTimeout):
        database.ask("SELECT pg_sleep(5)")
    started = time.monotonic()

    with pytest.raises(DatabaseTimeout):
        database.ask()
    assert time.monotonic() - started < 0.05

    time.sleep(0.25)
    assert database.ask("SELECT 7") == 7
    assert database.ask("SELECT 8") == 8
    assert len(database.opened) == 2


def test_after_a_timeout_the_idle_connections_are_not_used_either(make):
    database = make(rest=0.05)
    first, second = database.take(), database.take()
    database.pool.give_back(second)

    with pytest.raises(DatabaseTimeout), first.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(5)")

    assert second.closed


def test_a_connection_that_the_server_ended_while_idle_is_replaced(make):
    database = make()
    database.ask()
    with psycopg2.connect(**database.params) as other, other.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", [database.opened[0].info.backend_pid])
    other.close()
    time.sleep(0.05)

    assert database.ask("SELECT 5") == 5
    assert len(database.opened) == 2


def test_a_connection_is_not_kept_past_its_age(make):
    database = make(max_age=0)
    database.ask()

    assert database.opened[0].closed


def test_a_connection_in_the_middle_of_a_transaction_is_not_kept(make):
    database = make()
    taken = database.take()
    taken.cursor().execute("BEGIN")

    database.pool.give_back(taken)

    assert taken.closed


def test_idle_connections_are_closed(make):
    database = make(max_idle=0.1)
    database.ask()
    opened = database.opened[0]

    limit = time.monotonic() + 2
    while not opened.closed and time.monotonic() < limit:
        time.sleep(0.02)

    assert opened.closed
    assert database.ask("SELECT 3") == 3


def test_a_thread_that_ends_with_its_connection_leaves_its_place(make):
    database = make(size=1)
    thread = threading.Thread(target=lambda: database.take() and database.opened.clear())
    thread.start()
    thread.join()

    assert database.ask("SELECT 4") == 4


def test_a_refused_connection_is_the_error_of_the_driver(make):
    database = make()
    database.params["port"] = 1

    for _ in range(3):
        with pytest.raises(psycopg2.OperationalError, match="refused"):
            database.take()

    database.params["port"] = connection.settings_dict["PORT"] or 5432
    assert database.ask("SELECT 6") == 6


def test_a_connection_that_belongs_to_no_pool_has_no_limit(make):
    with psycopg2.connect(**make(limit=0.05).params) as plain, plain.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(0.2)")
    plain.close()
