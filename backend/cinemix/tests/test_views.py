"""The Cinemix surface over HTTP, with injected fakes and the real error handling."""

import pytest
from django.test import override_settings
from django.urls import clear_url_caches, include, path
from rest_framework.settings import api_settings
from rest_framework.test import APIClient

from cinemix.dtos import MovieDetails, MovieResult, MovieResults
from cinemix.movie_cache import CachedMovie
from cinemix.rate_limiter import Decision
from cinemix.tests.fakes import ANSWER, SHAWSHANK, FakeLimiter, FakeMovies
from cinemix.urls import movie_paths
from core.errors import (
    DeadlineExceeded,
    InvalidInput,
    UpstreamBadAnswer,
    UpstreamNotConfigured,
    UpstreamNotFound,
    UpstreamQuotaExhausted,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)

MOVIE = MovieDetails.from_omdb(ANSWER)
FOUND = MovieResults(search_results=[MovieResult.from_omdb(ANSWER)], total_results="98")

urlpatterns: list = []
movies = FakeMovies()
limiter = FakeLimiter()


@pytest.fixture(autouse=True)
def routes():
    movies.__init__()
    limiter.__init__()
    paths = movie_paths(get_movies=lambda: movies, get_limiter=lambda: limiter)
    urlpatterns[:] = [path("api/v1/", include(paths))]
    with override_settings(ROOT_URLCONF=__name__):
        clear_url_caches()
        yield
    clear_url_caches()


@pytest.fixture
def client():
    return APIClient()


def test_a_movie_answer_has_the_envelope_and_fourteen_fields(client):
    movies.answer = CachedMovie(MOVIE, 1234)

    answer = client.get("/api/v1/search/id/", {"id": SHAWSHANK})

    assert answer.status_code == 200
    assert answer.json() == {
        "status": "success",
        "message": "ok",
        "data": {
            "id": SHAWSHANK,
            "title": "The Shawshank Redemption",
            "year": "1994",
            "type": "movie",
            "runtime": None,
            "genre": None,
            "director": None,
            "writer": None,
            "actors": None,
            "plot": None,
            "country": None,
            "poster": "https://img.test/shawshank.jpg",
            "imdb_rating": "9.3",
            "total_seasons": None,
        },
    }


def test_a_search_answer_has_the_envelope_rows_of_five_fields_and_the_total(client):
    movies.answer = FOUND

    answer = client.get("/api/v1/search/", {"query": " shawshank ", "page": "7"})

    assert answer.json() == {
        "status": "success",
        "message": "ok",
        "data": {
            "search_results": [
                {
                    "id": SHAWSHANK,
                    "title": "The Shawshank Redemption",
                    "year": "1994",
                    "type": "movie",
                    "poster": "https://img.test/shawshank.jpg",
                }
            ],
            "total_results": "98",
        },
    }
    assert movies.asked == [("shawshank", 7)]


def test_the_lifetime_of_an_answer_is_that_of_the_cached_value(client):
    movies.answer = CachedMovie(MOVIE, 1234)
    details = client.get("/api/v1/search/id/", {"id": SHAWSHANK})
    movies.answer = FOUND
    found = client.get("/api/v1/search/", {"query": "x"})

    assert details["Cache-Control"] == "public, max-age=1234"
    assert found["Cache-Control"] == "public, max-age=60"


def test_the_service_is_given_the_address_of_the_client(client):
    movies.answer = FOUND
    client.get("/api/v1/search/", {"query": "x"}, REMOTE_ADDR="192.0.2.1")
    movies.answer = CachedMovie(MOVIE, 1)
    client.get("/api/v1/search/id/", {"id": SHAWSHANK}, REMOTE_ADDR="192.0.2.2")

    assert movies.clients == ["192.0.2.1", "192.0.2.2"]


def test_text_is_sent_as_utf_8(client):
    movies.answer = CachedMovie(MOVIE.model_copy(update={"title": 'Çağrı " '}), 1)

    answer = client.get("/api/v1/search/id/", {"id": SHAWSHANK})

    assert answer.json()["data"]["title"] == 'Çağrı " '
    assert "Çağrı".encode() in answer.content


def test_a_search_without_matches_is_an_empty_list(client):
    movies.answer = MovieResults(search_results=[], total_results="0")

    answer = client.get("/api/v1/search/", {"query": "qqq"})

    assert answer.status_code == 200
    assert answer.json()["data"] == {"search_results": [], "total_results": "0"}


@pytest.mark.parametrize("url", ["/api/v1/search/id", "/api/v1/search/id/"])
def test_the_trailing_slash_is_optional(client, url):
    movies.answer = CachedMovie(MOVIE, 1234)

    answer = client.get(url, {"id": SHAWSHANK, "unknown": "ignored"}, HTTP_ACCEPT="text/html")

    assert answer.status_code == 200
    assert answer["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    "imdb_id",
    [None, "", "tt", "1375666", "nm0000158", "tt12x", "TT0111161", " tt0111161", "tt0111161\n",
     "tt１２３４５６７", "tt0111161\0", "tt" + "1" * 19, "tt1/..", "tt1&s=x"],
)  # fmt: skip
def test_a_malformed_id_is_400_without_a_call(client, imdb_id):
    answer = client.get("/api/v1/search/id/", {} if imdb_id is None else {"id": imdb_id})

    assert answer.status_code == 400
    assert set(answer.json()) == {"error_code", "message", "reason"}
    assert answer.json()["error_code"] == "400"
    assert movies.asked == []


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"query": ""},
        {"query": " \u200b"},
        {"query": "x" * 201},
        {"query": "a\0b"},
        *({"query": "x", "page": page} for page in ("0", "101", "-1", "", "1.0", "x", "１", "1\n")),
    ],
)
def test_an_invalid_search_is_400_without_a_call(client, parameters):
    answer = client.get("/api/v1/search/", parameters)

    assert answer.status_code == 400
    assert answer.json()["error_code"] == "400"
    assert movies.asked == []


