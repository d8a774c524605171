"""The counts of calls that were made, and of those that were avoided."""

import pytest
from django.db import OperationalError

from core import metrics
from core.models import UpstreamUsage
from core.services.usage import Avoided, store_tally, tally


def exposed(source: str) -> float:
    """The cache hits of a source in the metrics."""
    (family,) = metrics.UPSTREAM_CALLS_AVOIDED.collect()
    labels = {"source": source, "why": "cache_hit"}
    return sum(s.value for s in family.samples if s.labels == labels)


def test_hits_are_added_up_with_the_other_counts(avoided):
    for _ in range(3):
        tally.cache_hit(("a", "b", "a"))
    tally.avoided(Avoided.CACHE_HIT, ["a"])
    tally.avoided(Avoided.COMBINED, ["b"], times=4)

    assert avoided() == {("a", "cache_hit"): 7, ("b", "cache_hit"): 3, ("b", "combined"): 4}
    assert avoided() == {}


def test_hits_are_in_the_metrics_as_soon_as_they_are_added_up():
    before = exposed("of-this-test")
    tally.cache_hit(("of-this-test",) * 2)

    tally.add_up_hits()
    tally.add_up_hits()

    assert exposed("of-this-test") - before == 2


@pytest.mark.django_db
def test_counts_are_added_to_those_of_the_day(avoided):
    for _ in range(2):
        tally.cache_hit(("of-this-test",))
        store_tally()

    row = UpstreamUsage.objects.get(source="of-this-test")
    assert (row.kind, row.calls) == ("cache_hit", 2)
    assert avoided() == {}


def test_counts_that_cannot_be_stored_are_kept(monkeypatch, avoided):
    def fail(**_: object) -> None:
        raise OperationalError

    monkeypatch.setattr(UpstreamUsage.objects, "filter", fail)
    tally.cache_hit(("of-this-test",))

    with pytest.raises(OperationalError):
        store_tally()

    assert avoided() == {("of-this-test", "cache_hit"): 1}
