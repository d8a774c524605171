"""The client on real sockets: each injected fault fires, ends in time and has a name."""

import base64
import gc
import gzip
import json
import socket
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest

from core.deadline import Deadline, deadline_of
from core.errors import (
    DeadlineExceeded,
    UpstreamBadAnswer,
    UpstreamError,
    UpstreamNotFound,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from core.services.http_client import HttpClient
from core.services.imdb_service import IMDbService
from core.services.source import Source
from core.tests.support import CANARY, LogText, at_most, outcomes, wire_client
from tools.harness.sandbox import Sandbox

FILM = "tt1375666"
FILM_JSON = b'{"id":"tt1375666","primaryTitle":"Inception"}'


RETRY_IN_3_S = {"status": 503, "headers": {"Retry-After": "3"}}


def film_url(sandbox: Sandbox) -> str:
    return f"{sandbox.url}/imdbapi/titles/{FILM}"


def imdb(sandbox: Sandbox, client: HttpClient | None = None) -> IMDbService:
    return IMDbService(http=client or wire_client(timeout=5), base_url=f"{sandbox.url}/imdbapi")


def raw(answer: bytes) -> dict[str, str]:
    return {"raw_b64": base64.b64encode(answer).decode()}


# 2A: the wire


@pytest.mark.parametrize(
    ("kind", "options", "error", "reason", "attempts"),
    [
        ("hang", {}, UpstreamTimeout, "http_response_timeout", 2),
        ("drip_headers", {"interval": 0.05}, UpstreamTimeout, "http_response_timeout", 2),
        ("drip_body", {"interval": 0.05}, UpstreamTimeout, "http_response_timeout", 2),
        ("reset", {}, UpstreamUnavailable, "connection_terminated", 2),
        ("reset_in_headers", {}, UpstreamUnavailable, "connection_terminated", 2),
        ("reset_in_body", {}, UpstreamUnavailable, "connection_terminated", 2),
        ("truncate", {}, UpstreamUnavailable, "http_response_incomplete", 2),
        ("raw", raw(b"<html>\n\nnot HTTP</html>"), UpstreamBadAnswer, "http_protocol_error", 1),
        ("raw", raw(b"HTTP/1.1 999 Odd\r\n\r\n"), UpstreamBadAnswer, "http_protocol_error", 1),
        (
            "raw",
            raw(b"HTTP/1.1 200 OK\r\nDa"),
            UpstreamUnavailable,
            "connection_terminated",
            2,
        ),
        (
            "raw",
            raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}"),
            UpstreamBadAnswer,
            "http_protocol_error",
            1,
        ),
        (
            "raw",
            raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n{}"),
            UpstreamUnavailable,
            "http_response_incomplete",
            2,
        ),
        ("many_headers", {}, UpstreamBadAnswer, "http_response_header_section_size", 1),
        ("big_header", {}, UpstreamBadAnswer, "http_response_header_section_size", 1),
        (
            "big_header",
            {"bytes": 65_536},
            UpstreamBadAnswer,
            "http_response_header_section_size",
            1,
        ),
        (
            "many_headers",
            {"count": 3100},
            UpstreamBadAnswer,
            "http_response_header_section_size",
            1,
        ),
        ("huge", {}, UpstreamBadAnswer, "http_response_body_size", 1),
        ("endless", {}, UpstreamBadAnswer, "http_response_body_size", 1),
        ("gzip_bomb", {}, UpstreamBadAnswer, "http_response_body_size", 1),
        ("status", {"status": 500}, UpstreamUnavailable, "http_5xx", 2),
        ("status", {"status": 502}, UpstreamUnavailable, "http_5xx", 2),
        ("status", {"status": 504}, UpstreamUnavailable, "http_5xx", 2),
    ],
)
def test_a_fault_on_the_wire_ends_in_time_and_has_a_name(
    sandbox: Sandbox,
    log: LogText,
    kind: str,
    options: dict[str, Any],
    error: type[UpstreamError],
    reason: str,
    attempts: int,
) -> None:
    sandbox.fault(kind, **options)

    with at_most(2 * 0.4), pytest.raises(error) as caught:
        wire_client(timeout=0.4).get("imdbapi", film_url(sandbox))

    assert caught.value.reason == reason
    assert outcomes(log.lines) == [reason] * attempts
    assert sandbox.fired() == [attempts]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("hang", {}),
        ("drip_headers", {"interval": 0.05}),
        ("drip_body", {"interval": 0.05}),
        ("informational_flood", {}),
    ],
)
def test_the_deadline_ends_a_fault_that_the_time_of_an_attempt_does_not(
    sandbox: Sandbox, log: LogText, kind: str, options: dict[str, Any]
) -> None:
    sandbox.fault(kind, **options)

    with at_most(0.3), deadline_of(Deadline(0.3)), pytest.raises(DeadlineExceeded):
        wire_client(timeout=10).get("imdbapi", film_url(sandbox))

    assert outcomes(log.lines) == ["deadline"]
    assert sandbox.fired() == [1]


