import uuid
from datetime import datetime, timezone

import pytest
from django.core.cache import cache
from django.test import override_settings

from cinemix.daily_share import DailyShare
from core.errors import Overloaded
from core.redis import shared_redis
from core.tests.redis_doubles import REDIS_URL, closed_port, needs_redis

NOW = datetime(2026, 5, 1, 22, 30, tzinfo=timezone.utc)


def make_share(left=20):
    return DailyShare(calls_left=lambda: left, now=lambda: NOW)


def redis_cache(url):
    return {"default": {"BACKEND": "core.redis.ResilientRedisCache", "LOCATION": url}}


def calls_until_refused(share, client):
    for number in range(1000):
        try:
            share.check(client)
        except Overloaded:
            return number
        share.count(client, 1)
    raise AssertionError("the client was never refused")


@pytest.mark.parametrize(("left", "calls"), [(1000, 100), (29, 2), (19, 1), (1, 1)])
def test_a_client_may_use_a_tenth_of_what_is_left_and_at_least_one_call(left, calls):
    assert calls_until_refused(make_share(left), "a") == calls


@pytest.mark.parametrize("left", [0, None])
def test_without_a_limit_or_without_calls_left_there_is_no_share(left):
    share = make_share(left)
    share.count("a", 5000)

    share.check("a")


def test_the_error_is_the_callers_fault_until_midnight():
    share = make_share()
    share.count("a", 2)

    with pytest.raises(Overloaded) as caught:
        share.check("a")

    assert caught.value.is_callers_fault
    assert caught.value.retry_after == 90 * 60


def test_calls_can_be_given_back():
    share = make_share(10)
    share.count("a", 1)
    share.count("a", -1)

    share.check("a")


def test_each_client_has_its_own_share():
    share = make_share()
    share.count("a", 2)

    share.check("b")


def test_the_quota_is_read_only_for_clients_that_have_used_calls():
    share = DailyShare(calls_left=pytest.fail, now=lambda: NOW)

    share.check("a")


def test_the_share_is_counted_while_redis_is_unavailable():
    with override_settings(CACHES=redis_cache(f"redis://127.0.0.1:{closed_port()}")):
        assert calls_until_refused(make_share(), str(uuid.uuid4())) == 2


@needs_redis
@pytest.mark.parametrize("value", ['"x"', "nonsense", "[]", "1.5"])
def test_a_damaged_count_is_replaced(value):
    client = str(uuid.uuid4())
    with override_settings(CACHES=redis_cache(REDIS_URL)):
        share = make_share()
        share.count(client, 1)
        key = cache.make_key(f"omdb_share_2026-05-01_{client}")
        shared_redis(REDIS_URL).client.set(key, value, ex=60)

        assert calls_until_refused(share, client) == 2
        cache.delete(f"omdb_share_2026-05-01_{client}")