@pytest.mark.parametrize("page", ["1", "100", "007"])
def test_pages_from_1_to_100_are_valid(client, page):
    movies.answer = FOUND

    assert client.get("/api/v1/search/", {"query": "x", "page": page}).status_code == 200
    assert movies.asked == [("x", int(page))]


ERRORS = [
    (UpstreamNotFound("omdb", "not_found"), 404, None, "no title"),
    (InvalidInput("Search for something longer."), 400, None, "longer"),
    (UpstreamQuotaExhausted("omdb", "quota", retry_after=77.2), 503, "78", "used all"),
    (UpstreamRejected("omdb", "bad_key", retry_after=600), 503, "600", "operator"),
    (UpstreamNotConfigured("omdb", "not_configured", retry_after=600), 503, "600", "operator"),
    (UpstreamUnavailable("omdb", "no_data_yet", retry_after=3600), 503, "3600", "no data"),
    (UpstreamUnavailable("omdb", "http_5xx"), 503, "5", "the request is valid"),
    (UpstreamTimeout("omdb", "timeout"), 503, "5", "the request is valid"),
    (DeadlineExceeded("omdb", "deadline"), 503, "5", "the request is valid"),
    (UpstreamBadAnswer("omdb", "bad_json"), 502, None, "unusable"),
]


@pytest.mark.parametrize(("error", "status", "retry_after", "words"), ERRORS)
def test_each_error_has_the_common_shape_and_its_own_message(
    client, error, status, retry_after, words
):
    movies.answer = error

    answer = client.get("/api/v1/search/id/", {"id": SHAWSHANK})

    assert answer.status_code == status
    assert set(answer.json()) == {"error_code", "message", "reason"}
    assert answer.json()["error_code"] == str(status)
    assert words in answer.json()["message"]
    assert answer.get("Retry-After") == retry_after
    assert answer["Cache-Control"] == "no-store"


@pytest.mark.parametrize("debug", [True, False])
def test_an_unexpected_error_is_500_in_debug_mode_too(client, settings, debug):
    settings.DEBUG = debug
    movies.answer = ZeroDivisionError()

    answer = client.get("/api/v1/search/id/", {"id": SHAWSHANK})

    assert answer.status_code == 500
    assert answer.json()["reason"] == "internal_error"


def test_allow_is_sent_where_the_method_matters(client):
    movies.answer = FOUND
    answers = [
        getattr(client, name)("/api/v1/search/?query=x")
        for name in ("get", "head", "options", "put")
    ]

    assert [answer.status_code for answer in answers] == [200, 200, 204, 405]
    assert [answer.get("Allow") for answer in answers] == [None, None] + ["GET, HEAD, OPTIONS"] * 2


def test_an_unknown_method_is_405(client):
    assert client.generic("PURGE", "/api/v1/search/?query=x").status_code == 405
    assert limiter.clients == []


def test_a_refused_request_is_429_with_the_wait_rounded_up(client):
    limiter.decision = Decision(admitted=False, retry_after=41.2)

    answer = client.get("/api/v1/search/", {"query": "x"})

    assert answer.status_code == 429
    assert answer["Retry-After"] == "42"
    assert answer.json()["error_code"] == "429"
    assert movies.asked == []


def test_both_endpoints_count_malformed_requests_too_per_address(client):
    client.get("/api/v1/search/", {}, REMOTE_ADDR="192.0.2.1")
    client.get("/api/v1/search/id/", {}, REMOTE_ADDR="192.0.2.2")
    client.head("/api/v1/search/id/", {}, REMOTE_ADDR="192.0.2.3")

    assert limiter.clients == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]


@pytest.mark.parametrize(("proxies", "client_address"), [(0, "192.0.2.1"), (1, "203.0.113.9")])
def test_the_address_is_the_one_seen_by_the_trusted_proxies(
    client, monkeypatch, proxies, client_address
):
    monkeypatch.setattr(api_settings, "NUM_PROXIES", proxies)

    client.get(
        "/api/v1/search/",
        REMOTE_ADDR="192.0.2.1",
        HTTP_X_FORWARDED_FOR="198.51.100.7, 203.0.113.9",
    )

    assert limiter.clients == [client_address]


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_other_methods_are_refused_and_not_counted(client, method):
    answer = getattr(client, method)("/api/v1/search/id/")

    assert answer.status_code == 405
    assert "GET" in answer["Allow"]
    assert limiter.clients == []


def test_options_is_answered_and_not_counted(client):
    answer = client.options("/api/v1/search/")

    assert answer.status_code == 204
    assert limiter.clients == []


def test_an_answer_contains_the_remaining_requests(client):
    movies.answer = FOUND
    limiter.decision = Decision(admitted=True, remaining=7, reset=41.2)

    answer = client.get("/api/v1/search/", {"query": "matrix"})

    assert answer["X-RateLimit-Limit"] == "10"
    assert answer["X-RateLimit-Remaining"] == "7"
    assert answer["X-RateLimit-Reset"] == "42"
