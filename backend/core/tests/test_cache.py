"""Django's cache in a Redis that may fail, and that others may write to."""

import json
import pickle
import uuid

import pytest
from django.test import RequestFactory

from core.redis import ResilientRedisCache
from core.tests.redis_doubles import REDIS_URL, closed_port, needs_redis, odd_redis
from web.throttling import AddressThrottle


@pytest.fixture
def dead():
    cache = ResilientRedisCache(
        f"redis://127.0.0.1:{closed_port()}", {"OPTIONS": {"MAX_ENTRIES": 100}}
    )
    yield cache
    cache.clear()


@pytest.fixture
def alive():
    cache = ResilientRedisCache(REDIS_URL, {"KEY_PREFIX": f"test-{uuid.uuid4()}"})
    yield cache
    cache.clear()


def write(cache, key, value):
    """Store `value` as another program would."""
    cache.redis.run(lambda client: client.set(cache.make_key(key), value))


def milliseconds_left(cache, key):
    return cache.redis.run(lambda client: client.pttl(cache.make_key(key)))


# --- while Redis fails ------------------------------------------------------------------------


def test_the_memory_of_the_process_is_the_substitute_while_redis_is_away(dead):
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


def test_all_threads_of_the_process_share_the_substitute(dead):
    dead.set("a", 1)
    of_another_thread = ResilientRedisCache(dead.location, {})

    assert of_another_thread.get("a") == 1


def test_a_counter_that_was_never_set_does_not_exist(dead):
    with pytest.raises(ValueError, match="not found"):
        dead.incr("a")


def test_the_substitute_is_bounded(dead):
    for number in range(1_000):
        dead.set(str(number), 1)

    assert sum(dead.get(str(number)) or 0 for number in range(1_000)) <= 100


def test_limits_count_while_redis_is_away(dead):
    class Throttle(AddressThrottle):
        scope, rate, cache = "test", "2/min", dead

    request = RequestFactory().get("/")

    assert [Throttle().allow_request(request, None) for _ in range(3)] == [True, True, False]


def test_each_failure_is_logged(dead, caplog):
    dead.get("a")
    dead.get("a")

    messages = [record.message for record in caplog.records if record.name == "core.redis"]
    assert messages == ["redis is unavailable", "cache failed", "cache failed"]


@pytest.mark.parametrize(
    ("timeout", "lifetime"), [(60, b"60000"), (0.5, b"500"), (0, b"1"), (-1, b"1"), (None, b"")]
)
def test_lifetimes_are_sent_in_milliseconds(timeout, lifetime):
    with odd_redis() as redis:
        redis.answer = b"+OK\r\n"

        ResilientRedisCache(redis.url, {}).set("a", 1, timeout)

    # The command ends with PX, the length of the number, and the number.
    assert redis.received.partition(b"PX\r\n")[2].partition(b"\r\n")[2].strip() == lifetime


# --- while Redis answers ----------------------------------------------------------------------


@needs_redis
def test_text_that_cannot_be_sent_is_a_miss(alive):
    alive.set("text", {"title": "\ud83d"})

    assert alive.get("text") is None


@needs_redis
def test_what_is_stored_comes_back(alive):
    alive.set("number", 1)
    alive.set_many({"list": [1, 2.5, "ü", None, {"a": True}], "none": None})

    assert alive.incr("number") == 2
    assert alive.incr("number", -2) == 0
    assert alive.get_many(["number", "list", "none", "other"]) == {
        "number": 0,
        "list": [1, 2.5, "ü", None, {"a": True}],
        "none": None,
    }


@needs_redis
def test_a_value_is_stored_once_with_add_and_is_gone_after_delete(alive):
    assert alive.add("a", 1) is True
    assert alive.add("a", 2) is False
    assert alive.get("a") == 1
    assert alive.delete("a") is True
    assert alive.delete("a") is False
    assert alive.get("a", "default") == "default"
    with pytest.raises(ValueError, match="not found"):
        alive.incr("a")


@needs_redis
@pytest.mark.parametrize("method", ["set", "add"])
def test_a_value_lives_as_long_as_it_was_said_to(alive, method):
    store = getattr(alive, method)

    store("default", 1)
    store("a-while", 1, timeout=20.5)
    store("for-ever", 1, timeout=None)
    store("no-time", 1, timeout=0)

    assert 299_000 < milliseconds_left(alive, "default") <= 300_000
    assert 19_500 < milliseconds_left(alive, "a-while") <= 20_500
    assert milliseconds_left(alive, "for-ever") == -1
    assert milliseconds_left(alive, "no-time") <= 1


@needs_redis
def test_a_lifetime_can_be_renewed(alive):
    alive.set("a", 1, timeout=20)

    assert alive.touch("a", 50) is True
    assert 49_000 < milliseconds_left(alive, "a") <= 50_000
    assert alive.touch("a", None) is True
    assert milliseconds_left(alive, "a") == -1
    assert alive.touch("b") is False


@needs_redis
def test_values_are_json_in_redis(alive):
    alive.set("a", [1, "b"])

    stored = alive.redis.run(lambda client: client.get(alive.make_key("a")))

    assert json.loads(stored) == [1, "b"]


class _Attack:
    def __reduce__(self):
        return exec, ("raise SystemExit('code from Redis was executed')",)


@needs_redis
@pytest.mark.parametrize(
    "value",
    [
        pickle.dumps(_Attack()),
        pickle.dumps([1]),
        b"\x80\x05c__nope__\nx\n.",
        b"",
        b"\xff",
        b"{",
        b"[" * 100_000,
        b"9" * 5_000,
        b"nan",
    ],
    ids=lambda value: repr(value[:12]),
)
def test_a_value_that_cannot_be_read_is_a_miss(alive, value):
    write(alive, "a", value)

    assert alive.get("a", "default") == "default"
    assert alive.has_key("a") is False
    assert alive.get_many(["a"]) == {}
    alive.set("a", 5)
    assert alive.get("a") == 5


@needs_redis
def test_a_key_of_another_type_is_a_miss_and_is_replaced(alive):
    name = alive.make_key("a")
    alive.redis.run(lambda client: client.hset(name, "field", "value"))

    assert alive.get("a", "default") == "default"
    assert alive.add("a", 1) is False
    with pytest.raises(ValueError, match="not found"):
        alive.incr("a")
    alive.set("a", 5)
    assert alive.get("a") == 5


@needs_redis
def test_clearing_leaves_other_keys_alone(alive):
    other = f"other-{uuid.uuid4()}"
    alive.redis.run(lambda client: client.set(other, "1", ex=10))
    alive.set("a", 1)

    alive.clear()

    assert alive.get("a") is None
    assert alive.redis.run(lambda client: client.getdel(other)) == b"1"
