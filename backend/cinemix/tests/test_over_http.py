"""From the view down to OMDb's stand-in and back, over real sockets on the upstream side."""

import json
import logging
import ssl
import subprocess
import sys
import threading
import urllib.request
from datetime import timedelta
from pathlib import Path

import pytest
from django.test import override_settings
from django.urls import clear_url_caches, include, path
from rest_framework.test import APIClient
from tenacity import wait_none

from cinemix.movie_cache import MovieCache
from cinemix.movies import MovieService
from cinemix.quota import OmdbQuota
from cinemix.tests.fakes import FakeLimiter
from cinemix.urls import movie_paths
from core.services.bulkhead import Bulkhead
from core.services.http_client import HttpClient
from core.services.omdb_service import OmdbService

pytestmark = pytest.mark.django_db

KEY = "5a4db0c5"
INCEPTION = "tt1375666"

urlpatterns: list = []


class Sandbox:
    def __init__(self, url):
        self.url = url

    def control(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/control/{path}", data=data, method=method)
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)

    def fault(self, kind, **options):
        self.control("POST", "faults", {"kind": kind, "source": "omdb", **options})

    def calls(self):
        return self.control("GET", "calls?source=omdb")["calls"]


@pytest.fixture(scope="module")
def started():
    process = subprocess.Popen(
        [sys.executable, "-m", "sandbox", "--port", "0", "--exit-with-parent"],
        cwd=Path(__file__).resolve().parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield Sandbox(process.stdout.readline().split()[-1])
        process.terminate()


@pytest.fixture
def sandbox(started):
    started.control("POST", "reset")
    return started


@pytest.fixture
def client(sandbox):
    yield from serve(sandbox)


@pytest.fixture
def stranger(sandbox):
    yield from serve(sandbox, key="not-the-key")


@pytest.fixture
def keyless(sandbox):
    yield from serve(sandbox, key="")


def serve(sandbox, key=KEY):
    http = HttpClient(
        timeout=0.2, attempts=2, ssl_context=ssl.create_default_context(), wait=wait_none()
    )
    cache = MovieCache(redis=None, ttl=timedelta(hours=1))
    movies = MovieService(
        omdb=OmdbService(http=http, base_url=f"{sandbox.url}/omdb", api_key=key),
        bulkhead=Bulkhead("omdb", concurrency=4),
        quota=OmdbQuota(api_key=key, limit=5),
        cold_slots=threading.Semaphore(4),
        get_movie=cache.get,
        peek_movie=cache.peek,
        cache_movie=cache.put,
        deadline_seconds=2,
    )
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
    assert set(answer.json()) == {"error_code", "message"}
    assert answer.json()["error_code"] == str(status)
    assert words in answer.json()["message"]
    assert ("Retry-After" in answer) == (status == 503)
    assert KEY not in str(answer.content) + str(answer.headers)


def test_a_movie_is_fetched_once(client, sandbox):
    first, second = movie(client), movie(client)

    assert first.json()["data"]["title"] == "Inception"
    assert second.json() == first.json()
    assert len(sandbox.calls()) == 1


def test_a_search_finds_what_there_is_page_by_page(client):
    first = search(client, "the").json()["data"]

    last = search(client, "the", page=100).json()["data"]

    assert len(first["search_results"]) == 10
    assert set(first["search_results"][0]) == {"id", "title", "year", "type", "poster"}
    assert int(first["total_results"]) > 10
    assert last == {"search_results": [], "total_results": "0"}


@pytest.mark.parametrize(
    ("imdb_id", "plot"), [("tt0079944", "innerspiritual"), ("tt0042876", "killing,\tand")]
)
def test_a_plot_that_breaks_the_json_is_read(client, imdb_id, plot):
    assert plot in movie(client, imdb_id).json()["data"]["plot"]


def test_a_series_has_its_years_and_seasons(client):
    data = movie(client, "tt0096697").json()["data"]

    assert (data["type"], data["year"]) == ("series", "1989–")
    assert data["total_seasons"].isdigit()


def test_no_match_is_an_empty_list(client):
    assert search(client, "qqqqqq").json()["data"]["search_results"] == []


def test_a_search_that_is_too_broad_is_400_with_the_advice(client):
    assert_error(search(client, "a"), 400, "longer")


def test_an_unknown_id_is_404(client):
    assert_error(movie(client, "tt0000001"), 404)


def test_a_title_that_omdb_cannot_serve_yet_is_503(client):
    answer = movie(client, "tt9999998")

    assert_error(answer, 503, "yet")
    assert answer["Retry-After"] == "3600"


def test_a_refused_key_is_the_operators_problem(stranger, sandbox):
    for _ in range(2):
        assert_error(movie(stranger), 503, "operator")
    assert len(sandbox.calls()) == 1


def test_a_missing_key_is_the_operators_problem_and_nobody_is_asked(keyless, sandbox):
    assert_error(movie(keyless), 503, "operator")
    assert sandbox.calls() == []


@pytest.mark.parametrize("status", [401, 200])
def test_the_quota_that_omdb_says_is_used_up_is_believed_until_midnight(client, sandbox, status):
    sandbox.control("PATCH", "settings", {"omdb": {"daily_limit": 1, "quota_status": status}})
    assert movie(client).status_code == 200

    refused = [movie(client, "tt0903747"), search(client, "batman")]

    for answer in refused:
        assert_error(answer, 503, "used up")
        assert 0 < int(answer["Retry-After"]) <= 86_400
    assert len(sandbox.calls()) == 2


def test_after_our_own_limit_nobody_is_asked(client, sandbox):
    for number in range(1, 6):
        assert_error(movie(client, f"tt000000{number}"), 404)

    assert_error(movie(client), 503, "used up")
    assert len(sandbox.calls()) == 5


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
    "unknown error": (error("syntax error near"), 502),
    "shield": ({"kind": "html", "status": 403}, 503),
    "outage": ({"kind": "html", "status": 522}, 503),
    "outage as 200": ({"kind": "html"}, 502),
    "server error": ({"kind": "status", "status": 500}, 503),
    "half of it": ({"kind": "malformed_json"}, 502),
    "truncated": ({"kind": "truncate"}, 503),
    "mute": ({"kind": "hang"}, 503),
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
def test_an_odd_answer_is_one_of_our_errors_and_is_not_kept(client, sandbox, name):
    fault, status = ODD[name]
    sandbox.fault(**fault, times=2)

    assert_error(movie(client), status)
    assert sandbox.control("GET", "faults")[0]["fired"] >= 1


def test_repeated_tries_are_counted_against_the_quota(client, sandbox):
    sandbox.fault("status", status=500)
    for _ in range(3):
        assert_error(movie(client), 503, "nothing is wrong with the request")

    # Five failures in a row also closed the source, but the quota is looked at first.
    assert_error(movie(client), 503, "used up")
    assert len(sandbox.calls()) == 5


def test_nul_and_lone_surrogates_never_reach_the_caller(client, sandbox):
    sandbox.fault("nul", field="Plot")
    sandbox.fault("surrogate", field="Title", times=1)

    answer = movie(client)

    assert answer.status_code == 200
    assert "\0" not in answer.content.decode()


def test_the_key_is_in_no_log_line_whatever_happens(client, sandbox, caplog):
    caplog.set_level(logging.DEBUG)
    sandbox.fault("echo_key", times=1)
    sandbox.fault("reset", times=1)

    for imdb_id in (INCEPTION, "tt0903747"):
        movie(client, imdb_id)

    assert caplog.records
    assert not any(KEY in repr(vars(record)) for record in caplog.records)
