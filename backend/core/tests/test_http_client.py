import ssl
import threading
import traceback
from contextlib import AbstractContextManager

import httpx
import pytest
from tenacity.wait import wait_fixed

from core.deadline import Deadline, deadline_of
from core.errors import (
    DeadlineExceeded,
    UpstreamBadAnswer,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from core.services.http_client import HttpClient
from core.services.transport import NameResolutionError
from core.tests.support import CANARY, Answers, LogText, client_of
from core.utils.logging import correlation_id

URL = "https://films.test/titles/tt1375666"
OK = httpx.Response(200, json={})


def network_error(error: type[httpx.TransportError], cause: Exception | None = None) -> Exception:
    exc = error("text of the network")
    exc.__cause__ = cause
    return exc


REFUSED = network_error(httpx.ConnectError, ConnectionRefusedError())
DISCONNECTED = httpx.RemoteProtocolError("Server disconnected without sending a response.")
CUT = httpx.RemoteProtocolError(
    "peer closed connection without sending complete message body (received 7 bytes, expected 100)"
)
CUT_CHUNK = httpx.RemoteProtocolError(
    "peer closed connection without sending complete message body (incomplete chunked read)"
)


# Retries


@pytest.mark.parametrize("status", [500, 502, 503, 504, 520])
def test_a_server_error_is_retried_and_then_reported(status: int) -> None:
    answers = Answers(httpx.Response(status))

    with pytest.raises(UpstreamUnavailable) as caught:
        client_of(answers).get("imdbapi", URL)

    assert caught.value.reason == "http_5xx"
    assert len(answers.requests) == 3


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (REFUSED, "connection_refused"),
        (network_error(httpx.ConnectError, NameResolutionError("gaierror")), "dns_error"),
        (
            network_error(httpx.ConnectError, OSError(113, "No route to host")),
            "connection_terminated",
        ),
        (network_error(httpx.ReadError, ConnectionResetError()), "connection_terminated"),
        (network_error(httpx.WriteError, BrokenPipeError()), "connection_terminated"),
        (network_error(httpx.ConnectError, ssl.SSLEOFError(8, "EOF")), "connection_terminated"),
        (DISCONNECTED, "connection_terminated"),
        (CUT, "http_response_incomplete"),
        (CUT_CHUNK, "http_response_incomplete"),
        (httpx.ConnectTimeout("slow"), "connection_timeout"),
        (httpx.ReadTimeout("slow"), "http_response_timeout"),
    ],
)
def test_a_network_error_is_retried_and_then_reported(error: Exception, reason: str) -> None:
    answers = Answers(error)

    with pytest.raises(UpstreamUnavailable) as caught:
        client_of(answers).get("imdbapi", URL)

    assert caught.value.reason == reason
    assert len(answers.requests) == 3


def test_a_timeout_has_a_class_of_its_own() -> None:
    with pytest.raises(UpstreamTimeout):
        client_of(Answers(httpx.ReadTimeout("slow"))).get("imdbapi", URL)


def test_the_answer_after_failures_is_returned() -> None:
    answers = Answers(httpx.Response(500), REFUSED, httpx.Response(200, content=b"third"))

    reply = client_of(answers).get("imdbapi", URL)

    assert reply.body == b"third"
    assert len(answers.requests) == 3


def test_the_number_of_attempts_is_a_setting() -> None:
    answers = Answers(httpx.Response(500))

    with pytest.raises(UpstreamUnavailable):
        client_of(answers, attempts=1).get("imdbapi", URL)

    assert len(answers.requests) == 1


@pytest.mark.parametrize(
    "status", [200, 299, 400, 401, 402, 403, 404, 408, 409, 410, 418, 425, 429, 451, 499]
)
def test_a_status_below_500_is_returned_at_once(status: int) -> None:
    answers = Answers(httpx.Response(status, content=b"why"))

    reply = client_of(answers).get("imdbapi", URL)

    assert (reply.status, reply.body) == (status, b"why")
    assert len(answers.requests) == 1


def unavailable(retry_after: str) -> httpx.Response:
    return httpx.Response(503, headers={"Retry-After": retry_after})