def test_retries_end_at_the_deadline(sandbox: Sandbox) -> None:
    sandbox.fault("hang")

    with at_most(0.5), deadline_of(Deadline(0.5)), pytest.raises(UpstreamUnavailable):
        wire_client(timeout=0.2, attempts=10).get("imdbapi", film_url(sandbox))

    assert sandbox.fired()[0] in {2, 3}


def test_a_slow_answer_within_the_time_is_used(sandbox: Sandbox) -> None:
    sandbox.fault("delay", seconds=0.1)

    reply = wire_client(timeout=5).get("imdbapi", film_url(sandbox))

    assert json.loads(reply.body)["id"] == FILM
    assert sandbox.fired() == [1]


@pytest.mark.parametrize(
    ("kind", "options"), [("big_header", {"bytes": 65_000}), ("many_headers", {"count": 2500})]
)
def test_headers_up_to_64_kilobytes_are_accepted(
    sandbox: Sandbox, kind: str, options: dict[str, Any]
) -> None:
    sandbox.fault(kind, **options)

    assert wire_client(timeout=5).get("imdbapi", film_url(sandbox)).status == 200
    assert sandbox.fired() == [1]


def test_a_request_is_repeated_on_a_new_connection_after_a_reset(
    sandbox: Sandbox, log: LogText
) -> None:
    client = wire_client(timeout=5)
    client.get("imdbapi", film_url(sandbox))
    sandbox.fault("reset", times=1)

    reply = client.get("imdbapi", film_url(sandbox))

    assert reply.status == 200
    assert outcomes(log.lines) == ["ok", "connection_terminated", "ok"]
    assert sandbox.fired() == [1]


def test_connections_are_reused(sandbox: Sandbox) -> None:
    client = wire_client(timeout=5)

    for _ in range(5):
        client.get("imdbapi", film_url(sandbox))

    assert sandbox.connections() == 1


