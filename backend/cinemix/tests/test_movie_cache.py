import json
import uuid
from datetime import timedelta

import pytest
from django.test import override_settings
from prometheus_client import REGISTRY

from cinemix import movie_cache
from cinemix.dtos import MovieDetails
from cinemix.movie_cache import MemoryStore, MovieCache, cache_movie, get_movie
from core.redis import ForgivingRedis, connection_pool
from core.tests.clock import Clock
from core.tests.redis_doubles import REDIS_URL, closed_port, needs_redis

TTL = timedelta(hours=1)


def movie(movie_id, title="Lost"):
    return MovieDetails.from_omdb({"imdbID": movie_id, "Title": title, "Genre": "Dramaç"})


def dead_redis():
    pool = connection_pool(f"redis://127.0.0.1:{closed_port()}")
    return ForgivingRedis(pool=pool)


@pytest.fixture
def redis():
    return ForgivingRedis(pool=connection_pool(REDIS_URL, timeout=1))


@pytest.fixture
def movie_id(redis):
    number = f"tt{uuid.uuid4().int % 10**15}"
    yield number
    redis.run(lambda client: client.delete(f"movie_{number}"))


@pytest.fixture(params=["memory", "dead redis"])
def cache(request):
    redis = dead_redis() if request.param == "dead redis" else None
    return MovieCache(redis=redis, ttl=TTL, clock=Clock())


def counts():
    return {
        outcome: REGISTRY.get_sample_value("filmosphere_movie_cache_total", {"outcome": outcome})
        for outcome in ("hit", "miss")
    }


def test_what_is_kept_is_found_until_its_time_is_over(cache):
    clock = cache._memory._clock
    cache.put("tt1", movie("tt1"))

    clock.now += 3599.9
    assert cache.get("tt1") == movie("tt1")
    clock.now += 0.1
    assert cache.get("tt1") is None


def test_hits_and_misses_are_counted_and_logged(cache, caplog):
    caplog.set_level("INFO", "cinemix.movie_cache")
    before = counts()

    cache.get("tt1")
    cache.put("tt1", movie("tt1"))
    cache.get("tt1")

    assert counts() == {"hit": before["hit"] + 1, "miss": before["miss"] + 1}
    lines = [(record.levelname, record.message) for record in caplog.records]
    assert ("WARNING", "movie cache miss") in lines
    assert ("INFO", "movie cache hit") in lines


def test_memory_makes_room_by_dropping_the_oldest():
    store = MemoryStore(max_bytes=30, clock=Clock())

    for key in ("a", "b", "c", "a"):
        store.put(key, b"x" * 9, 60)
    store.put("d", b"x" * 9, 60)

    assert [key for key in "abcd" if store.get(key)] == ["a", "c", "d"]
    assert store._bytes == 30


def test_memory_never_keeps_what_is_larger_than_itself():
    store = MemoryStore(max_bytes=30, clock=Clock())

    store.put("a", b"x" * 31, 60)

    assert store.get("a") is None
    assert store._bytes == 0


@override_settings(REDIS_URL="", MOVIE_CACHE_TTL=TTL)
def test_the_two_functions_work_on_what_the_settings_say():
    movie_cache._configured.cache_clear()

    cache_movie("tt1", movie("tt1"))

    assert get_movie("tt1") == movie("tt1")
    movie_cache._configured.cache_clear()
    assert get_movie("tt1") is None
    movie_cache._configured.cache_clear()


@needs_redis
def test_redis_shows_the_key_the_json_and_the_time_to_live(redis, movie_id):
    MovieCache(redis=redis, ttl=TTL).put(movie_id, movie(movie_id))

    raw = redis.run(lambda client: client.get(f"movie_{movie_id}"))

    assert json.loads(raw) == movie(movie_id).model_dump()
    assert "Dramaç" in raw.decode()
    assert 3595 <= redis.run(lambda client: client.ttl(f"movie_{movie_id}")) <= 3600


@needs_redis
def test_another_process_finds_it_too(redis, movie_id):
    MovieCache(redis=redis, ttl=TTL).put(movie_id, movie(movie_id))

    assert MovieCache(redis=redis, ttl=TTL).get(movie_id) == movie(movie_id)


DAMAGED = [
    b"",
    b"nonsense",
    b"\xff\xfe",
    b"null",
    b"[]",
    b"{}",
    b'{"id": "tt0", "title": "only these two"}',
    b'{"imdbID": "ID", "Title": "in the names of OMDb"}',
    b'{"id": "ID", "title": "half of it", "year": "20',
]


@needs_redis
@pytest.mark.parametrize("value", [*DAMAGED, "another movie", "a list"])
def test_a_foreign_or_damaged_value_is_a_miss_and_is_overwritten(redis, movie_id, value):
    cache, key = MovieCache(redis=redis, ttl=TTL), f"movie_{movie_id}"
    if value == "a list":
        redis.run(lambda client: client.rpush(key, "x"))
    elif value == "another movie":
        redis.run(lambda client: client.set(key, movie("tt0111161").model_dump_json()))
    else:
        redis.run(lambda client: client.set(key, value.replace(b"ID", movie_id.encode())))

    assert cache.get(movie_id) is None
    cache.put(movie_id, movie(movie_id))
    assert cache.get(movie_id) == movie(movie_id)
