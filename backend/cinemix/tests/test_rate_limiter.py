import itertools
import multiprocessing
import threading
import uuid

import pytest
from django.test import override_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from cinemix import rate_limiter
from cinemix.rate_limiter import RateLimiter, Window
from core.redis import ResilientRedis, connection_pool
from core.tests.clock import Clock
from core.tests.redis_doubles import REDIS_URL, closed_port, needs_redis, odd_redis

MINUTE = Window(window_size=60, bucket_size=10, max_threshold=10)


class Naive:
    """A naive model of the limiter that stores the time of every admitted request."""

    def __init__(self, window):
        self.window, self.admitted = window, []

    def allow(self, now):
        if self.remaining(now) == 0:
            return False
        self.admitted.append(now)
        return True

    def remaining(self, now):
        size = self.window.bucket_size * 1_000_000
        first = now // size - self.window.window_size // self.window.bucket_size
        counted = [moment for moment in self.admitted if moment // size >= first]
        return self.window.max_threshold - len(counted)


def make_limiter(window=MINUTE, clock=None, redis=None):
    return RateLimiter(window=window, clock=clock or Clock(), get_redis=lambda: redis)


def real_redis():
    return ResilientRedis(pool=connection_pool(REDIS_URL, timeout=1))


@pytest.fixture
def client():
    name = f"test-{uuid.uuid4()}"
    yield name
    if REDIS_URL:
        real_redis().run(lambda redis: redis.delete(f"rate_limit:60:10:{name}"))


@st.composite
def windows(draw):
    bucket, buckets = draw(st.integers(1, 15)), draw(st.integers(2, 8))
    return Window(bucket * buckets, bucket, draw(st.integers(1, 6)))


# Bursts, bucket borders, and pauses longer than several buckets.
STEPS = st.lists(
    st.sampled_from([0, 1, 999_999, 1_000_000, 5_000_000, 10_000_000, 59_999_999, 60_000_000])
    | st.integers(0, 150_000_000),
    max_size=60,
)


def assert_matches_the_model(limiter, clock, window, steps, client):
    """Each decision equals that of the naive model, and its times are exact."""
    naive = Naive(window)
    for step in steps:
        clock.micros += step
        decision = limiter.check(client)
        assert decision.admitted == naive.allow(clock.micros)
        assert decision.remaining == naive.remaining(clock.micros)
        reset = clock.micros + round(decision.reset * 1_000_000)
        assert naive.remaining(reset - 1) < window.max_threshold
        assert naive.remaining(reset) == window.max_threshold
        if not decision.admitted:
            assert_wait_is_exact(naive, clock.micros + round(decision.retry_after * 1_000_000))
    span, most = window.window_size * 1_000_000, window.max_threshold
    for first, one_too_many in zip(naive.admitted, naive.admitted[most:], strict=False):
        assert one_too_many - first > span


def assert_wait_is_exact(naive, then):
    before, after = Naive(naive.window), Naive(naive.window)
    before.admitted, after.admitted = list(naive.admitted), list(naive.admitted)
    assert not before.allow(then - 1)
    assert after.allow(then)


class MicroClock:
    def __init__(self):
        self.micros = 1_000_000_000_000

    def __call__(self):
        return ExactSeconds(self.micros)


class ExactSeconds(float):
    """Seconds that convert to microseconds without rounding."""

    def __new__(cls, micros):
        seconds = super().__new__(cls, micros / 1_000_000)
        seconds.micros = micros
        return seconds

    def __mul__(self, factor):
        return self.micros


@given(window=windows(), steps=STEPS)
def test_the_counts_in_memory_match_the_model(window, steps):
    clock = MicroClock()

    assert_matches_the_model(make_limiter(window, clock), clock, window, steps, "client")


@needs_redis
@settings(max_examples=40, deadline=None)
@given(window=windows(), steps=STEPS)
def test_the_counts_in_redis_match_the_model(window, steps):
    clock, client, redis = MicroClock(), f"test-{uuid.uuid4()}", real_redis()
    key = f"rate_limit:{window.window_size}:{window.bucket_size}:{client}"

    try:
        assert_matches_the_model(make_limiter(window, clock, redis), clock, window, steps, client)
    finally:
        redis.run(lambda connection: connection.delete(key))


def test_the_eleventh_request_within_a_minute_is_refused_with_the_time_to_wait():
    clock = Clock(1_000_005)
    limiter = make_limiter(clock=clock)
    admitted = [limiter.allow_request("a") for _ in range(11)]

    decision = limiter.check("a")

    assert admitted == [True] * 10 + [False]
    assert decision.retry_after == 65
    clock.now += 64.9
    assert not limiter.allow_request("a")
    clock.now += 0.1
    assert limiter.allow_request("a")


def test_after_a_pause_several_buckets_leave_the_window_at_once():
    clock = Clock(1_000_000)
    limiter = make_limiter(clock=clock)
    for _ in range(5):
        assert limiter.allow_request()
        assert limiter.allow_request()
        clock.now += 10
    assert not limiter.allow_request()

    clock.now += 70

    assert [limiter.allow_request() for _ in range(11)] == [True] * 10 + [False]


def test_refused_requests_are_not_counted():
    clock = Clock(1_000_000)
    limiter = make_limiter(clock=clock)
    for _ in range(100):
        limiter.allow_request()

    clock.now += 70

    assert limiter.allow_request()


def test_the_limit_is_the_threshold_of_the_window():
    assert make_limiter(Window(20, 10, 7)).limit == 7


def test_each_client_is_counted_separately():
    limiter = make_limiter(Window(2, 1, 1))

    assert limiter.allow_request("a")
    assert limiter.allow_request("b")
    assert limiter.allow_request()
    assert not limiter.allow_request("a")


@override_settings(
    WINDOW_SIZE=20,
    BUCKET_SIZE=10,
    MAX_THRESHOLD=2,
    CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
)
def test_without_arguments_the_window_comes_from_the_settings():
    limiter = RateLimiter()

    assert [limiter.allow_request() for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("window", "bucket", "threshold"),
    [(60, 7, 1), (60, 60, 1), (60, 40, 1), (0, 1, 1), (60, 0, 1), (60, 10, 0), (60, -10, 1)],
)
def test_invalid_window_sizes_are_refused(window, bucket, threshold):
    with pytest.raises(ValueError, match="must"):
        Window(window, bucket, threshold)


def test_requests_still_count_when_the_clock_is_set_back():
    clock = Clock(1_000_005)
    limiter = make_limiter(clock=clock)
    for _ in range(10):
        limiter.allow_request()

    clock.now -= 10

    assert not limiter.allow_request()


def test_the_wait_is_that_of_the_oldest_bucket_when_the_clock_is_set_back():
    clock = Clock(1_000_005)
    limiter = make_limiter(Window(60, 10, 2), clock=clock)
    limiter.allow_request()
    clock.now -= 10
    limiter.allow_request()

    assert limiter.check().retry_after == 65


def test_requests_from_a_distant_future_do_not_count():
    clock = Clock(1_000_005)
    limiter = make_limiter(Window(60, 10, 1), clock=clock)
    limiter.allow_request()

    clock.now -= 70

    assert limiter.allow_request()


def test_memory_drops_the_client_whose_last_admitted_request_is_the_oldest(monkeypatch):
    monkeypatch.setattr(rate_limiter, "MEMORY_CLIENTS", 2)
    limiter = make_limiter(Window(2, 1, 2))

    for client in ("a", "b", "a", "c"):
        limiter.allow_request(client)

    assert list(limiter._local._clients) == ["a", "c"]


def test_threads_share_the_counts_of_a_process():
    assert sum(ask_from_threads(make_limiter(), "a")) == 10


def ask_from_threads(limiter, client, threads=8, each=10):
    admitted, barrier = [], threading.Barrier(threads)

    def ask():
        barrier.wait()
        admitted.extend([limiter.allow_request(client) for _ in range(each)])

    running = [threading.Thread(target=ask) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return admitted


def ask_from_a_process(client, barrier, queue):
    limiter = RateLimiter(window=MINUTE, get_redis=real_redis)
    barrier.wait()
    queue.put(sum(ask_from_threads(limiter, client, threads=4)))


@needs_redis
def test_processes_and_threads_share_the_counts_in_redis(client):
    spawn = multiprocessing.get_context("spawn")
    barrier, queue = spawn.Barrier(3), spawn.Queue()
    processes = [
        spawn.Process(target=ask_from_a_process, args=[client, barrier, queue]) for _ in range(3)
    ]
    for process in processes:
        process.start()

    admitted = sum(queue.get(timeout=20) for _ in processes)

    for process in processes:
        process.join()
    assert admitted == 10


@needs_redis
def test_a_request_costs_one_round_trip(client):
    redis = real_redis()
    limiter = make_limiter(redis=redis)
    limiter.allow_request(client)
    with redis.client.monitor() as monitor:
        limiter.allow_request(client)
        redis.client.echo(f"end of {client}")
        lines = iter(monitor.next_command, None)
        seen = list(itertools.takewhile(lambda line: "end of" not in line["command"], lines))
    sent = [
        line["command"].split()[0]
        for line in seen
        if client in line["command"] and line["client_type"] != "lua"
    ]

    assert sent == ["EVALSHA"]


@needs_redis
def test_the_keys_expire_with_the_window(client):
    redis = real_redis()
    RateLimiter(window=MINUTE, get_redis=lambda: redis).allow_request(client)

    left = redis.run(lambda connection: connection.pttl(f"rate_limit:60:10:{client}"))

    assert 60_000 < left <= 70_000


@needs_redis
@pytest.mark.parametrize("damage", ["string", "fields"])
def test_a_damaged_count_is_replaced(client, damage):
    redis, key = real_redis(), f"rate_limit:60:10:{client}"
    if damage == "string":
        redis.run(lambda connection: connection.set(key, "x"))
    else:
        redis.run(lambda connection: connection.hset(key, mapping={"x": 1, "5": "y"}))

    assert sum(ask_from_threads(make_limiter(redis=redis), client, threads=2)) == 10


def test_the_process_counts_alone_while_redis_is_unavailable(caplog):
    limiter = make_limiter(
        redis=ResilientRedis(pool=connection_pool(f"redis://127.0.0.1:{closed_port()}"))
    )

    assert [limiter.allow_request() for _ in range(11)] == [True] * 10 + [False]
    assert "throttle_degraded" in {getattr(record, "outcome", "") for record in caplog.records}


def test_requests_admitted_by_redis_count_after_it_fails():
    with odd_redis() as redis:
        # The reply of the script to an admitted request.
        redis.answer = b"*5\r\n:1\r\n:0\r\n:9\r\n:70000000\r\n*0\r\n"
        server = ResilientRedis(pool=connection_pool(redis.url, timeout=0.02))
        limiter = make_limiter(redis=server)
        admitted = [limiter.allow_request() for _ in range(7)]
        redis.answer = b""

        admitted += [limiter.allow_request() for _ in range(7)]

    assert admitted == [True] * 10 + [False] * 4


def test_a_decision_contains_the_remaining_requests_and_the_reset_time():
    clock = Clock(0.0)
    limiter = RateLimiter(window=Window(60, 10, 3), get_redis=lambda: None, clock=clock)

    first = limiter.check()
    clock.now = 15.0
    second, third, refused = (limiter.check() for _ in range(3))

    assert [v.remaining for v in (first, second, third, refused)] == [2, 1, 0, 0]
    assert (first.reset, refused.reset) == (70.0, 65.0)
    assert refused.retry_after == 55.0