def test_a_closed_port_is_reported_at_once(log: LogText) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]

    with at_most(0.1), pytest.raises(UpstreamUnavailable) as caught:
        wire_client(attempts=3).get("imdbapi", f"http://127.0.0.1:{port}/")

    assert caught.value.reason == "connection_refused"
    assert outcomes(log.lines) == ["connection_refused"] * 3


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port whose queue is full: it drops every SYN."""
    with socket.socket() as server, socket.socket() as first, socket.socket() as second:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield server.getsockname()[1]


def test_a_connection_that_is_not_accepted_times_out(silent_port: int, log: LogText) -> None:
    with at_most(0.6), pytest.raises(UpstreamTimeout) as caught:
        wire_client(timeout=0.3).get("imdbapi", f"http://127.0.0.1:{silent_port}/")

    assert caught.value.reason == "connection_timeout"
    assert outcomes(log.lines) == ["connection_timeout"] * 2


def addresses(monkeypatch: pytest.MonkeyPatch, *found: tuple[str, int]) -> None:
    """Let `many.test` resolve to these addresses."""
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> list[Any]:
        if host != "many.test":
            return real(host, *args, **kwargs)
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, address) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_four_silent_addresses_share_the_time_of_one(
    monkeypatch: pytest.MonkeyPatch, silent_port: int, log: LogText
) -> None:
    addresses(monkeypatch, *[("127.0.0.1", silent_port)] * 4)

    with at_most(0.4), pytest.raises(UpstreamTimeout):
        wire_client(timeout=0.4, attempts=1).get("imdbapi", f"http://many.test:{silent_port}/")

    assert outcomes(log.lines) == ["connection_timeout"]


def test_a_silent_address_leaves_time_for_the_next_one(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(sandbox.url.rpartition(":")[2])
    real = socket.create_connection
    waited: list[float] = []

    def create_connection(
        address: tuple[str, int], timeout: float, **options: Any
    ) -> socket.socket:
        if address[0] == "127.0.0.9":
            waited.append(timeout)
            raise TimeoutError
        return real(address, timeout, **options)

    monkeypatch.setattr(socket, "create_connection", create_connection)
    addresses(monkeypatch, ("127.0.0.9", port), ("127.0.0.1", port))

    reply = wire_client(timeout=5).get("imdbapi", f"http://many.test:{port}/imdbapi/titles/{FILM}")

    assert reply.status == 200
    assert [round(seconds, 1) for seconds in waited] == [2.5]


@pytest.mark.parametrize(
    "failure", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long")]
)
def test_a_name_that_does_not_resolve_is_reported(
    monkeypatch: pytest.MonkeyPatch, log: LogText, failure: Exception
) -> None:
    def getaddrinfo(*args: Any, **kwargs: Any) -> list[Any]:
        raise failure

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    with pytest.raises(UpstreamUnavailable) as caught:
        wire_client().get("imdbapi", "https://api.imdbapi.test/", params={"apikey": CANARY})

    assert caught.value.reason == "dns_error"
    assert outcomes(log.lines) == ["dns_error"] * 2
    assert CANARY not in str(log)


def test_a_silent_resolver_delays_no_caller_beyond_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, released = threading.Event(), threading.Event()

    def getaddrinfo(*args: Any, **kwargs: Any) -> list[Any]:
        asked.set()
        released.wait(10)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    source, client = Source("imdbapi", concurrency=1), wire_client()

    with at_most(0.3):
        future = source.submit(lambda: client.get("imdbapi", "http://slow.test/"))
        wait([future], 0.3)

    assert asked.is_set()
    assert future.running()
    released.set()


# 2A: the environment


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[], int]]:
    """A proxy named by the environment; the value returns how many connections it got."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0.05)
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            address = f"http://127.0.0.1:{server.getsockname()[1]}"
            monkeypatch.setenv(name, address)
            monkeypatch.setenv(name.lower(), address)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        (tmp_path / ".netrc").write_text("default login someone password secret\n")
        monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
        monkeypatch.setenv("HOME", str(tmp_path))

        def connections() -> int:
            try:
                server.accept()
            except TimeoutError:
                return 0
            return 1

        yield connections


def test_proxies_and_logins_of_the_environment_are_not_used(
    sandbox: Sandbox, proxy: Callable[[], int]
) -> None:
    sandbox.fault("echo_key", status=401)

    reply = wire_client(timeout=5).get("imdbapi", film_url(sandbox))

    assert reply.status == 401
    assert sandbox.fired() == [1]
    assert proxy() == 0


def test_the_login_of_a_netrc_is_not_sent(proxy: Callable[[], int]) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        received: list[bytes] = []

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                received.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        wire_client(timeout=5).get("imdbapi", f"http://127.0.0.1:{server.getsockname()[1]}/")
        thread.join()

    assert b"authorization" not in received[0].lower()
    assert proxy() == 0


# 2B: statuses


