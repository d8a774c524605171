"""Limits per address, and what callers read of them."""

import pytest
from django.core.cache import cache
from django.test import RequestFactory
from rest_framework.response import Response

from core.tests.clock import Clock
from web.throttling import AddressThrottle, ThrottledView, rate_limit_headers

START = 1_800_000_000.0


class Throttle(AddressThrottle):
    scope, rate = "test", "3/min"


def make_throttle(clock: Clock, **fields) -> AddressThrottle:
    made = type("Made", (Throttle,), {"timer": lambda self: clock.now, **fields})
    return made()


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.now = START
    return clock


def ask(clock: Clock, address: str = "192.0.2.1", **fields) -> tuple[bool, AddressThrottle]:
    throttle = make_throttle(clock, **fields)
    request = RequestFactory().get("/", REMOTE_ADDR=address)
    return throttle.allow_request(request, None), throttle


def test_so_many_requests_are_allowed_in_the_window_and_not_one_more(clock):
    allowed = []
    for _ in range(5):
        allowed.append(ask(clock)[0])
        clock.now += 10

    assert allowed == [True, True, True, False, False]


def test_a_request_stops_counting_when_its_window_is_over(clock):
    for _ in range(3):
        ask(clock)
        clock.now += 10
    clock.now = START + 59.9
    assert ask(clock)[0] is False

    clock.now = START + 60

    assert ask(clock)[0] is True
    assert ask(clock)[0] is False


def test_each_address_and_each_scope_has_a_count_of_its_own(clock):
    for _ in range(3):
        ask(clock)

    assert ask(clock)[0] is False
    assert ask(clock, "192.0.2.2")[0] is True
    assert ask(clock, scope="other")[0] is True


def test_one_ipv6_network_has_one_count(clock):
    allowed = [ask(clock, f"2001:db8::{number}")[0] for number in range(1, 5)]

    assert allowed == [True, True, True, False]


def test_the_headers_say_what_is_left_and_when_all_of_it_is_back(clock):
    seen = []
    for _ in range(4):
        seen.append(ask(clock)[1].headers())
        clock.now += 10

    assert [each["X-RateLimit-Limit"] for each in seen] == ["3"] * 4
    assert [each["X-RateLimit-Remaining"] for each in seen] == ["2", "1", "0", "0"]
    assert [each["X-RateLimit-Reset"] for each in seen] == ["60", "50", "40", "30"]


def test_a_refused_caller_learns_when_there_is_room_again(clock):
    for _ in range(3):
        ask(clock)
        clock.now += 10

    assert ask(clock)[1].wait() == pytest.approx(30)


def test_without_a_rate_nothing_is_counted_or_reported(clock):
    for _ in range(5):
        allowed, throttle = ask(clock, rate=None, get_rate=lambda self: None)
        assert allowed
        assert throttle.headers() == {}

    assert cache.get("throttle_test_192.0.2.1") is None


def test_nothing_is_reported_before_a_request_was_counted(clock):
    assert make_throttle(clock).headers() == {}


@pytest.mark.parametrize(
    "stored",
    [
        5,
        "text",
        {"a": 1},
        None,
        True,
        [["nested"]],
        ["1800000000"],
        [None],
        [True, False],
        [float("nan")],
        [float("inf"), float("-inf")],
        [{}],
        [START - 60, START + 60, 1.0, START * 2],
    ],
    ids=repr,
)
def test_what_the_cache_should_not_hold_counts_as_nothing(clock, stored):
    cache.set("throttle_test_192.0.2.1", stored)

    assert [ask(clock)[0] for _ in range(4)] == [True, True, True, False]


def test_valid_times_beside_invalid_ones_count(clock):
    cache.set("throttle_test_192.0.2.1", [START - 30, "x", START - 10, START - 50])

    allowed, throttle = ask(clock)

    assert not allowed
    assert throttle.wait() == pytest.approx(10)


def test_after_the_clock_was_set_back_a_caller_waits_at_most_two_windows(clock):
    for _ in range(3):
        ask(clock)
    clock.now -= 59

    assert ask(clock)[0] is False
    clock.now += 120
    assert ask(clock)[0] is True


def test_the_rate_is_that_of_the_scope_in_the_settings(settings):
    class Scoped(AddressThrottle):
        scope = "search"

    rates = {"search": "7/hour", "miss": None}
    settings.REST_FRAMEWORK = settings.REST_FRAMEWORK | {"DEFAULT_THROTTLE_RATES": rates}

    assert (Scoped().num_requests, Scoped().duration) == (7, 3600)


def test_a_scope_that_the_settings_do_not_know_fails_at_once():
    class Misspelt(AddressThrottle):
        scope = "serach"

    with pytest.raises(KeyError):
        Misspelt()


class LimitedView(ThrottledView):
    throttle_classes = [Throttle]

    def get(self, request):
        return Response({})


def test_the_response_reports_the_throttle_that_counted_it():
    view = LimitedView.as_view()
    request = RequestFactory().get("/", REMOTE_ADDR="192.0.2.9")

    answers = [view(request) for _ in range(4)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer["X-RateLimit-Remaining"] for answer in answers] == ["2", "1", "0", "0"]
    assert 1 <= int(answers[3]["Retry-After"]) <= 60
    assert answers[3].error_reason == "throttled"


def test_a_response_that_no_throttle_counted_reports_nothing():
    class Free(LimitedView):
        throttle_classes = []

    assert "X-RateLimit-Limit" not in Free.as_view()(RequestFactory().get("/"))


def test_headers_are_whole_numbers_and_never_negative():
    assert rate_limit_headers(limit=3, remaining=-1, reset=-0.5) == {
        "X-RateLimit-Limit": "3",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": "0",
    }
    assert rate_limit_headers(limit=3, remaining=1, reset=0.1)["X-RateLimit-Reset"] == "1"
