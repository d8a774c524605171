"""The client of an optional Redis that may fail at any time."""

import logging
import uuid

import pytest
import redis
from django.test import override_settings

from core.optional_redis import NoRedisError, RedisUnavailableError, configured_redis
from core.redis import COOL_DOWN, ResilientRedis, connection_pool, ping, shared_redis
from core.tests.clock import Clock
from core.tests.redis_doubles import REDIS_URL, closed_port, needs_redis, odd_redis


def make_redis(url, clock=None):
    return ResilientRedis(pool=connection_pool(url, timeout=0.02), clock=clock or Clock())


def send_ping(server):
    return server.run(lambda client: client.ping())


def test_a_closed_port_is_reported_as_a_redis_that_is_away():
    server = make_redis(f"redis://127.0.0.1:{closed_port()}")

    with pytest.raises(RedisUnavailableError):
        send_ping(server)


def test_a_silent_redis_is_tried_once_and_not_again_during_the_cool_down():
    clock = Clock()
    with odd_redis() as silent:
        server = make_redis(silent.url, clock)

        for seconds in (0, 0, 1, COOL_DOWN - 1.001):
            clock.now += seconds
            with pytest.raises(RedisUnavailableError):
                send_ping(server)

        assert silent.connections == 1


def test_after_the_cool_down_one_caller_tries_again():
    clock = Clock()
    with odd_redis() as silent:
        server = make_redis(silent.url, clock)
        for _ in range(2):
            with pytest.raises(RedisUnavailableError):
                send_ping(server)

        clock.now += COOL_DOWN
        for _ in range(2):
            with pytest.raises(RedisUnavailableError):
                send_ping(server)

        assert silent.connections == 2


def test_while_one_caller_tries_the_others_are_refused():
    clock = Clock()
    with odd_redis() as redis:
        server = make_redis(redis.url, clock)
        with pytest.raises(RedisUnavailableError):
            send_ping(server)
        redis.answer = b"+PONG\r\n"
        clock.now += COOL_DOWN

        def ask_from_within(client):
            with pytest.raises(RedisUnavailableError):
                send_ping(server)
            return client.ping()

        assert server.run(ask_from_within)


def test_a_redis_that_is_back_is_used_again_within_five_seconds():
    clock = Clock()
    with odd_redis() as redis:
        server = make_redis(redis.url, clock)
        with pytest.raises(RedisUnavailableError):
            send_ping(server)
        redis.answer = b"+PONG\r\n"

        clock.now += 5

        assert send_ping(server)
        assert send_ping(server)


def test_idle_connections_that_broke_with_redis_are_not_used_again():
    clock = Clock()
    with odd_redis() as redis:
        redis.answer = b"+PONG\r\n"
        server = make_redis(redis.url, clock)
        idle = [server.client.connection_pool.get_connection() for _ in range(5)]
        for connection in idle:
            server.client.connection_pool.release(connection)
        redis.answer = b""
        with pytest.raises(RedisUnavailableError):
            send_ping(server)
        redis.answer = b"+PONG\r\n"

        clock.now += COOL_DOWN

        assert send_ping(server)


def test_its_failure_is_one_error_line_and_its_return_one_info_line(caplog):
    caplog.set_level(logging.INFO, "core.redis")
    clock = Clock()
    with odd_redis() as redis:
        server = make_redis(redis.url, clock)
        for _ in range(3):
            with pytest.raises(RedisUnavailableError):
                send_ping(server)
            clock.now += COOL_DOWN
        redis.answer = b"+PONG\r\n"
        for _ in range(2):
            send_ping(server)

    lines = [(record.levelname, record.outcome) for record in caplog.records]
    assert lines == [("ERROR", "cache_timeout"), ("INFO", "cache_up")]