def test_a_retry_waits_as_long_as_the_source_asks() -> None:
    answers, slept = Answers(unavailable("3"), OK), []

    with deadline_of(Deadline(5)):
        reply = client_of(answers, sleep=slept.append).get("imdbapi", URL)

    assert reply.status == 200
    assert slept == [3]


@pytest.mark.parametrize(("header", "seconds"), [("3", 3), ("31536000", 900), ("9" * 19, 900)])
def test_without_a_deadline_there_is_no_retry_after_a_requested_wait(
    header: str, seconds: float
) -> None:
    answers, slept = Answers(unavailable(header), OK), []

    with pytest.raises(UpstreamUnavailable) as caught:
        client_of(answers, sleep=slept.append).get("imdbapi", URL)

    assert caught.value.retry_after == seconds
    assert slept == []


def test_the_number_of_attempts_bounds_retries_after_a_requested_wait() -> None:
    answers, slept = Answers(unavailable("3")), []

    with deadline_of(Deadline(15)), pytest.raises(UpstreamUnavailable) as caught:
        client_of(answers, attempts=3, sleep=slept.append).get("imdbapi", URL)

    assert caught.value.retry_after == 3
    assert len(answers.requests) == 3
    assert slept == [3, 3]


def test_there_is_no_retry_if_the_deadline_passes_before_the_requested_wait_ends() -> None:
    answers, slept = Answers(unavailable("3"), OK), []

    with deadline_of(Deadline(2.9)), pytest.raises(UpstreamUnavailable) as caught:
        client_of(answers, wait=wait_fixed(0), sleep=slept.append).get("imdbapi", URL)

    assert caught.value.retry_after == 3
    assert len(answers.requests) == 1
    assert slept == []


@pytest.mark.parametrize("header", ["0", "soon", "-3", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_an_unusable_retry_after_is_ignored(header: str) -> None:
    answers, slept = Answers(unavailable(header)), []

    with pytest.raises(UpstreamUnavailable) as caught:
        client_of(answers, wait=wait_fixed(0.25), sleep=slept.append).get("imdbapi", URL)

    assert caught.value.retry_after is None
    assert slept == [0.25, 0.25]


def test_an_attempt_that_is_not_admitted_is_not_retried() -> None:
    answers, slept = Answers(OK), []

    def refuse() -> AbstractContextManager[None]:
        raise UpstreamRateLimited("imdbapi", "closed", retry_after=5)

    with deadline_of(Deadline(15)), pytest.raises(UpstreamRateLimited):
        client_of(answers, sleep=slept.append).get("imdbapi", URL, attempt=refuse)

    assert answers.requests == []
    assert slept == []


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (ssl.SSLCertVerificationError(1, "expired"), "tls_certificate_error"),
        (ssl.SSLError(1, "unsupported protocol"), "tls_protocol_error"),
    ],
)
def test_a_tls_failure_is_not_retried(cause: Exception, reason: str, log: LogText) -> None:
    answers = Answers(network_error(httpx.ConnectError, cause))

    with pytest.raises(UpstreamUnavailable) as caught:
        client_of(answers).get("imdbapi", URL)

    assert caught.value.reason == reason
    assert len(answers.requests) == 1
    assert [line["level"] for line in log.of("upstream call")] == ["ERROR"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (httpx.RemoteProtocolError("illegal status line"), "http_protocol_error"),
        (httpx.RemoteProtocolError("Receive buffer too long"), "http_response_header_section_size"),
        (httpx.UnsupportedProtocol("ftp"), "http_protocol_error"),
    ],
)
def test_a_violation_of_http_is_not_retried(error: Exception, reason: str) -> None:
    answers = Answers(error)

    with pytest.raises(UpstreamBadAnswer) as caught:
        client_of(answers).get("imdbapi", URL)

    assert caught.value.reason == reason
    assert len(answers.requests) == 1


def test_no_request_is_sent_after_the_deadline() -> None:
    answers = Answers(OK)

    with deadline_of(Deadline(0)), pytest.raises(DeadlineExceeded):
        client_of(answers).get("imdbapi", URL)

    assert answers.requests == []


def test_there_is_no_retry_if_the_deadline_passes_before_it() -> None:
    answers, slept = Answers(httpx.Response(500)), []

    with deadline_of(Deadline(1)), pytest.raises(UpstreamUnavailable):
        client_of(answers, wait=wait_fixed(5), sleep=slept.append).get("imdbapi", URL)

    assert len(answers.requests) == 1
    assert slept == []


