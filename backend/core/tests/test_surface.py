"""What every answer has in common, on the real paths."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.test import Client, override_settings

from core.tests.conftest import LogText
from core.tests.support import CANARY
from core.utils.logging import Seldom

KNOWN = ["/healthz", "/api/films/abc", "/api/search", "/api/nope"]


@pytest.fixture(params=[False, True], ids=["production", "debug"])
def _debug(request: pytest.FixtureRequest) -> Iterator[None]:
    with override_settings(DEBUG=request.param):
        yield


@pytest.fixture
def crashing() -> Iterator[Client]:
    with override_settings(ROOT_URLCONF="core.tests.urls_that_crash"):
        yield Client()


def assert_error(answer: Any, status: int) -> None:
    body = json.loads(answer.content)
    assert answer.status_code == status
    assert body.keys() == {"error_code", "message"}
    assert body["error_code"] == str(status)
    assert isinstance(body["message"], str)
    assert body["message"]
    assert_common(answer)
    assert answer["Cache-Control"] == "no-store"


def assert_common(answer: Any) -> None:
    assert answer["Content-Type"] == "application/json"
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["X-Correlation-ID"]


# Correlation ids


@pytest.mark.parametrize("identifier", ["a", "A-Z_0.9", "x" * 64, str(uuid.UUID(int=5)), "..", "-"])
def test_a_good_correlation_id_comes_back(client: Client, identifier: str, log: LogText) -> None:
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


def test_without_one_each_request_gets_a_correlation_id_of_its_own(client: Client) -> None:
    identifiers = {client.get("/healthz")["X-Correlation-ID"] for _ in range(10)}

    assert len(identifiers) == 10


# Errors


@pytest.mark.usefixtures("_debug")
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/nope",
        "/api",
        "/api/",
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
    assert_error(client.get(path), 404)


@pytest.mark.usefixtures("_debug")
@pytest.mark.parametrize("method", ["post", "put", "patch", "delete", "options"])
def test_an_unknown_route_is_404_whatever_the_method(client: Client, method: str) -> None:
    assert_error(getattr(Client(enforce_csrf_checks=True), method)("/api/nope"), 404)


@pytest.mark.usefixtures("_debug")
@pytest.mark.parametrize("path", KNOWN)
@pytest.mark.parametrize(
    "host", ["evil.test", "testserver.evil.test", "a b", "", "testserver:port"]
)
def test_a_host_that_is_not_ours_is_400(client: Client, path: str, host: str, log: LogText) -> None:
    assert_error(client.get(path, headers={"Host": host}), 400)
    assert [line["level"] for line in log.lines] == ["INFO"]


def test_a_forwarded_host_is_ignored(client: Client) -> None:
    answer = client.get("/healthz", headers={"X-Forwarded-Host": "evil.test"})

    assert answer.status_code == 200


@pytest.mark.usefixtures("_debug")
@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/api/search", "/api/films/tt1375666"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "FOO"])
def test_another_method_is_405_and_told_which_ones_work(path: str, method: str) -> None:
    answer = Client(enforce_csrf_checks=True).generic(method, path)

    assert_error(answer, 405)
    assert answer["Allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize(
    "path", ["/healthz", "/healthz/", "/readyz", "/api/search", "/api/films/tt1"]
)
def test_options_tells_the_methods_and_nothing_else(client: Client, path: str) -> None:
    answer = client.options(path)

    assert (answer.status_code, answer.content) == (204, b"")
    assert answer["Allow"] == "GET, HEAD, OPTIONS"
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["X-Correlation-ID"]


@pytest.mark.parametrize("path", KNOWN)
def test_head_has_the_headers_of_get_and_no_body(client: Client, path: str) -> None:
    full, head = client.get(path), client.head(path)

    assert (head.status_code, head.content) == (full.status_code, b"")
    assert head["Content-Type"] == full["Content-Type"]


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

    assert_error(answer, 500)
    assert CANARY not in answer.content.decode()
    (line,) = log.of("unexpected error")
    assert line["level"] == "ERROR"
    assert "Traceback" in line["exception"]
    assert line["correlation_id"] == answer["X-Correlation-ID"] == "abc-4"


@pytest.mark.usefixtures("_debug")
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_a_target_that_is_no_path_is_404_as_json(method: str) -> None:
    # The client of the tests cannot send `OPTIONS *`.
    answer = Client().generic(method, "/", PATH_INFO="*")

    assert_error(answer, 404)


@pytest.mark.usefixtures("_debug")
def test_a_bug_in_a_middleware_is_500_as_json_too(log: LogText) -> None:
    faulty = "core.tests.urls_that_crash.FaultyMiddleware"
    with override_settings(MIDDLEWARE=[*settings.MIDDLEWARE, faulty]):
        answer = Client(raise_request_exception=False).get("/api/nope")

    assert_error(answer, 500)
    (line,) = log.of("unexpected error")
    assert "ZeroDivisionError" in line["exception"]


@pytest.mark.usefixtures("_debug")
@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        ("input", 400, None),
        ("suspicious", 400, None),
        ("not-found", 404, None),
        ("throttled", 429, "8"),
        ("bad-answer", 502, None),
        ("unavailable", 503, "5"),
        ("in-3-s", 503, "3"),
        ("rate-limited", 503, "30"),
        ("deadline", 503, "5"),
        ("database", 503, "5"),
        ("connection", 503, "5"),
        ("not-migrated", 503, "5"),
        ("read-only", 503, "5"),
    ],
)
def test_every_error_has_its_status_and_one_shape(
    crashing: Client, error: str, status: int, retry_after: str | None
) -> None:
    answer = crashing.get(f"/crash/{error}")

    assert_error(answer, status)
    assert answer.headers.get("Retry-After") == retry_after


def test_a_caller_is_never_told_to_come_back_at_once(crashing: Client) -> None:
    assert int(crashing.get("/crash/at-once")["Retry-After"]) >= 1


def test_a_lost_database_is_told_without_its_address_and_once_a_second(
    crashing: Client, log: LogText, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.exception_handler._outage", Seldom(seconds=1, clock=lambda: 0.0))

    answers = [crashing.get("/crash/database") for _ in range(3)]

    assert [answer.status_code for answer in answers] == [503] * 3
    assert b"10.0.0.1" not in answers[0].content
    assert [line["outcome"] for line in log.of("database unavailable")] == ["db_unavailable"]


# The access log


def test_each_request_has_one_line(client: Client, log: LogText) -> None:
    client.get("/api/films/abc?secret=1")

    (line,) = log.of("request")
    assert (line["method"], line["path"], line["status"]) == ("GET", "/api/films/abc", 400)
    assert line["ms"] >= 0
    assert "secret" not in str(log)


@pytest.mark.parametrize(
    "path", ["/a%0D%0Ab", "/%1B%5B31mred", "/%22%7D%7B%22", "/%E2%80%A8", "/%00"]
)
def test_a_path_cannot_break_its_line(client: Client, path: str, log: LogText) -> None:
    client.get(path)

    assert str(log).isascii()
    assert str(log).rstrip("\n").isprintable()
    assert len(log.of("request")) == len(log.lines) == 1