def test_the_log_line_tells_a_refused_connection_from_a_timeout(caplog):
    server = make_redis(f"redis://127.0.0.1:{closed_port()}")

    with pytest.raises(RedisUnavailableError):
        send_ping(server)

    assert [record.outcome for record in caplog.records] == ["redis_unreachable"]


@pytest.mark.parametrize(
    "refusal", [b"-READONLY x\r\n", b"-OOM x\r\n", b"-MISCONF x\r\n", b"-WRONGTYPE x\r\n"]
)
def test_a_refused_command_does_not_start_a_cool_down(refusal):
    with odd_redis() as redis:
        redis.answer = refusal
        server = make_redis(redis.url)
        with pytest.raises(NoRedisError) as caught:
            server.run(lambda client: client.set("a", "b"))
        redis.answer = b"+PONG\r\n"

        assert not isinstance(caught.value, RedisUnavailableError)
        assert send_ping(server)


def test_the_named_password_and_database_override_those_of_the_url():
    url = "redis://user:of-the-url@127.0.0.1:6390/7"

    plain = connection_pool(url).connection_kwargs
    named = connection_pool(url, password="named", db=0).connection_kwargs

    assert (plain["password"], plain["db"]) == ("of-the-url", 7)
    assert (named["username"], named["password"], named["db"]) == ("user", "named", 0)


def test_no_option_of_the_url_makes_it_wait_longer():
    options = connection_pool("redis://127.0.0.1?socket_timeout=30").connection_kwargs

    assert options["socket_timeout"] == options["socket_connect_timeout"] == 0.1


def test_a_master_is_found_through_its_sentinels():
    pool = connection_pool(
        "redis+sentinel://me:p%40ss@one:26380,[::1]:26381,two/films/3", timeout=0.2
    )

    options = pool.connection_kwargs
    assert (pool.service_name, pool.is_master) == ("films", True)
    assert (options["username"], options["password"], options["db"]) == ("me", "p@ss", 3)
    assert (options["socket_timeout"], options["socket_connect_timeout"]) == (0.2, 0.2)
    asked = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]
    assert [(each["host"], each["port"]) for each in asked] == [
        ("one", 26380),
        ("::1", 26381),
        ("two", 26379),
    ]
    # The password is that of the master.
    assert not [each for each in asked if each.get("password")]
    assert {each["socket_timeout"] for each in asked} == {0.2}


def test_the_named_password_and_database_override_those_of_a_master_with_sentinels():
    options = connection_pool(
        "redis+sentinel://one/films", password="named", db=5
    ).connection_kwargs

    assert (options["password"], options["db"]) == ("named", 5)


def test_a_process_has_one_client_of_each_redis():
    url = f"redis://127.0.0.1:{closed_port()}"

    assert shared_redis(url, db=1) is shared_redis(url, db=1)
    assert shared_redis(url, db=1) is not shared_redis(url, db=2)


def test_none_is_configured_while_the_cache_is_in_process_memory():
    memory = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}

    with override_settings(CACHES=memory):
        assert configured_redis() is None


def test_the_configured_one_is_that_of_the_cache():
    url = f"redis://127.0.0.1:{closed_port()}"
    options = {"PASSWORD": "secret", "DB": 3}
    backend = {"BACKEND": "core.redis.ResilientRedisCache", "LOCATION": url, "OPTIONS": options}

    with override_settings(CACHES={"default": backend}):
        assert configured_redis() is shared_redis(url, password="secret", db=3)


def test_a_ping_of_a_redis_that_does_not_answer_raises_the_error_of_the_library():
    with pytest.raises(redis.ConnectionError):
        ping(f"redis://127.0.0.1:{closed_port()}")


@needs_redis
def test_a_real_redis_answers_a_ping_and_keeps_what_it_is_given():
    server, key = make_redis(REDIS_URL), f"test:{uuid.uuid4()}"

    ping(REDIS_URL)
    server.run(lambda client: client.set(key, "value", ex=10))

    assert server.run(lambda client: client.getdel(key)) == b"value"