def test_the_waits_between_attempts_are_short_and_jittered() -> None:
    slept: list[float] = []

    with pytest.raises(UpstreamUnavailable):
        client_of(Answers(httpx.Response(500)), attempts=10, sleep=slept.append).get("imdbapi", URL)

    assert len(slept) == len(set(slept)) == 9
    assert all(0 <= seconds <= 2 for seconds in slept)


# What is refused


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_a_redirect_is_refused_and_not_followed(status: int, log: LogText) -> None:
    answers = Answers(
        httpx.Response(status, headers={"Location": f"https://evil.test/?stolen={CANARY}"})
    )

    with pytest.raises(UpstreamBadAnswer) as caught:
        client_of(answers).get("imdbapi", URL)

    assert caught.value.reason == "redirect_refused"
    assert [str(request.url) for request in answers.requests] == [URL]
    assert CANARY not in str(log)


@pytest.mark.parametrize("status", [600, 999])
def test_an_undefined_status_is_refused(status: int) -> None:
    with pytest.raises(UpstreamBadAnswer) as caught:
        client_of(Answers(httpx.Response(status))).get("imdbapi", URL)

    assert caught.value.reason == "http_protocol_error"


def test_a_body_over_the_limit_is_refused() -> None:
    answers = Answers(httpx.Response(200, content=b"x" * 2_000_001))

    with pytest.raises(UpstreamBadAnswer) as caught:
        client_of(answers).get("imdbapi", URL)

    assert caught.value.reason == "http_response_body_size"
    assert len(answers.requests) == 1


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "gzip"])
def test_a_body_that_cannot_be_decompressed_is_refused(coding: str) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        stream = httpx.ByteStream(b"not compressed at all")
        return httpx.Response(200, headers={"Content-Encoding": coding}, stream=stream)

    with pytest.raises(UpstreamBadAnswer) as caught:
        client_of(handler).get("imdbapi", URL)

    assert caught.value.reason == "http_response_content_coding"


def test_an_invalid_url_is_refused() -> None:
    with pytest.raises(UpstreamBadAnswer) as caught:
        client_of(Answers(OK)).get("imdbapi", "https://films.test:port/")

    assert caught.value.reason == "http_protocol_error"


# What is sent


def test_cookies_are_not_kept() -> None:
    answers = Answers(httpx.Response(200, headers={"Set-Cookie": "session=1; Path=/"}))
    client = client_of(answers)

    client.get("imdbapi", URL)
    client.get("imdbapi", URL)

    assert ["cookie" in request.headers for request in answers.requests] == [False, False]


def test_the_request_names_client_formats_and_correlation_id() -> None:
    answers = Answers(OK)
    token = correlation_id.set("abc-1")

    client_of(answers).get("imdbapi", URL, params={"q": "a b&c"}, headers={"X-Api-Key": "k"})
    correlation_id.reset(token)

    (request,) = answers.requests
    assert str(request.url) == f"{URL}?q=a+b%26c"
    assert {
        name: request.headers[name] for name in ("user-agent", "accept", "accept-encoding")
    } == {
        "user-agent": "Filmosphere/1.0",
        "accept": "application/json",
        "accept-encoding": "gzip, deflate",
    }
    assert request.headers["x-correlation-id"] == "abc-1"
    assert request.headers["x-api-key"] == "k"


def test_the_key_of_one_request_is_not_sent_with_the_next() -> None:
    answers = Answers(OK)
    client = client_of(answers)

    client.get("kinocheck", URL, headers={"X-Api-Key": CANARY})
    client.get("imdbapi", URL)

    assert "x-api-key" not in answers.requests[1].headers


