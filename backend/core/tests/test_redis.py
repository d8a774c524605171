import logging
import uuid

import pytest
from django.test import override_settings

from core.redis import (
    ForgivingRedis,
    NoRedisError,
    RedisAwayError,
    configured_redis,
    connection_pool,
)
from core.tests.clock import Clock
from core.tests.redis_doubles import REDIS_URL, closed_port, needs_redis, odd_redis

REST = 2.0


def make_redis(url, clock=None, **options):
    pool = connection_pool(url, timeout=0.02, **options)
    return ForgivingRedis(pool=pool, rest=REST, clock=clock or Clock())


def ping(server):
    return server.run(lambda client: client.ping())


def test_a_closed_port_is_told_as_a_redis_that_is_away():
    server = make_redis(f"redis://127.0.0.1:{closed_port()}")

    with pytest.raises(RedisAwayError):
        ping(server)


def test_a_mute_redis_is_waited_for_once_and_then_left_alone():
    with odd_redis() as mute:
        server = make_redis(mute.url)

        for _ in range(5):
            with pytest.raises(RedisAwayError):
                ping(server)

        assert mute.connections == 1


def test_after_a_rest_one_caller_tries_again():
    clock = Clock()
    with odd_redis() as mute:
        server = make_redis(mute.url, clock)
        for _ in range(2):
            with pytest.raises(RedisAwayError):
                ping(server)

        clock.now += REST
        for _ in range(2):
            with pytest.raises(RedisAwayError):
                ping(server)

        assert mute.connections == 2


def test_a_redis_that_is_back_is_used_again_within_five_seconds():
    clock = Clock()
    with odd_redis() as redis:
        server = make_redis(redis.url, clock)
        with pytest.raises(RedisAwayError):
            ping(server)
        redis.answer = b"+PONG\r\n"

        clock.now += REST

        assert REST < 5
        assert ping(server)
        assert ping(server)


def test_connections_that_died_with_redis_do_not_outlive_it():
    clock = Clock()
    with odd_redis() as redis:
        redis.answer = b"+PONG\r\n"
        server = make_redis(redis.url, clock)
        idle = [server.client.connection_pool.get_connection() for _ in range(5)]
        for connection in idle:
            server.client.connection_pool.release(connection)
        redis.answer = b""
        with pytest.raises(RedisAwayError):
            ping(server)
        redis.answer = b"+PONG\r\n"

        clock.now += REST

        assert ping(server)


def test_its_death_is_one_error_line_and_its_return_an_info_line(caplog):
    caplog.set_level(logging.INFO, "core.redis")
    clock = Clock()
    with odd_redis() as redis:
        server = make_redis(redis.url, clock)
        for _ in range(3):
            with pytest.raises(RedisAwayError):
                ping(server)
        redis.answer = b"+PONG\r\n"
        clock.now += REST
        ping(server)

    lines = [(record.levelname, record.outcome) for record in caplog.records]
    assert lines == [("ERROR", "cache_timeout"), ("INFO", "cache_up")]


@pytest.mark.parametrize(
    "refusal", [b"-READONLY x\r\n", b"-OOM x\r\n", b"-MISCONF x\r\n", b"-WRONGTYPE x\r\n"]
)
def test_a_refusal_is_no_reason_to_stop_asking(refusal):
    with odd_redis() as redis:
        redis.answer = refusal
        server = make_redis(redis.url)
        with pytest.raises(NoRedisError) as caught:
            server.run(lambda client: client.set("a", "b"))
        redis.answer = b"+PONG\r\n"

        assert not isinstance(caught.value, RedisAwayError)
        assert ping(server)


def test_the_named_password_and_database_win_over_those_of_the_url():
    url = "redis://user:of-the-url@127.0.0.1:6390/7"

    plain = connection_pool(url).connection_kwargs
    named = connection_pool(url, password="named", db=0).connection_kwargs

    assert (plain["password"], plain["db"]) == ("of-the-url", 7)
    assert (named["username"], named["password"], named["db"]) == ("user", "named", 0)


def test_no_option_of_the_url_makes_it_wait_longer():
    options = connection_pool("redis://127.0.0.1?socket_timeout=30").connection_kwargs

    assert options["socket_timeout"] == options["socket_connect_timeout"] == 0.1


def test_there_is_none_where_no_url_is_given():
    with override_settings(REDIS_URL=""):
        assert configured_redis() is None


@needs_redis
def test_a_real_redis_keeps_what_it_is_given():
    server, key = make_redis(REDIS_URL), f"test:{uuid.uuid4()}"

    server.run(lambda client: client.set(key, "value", ex=10))

    assert server.run(lambda client: client.getdel(key)) == b"value"
