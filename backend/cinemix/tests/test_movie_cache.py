import itertools
import json
import math
import uuid

import pytest
from django.core.cache import caches
from django.test import override_settings
from prometheus_client import REGISTRY

from cinemix.dtos import MovieDetails
from cinemix.movie_cache import MovieCache, cache_movie, get_movie
from core.redis import shared_redis
from core.tests.clock import Clock
from core.tests.redis_doubles import REDIS_URL, closed_port, needs_redis

KEYS = {"KEY_PREFIX": "movie_", "KEY_FUNCTION": "core.optional_redis.prefixed_key", "TIMEOUT": 3600}


def backend(url):
    if url is None:
        return {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", **KEYS}
    return {"BACKEND": "core.redis.ResilientRedisCache", "LOCATION": url, **KEYS}


def movie(movie_id="tt0411008", title="Lost"):
    return MovieDetails.from_omdb({"imdbID": movie_id, "Title": title, "Genre": "Dramaç"})


def movies():
    return MovieCache(caches["movies"])


@pytest.fixture
def clock(monkeypatch):
    clock = Clock(1_800_000_000.0)
    monkeypatch.setattr("time.time", clock)
    return clock


@pytest.fixture(params=["memory", "dead redis"])
def _without_redis(request):
    url = None if request.param == "memory" else f"redis://127.0.0.1:{closed_port()}"
    with override_settings(CACHES={"default": backend(None), "movies": backend(url)}):
        caches["movies"].clear()
        yield


@pytest.fixture
def redis():
    with override_settings(CACHES={"default": backend(None), "movies": backend(REDIS_URL)}):
        yield shared_redis(REDIS_URL).client


@pytest.fixture
def movie_id(redis):
    number = f"tt{uuid.uuid4().int % 10**15:015}"
    yield number
    redis.delete(f"movie_{number}", f"movie_{number}_expires_at")


def counts():
    return {
        outcome: REGISTRY.get_sample_value("filmosphere_movie_cache_total", {"outcome": outcome})
        for outcome in ("hit", "miss")
    }


@pytest.mark.usefixtures("_without_redis")
def test_a_movie_is_found_until_it_expires(clock):
    cache_movie("tt0411008", movie())

    clock.now += 3599.9
    assert get_movie("tt0411008") == movie()
    clock.now += 0.1
    assert get_movie("tt0411008") is None


@pytest.mark.usefixtures("_without_redis")
def test_a_cached_movie_has_the_remaining_seconds(clock):
    cache_movie("tt0411008", movie())
    fresh = movies().look_up("tt0411008")
    clock.now += 1000.5

    aged = movies().find("tt0411008")

    assert (fresh.seconds_left, aged.seconds_left, movies().lifetime) == (3600, 2599, 3600)
    assert aged.movie == movie()


@pytest.mark.usefixtures("_without_redis")
@pytest.mark.parametrize(
    ("expiry", "seconds"),
    [("x", 0), (None, 0), (-5.0, 0), (10**400, 0), (1e12, 3600), (math.inf, 3600), (math.nan, 0)],
)
def test_a_damaged_time_of_expiry_never_exceeds_the_lifetime(clock, expiry, seconds):
    cache_movie("tt0411008", movie())
    caches["movies"].set("tt0411008_expires_at", expiry)

    assert movies().look_up("tt0411008").seconds_left == seconds


@pytest.mark.usefixtures("_without_redis")
def test_hits_and_misses_are_counted_and_logged(caplog):
    caplog.set_level("INFO", "cinemix.movie_cache")
    before = counts()

    get_movie("tt0411008")
    cache_movie("tt0411008", movie())
    get_movie("tt0411008")
    movies().find("tt0411008")

    assert counts() == {"hit": before["hit"] + 1, "miss": before["miss"] + 1}
    lines = [(record.levelname, record.message) for record in caplog.records]
    assert [line for line in lines if "movie cache" in line[1]] == [
        ("WARNING", "movie cache miss"),
        ("INFO", "movie cache hit"),
    ]


def test_the_settings_of_the_service_name_the_key_and_the_lifetime(settings):
    options = settings.CACHES["movies"]

    assert {name: options[name] for name in KEYS} == KEYS
    assert caches["movies"].make_key("tt0411008") == "movie_tt0411008"


@needs_redis
def test_redis_holds_the_key_the_json_and_the_lifetime(redis, movie_id):
    cache_movie(movie_id, movie(movie_id))

    assert json.loads(redis.get(f"movie_{movie_id}")) == movie(movie_id).model_dump()
    assert 3595 <= redis.ttl(f"movie_{movie_id}") <= 3600
    assert 3595 <= redis.ttl(f"movie_{movie_id}_expires_at") <= 3600


@needs_redis
def test_a_movie_is_read_from_redis_in_one_round_trip(redis, movie_id):
    cache_movie(movie_id, movie(movie_id))

    with redis.monitor() as monitor:
        found = movies().look_up(movie_id)
        redis.echo(f"end of {movie_id}")
        commands = (line["command"] for line in iter(monitor.next_command, None))
        seen = list(itertools.takewhile(lambda command: "end of" not in command, commands))
    sent = [command.split()[0] for command in seen if movie_id in command]

    assert found.seconds_left >= 3595
    assert sent == ["MGET"]


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
    key = f"movie_{movie_id}"
    if value == "a list":
        redis.rpush(key, "x")
    elif value == "another movie":
        redis.set(key, movie("tt0111161").model_dump_json())
    else:
        redis.set(key, value.replace(b"ID", movie_id.encode()))

    assert get_movie(movie_id) is None
    cache_movie(movie_id, movie(movie_id))
    assert get_movie(movie_id) == movie(movie_id)


@needs_redis
def test_a_movie_of_another_writer_is_a_hit_without_a_remaining_lifetime(redis, movie_id):
    redis.set(f"movie_{movie_id}", movie(movie_id).model_dump_json())

    assert get_movie(movie_id) == movie(movie_id)
    assert movies().look_up(movie_id).seconds_left == 0
