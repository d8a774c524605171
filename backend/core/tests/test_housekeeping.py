"""What the service does for its tables by itself, and which process does it."""

from datetime import timedelta

import pytest
from django.db import OperationalError

from core.models import Chore, UpstreamUsage
from core.services.housekeeping import Housekeeper, RegularChore
from core.services.usage import KEPT_DAYS, forget_old_usage, usage_since
from core.tests.clock import WallClock

pytestmark = pytest.mark.django_db


class Process:
    """A housekeeper with one chore, which is done every hour."""

    def __init__(self, clock: WallClock) -> None:
        self.rounds = self.done = 0
        self.error: Exception | None = None
        self.housekeeper = Housekeeper(
            own={"note_reads": self._round},
            shared=[RegularChore("forget_made_up_ids", timedelta(hours=1), self._sweep)],
            now=clock,
            clock=clock.monotonic,
        )

    def work(self) -> None:
        self.housekeeper.work()

    def _round(self) -> int:
        self.rounds += 1
        if self.error:
            raise self.error
        return 0

    def _sweep(self) -> int:
        self.done += 1
        return 7


@pytest.fixture
def clock() -> WallClock:
    return WallClock()


def test_of_all_processes_one_does_a_chore_once_in_its_interval(clock):
    processes = [Process(clock) for _ in range(3)]
    for _ in range(180):
        for process in processes:
            process.work()
        clock.pass_by(60)

    assert [process.rounds for process in processes] == [180] * 3
    assert 2 <= sum(process.done for process in processes) <= 3


def test_the_chore_of_a_process_that_died_is_done_by_another_one(clock):
    first, second = Process(clock), Process(clock)
    first.work()
    clock.pass_by(3600)

    second.work()

    assert (first.done, second.done) == (1, 1)


def test_a_moment_of_a_clock_that_was_ahead_does_not_put_a_chore_off(clock):
    Chore.objects.create(name="forget_made_up_ids", due_at=clock.time + timedelta(days=400))
    process = Process(clock)

    process.work()

    assert process.done == 1


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OperationalError("gone"), ("housekeeping failed", "OperationalError")),
        (ZeroDivisionError(), ("unexpected error", "unexpected")),
    ],
)
def test_an_error_is_reported_and_the_rest_of_the_round_is_done(clock, caplog, error, line):
    process = Process(clock)
    process.error = error

    with caplog.at_level("INFO"):
        process.work()

    assert process.done == 1
    failed, done = caplog.records
    assert (failed.getMessage(), failed.outcome) == line
    assert (done.getMessage(), done.chore, done.rows) == (
        "housekeeping",
        "forget_made_up_ids",
        7,
    )


def test_counts_of_calls_are_kept_as_long_as_the_report_can_show_them(clock):
    today = clock.time.date()
    for days in (KEPT_DAYS - 1, KEPT_DAYS):
        UpstreamUsage.objects.create(
            source="of-this-test", day=today - timedelta(days=days), kind="made", calls=5
        )

    assert forget_old_usage(now=clock) == 1
    # Threads of other tests may store counts too.
    assert usage_since(today - timedelta(days=KEPT_DAYS - 1))["of-this-test"] == {"made": 5}
