"""The film surface over HTTP, with injected fakes and the real error handling."""

import pytest
from django.conf import settings
from django.core.cache import cache
from django.db import OperationalError
from django.test import override_settings
from django.urls import clear_url_caches, include, path
from rest_framework.test import APIClient

from core.errors import (
    UpstreamBadAnswer,
    UpstreamNotFound,
    UpstreamRateLimited,
    UpstreamUnavailable,
)
from films.tests.fakes import INCEPTION, FakeAggregator, FakeSearch
from films.urls import film_paths

PAYLOAD = {
    "imdb_id": INCEPTION,
    "title": "Inception",
    "metadata": {"primaryTitle": "Inception"},
    "credits": {},
    "images": {},
    "videos": {},
    "parents_guide": {},
    "certificates": {},
    "release_dates": {},
    "trailer": {"youtube_video_id": "YoHD9XEInc0"},
    "streaming": [{"name": "Netflix"}],
    "warnings": [],
}

urlpatterns: list = []
aggregator = FakeAggregator(PAYLOAD)
search = FakeSearch([])


@pytest.fixture(autouse=True)
def routes():
    serve(aggregator=FakeAggregator(PAYLOAD), found=FakeSearch([]))
    cache.clear()
    # The short way to hits asks the real aggregator.
    longer_way = [
        name for name in settings.MIDDLEWARE if not name.endswith("cached_film_middleware")
    ]
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=longer_way):
        yield


def serve(*, aggregator=None, found=None):
    routes = film_paths(get_aggregator=lambda: aggregator, get_search=lambda: found)
    urlpatterns[:] = [path("api/", include(routes))]


def get(address, **headers):
    clear_url_caches()
    return APIClient().get(address, headers=headers)


def test_a_film_is_answered_with_its_payload():
    answer = get(f"/api/films/{INCEPTION}")

    assert answer.status_code == 200
    assert answer.json() == PAYLOAD


@pytest.mark.parametrize("part", ["trailer", "streaming"])
def test_a_part_comes_from_the_same_payload(part):
    answer = get(f"/api/films/{INCEPTION}/{part}")

    assert answer.json() == {"imdb_id": INCEPTION, part: PAYLOAD[part]}


@pytest.mark.parametrize("part", ["", "/trailer", "/streaming"])
def test_a_final_slash_changes_nothing(part):
    address = f"/api/films/{INCEPTION}{part}"

    assert get(f"{address}/").json() == get(address).json()


@pytest.mark.parametrize(
    "imdb_id",
    [
        "abc",
        "tt",
        "1375666",
        "nm0000158",
        "tt12x",
        "tt1234567890123456789",
        "TT0111161",
        "%20tt0111161",
        "tt0111161%0A",
        "tt0111161%00",
        "tt１２３４５６７",
        "tt٠١٢٣٤٥٦",
        "tt0111161%3Fx%23y",
        "tt" + "1" * 4000,
    ],
)
@pytest.mark.parametrize("part", ["", "/trailer", "/streaming"])
def test_an_id_that_cannot_be_one_is_400_and_asks_nobody(imdb_id, part):
    aggregator = FakeAggregator(PAYLOAD)
    serve(aggregator=aggregator)

    answer = get(f"/api/films/{imdb_id}{part}")

    assert answer.status_code == 400
    assert answer.json()["error_code"] == "400"
    assert aggregator.asked == []


def test_an_empty_id_is_400():
    assert get("/api/films/").status_code == 400


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UpstreamNotFound("imdbapi", "not_found"), 404),
        (UpstreamBadAnswer("imdbapi", "bad_json"), 502),
        (UpstreamUnavailable("imdbapi", "dns_error"), 503),
        (UpstreamRateLimited("imdbapi", "rate_limited", retry_after=30), 503),
        (OperationalError("could not connect"), 503),
    ],
)
@pytest.mark.parametrize("part", ["", "/trailer", "/streaming"])
def test_each_failure_has_its_status_and_the_one_shape(error, status, part):
    serve(aggregator=FakeAggregator(error))

    answer = get(f"/api/films/{INCEPTION}{part}")

    assert answer.status_code == status
    assert set(answer.json()) == {"error_code", "message"}
    assert answer.json()["error_code"] == str(status)
    assert answer["Cache-Control"] == "no-store"
    assert ("Retry-After" in answer) == (status == 503)


