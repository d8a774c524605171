import pytest

from core.deadline import Deadline, deadline_of, time_left


def test_a_deadline_counts_down_to_zero() -> None:
    now = [100.0]
    deadline = Deadline(10, clock=lambda: now[0])

    left = []
    for now[0] in (100.0, 104.0, 109.75, 110.0, 999.0):
        left.append(deadline.left())

    assert left == [10, 6, 0.25, 0, 0]


def test_without_a_deadline_the_limit_applies() -> None:
    assert time_left(7) == 7


@pytest.mark.parametrize(("limit", "expected"), [(3, 3), (9, 5)])
def test_the_shorter_of_limit_and_deadline_applies(limit: float, expected: float) -> None:
    with deadline_of(Deadline(5, clock=lambda: 0.0)):
        assert time_left(limit) == expected


def test_a_deadline_applies_only_inside_its_block() -> None:
    with pytest.raises(ZeroDivisionError), deadline_of(Deadline(0)):
        raise ZeroDivisionError

    assert time_left(7) == 7