@pytest.mark.parametrize(
    ("kind", "options", "error", "reason", "retry_after"),
    [
        (
            "status",
            RETRY_IN_3_S,
            UpstreamUnavailable,
            "http_5xx",
            3,
        ),
        (
            "status",
            {"status": 503, "headers": {"Retry-After": "31536000"}},
            UpstreamUnavailable,
            "http_5xx",
            900,
        ),
        ("rate_limited", {"retry_after": "30"}, UpstreamRateLimited, "rate_limited", 30),
        ("rate_limited", {"html": True}, UpstreamRateLimited, "rate_limited", None),
        ("rate_limited", {}, UpstreamRateLimited, "rate_limited", None),
        ("status", {"status": 401}, UpstreamRejected, "bad_key", None),
        ("status", {"status": 403}, UpstreamRejected, "bad_key", None),
        ("status", {"status": 400}, UpstreamBadAnswer, "http_4xx", None),
        ("status", {"status": 410}, UpstreamNotFound, "not_found", None),
        ("status", {"status": 451}, UpstreamNotFound, "not_found", None),
        ("empty", {"status": 200}, UpstreamBadAnswer, "bad_json", None),
        ("empty", {"status": 204}, UpstreamBadAnswer, "bad_json", None),
    ],
)
def test_a_status_is_requested_once_and_mapped(
    sandbox: Sandbox,
    kind: str,
    options: dict[str, Any],
    error: type[UpstreamError],
    reason: str,
    retry_after: float | None,
) -> None:
    sandbox.fault(kind, **options)

    with pytest.raises(error) as caught:
        imdb(sandbox).get_metadata(FILM)

    assert type(caught.value) is error
    assert (caught.value.reason, caught.value.retry_after) == (reason, retry_after)
    assert sandbox.fired() == [1]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["/stolen", "/imdbapi/titles/tt1375666", "https://127.0.0.1:9/"])
def test_a_redirect_is_not_followed_to_any_target(
    sandbox: Sandbox, log: LogText, status: int, target: str
) -> None:
    location = (target if "//" in target else f"{sandbox.url}{target}") + f"?seen={CANARY}"
    sandbox.fault("redirect", status=status, location=location)

    with pytest.raises(UpstreamBadAnswer) as caught:
        imdb(sandbox).get_metadata(FILM)

    assert caught.value.reason == "redirect_refused"
    assert len(sandbox.calls()) == 1
    assert CANARY not in str(log)
    assert sandbox.fired() == [1]


def test_the_text_of_a_refusal_is_neither_raised_nor_logged(sandbox: Sandbox, log: LogText) -> None:
    sandbox.fault("status", status=401, body=f"your key {CANARY} is bad")

    with pytest.raises(UpstreamRejected) as caught:
        imdb(sandbox).get_metadata(FILM)

    assert CANARY not in str(caught.value)
    assert CANARY not in str(log)
    assert [line["level"] for line in log.of("upstream answer")] == ["ERROR"]
    assert sandbox.fired() == [1]


# 2C: bodies


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("malformed_json", {}, "bad_json"),
        ("close_early", {}, "bad_json"),
        ("html", {}, "bad_json"),
        ("nan", {}, "bad_json"),
        ("body", {"body": "[]"}, "bad_shape"),
        ("body", {"body": '"text"'}, "bad_shape"),
        ("body", {"body": "5"}, "bad_shape"),
        ("body", {"body": "null"}, "bad_shape"),
        ("body", {"body": "true"}, "bad_shape"),
        ("body", {"body": "{}"}, "bad_shape"),
        ("body", {"body": "9" * 5000}, "bad_json"),
        ("body", {"body": '{"id": %s}' % ("9" * 5000)}, "bad_json"),
        ("body", {"body_b64": base64.b64encode('{"id":1}'.encode("utf-16")).decode()}, "bad_json"),
        ("body", {"body": "plain", "content_encoding": "gzip"}, "http_response_content_coding"),
        ("body", {"body": "plain", "content_encoding": "br"}, "http_response_content_coding"),
        ("patch", {"patch": {"id": "tt0000001"}}, "other_title"),
        ("patch", {"patch": {"primaryTitle": None, "originalTitle": None}}, "bad_shape"),
        ("patch", {"patch": {"primaryTitle": 5, "originalTitle": 5}}, "bad_shape"),
        ("patch", {"patch": {"primaryTitle": {}, "originalTitle": {}}}, "bad_shape"),
        ("patch", {"patch": {"primaryTitle": [], "originalTitle": []}}, "bad_shape"),
        ("patch", {"patch": {"primaryTitle": "  ", "originalTitle": "  "}}, "bad_shape"),
        ("patch", {"remove": ["primaryTitle", "originalTitle"]}, "bad_shape"),
    ],
)
def test_a_body_that_cannot_be_used_is_refused(
    sandbox: Sandbox, log: LogText, kind: str, options: dict[str, Any], reason: str
) -> None:
    sandbox.fault(kind, **options)

    with pytest.raises(UpstreamBadAnswer) as caught:
        imdb(sandbox).get_metadata(FILM)

    assert caught.value.reason == reason
    assert reason in {line["outcome"] for line in log.lines}
    assert sandbox.fired() == [1]


