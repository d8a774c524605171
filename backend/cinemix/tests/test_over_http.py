"""From the view down to OMDb's stand-in and back, over real sockets on the upstream side."""

import json
import logging

import pytest
from django.test import override_settings
from django.urls import clear_url_caches, include, path
from rest_framework.test import APIClient

from cinemix.daily_share import DailyShare
from cinemix.tests.fakes import FakeLimiter, make_movies
from cinemix.urls import movie_paths
from core.services.http_client import HttpClient
from core.services.limits import Quota, UpstreamLimits
from core.services.omdb_service import OmdbService
from core.services.source import Source
from core.tests.support import InlineCoordinator, wire_client

pytestmark = pytest.mark.django_db

KEY = "5a4db0c5"
INCEPTION = "tt1375666"

urlpatterns: list = []
# The threads of a source never end. Their sockets would be reported as unclosed without this.
_clients: list[HttpClient] = []


@pytest.fixture
def client(sandbox):
    yield from serve(sandbox)


@pytest.fixture
def client_with_wrong_key(sandbox):
    yield from serve(sandbox, key="not-the-key")


@pytest.fixture
def client_without_key(sandbox):
    yield from serve(sandbox, key="")


@pytest.fixture
def limited_client(sandbox):
    """A client of a service that may make five calls a day, and has no shares."""
    yield from serve(sandbox, limits=daily_limit(5), has_shares=False)


@pytest.fixture
def sharing_client(sandbox):
    """A client of a service that may make 20 calls a day."""
    yield from serve(sandbox, limits=daily_limit(20))


def daily_limit(calls):
    return UpstreamLimits(rates={}, quotas={"omdb": Quota("%Y-%m-%d", calls)})


def serve(sandbox, *, key=KEY, limits=None, has_shares=True):
    http = wire_client(timeout=0.2)
    _clients.append(http)
    source = Source("omdb", concurrency=4, quota=limits and limits.quotas["omdb"])
    if limits:
        InlineCoordinator(sources=[source], limits=limits)
    share = DailyShare(
        calls_left=lambda: limits.status("omdb").left if limits and has_shares else None
    )
    omdb = OmdbService(
        http=http, base_url=f"{sandbox.url}/omdb", api_key=key, breaker=source.breaker
    )
    movies = make_movies(omdb, source=source, share=share, seconds=2)
    limiter = FakeLimiter()
    paths = movie_paths(get_movies=lambda: movies, get_limiter=lambda: limiter)
    urlpatterns[:] = [path("api/v1/", include(paths))]
    with override_settings(ROOT_URLCONF=__name__):
        clear_url_caches()
        yield APIClient()
    clear_url_caches()


def movie(client, imdb_id=INCEPTION):
    return client.get("/api/v1/search/id/", {"id": imdb_id})


def search(client, query, **more):
    return client.get("/api/v1/search/", {"query": query, **more})


def assert_error(answer, status, words=""):
    assert answer.status_code == status, answer.content
    assert set(answer.json()) == {"error_code", "message", "reason"}
    assert answer.json()["error_code"] == str(status)
    assert words in answer.json()["message"]
    assert ("Retry-After" in answer) == (status == 503)
    assert KEY not in str(answer.content) + str(answer.headers)


def test_a_movie_is_fetched_once(client, sandbox):
    first, second = movie(client), movie(client)

    assert first.json()["data"]["title"] == "Inception"
    assert second.json() == first.json()
    assert len(sandbox.calls("omdb")) == 1


def test_a_search_is_paged(client):
    first = search(client, "the").json()["data"]

    last = search(client, "the", page=100).json()["data"]

    assert len(first["search_results"]) == 10
    assert set(first["search_results"][0]) == {"id", "title", "year", "type", "poster"}
    assert int(first["total_results"]) > 10
    assert last == {"search_results": [], "total_results": first["total_results"]}


@pytest.mark.parametrize(
    ("imdb_id", "plot"), [("tt0079944", "innerspiritual"), ("tt0042876", "killing,\tand")]
)
def test_a_plot_that_breaks_the_json_is_repaired(client, imdb_id, plot):
    assert plot in movie(client, imdb_id).json()["data"]["plot"]


def test_a_series_has_its_years_and_seasons(client):
    data = movie(client, "tt0096697").json()["data"]

    assert (data["type"], data["year"]) == ("series", "1989–")
    assert data["total_seasons"].isdigit()


def test_a_search_without_matches_is_an_empty_list(client):
    assert search(client, "qqqqqq").json()["data"]["search_results"] == []


def test_a_search_that_is_too_broad_is_400_with_advice(client):
    assert_error(search(client, "it"), 400, "longer")


def test_a_page_past_the_end_has_the_total_without_an_earlier_page(client, sandbox):
    last = search(client, "the", page=100).json()["data"]

    assert last["search_results"] == []
    assert last == last | {"total_results": search(client, "the").json()["data"]["total_results"]}
    assert len(sandbox.calls("omdb")) == 2


def test_an_unknown_id_is_404_and_requested_once(client, sandbox):
    for _ in range(10):
        assert_error(movie(client, "tt0000001"), 404)

    assert len(sandbox.calls("omdb")) == 1


@pytest.mark.parametrize("query", ["batman", "qqqqqq", "a"])
def test_ten_identical_searches_make_one_call(client, sandbox, query):
    statuses = {search(client, query).status_code for _ in range(10)}

    assert len(statuses) == 1
    assert len(sandbox.calls("omdb")) == 1


