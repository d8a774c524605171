import uuid

import pytest
from django.test import override_settings

from core.cache import ForgivingRedisCache
from core.redis import configured_redis
from core.tests.redis_doubles import REDIS_URL, closed_port, needs_redis


@pytest.fixture
def dead():
    with override_settings(REDIS_URL=f"redis://127.0.0.1:{closed_port()}"):
        yield ForgivingRedisCache("", {})


@pytest.fixture
def alive():
    with override_settings(REDIS_URL=REDIS_URL, REDIS_PASSWORD=None, REDIS_DB=None):
        cache = ForgivingRedisCache("", {"KEY_PREFIX": f"test-{uuid.uuid4()}"})
        yield cache
        cache.clear()


def test_everything_is_a_miss_while_redis_is_away(dead):
    assert dead.get("a", "default") == "default"
    assert dead.set("a", 1) is None
    assert dead.add("a", 1) is False
    assert dead.touch("a") is False
    assert dead.delete("a") is False
    assert dead.has_key("a") is False
    assert dead.get_many(["a", "b"]) == {}
    assert dead.set_many({"a": 1}) == []
    assert dead.delete_many(["a"]) is None
    assert dead.clear() is None
    assert dead.get_or_set("a", lambda: 5) in (5, None)


def test_a_counter_is_not_there_while_redis_is_away(dead):
    with pytest.raises(ValueError, match="not found"):
        dead.incr("a")


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
