"""What the metrics show of the state of a process."""

from django.db import OperationalError
from prometheus_client import REGISTRY

from core import metrics
from core.models import UpstreamState
from core.services.limits import SourceStatus
from filmosphere import observation, wiring
from tools.harness.databases import eventually


class Limits:
    """The quotas of the sources, as calls that are left."""

    def __init__(self, **left):
        self.left = left

    def read(self, sources):
        return {source: UpstreamState(source=source) for source in sources}

    def status(self, source, row):
        left = self.left.get(source)
        return SourceStatus(limit=left, used=0)


class Replica:
    """A replica that counts how often it was looked at."""

    looks = 0

    @property
    def is_current(self):
        self.looks += 1
        return True


class NoDatabase(Limits):
    def read(self, sources):
        raise OperationalError("gone")


def left_of(source):
    return REGISTRY.get_sample_value("filmosphere_upstream_quota_remaining", {"source": source})


def test_a_quota_is_no_longer_shown_when_its_limit_is_not_known_any_more(monkeypatch):
    limits = Limits(watchmode=2500, omdb=7)
    monkeypatch.setattr(wiring, "upstream_limits", lambda: limits)
    observation._read_quotas()
    assert (left_of("watchmode"), left_of("omdb"), left_of("imdbapi")) == (2500, 7, None)

    limits.left = {"omdb": 6}
    observation._read_quotas()

    assert (left_of("watchmode"), left_of("omdb")) == (None, 6)


def test_a_database_that_fails_is_logged_and_the_next_reading_asks_again(monkeypatch, log):
    monkeypatch.setattr(wiring, "upstream_limits", NoDatabase)
    observer = observation._Observer(redis=None, replica=None)

    metrics.DATABASE_UP.set(1)
    observer.collect()
    eventually(lambda: log.of("quotas could not be read"))
    assert REGISTRY.get_sample_value("filmosphere_database_up") == 0
    monkeypatch.setattr(wiring, "upstream_limits", lambda: Limits(omdb=5))
    observer.collect()

    eventually(lambda: REGISTRY.get_sample_value("filmosphere_database_up") == 1)
    assert left_of("omdb") == 5
    assert log.of("quotas could not be read")[0]["outcome"] == "OperationalError"


def test_a_replica_is_looked_at_for_each_reading_although_no_film_is_read(monkeypatch):
    monkeypatch.setattr(wiring, "upstream_limits", Limits)
    replica = Replica()
    observer = observation._Observer(redis=None, replica=replica)

    for looks in (1, 2):
        observer.collect()
        eventually(lambda looks=looks: replica.looks == looks)
