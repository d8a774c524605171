"""When a replica of the database is read, by a clock that the test moves."""

from typing import Any

import pytest
from django.db import OperationalError

from core.replica import COOL_DOWN_SECONDS, Replica

FOLLOWS, BEHIND = True, False


class Server:
    """Answers each look at the lag with `lag`, and every other query with `row`."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.lag: Any = (FOLLOWS, 3600.0)
        self.row: Any = ("a film",)
        self.looks = self.reads = 0
        self.replica = Replica(longest_lag=6, fetch=self._fetch, clock=lambda: self.time)

    @property
    def is_current(self) -> bool:
        return self.replica.is_current

    def read(self) -> Any:
        return self.replica.fetch_row("SELECT …", ())

    def pass_time(self, seconds: float) -> None:
        self.time += seconds

    def _fetch(self, query: str, params: Any) -> Any:
        looks = "pg_is_in_recovery" in query
        self.looks += looks
        self.reads += not looks
        result = self.lag if looks else self.row
        if isinstance(result, Exception):
            raise result
        return result


@pytest.fixture
def server() -> Server:
    return Server()


def test_a_replica_that_has_everything_is_current_however_long_nothing_was_written(server):
    assert server.is_current


def test_its_lag_is_looked_at_once_a_second(server):
    for _ in range(20):
        assert server.is_current
        server.pass_time(0.1)

    assert server.looks == 2


def test_a_replica_that_never_had_everything_is_as_far_behind_as_its_last_transaction(server):
    server.lag = (BEHIND, 5.9)
    assert server.is_current

    server.pass_time(1)
    server.lag = (BEHIND, 6.1)
    assert not server.is_current


def test_a_replica_that_follows_no_longer_is_current_until_it_may_lack_too_much(server):
    assert server.is_current
    server.lag = (BEHIND, 3600.0)

    server.pass_time(5.9)
    assert server.is_current
    server.pass_time(1)
    assert not server.is_current

    server.lag = (FOLLOWS, 3600.0)
    server.pass_time(1)
    assert server.is_current


def test_a_replica_without_any_transaction_is_not_current_before_it_follows(server):
    server.lag = (BEHIND, None)
    assert not server.is_current


def test_a_replica_that_lags_is_read_for_a_while_when_the_primary_fails(server):
    server.lag = (BEHIND, 3600.0)
    assert not server.is_current

    server.replica.trust()

    assert server.is_current
    server.pass_time(COOL_DOWN_SECONDS)
    assert not server.is_current


def test_a_failure_leaves_the_replica_alone_for_some_seconds(server, log):
    assert server.is_current
    server.row = OperationalError("postgres://user:secret@host")

    assert server.read() is None
    assert not server.is_current
    server.replica.trust()
    assert not server.is_current
    assert server.read() is None
    assert (server.reads, server.looks) == (1, 1)

    server.row = ("a film",)
    server.pass_time(COOL_DOWN_SECONDS)
    assert server.is_current
    assert server.read() == ("a film",)
    outcomes = [line["outcome"] for line in log.lines if "outcome" in line]
    assert outcomes == ["replica_current", "replica_unavailable", "replica_current"]
    assert "secret" not in str(log)


def test_a_replica_that_is_away_when_its_lag_is_looked_at_is_not_current(server):
    server.lag = OperationalError("no")

    assert not server.is_current
    server.pass_time(COOL_DOWN_SECONDS - 0.1)
    assert not server.is_current
    assert server.looks == 1
