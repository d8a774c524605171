"""What pages on other origins may ask and read."""

import json
import subprocess
import sys

import pytest
from corsheaders.middleware import CorsMiddleware
from django.http import HttpResponse
from django.test import Client, RequestFactory

from tools.harness.server import BACKEND, bare_environment
from web.cors import cors_headers

ORIGIN = "https://app.example"
EXPOSED = [
    "Cache-Status",
    "Deprecation",
    "ETag",
    "Last-Modified",
    "Preference-Applied",
    "Retry-After",
    "Sunset",
    "X-Correlation-ID",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
]
LOCAL = r"http://(localhost|127\.0\.0\.1)(:[0-9]{1,5})?\Z"


@pytest.fixture(autouse=True)
def _origin_is_allowed(settings):
    settings.CORS_ALLOWED_ORIGINS = [ORIGIN]


def test_a_page_on_an_allowed_origin_may_read_the_response_and_its_headers():
    response = Client().get("/api/films/abc", headers={"origin": ORIGIN})

    assert response["Access-Control-Allow-Origin"] == ORIGIN
    assert response["Access-Control-Expose-Headers"].split(", ") == EXPOSED


def test_a_page_on_another_origin_may_not():
    response = Client().get("/api/films/abc", headers={"origin": "https://evil.example"})

    assert "Access-Control-Allow-Origin" not in response


@pytest.mark.parametrize("origin", [None, ORIGIN, "https://evil.example"])
def test_every_response_says_that_it_depends_on_the_origin(origin):
    response = Client().get("/api/films/abc", headers={"origin": origin} if origin else {})

    assert "origin" in response["Vary"].lower()


@pytest.mark.parametrize("header", ["if-none-match", "prefer", "traceparent", "x-correlation-id"])
def test_a_preflight_is_answered_without_a_source(header):
    response = Client().options(
        "/api/films/tt1375666",
        headers={
            "origin": ORIGIN,
            "access-control-request-method": "GET",
            "access-control-request-headers": header,
        },
    )

    assert response.status_code == 200
    assert response["Access-Control-Allow-Origin"] == ORIGIN
    assert header in response["Access-Control-Allow-Headers"].split(", ")
    assert response["Access-Control-Allow-Methods"] == "GET, HEAD, OPTIONS"
    assert response["X-Correlation-ID"]


# --- responses made in front of Django --------------------------------------------------------


def headers_of_the_library(origin):
    request = RequestFactory().get("/api/films/tt1375666", headers={"origin": origin})
    response = CorsMiddleware(lambda _: HttpResponse())(request)
    return {name: value for name, value in response.items() if name.startswith("access-control")}


@pytest.mark.parametrize(
    "origin",
    [
        ORIGIN,
        "https://app.example:443",
        "https://app.example.evil.example",
        "http://app.example",
        "HTTPS://app.example",
        "http://localhost:3000",
        "http://localhost.evil.example",
        "null",
        "",
        "http://[",
        "x" * 5_000,
    ],
)
def test_the_headers_are_those_of_the_middleware(settings, origin):
    settings.CORS_ALLOWED_ORIGIN_REGEXES = [LOCAL]

    for _ in range(2):
        assert dict(cors_headers(origin)) == headers_of_the_library(origin)


def test_a_request_without_origin_gets_none():
    assert cors_headers(None) == []


def test_a_caller_cannot_change_the_headers_of_the_next_one():
    cors_headers(ORIGIN).clear()

    assert cors_headers(ORIGIN)


def test_changed_settings_are_followed(settings):
    assert cors_headers(ORIGIN)

    settings.CORS_ALLOWED_ORIGINS = []

    assert cors_headers(ORIGIN) == []


# --- the sandbox ------------------------------------------------------------------------------


def allowed_regexes(**environment):
    code = (
        "import json, filmosphere.settings as s; print(json.dumps(s.CORS_ALLOWED_ORIGIN_REGEXES))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=BACKEND,
        env=bare_environment(**environment),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_pages_on_this_machine_are_allowed_while_the_sources_are_the_sandbox(settings):
    settings.CORS_ALLOWED_ORIGIN_REGEXES = allowed_regexes()

    for origin in ("http://localhost:3000", "http://localhost", "http://127.0.0.1:5173"):
        assert ("access-control-allow-origin", origin) in cors_headers(origin)
    for origin in (
        "https://localhost:3000",
        "http://localhost.evil.example",
        "http://localhost:3000.evil.example",
        "http://localhost:3000\n",
        "http://127.0.0.10:3000",
        "http://127x0.0.1",
        "http://evil.example/http://localhost:3000",
    ):
        assert cors_headers(origin) == []


def test_no_page_is_allowed_by_itself_with_real_sources():
    real = {
        "IMDBAPI_BASE": "https://imdbapi.test",
        "DJANGO_DEBUG": "True",
        "DJANGO_SECRET_KEY": "x",
        "DATABASE_URL": "sqlite:////tmp/none.sqlite3",
    }

    assert allowed_regexes(**real) == []
