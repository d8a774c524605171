"""Hits that are repeated from the memory of a process."""

import io
import re

import pytest
from django.http import HttpResponse

from films.hot_films import HotFilms
from films.tests.fakes import INCEPTION

FILM = f"/api/films/{INCEPTION}"
HIT = {"Cache-Status": "Filmosphere; hit; ttl=500", "ETag": '"v1"', "X-Correlation-ID": "first"}


class Django:
    """Answers each call with the same headers and a body of its own."""

    def __init__(self, status=200, **headers):
        self.status, self.headers = status, {**HIT, **headers}
        self.calls = 0

    def __call__(self, environ, start_response):
        self.calls += 1
        response = HttpResponse(f"answer {self.calls}", status=self.status, headers=self.headers)
        start_response(f"{self.status} {response.reason_phrase}", list(response.items()))
        return response


class House:
    """`HotFilms` in front of an application, and a clock."""

    def __init__(self, application):
        self.time = 0.0
        self.hot = HotFilms(
            application,
            path=re.compile(r"/api/films/(tt[0-9]+)/?"),
            seconds=1.0,
            clock=lambda: self.time,
        )

    def get(self, path=FILM, method="GET", **headers):
        """Return status, headers and body, as a WSGI server would see them."""
        started = []
        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "HTTP_HOST": "films.example",
            "wsgi.input": io.BytesIO(),
            **{f"HTTP_{name.upper()}": value for name, value in headers.items()},
        }
        answer = self.hot(environ, lambda *given: started.append(given))
        (status, given), body = started[0], b"".join(answer)
        return int(status[:3]), dict(given), body


def test_a_hit_is_repeated_without_asking_again():
    django = Django()
    house = House(django)

    first, second = house.get(), house.get()

    assert django.calls == 1
    assert (second[0], second[2]) == (200, b"answer 1")
    assert {**second[1], "X-Correlation-ID": "first"} == first[1]


def test_each_reader_gets_a_correlation_id_of_their_own():
    house = House(Django())
    house.get()

    mine = house.get(x_correlation_id="mine-1")
    fresh = [house.get()[1]["X-Correlation-ID"] for _ in range(2)]
    harmful = house.get(x_correlation_id='"}{"')[1]["X-Correlation-ID"]

    assert mine[1]["X-Correlation-ID"] == "mine-1"
    assert len({"first", "mine-1", *fresh, harmful}) == 5
    assert re.fullmatch(r"[0-9a-f]{32}", harmful)


def test_nothing_is_repeated_for_longer_than_asked_for():
    django = Django()
    house = House(django)
    house.get()
    house.time = 1.0

    assert house.get()[2] == b"answer 2"


@pytest.mark.parametrize(
    "other",
    [
        {"path": f"{FILM}0"},
        {"accept_encoding": "gzip"},
        {"host": "other.example"},
        {"if_none_match": '"v1"'},
    ],
)
def test_who_asks_otherwise_is_answered_anew(other):
    django = Django()
    house = House(django)
    house.get()

    house.get(**other)

    assert django.calls == 2


def test_both_forms_of_a_path_are_one_film():
    django = Django()
    house = House(django)
    house.get()

    assert house.get(f"{FILM}/")[2] == b"answer 1"
    assert django.calls == 1


def test_a_copy_past_its_time_is_repeated_too():
    django = Django(**{"Cache-Status": "Filmosphere; hit; detail=stale"})
    house = House(django)

    assert [house.get()[2] for _ in range(2)] == [b"answer 1"] * 2


def test_304_is_repeated_too():
    django = Django(status=304)
    house = House(django)

    answers = [house.get(if_none_match='"v1"')[0] for _ in range(2)]

    assert (answers, django.calls) == ([304, 304], 1)


def test_whole_answers_to_versions_that_callers_make_up_take_no_room():
    django = Django(status=200)
    house = House(django)

    for _ in range(2):
        house.get(if_none_match='"made-up"')

    assert django.calls == 2


@pytest.mark.parametrize(
    "django",
    [
        Django(**{"Cache-Status": "Filmosphere; fwd=miss; stored; ttl=500"}),
        Django(**{"Cache-Status": ""}),
        Django(status=503, **{"Cache-Status": ""}),
        # The caller was counted: it is their limit that this tells of.
        Django(**{"X-RateLimit-Limit": "60"}),
        # It would be past its time before we forget it.
        Django(**{"Cache-Status": "Filmosphere; hit; ttl=1"}),
    ],
    ids=["fetched", "none", "error", "counted", "expiring"],
)
def test_only_hits_that_last_are_repeated(django):
    house = House(django)
    house.get()
    asked = django.calls

    house.get()

    assert django.calls == asked + 1


@pytest.mark.parametrize(
    "other",
    [
        {"method": "HEAD"},
        {"method": "POST"},
        {"path": f"{FILM}/trailer"},
        {"path": "/api/search"},
        {"path": f"{FILM}\n"},
        {"origin": "https://app.example"},
        {"host": "localhost:" + "0" * 300},
        {"if_none_match": '"x", ' * 100},
    ],
)
def test_all_else_is_left_to_the_application(other):
    django = Django()
    house = House(django)

    for _ in range(2):
        house.get(**other)

    assert django.calls == 2


def test_a_crawl_does_not_fill_the_memory():
    house = House(Django())

    for number in range(1200):
        house.get(f"/api/films/tt{number}")

    assert len(house.hot._answers) <= 500


def test_an_answer_that_took_long_does_not_replace_a_newer_one():
    django = Django()
    house = House(django)
    make = django.__call__

    def overtaken(environ, start_response):
        # While this one is made, another reader asks and gets theirs.
        slow = make(environ, start_response)
        house.time = 0.5
        house.hot._application = make
        assert house.get()[2] == b"answer 2"
        return slow

    house.hot._application = overtaken
    house.get()

    assert house.get()[2] == b"answer 2"


def test_the_log_tells_of_a_repeated_answer_like_of_any_other(caplog):
    house = House(Django())
    house.get()

    with caplog.at_level("INFO", "core.middleware"):
        house.get()

    (line,) = caplog.records
    assert (line.method, line.path, line.status) == ("GET", FILM, 200)