def test_a_huge_number_costs_only_its_own_field(sandbox: Sandbox) -> None:
    sandbox.fault("body", body=FILM_JSON.decode().replace("{", '{"votes":%s,' % ("9" * 5000)))

    metadata = imdb(sandbox).get_metadata(FILM)

    assert metadata["primaryTitle"] == "Inception"
    assert "votes" not in metadata
    assert sandbox.fired() == [1]


def test_a_byte_order_mark_is_accepted(sandbox: Sandbox) -> None:
    body = b"\xef\xbb\xbf" + FILM_JSON
    sandbox.fault("body", body_b64=base64.b64encode(body).decode())

    assert imdb(sandbox).get_metadata(FILM)["primaryTitle"] == "Inception"
    assert sandbox.fired() == [1]


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("gzip", gzip.compress(FILM_JSON)),
        ("gzip", gzip.compress(FILM_JSON[:9]) + gzip.compress(FILM_JSON[9:])),
        ("deflate", zlib.compress(FILM_JSON)),
        # Raw deflate: without the two header bytes and the checksum of the zlib format.
        ("deflate", zlib.compress(FILM_JSON)[2:-4]),
    ],
    ids=["gzip", "gzip with two members", "zlib", "raw deflate"],
)
def test_each_form_of_the_accepted_content_codings_is_read(
    sandbox: Sandbox, coding: str, packed: bytes
) -> None:
    sandbox.fault("body", body_b64=base64.b64encode(packed).decode(), content_encoding=coding)

    assert imdb(sandbox).get_metadata(FILM)["primaryTitle"] == "Inception"
    assert sandbox.fired() == [1]


@pytest.mark.parametrize(("kind", "title"), [("nul", "Inception"), ("surrogate", "I�nception")])
def test_characters_that_no_column_accepts_are_removed_or_replaced(
    sandbox: Sandbox, kind: str, title: str
) -> None:
    sandbox.fault(kind, field="primaryTitle")

    assert imdb(sandbox).get_metadata(FILM)["primaryTitle"] == title
    assert sandbox.fired() == [1]


@pytest.mark.parametrize("kind", ["huge", "endless", "gzip_bomb"])
def test_an_oversized_body_costs_no_memory(sandbox: Sandbox, kind: str) -> None:
    sandbox.fault(kind)
    client = wire_client(timeout=5)
    gc.collect()
    tracemalloc.start()

    try:
        with pytest.raises(UpstreamBadAnswer):
            client.get("imdbapi", film_url(sandbox))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 10_000_000
    assert sandbox.fired() == [1]


def test_two_megabytes_of_empty_lists_stay_within_the_memory_of_a_worker(
    sandbox: Sandbox,
) -> None:
    sandbox.fault("body", body="[" + "[]," * 660_000 + "[]]")
    tracemalloc.start()

    try:
        with pytest.raises(UpstreamBadAnswer) as caught:
            imdb(sandbox).get_metadata(FILM)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert caught.value.reason == "bad_json"
    assert peak < 20_000_000
    assert sandbox.fired() == [1]