def test_each_thread_has_connections_of_its_own() -> None:
    made: list[int] = []

    def transport(_: object) -> httpx.MockTransport:
        made.append(threading.get_ident())
        return httpx.MockTransport(Answers(OK))

    client = HttpClient(
        timeout=5,
        attempts=1,
        ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        transport=transport,
    )
    threads = [threading.Thread(target=client.get, args=("imdbapi", URL)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    client.get("imdbapi", URL)
    client.get("imdbapi", URL)

    assert len(made) == 4
    assert made[3] == threading.get_ident()


# What a source sends back


def test_our_keys_are_not_in_the_json_of_a_reply() -> None:
    body = {"a": f"?apikey={CANARY}", CANARY: ["of%2Fcanary", "of/canary"], "b": "key"}
    client = client_of(
        Answers(httpx.Response(200, json=body)), secrets=(CANARY, "of/canary", "key", "")
    )

    reply = client.get("omdb", URL)

    assert reply.json() == {
        "a": "?apikey=[redacted]",
        "[redacted]": ["[redacted]", "[redacted]"],
        # Too short for a key: it may be part of ordinary words.
        "b": "key",
    }
    assert "canary" not in repr(reply.json())


def test_of_two_keys_the_longer_one_is_replaced_first() -> None:
    answers = Answers(httpx.Response(200, json=["canary-2"]))

    assert client_of(answers, secrets=("canary", "canary-2")).get("omdb", URL).json() == [
        "[redacted]"
    ]


# What is logged


def test_each_attempt_has_one_line(log: LogText) -> None:
    answers = Answers(httpx.Response(502), REFUSED, httpx.Response(404))
    token = correlation_id.set("abc-2")

    client_of(answers).get("imdbapi", URL, params={"q": "x"})
    correlation_id.reset(token)

    lines = log.of("upstream call")
    assert [(line["attempt"], line["outcome"], line["status"]) for line in lines] == [
        (1, "http_5xx", 502),
        (2, "connection_refused", None),
        (3, "not_found", 404),
    ]
    assert {line["source"] for line in lines} == {"imdbapi"}
    assert {line["url"] for line in lines} == {URL}
    assert {line["correlation_id"] for line in lines} == {"abc-2"}
    assert {line["level"] for line in lines} == {"WARNING"}
    assert all(isinstance(line["ms"], float) and line["ms"] >= 0 for line in lines)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, "ok"),
        (204, "ok"),
        (400, "http_4xx"),
        (401, "http_4xx"),
        (404, "not_found"),
        (410, "not_found"),
        (451, "not_found"),
        (429, "rate_limited"),
    ],
)
def test_the_line_names_the_outcome(status: int, outcome: str, log: LogText) -> None:
    client_of(Answers(httpx.Response(status))).get("imdbapi", URL)

    (line,) = log.of("upstream call")
    assert (line["outcome"], line["status"]) == (outcome, status)
    assert line["level"] == ("INFO" if status < 400 else "WARNING")


def test_a_query_that_is_part_of_the_address_is_not_logged(log: LogText) -> None:
    client_of(Answers(OK)).get("omdb", f"{URL}?apikey={CANARY}")

    assert CANARY not in str(log)
    assert log.of("upstream call")[0]["url"] == URL


def test_an_unexpected_exception_is_logged_and_propagates(log: LogText) -> None:
    with pytest.raises(ZeroDivisionError):
        client_of(Answers(ZeroDivisionError())).get("imdbapi", URL)

    assert [line["outcome"] for line in log.of("upstream call")] == ["unexpected"]


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        httpx.Response(401, content=f"bad key {CANARY}".encode()),
        httpx.Response(500, content=f"bad key {CANARY}".encode()),
        httpx.Response(302, headers={"Location": f"https://evil.test/{CANARY}"}),
        httpx.Response(200, content=CANARY.encode() * 200_000),
        httpx.Response(999),
        REFUSED,
        DISCONNECTED,
        httpx.ReadTimeout("slow"),
        network_error(httpx.ConnectError, ssl.SSLCertVerificationError(1, "expired")),
        network_error(httpx.ConnectError, NameResolutionError("gaierror")),
        httpx.RemoteProtocolError("illegal status line"),
    ],
    ids=lambda answer: repr(answer)[:40],
)
def test_the_key_is_in_no_line_and_no_exception(
    answer: httpx.Response | Exception, log: LogText
) -> None:
    client = client_of(Answers(answer))
    shown = ""

    try:
        client.get("omdb", URL, params={"apikey": CANARY}, headers={"X-Api-Key": CANARY})
    except UpstreamError as exc:
        shown = "".join(traceback.format_exception(exc)) + repr(exc) + repr(exc.__cause__)

    assert CANARY not in shown
    assert CANARY not in str(log)
    assert log.of("upstream call")