def test_an_address_beyond_its_share_is_throttled_and_others_are_not(sharing_client, sandbox):
    used = [movie(sharing_client, f"tt000000{number}") for number in range(5)]
    other = sharing_client.get("/api/v1/search/", {"query": "batman"}, REMOTE_ADDR="192.0.2.9")

    assert [answer.status_code for answer in used] == [404, 429, 429, 429, 429]
    assert all(0 < int(answer["Retry-After"]) <= 86_400 for answer in used[1:])
    assert other.status_code == 200
    assert len(sandbox.calls("omdb")) == 2


def test_the_response_says_how_long_it_may_be_cached(client):
    details, found = movie(client), search(client, "batman")

    assert details["Cache-Control"] == "public, max-age=3600"
    assert found["Cache-Control"] == "public, max-age=60"


def test_a_title_without_a_name_is_404_and_left_out_of_lists(client, sandbox):
    sandbox.fault("patch", patch={"Title": "N/A"}, times=1)
    assert_error(movie(client), 404)


def test_a_title_without_data_is_503(client):
    answer = movie(client, "tt9999998")

    assert_error(answer, 503, "no data")
    assert answer["Retry-After"] == "3600"


def test_a_rejected_key_is_reported_as_the_operators_task(client_with_wrong_key, sandbox):
    for _ in range(2):
        assert_error(movie(client_with_wrong_key), 503, "operator")
    assert len(sandbox.calls("omdb")) == 1


def test_a_missing_key_is_reported_without_a_call(client_without_key, sandbox):
    assert_error(movie(client_without_key), 503, "operator")
    assert sandbox.calls("omdb") == []


@pytest.mark.parametrize("status", [401, 200])
def test_a_quota_that_omdb_reports_as_used_up_is_closed_until_midnight(
    limited_client, sandbox, status
):
    client = limited_client
    sandbox.set("omdb", daily_limit=1, quota_status=status)
    assert movie(client).status_code == 200

    refused = [movie(client, "tt0903747"), search(client, "batman")]

    for answer in refused:
        assert_error(answer, 503, "used all")
        assert 0 < int(answer["Retry-After"]) <= 86_400
    assert len(sandbox.calls("omdb")) == 2


def test_after_the_daily_limit_no_call_is_made(limited_client, sandbox):
    client = limited_client
    for number in range(1, 6):
        assert_error(movie(client, f"tt000000{number}"), 404)

    assert_error(movie(client), 503, "used all")
    assert len(sandbox.calls("omdb")) == 5


def error(text, status=200):
    body = json.dumps({"Response": "False", "Error": text})
    return {"kind": "body", "body": body, "status": status}


ODD = {
    "not found": (error("Movie not found!"), 404),
    "series not found": (error("Series not found!"), 404),
    "something went wrong": (error("Something went wrong."), 502),
    "not json": ({"kind": "body", "body": '{"Error":"from string "x" to type"}'}, 502),
    "older quota": (error("Daily request limit reached!", 401), 503),
    "no key": (error("No API key provided.", 401), 503),
    "unknown error": (error("The moon is full."), 502),
    "syntax error": (error("Syntax error near"), 400),
    "object reference": (error("Object reference not set to an instance of an object."), 400),
    "shield": ({"kind": "html", "status": 403}, 503),
    "outage": ({"kind": "html", "status": 522}, 503),
    "outage as 200": ({"kind": "html"}, 502),
    "server error": ({"kind": "status", "status": 500}, 503),
    "half of it": ({"kind": "malformed_json"}, 502),
    "truncated": ({"kind": "truncate"}, 503),
    "silent": ({"kind": "hang"}, 503),
    "reset": ({"kind": "reset"}, 503),
    "too large": ({"kind": "huge", "bytes": 3_000_000}, 502),
    "redirect": ({"kind": "redirect", "location": "http://127.0.0.1:9/"}, 502),
    "no title": ({"kind": "patch", "patch": {"Title": None}}, 502),
    "no id": ({"kind": "patch", "remove": ["imdbID"]}, 502),
    "rate limited": ({"kind": "rate_limited", "retry_after": "7"}, 503),
    "key in the error": ({"kind": "echo_key"}, 503),
    "key in the error of a 200": ({"kind": "echo_key", "status": 200}, 503),
}


@pytest.mark.parametrize("name", ODD)
def test_each_fault_becomes_an_error_and_is_not_cached(client, sandbox, name):
    fault, status = ODD[name]
    sandbox.fault(**fault, times=2)

    assert_error(movie(client), status)
    assert sandbox.fired()[0] >= 1


def test_retries_count_against_the_quota(limited_client, sandbox):
    sandbox.fault("status", status=500, times=4)
    for _ in range(2):
        assert_error(movie(limited_client), 503, "the request is valid")
    assert movie(limited_client).status_code == 200

    assert_error(movie(limited_client, "tt0903747"), 503, "used all")
    assert len(sandbox.calls("omdb")) == 5


@pytest.mark.parametrize(("kind", "title"), [("nul", "Inception"), ("surrogate", "I�nception")])
def test_nul_is_removed_and_a_lone_surrogate_replaced(client, sandbox, kind, title):
    sandbox.fault(kind, field="Title")

    assert movie(client).json()["data"]["title"] == title


def test_no_log_line_contains_the_key(client, sandbox, caplog):
    caplog.set_level(logging.DEBUG)
    sandbox.fault("echo_key", times=1)
    sandbox.fault("reset", times=1)

    for imdb_id in (INCEPTION, "tt0903747"):
        movie(client, imdb_id)

    assert caplog.records
    assert not any(KEY in repr(vars(record)) for record in caplog.records)