def test_the_wait_that_a_source_asks_for_is_passed_on():
    serve(
        aggregator=FakeAggregator(UpstreamRateLimited("imdbapi", "rate_limited", retry_after=29.1))
    )

    assert get(f"/api/films/{INCEPTION}")["Retry-After"] == "30"


def test_what_nobody_expected_is_500_in_the_one_shape(caplog):
    serve(aggregator=FakeAggregator(ZeroDivisionError("a bug")))

    answer = get(f"/api/films/{INCEPTION}")

    assert answer.status_code == 500
    assert answer.json() == {"error_code": "500", "message": "Something went wrong on our side."}
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
@pytest.mark.parametrize("address", [f"/api/films/{INCEPTION}", "/api/search?q=x"])
def test_another_method_is_405_and_names_the_allowed_ones(method, address):
    answer = getattr(APIClient(), method)(address)

    assert answer.status_code == 405
    assert answer["Allow"] == "GET, HEAD, OPTIONS"
    assert answer.json()["error_code"] == "405"


def test_head_has_the_headers_of_get_and_no_body():
    answer = APIClient().head(f"/api/films/{INCEPTION}")

    assert answer.status_code == 200
    assert answer.content == b""


class TestSearch:
    def test_the_query_is_echoed_beside_the_results(self):
        found = [{"imdb_id": INCEPTION, "title": "Inception"}]
        serve(found=FakeSearch(found))

        assert get("/api/search?q=inception").json() == {"query": "inception", "results": found}

    def test_blanks_around_the_query_are_not_looked_up(self):
        search = FakeSearch([])
        serve(found=search)

        get("/api/search?q=%20inception%20")

        assert search.asked == ["inception"]

    @pytest.mark.parametrize(
        "query",
        [
            "",
            "?q=",
            "?q=%20%20",
            "?q=%E2%80%8B%E2%80%8B",
            "?q=%00",
            "?q=a%0Ab",
            "?q=a%1Bb",
            "?query=x",
            "?q=" + "x" * 201,
            "?q=" + "x" * 4000,
        ],
    )
    def test_a_query_that_cannot_be_meant_is_400_and_asks_nobody(self, query):
        search = FakeSearch([])
        serve(found=search)

        answer = get(f"/api/search{query}")

        assert answer.status_code == 400
        assert answer.json()["error_code"] == "400"
        assert search.asked == []

    @pytest.mark.parametrize(
        "query",
        ["🎬", "سينما", "e\u0301", "' OR 1=1--", "%s%n", "{0}", "${jndi:ldap://x}", "<script>"],
    )
    def test_any_text_is_data_and_comes_back_unchanged(self, query):
        answer = APIClient().get("/api/search", {"q": query})

        assert answer.status_code == 200
        assert answer.json()["query"] == query

    def test_two_forms_of_one_text_are_one_query_upstream(self):
        search = FakeSearch([])
        serve(found=search)

        APIClient().get("/api/search", {"q": "caf\u00e9"})
        APIClient().get("/api/search", {"q": "cafe\u0301"})

        assert set(search.asked) == {"caf\u00e9"}

    def test_could_not_look_is_503_not_an_empty_list(self):
        serve(found=FakeSearch(UpstreamUnavailable("imdbapi", "dns_error")))

        assert get("/api/search?q=x").status_code == 503

    @override_settings(SEARCH_THROTTLE_RATE="2/min")
    def test_one_search_too_many_is_429_and_says_when_to_come_back(self):
        statuses = [get("/api/search?q=x").status_code for _ in range(3)]
        answer = get("/api/search?q=x")

        assert statuses == [200, 200, 429]
        assert 1 <= int(answer["Retry-After"]) <= 60
        assert set(answer.json()) == {"error_code", "message"}

    @override_settings(SEARCH_THROTTLE_RATE="2/min")
    def test_a_made_up_forwarded_address_is_no_way_around_the_limit(self):
        statuses = [
            get("/api/search?q=x", x_forwarded_for=f"10.0.0.{n}").status_code for n in range(3)
        ]

        assert statuses == [200, 200, 429]

    @override_settings(SEARCH_THROTTLE_RATE=None)
    def test_no_rate_is_no_limit(self):
        assert {get("/api/search?q=x").status_code for _ in range(70)} == {200}
