from datetime import datetime, timedelta, timezone

import pytest
from django.db import connection

from cinemix.models import OmdbDay
from cinemix.quota import OmdbQuota
from core.errors import UpstreamQuotaExhausted

KEY = "canary5a"


class Now:
    def __init__(self):
        self.moment = datetime(2026, 5, 1, 22, 30, tzinfo=timezone.utc)

    def __call__(self):
        return self.moment


def make_quota(limit=3, now=None, key=KEY):
    return OmdbQuota(api_key=key, limit=limit, now=now or Now())


def spend_until_refused(quota):
    for spent in range(1000):
        try:
            quota.spend()
        except UpstreamQuotaExhausted:
            return spent
    raise AssertionError("it never ended")


@pytest.mark.django_db
def test_so_many_calls_a_day_are_granted_and_then_none_until_midnight():
    quota = make_quota()

    assert spend_until_refused(quota) == 3
    with pytest.raises(UpstreamQuotaExhausted) as caught:
        quota.spend()
    assert caught.value.retry_after == 90 * 60


@pytest.mark.django_db
def test_the_next_utc_day_starts_anew():
    now = Now()
    quota = make_quota(now=now)
    spend_until_refused(quota)

    now.moment += timedelta(minutes=90)

    assert spend_until_refused(quota) == 3


@pytest.mark.django_db
def test_a_restart_forgets_nothing():
    make_quota().spend()

    assert spend_until_refused(make_quota()) == 2


@pytest.mark.django_db
def test_repeated_tries_count_too():
    quota = make_quota()

    quota.add(quota.spend(), 2)

    assert spend_until_refused(quota) == 0


@pytest.mark.django_db
def test_once_omdb_says_so_the_day_is_over_and_the_next_is_not():
    now = Now()
    quota = make_quota(now=now)

    quota.close(quota.spend())

    assert spend_until_refused(quota) == 0
    now.moment += timedelta(hours=2)
    assert spend_until_refused(quota) == 3


@pytest.mark.django_db
def test_another_key_has_a_count_of_its_own():
    spend_until_refused(make_quota())

    assert spend_until_refused(make_quota(key="another")) == 3


@pytest.mark.django_db
def test_the_key_is_in_no_column():
    make_quota().spend()

    assert KEY not in str(OmdbDay.objects.values_list())


@pytest.mark.django_db(transaction=True)
def test_the_connection_is_given_back():
    quota = make_quota()
    quota.spend()

    quota.release_connection()

    assert connection.connection is None or connection.vendor == "sqlite"
