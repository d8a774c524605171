"""What all responses have in common, on the real paths."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.test import Client, override_settings

from core.tests.support import CANARY, LogText
from core.utils.logging import LogThrottle
from web.api import REASONS

KNOWN = ["/healthz", "/api/films/abc", "/api/search", "/api/nope"]
PROBES = ["/healthz", "/readyz", "/metrics", "/healthz/", "/readyz/", "/metrics/"]


@pytest.fixture(params=[False, True], ids=["production", "debug"])
def _debug(request: pytest.FixtureRequest) -> Iterator[None]:
    with override_settings(DEBUG=request.param):
        yield


@pytest.fixture
def crashing() -> Iterator[Client]:
    with override_settings(ROOT_URLCONF="web.tests.urls_that_crash"):
        yield Client()


def assert_error(answer: Any, status: int, reason: str) -> None:
    body = json.loads(answer.content)
    assert answer.status_code == status
    assert body.keys() == {"error_code", "message", "reason"}
    assert body["error_code"] == str(status)
    assert isinstance(body["message"], str)
    assert body["message"]
    assert body["reason"] == reason
    assert reason in REASONS
    assert_common(answer)
    assert answer["Cache-Control"] == "no-store"


def assert_common(answer: Any) -> None:
    assert answer["Content-Type"] == "application/json"
    assert int(answer["Content-Length"]) > 0
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["X-Correlation-ID"]


# Correlation ids


@pytest.mark.parametrize("identifier", ["a", "A-Z_0.9", "x" * 64, str(uuid.UUID(int=5)), "..", "-"])
def test_a_valid_correlation_id_is_returned(client: Client, identifier: str, log: LogText) -> None:
    answer = client.get("/healthz", headers={"X-Correlation-ID": identifier})

    assert answer["X-Correlation-ID"] == identifier
    assert {line["correlation_id"] for line in log.of("request")} == {identifier}


@pytest.mark.parametrize(
    "identifier",
    [
        "",
        " ",
        "x" * 65,
        "x" * 8000,
        "a,b",
        "a b",
        '"}{"',
        "../",
        "\u00e9",
        "\uff11",
        "a\r\nSet-Cookie: x=1",
        "a\n",
        "a\x1b[31m",
        "a\x00",
        "a:b",
    ],
)
def test_any_other_correlation_id_is_replaced(
    client: Client, identifier: str, log: LogText
) -> None:
    answer = client.get("/healthz", headers={"X-Correlation-ID": identifier})

    fresh = answer["X-Correlation-ID"]
    assert uuid.UUID(hex=fresh)
    assert {line["correlation_id"] for line in log.of("request")} == {fresh}


def test_each_request_without_a_correlation_id_gets_a_new_one(client: Client) -> None:
    identifiers = {client.get("/healthz")["X-Correlation-ID"] for _ in range(10)}

    assert len(identifiers) == 10


# Errors


@pytest.mark.usefixtures("_debug")
@pytest.mark.parametrize(
    "path",
    [
        "/nope",
        "/apix",
        "/api//",
        "/api/nope",
        "/api/films/tt1/nope",
        "/api/films/%2E%2E/x/y",
        "/api//films/tt1",
        "/admin/",
        "/accounts/login/",
        "/static/x",
        "/healthz/x",
        "/a%0Ab",
        "/%00",
        "/\u00e9",
    ],
)
def test_an_unknown_route_is_404_as_json(client: Client, path: str) -> None:
    assert_error(client.get(path), 404, "unknown_route")


@pytest.mark.usefixtures("_debug")
@pytest.mark.parametrize("method", ["post", "put", "patch", "delete", "options"])
def test_an_unknown_route_is_404_for_every_method(method: str) -> None:
    answer = getattr(Client(enforce_csrf_checks=True), method)("/api/nope")

    assert_error(answer, 404, "unknown_route")


OTHER_HOSTS = ["evil.test", "testserver.evil.test", "a b", "", "testserver:port", "10.1.2.3:8000"]


@pytest.mark.usefixtures("_debug")
@pytest.mark.parametrize(
    "path",
    ["/api/films/abc", "/api/search", "/api/nope", "/", "/api/docs", "/healthz/x", "//healthz"],
)
@pytest.mark.parametrize("host", [*OTHER_HOSTS, "x" * 400])
def test_a_host_that_is_not_allowed_is_400(
    client: Client, path: str, host: str, log: LogText
) -> None:
    assert_error(client.get(path, headers={"Host": host}), 400, "invalid_host")
    assert [line["level"] for line in log.lines] == ["INFO"]


@pytest.mark.django_db
@pytest.mark.parametrize("path", PROBES)
@pytest.mark.parametrize("host", OTHER_HOSTS)
def test_a_probe_is_answered_for_any_host(client: Client, path: str, host: str) -> None:
    assert client.get(path, headers={"Host": host}).status_code == 200


def test_a_forwarded_host_is_ignored(client: Client) -> None:
    answer = client.get("/api/films/abc", headers={"X-Forwarded-Host": "evil.test"})

    assert_error(answer, 400, "invalid_parameter")


@pytest.mark.usefixtures("_debug")
@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/api/search", "/api/films/tt1375666"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "FOO"])
def test_another_method_is_405_with_the_allowed_ones(path: str, method: str) -> None:
    answer = Client(enforce_csrf_checks=True).generic(method, path)

    assert_error(answer, 405, "method_not_allowed")
    assert answer["Allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize(
    "path", ["/healthz", "/healthz/", "/readyz", "/api/search", "/api/films/tt1"]
)
def test_options_lists_the_methods_and_nothing_else(client: Client, path: str) -> None:
    answer = client.options(path)

    assert (answer.status_code, answer.content) == (204, b"")
    assert answer["Allow"] == "GET, HEAD, OPTIONS"
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["X-Correlation-ID"]
    assert "Content-Length" not in answer


@pytest.mark.parametrize("path", KNOWN)
def test_head_has_the_headers_of_get_and_no_body(client: Client, path: str) -> None:
    full, head = client.get(path), client.head(path)

    assert (head.status_code, head.content) == (full.status_code, b"")
    assert head["Content-Type"] == full["Content-Type"]
    assert head["Content-Length"] == full["Content-Length"]


@pytest.mark.parametrize("path", KNOWN)
def test_caches_keep_the_responses_for_different_origins_apart(client: Client, path: str) -> None:
    assert "Origin" in client.get(path)["Vary"]


@pytest.mark.parametrize("path", KNOWN)
@pytest.mark.parametrize("query", ["format=xml", "format=api", "format=", "no=1&such=2", "%ff=%00"])
def test_unknown_parameters_are_ignored(client: Client, path: str, query: str) -> None:
    plain, asked = client.get(path), client.get(f"{path}?{query}")

    assert (asked.status_code, asked.content) == (plain.status_code, plain.content)


@pytest.mark.parametrize("path", KNOWN)
@pytest.mark.parametrize(
    "accept", ["text/html", "application/xml", "*/*", "application/json;q=0", "nonsense", ""]
)
def test_any_accept_gets_json(client: Client, path: str, accept: str) -> None:
    answer = client.get(path, headers={"Accept": accept})

    assert answer.status_code != 406
    assert_common(answer)


@pytest.mark.usefixtures("_debug")
@pytest.mark.parametrize("path", ["/crash/bug", "/crash/plain", "/crash/unprintable"])
def test_a_bug_is_500_as_json_and_logged_with_its_traceback(
    crashing: Client, path: str, log: LogText
) -> None:
    answer = crashing.get(path, headers={"X-Correlation-ID": "abc-4"})

    assert_error(answer, 500, "internal_error")
    assert CANARY not in answer.content.decode()
    (line,) = log.of("unexpected error")
    assert line["level"] == "ERROR"
    assert "Traceback" in line["exception"]
    assert line["correlation_id"] == answer["X-Correlation-ID"] == "abc-4"


@pytest.mark.usefixtures("_debug")
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_a_request_target_that_is_not_a_path_is_404_as_json(method: str) -> None:
    # The test client cannot send `OPTIONS *`.
    answer = Client().generic(method, "/", PATH_INFO="*")

    assert_error(answer, 404, "unknown_route")


@pytest.mark.usefixtures("_debug")
def test_a_bug_in_a_middleware_is_500_as_json_too(log: LogText) -> None:
    faulty = "web.tests.urls_that_crash.FaultyMiddleware"
    with override_settings(MIDDLEWARE=[*settings.MIDDLEWARE, faulty]):
        answer = Client(raise_request_exception=False).get("/api/nope")

    assert_error(answer, 500, "internal_error")
    (line,) = log.of("unexpected error")
    assert "ZeroDivisionError" in line["exception"]


@pytest.mark.usefixtures("_debug")
@pytest.mark.parametrize(
    ("error", "status", "reason", "retry_after"),
    [
        ("input", 400, "invalid_parameter", None),
        ("suspicious", 400, "invalid_parameter", None),
        ("not-found", 404, "not_found", None),
        ("no-route", 404, "unknown_route", None),
        ("throttled", 429, "throttled", "8"),
        ("throttled-for-unknown-time", 429, "throttled", "1"),
        ("too-fast", 429, "throttled", "3"),
        ("too-busy", 503, "overloaded", "1"),
        ("bad-answer", 502, "bad_response", None),
        ("unavailable", 503, "unavailable", "5"),
        ("in-3-s", 503, "unavailable", "3"),
        ("at-once", 503, "unavailable", "5"),
        ("in-an-instant", 503, "unavailable", "1"),
        ("timeout", 503, "timeout", "5"),
        ("rate-limited", 503, "rate_limited", "30"),
        ("quota", 503, "quota_exhausted", "5"),
        ("no-key", 503, "not_configured", "5"),
        ("bad-key", 503, "rejected", "5"),
        ("deadline", 503, "deadline", "5"),
        ("database", 503, "database_unavailable", "5"),
        ("connection", 503, "database_unavailable", "5"),
        ("not-migrated", 503, "database_unavailable", "5"),
        ("read-only", 503, "database_unavailable", "5"),
    ],
)
def test_every_error_has_its_status_its_reason_and_one_shape(
    crashing: Client, error: str, status: int, reason: str, retry_after: str | None, log: LogText
) -> None:
    answer = crashing.get(f"/crash/{error}")

    assert_error(answer, status, reason)
    assert answer.headers.get("Retry-After") == retry_after
    (line,) = log.of("request")
    assert (line["status"], line["reason"]) == (status, reason)


def test_a_database_failure_is_reported_without_its_address_and_logged_once_a_second(
    crashing: Client, log: LogText, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.exception_handler._outage", LogThrottle(seconds=1, clock=lambda: 0.0))

    answers = [crashing.get("/crash/database") for _ in range(3)]

    assert [answer.status_code for answer in answers] == [503] * 3
    assert b"10.0.0.1" not in answers[0].content
    assert [line["outcome"] for line in log.of("database unavailable")] == ["db_unavailable"]


# The index


@pytest.mark.parametrize("path", ["/", "/api/", "/api"])
def test_the_index_names_what_there_is(client: Client, path: str) -> None:
    answer = client.get(path)

    assert answer.status_code == 200
    assert answer.json() == {
        "name": "Filmosphere",
        "version": "1.0.0",
        "documentation": "/api/docs",
        "openapi": "/api/schema",
        "health": "/readyz",
    }
    assert_common(answer)
    assert "public" in answer["Cache-Control"]


@pytest.mark.django_db
def test_each_path_of_the_index_exists(client: Client) -> None:
    index = client.get("/").json()

    for name in ("documentation", "openapi", "health"):
        assert client.get(index[name]).status_code == 200


# The access log


def test_each_request_has_one_line(client: Client, log: LogText) -> None:
    answer = client.get("/api/films/abc?secret=1")

    (line,) = log.of("request")
    assert (line["method"], line["path"], line["status"]) == ("GET", "/api/films/abc", 400)
    assert 0 <= line["ms"] < 10_000
    assert line["bytes"] == len(answer.content)
    assert line["cache"] == "none"
    assert line["reason"] == "invalid_parameter"
    assert "secret" not in str(log)


def test_the_line_of_a_success_has_no_reason(client: Client, log: LogText) -> None:
    client.get("/healthz")

    (line,) = log.of("request")
    assert "reason" not in line


def test_the_line_says_where_the_answer_came_from(crashing: Client, log: LogText) -> None:
    crashing.get("/from-a-row")

    (line,) = log.of("request")
    assert line["cache"] == "row"


@pytest.mark.parametrize(("method", "path"), [("HEAD", "/healthz"), ("OPTIONS", "/healthz")])
def test_the_line_of_a_response_without_body_has_zero_bytes(
    client: Client, method: str, path: str, log: LogText
) -> None:
    client.generic(method, path)

    (line,) = log.of("request")
    assert line["bytes"] == 0


@pytest.mark.django_db
def test_the_line_of_a_file_has_its_size(client: Client, log: LogText) -> None:
    answer = client.get("/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui.css")

    (line,) = log.of("request")
    assert line["bytes"] == len(answer.getvalue()) > 0
    answer.close()


# Cookies


@pytest.mark.django_db
@pytest.mark.parametrize("path", [*KNOWN, "/api/docs", "/api/schema", "/readyz", "/metrics"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_no_response_sets_a_cookie_or_depends_on_one(path: str, method: str) -> None:
    client = Client(enforce_csrf_checks=True)
    client.cookies.load({"csrftoken": "x" * 32, "sessionid": "y" * 32, "messages": "z"})

    answer = client.generic(method, path)

    assert answer.status_code != 403
    assert "Set-Cookie" not in answer
    assert not answer.cookies
    assert "cookie" not in answer.get("Vary", "").lower()


@pytest.mark.parametrize(
    "path", ["/a%0D%0Ab", "/%1B%5B31mred", "/%22%7D%7B%22", "/%E2%80%A8", "/%00"]
)
def test_a_path_cannot_break_its_line(client: Client, path: str, log: LogText) -> None:
    client.get(path)

    assert str(log).isascii()
    assert str(log).rstrip("\n").isprintable()
    assert len(log.of("request")) == len(log.lines) == 1
