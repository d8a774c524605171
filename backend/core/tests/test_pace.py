"""A pace with a spare call: as fast in the long run, one call less at once."""

import pytest

from core.budgets import Pace


@pytest.mark.parametrize(("spare", "burst"), [(0, 8), (1, 7), (7, 1), (8, 1), (20, 1)])
def test_a_spare_call_is_taken_from_the_burst_but_never_the_last_one(spare, burst):
    assert Pace(8, 5, spare=spare).burst == burst
