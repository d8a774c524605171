import uuid

import pytest
from django.test import RequestFactory, override_settings

from core.cache import ForgivingRedisCache
from core.redis import configured_redis
from core.tests.redis_doubles import REDIS_URL, closed_port, needs_redis
from core.throttling import AddressThrottle


@pytest.fixture
def dead():
    with override_settings(REDIS_URL=f"redis://127.0.0.1:{closed_port()}"):
        cache = ForgivingRedisCache("", {})
        yield cache
        cache.clear()


@pytest.fixture
def alive():
    with override_settings(REDIS_URL=REDIS_URL, REDIS_PASSWORD=None, REDIS_DB=None):
        cache = ForgivingRedisCache("", {"KEY_PREFIX": f"test-{uuid.uuid4()}"})
        yield cache
        cache.clear()


def test_the_memory_of_the_process_stands_in_while_redis_is_away(dead):
    assert dead.get("a", "default") == "default"
    assert dead.add("a", 1) is True
    assert dead.add("a", 2) is False
    assert dead.incr("a") == 2
    assert dead.touch("a") is True
    assert dead.has_key("a") is True
    dead.set("b", 5, timeout=60)
    assert dead.set_many({"c": 1}) == []
    assert dead.get_many(["a", "b", "c", "d"]) == {"a": 2, "b": 5, "c": 1}
    assert dead.delete("a") is True
    dead.delete_many(["b"])
    assert dead.get_many(["a", "b", "c"]) == {"c": 1}
    dead.clear()
    assert dead.get("c") is None
    assert dead.get_or_set("a", lambda: 5) == 5


def test_a_counter_that_nobody_set_is_not_there(dead):
    with pytest.raises(ValueError, match="not found"):
        dead.incr("a")


def test_what_stands_in_for_redis_is_bounded(dead):
    for number in range(10_500):
        dead._cache._memory.set(str(number), 1)

    assert len(dead._cache._memory._cache) <= 10_000


def test_limits_count_while_redis_is_away(dead):
    backend = {"default": {"BACKEND": "core.cache.ForgivingRedisCache", "LOCATION": ""}}

    class Throttle(AddressThrottle):
        scope, rate = "test", "2/min"

    with override_settings(CACHES=backend):
        request = RequestFactory().get("/")

        assert [Throttle().allow_request(request, None) for _ in range(3)] == [True, True, False]


def test_each_failure_is_logged(dead, caplog):
    dead.get("a")
    dead.get("a")

    assert [record.message for record in caplog.records if record.name == "core.cache"] == [
        "cache failed",
        "cache failed",
    ]


@needs_redis
def test_what_is_stored_comes_back(alive):
    alive.set("number", 1)
    alive.set_many({"list": [1, "ü"], "none": None})

    assert alive.incr("number") == 2
    assert alive.get_many(["list", "none", "other"]) == {"list": [1, "ü"], "none": None}


@needs_redis
@pytest.mark.parametrize("value", [b"not a pickle", b"\x80\x05c__nope__\nx\n.", b""])
def test_a_value_that_cannot_be_read_is_a_miss(alive, value):
    configured_redis().run(lambda client: client.set(alive.make_key("a"), value))

    assert alive.get("a", "default") == "default"


@needs_redis
def test_clearing_leaves_the_keys_of_others_alone(alive):
    other = f"other-{uuid.uuid4()}"
    configured_redis().run(lambda client: client.set(other, "1", ex=10))
    alive.set("a", 1)

    alive.clear()

    assert alive.get("a") is None
    assert configured_redis().run(lambda client: client.getdel(other)) == b"1"
