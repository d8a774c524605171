import base64
import gzip
import http.client
import json
import math
import socket
import time
from typing import Any

import pytest

from sandbox.faults import KINDS
from sandbox.tests.client import Client, eventually

FILM = "/imdbapi/titles/tt1375666"
RAW = base64.b64encode(b"HTTP/1.1 999 Strange\r\n\r\n").decode()


def fired(sandbox: Client) -> list[int]:
    return [row["fired"] for row in sandbox.get("/control/faults").json]


def test_only_delay_makes_no_response() -> None:
    assert [name for name, kind in KINDS.items() if kind.waits] == ["delay"]


# Complete responses


@pytest.mark.parametrize(
    ("kind", "options", "status", "body"),
    [
        ("status", {"status": 503, "body": "busy"}, 503, b"busy"),
        ("status", {"status": 500}, 500, b'{"code":13,"message":"injected fault"}'),
        ("body", {"body": "[]"}, 200, b"[]"),
        ("body", {"body_b64": "/w==", "status": 206}, 206, b"\xff"),
        ("empty", {}, 200, b""),
        ("empty", {"status": 204}, 204, b""),
        ("rate_limited", {}, 429, b'{"code":8,"message":"Too many network requests"}'),
        ("quota", {}, 429, b'{"code":8,"message":"Too many network requests"}'),
        ("bad_key", {}, 401, b'{"code":16,"message":"unauthenticated"}'),
    ],
)
def test_a_response_is_replaced(
    sandbox: Client, kind: str, options: dict[str, Any], status: int, body: bytes
) -> None:
    fault = sandbox.fault(kind, **options)

    answer = sandbox.get(FILM)

    assert (answer.status, answer.body) == (status, body)
    assert fired(sandbox) == [1]
    assert sandbox.last_call()["fault"] == fault
    assert sandbox.last_call()["status"] == status


def test_the_headers_of_a_status_fault_are_sent(sandbox: Client) -> None:
    sandbox.fault("status", status=503, headers={"Retry-After": "3"}, content_type="text/plain")

    headers = sandbox.get(FILM).headers

    assert (headers["Retry-After"], headers["Content-Type"]) == ("3", "text/plain")


def test_headers_can_be_added_to_the_healthy_response(sandbox: Client) -> None:
    headers_of_the_fault = {
        "X-Correlation-ID": "theirs",
        "Content-Type": "text/html; charset=utf-7",
    }
    sandbox.fault("headers", headers=headers_of_the_fault)

    answer = sandbox.get(FILM)

    assert answer.json["id"] == "tt1375666"
    assert answer.headers["X-Correlation-ID"] == "theirs"
    assert answer.headers.get_all("Content-Type") == ["text/html; charset=utf-7"]


def test_a_content_length_can_be_wrong(sandbox: Client) -> None:
    sandbox.fault("body", body="[]", headers={"Content-Length": "1"})

    assert sandbox.get(FILM).body == b"["


def test_a_body_can_declare_an_encoding(sandbox: Client) -> None:
    sandbox.fault("body", body="not gzip", content_encoding="gzip")

    assert sandbox.get(FILM).headers["Content-Encoding"] == "gzip"


def test_patch_changes_and_removes_top_level_fields(sandbox: Client) -> None:
    sandbox.fault("patch", patch={"primaryTitle": 5, "id": "tt0000009"}, remove=["plot"])

    film = sandbox.get(FILM).json

    assert (film["primaryTitle"], film["id"]) == (5, "tt0000009")
    assert "plot" not in film
    assert film["startYear"] == 2010


def test_patch_reaches_every_row_of_a_bare_array(sandbox: Client) -> None:
    sandbox.fault("patch", source="watchmode", patch={"price": "free"})

    rows = sandbox.watchmode("/title/tt1375666/sources/", regions="TR").json

    assert {row["price"] for row in rows} == {"free"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_has_the_given_location(sandbox: Client, status: int) -> None:
    sandbox.fault("redirect", status=status, location="http://127.0.0.1:9/")

    answer = sandbox.get(FILM)

    assert (answer.status, answer.headers["Location"]) == (status, "http://127.0.0.1:9/")


@pytest.mark.parametrize("path", [FILM, "/imdbapi/search/titles?query=xyzzy"])
def test_malformed_json_does_not_parse(sandbox: Client, path: str) -> None:
    sandbox.fault("malformed_json")

    answer = sandbox.get(path)

    assert answer.status == 200
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.body)


@pytest.mark.parametrize("status", [200, 502, 522])
def test_html_can_have_any_status(sandbox: Client, status: int) -> None:
    sandbox.fault("html", status=status)

    answer = sandbox.get(FILM)

    assert answer.status == status
    assert answer.headers["Content-Type"].startswith("text/html")
    assert answer.body.startswith(b"<!DOCTYPE html>")


def test_rate_limited_can_be_html_with_retry_after(sandbox: Client) -> None:
    sandbox.fault("rate_limited", retry_after="Wed, 21 Oct 2037 07:28:00 GMT", html=True)

    answer = sandbox.get(FILM)

    assert answer.status == 429
    assert answer.headers["Retry-After"] == "Wed, 21 Oct 2037 07:28:00 GMT"
    assert answer.body.startswith(b"<!DOCTYPE html>")


def test_each_source_has_its_own_quota_error(sandbox: Client) -> None:
    sandbox.fault("quota")

    watchmode = sandbox.watchmode("/regions/")

    assert sandbox.omdb(i="tt1375666").json["Error"] == "Request limit reached!"
    assert sandbox.get("/kinocheck/movies").status == 429
    assert watchmode.status == 429
    assert watchmode.headers["X-Account-Quota"] == watchmode.headers["X-Account-Quota-Used"]


def test_a_quota_fault_does_not_change_the_quota(sandbox: Client) -> None:
    sandbox.fault("quota", times=1)

    assert [sandbox.watchmode("/regions/").status for _ in range(2)] == [429, 200]


def test_each_source_has_its_own_error_for_a_wrong_key(sandbox: Client) -> None:
    sandbox.fault("bad_key")

    assert sandbox.omdb(i="tt1375666").json["Error"] == "Invalid API key!"
    assert sandbox.get("/kinocheck/movies").json["code"] == 401
    assert sandbox.watchmode("/regions/").json["statusCode"] == 401


def test_echo_key_repeats_the_key(sandbox: Client) -> None:
    sandbox.fault("echo_key")

    assert b"canary-1" in sandbox.get("/omdb/?apikey=canary-1").body
    assert b"canary-2" in sandbox.get("/watchmode/v1/regions/", {"X-API-Key": "canary-2"}).body


def test_nan_replaces_a_number(sandbox: Client) -> None:
    sandbox.fault("nan")

    answer = sandbox.get(FILM)

    assert b"NaN" in answer.body
    assert math.isnan(answer.json["startYear"])


@pytest.mark.parametrize(
    ("kind", "escape"), [("nul", rb"I\u0000nception"), ("surrogate", rb"I\ud83dnception")]
)
def test_a_title_is_corrupted(sandbox: Client, kind: str, escape: bytes) -> None:
    sandbox.fault(kind)

    assert escape in sandbox.get(FILM).body
    assert escape in sandbox.omdb(i="tt1375666").body


def test_the_field_to_corrupt_can_be_chosen(sandbox: Client) -> None:
    sandbox.fault("nul", field="plot")

    film = sandbox.get(FILM).json

    assert "\0" in film["plot"]
    assert "\0" not in film["primaryTitle"]


def test_a_field_is_added_if_none_can_be_corrupted(sandbox: Client) -> None:
    sandbox.fault("nan")

    assert b"NaN" in sandbox.get("/watchmode/v1/regions/").body
    assert b"NaN" in sandbox.get("/imdbapi/search/titles?query=xyzzy").body


def test_a_healthy_response_that_is_not_json_stays_unchanged(sandbox: Client) -> None:
    sandbox.fault("nan")

    assert b"inner\\spiritual" in sandbox.omdb(i="tt0079944").body


# Faults that take over the connection


def test_delay_waits_before_the_healthy_response(sandbox: Client) -> None:
    fault = sandbox.fault("delay", seconds=0.04)

    started = time.monotonic()
    answer = sandbox.get(FILM)

    assert time.monotonic() - started >= 0.04
    assert answer.status == 200
    assert sandbox.last_call()["fault"] == fault


def test_delay_combines_with_another_fault_in_any_order(sandbox: Client) -> None:
    sandbox.fault("status", status=500, times=1)
    sandbox.fault("delay", seconds=0.03)
    sandbox.fault("status", status=502, skip=1)

    started = time.monotonic()
    statuses = [sandbox.get(FILM).status for _ in range(2)]

    assert time.monotonic() - started >= 0.03
    assert statuses == [500, 502]


def test_hang_never_responds_and_ends_when_the_client_disconnects(sandbox: Client) -> None:
    sandbox.fault("hang")

    with sandbox.socket(FILM) as sock:
        sock.settimeout(0.03)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        assert sandbox.last_call()["status"] is None

    sandbox.request("DELETE", "/control/faults")
    assert sandbox.get(FILM).status == 200


def test_reset_sends_only_rst(sandbox: Client) -> None:
    sandbox.fault("reset")

    with sandbox.socket(FILM) as sock, pytest.raises(ConnectionResetError):
        sock.recv(1)


@pytest.mark.parametrize(
    ("kind", "beginning"),
    [("reset_in_headers", b"HTTP/1.1 200 OK\r\n"), ("reset_in_body", b'{"id":"tt1375666"')],
)
def test_a_reset_can_follow_part_of_the_response(
    sandbox: Client, kind: str, beginning: bytes
) -> None:
    sandbox.fault(kind)
    received = bytearray()

    def read_to_the_end(sock: socket.socket) -> None:
        while chunk := sock.recv(65536):
            received.extend(chunk)

    with sandbox.socket(FILM) as sock, pytest.raises(ConnectionResetError):
        read_to_the_end(sock)

    assert beginning in received


def test_truncate_sends_less_than_its_content_length(sandbox: Client) -> None:
    sandbox.fault("truncate")

    with pytest.raises(http.client.IncompleteRead):
        sandbox.get(FILM)


def test_close_early_sends_no_content_length(sandbox: Client) -> None:
    sandbox.fault("close_early")

    answer = sandbox.get(FILM)

    assert "Content-Length" not in answer.headers
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.body)


def test_drip_headers_never_ends(sandbox: Client) -> None:
    sandbox.fault("drip_headers", interval=0.001)

    with sandbox.socket(FILM) as sock:
        received = b""
        while received.count(b"\r\n") < 5:
            received += sock.recv(4096)

    assert b"\r\n\r\n" not in received


def test_drip_body_sends_one_byte_at_a_time(sandbox: Client) -> None:
    sandbox.fault("drip_body", interval=0.02)

    with sandbox.socket(FILM) as sock:
        received = b""
        while not received.partition(b"\r\n\r\n")[2]:
            received += sock.recv(4096)

    assert len(received.partition(b"\r\n\r\n")[2]) <= 2


def test_drip_body_is_complete_in_the_end(sandbox: Client) -> None:
    sandbox.fault("drip_body", interval=0)

    assert sandbox.get("/imdbapi/titles/tt9999998").json["id"] == "tt9999998"


def test_raw_sends_exactly_those_bytes(sandbox: Client) -> None:
    sandbox.fault("raw", raw_b64=RAW)

    assert sandbox.read_until_close(FILM) == b"HTTP/1.1 999 Strange\r\n\r\n"


def test_informational_responses_never_end(sandbox: Client) -> None:
    sandbox.fault("informational_flood", interval=0.001)

    with sandbox.socket(FILM) as sock:
        received = b""
        while received.count(b"\r\n\r\n") < 100:
            received += sock.recv(65536)

    assert b"HTTP/1.1 200" not in received


def test_many_headers_are_sent(sandbox: Client) -> None:
    sandbox.fault("many_headers", count=500)

    assert sandbox.read_until_close(FILM).count(b"\r\nX-Header-") == 500


def test_a_big_header_is_sent(sandbox: Client) -> None:
    sandbox.fault("big_header", bytes=200_000)

    assert b"x" * 200_000 in sandbox.read_until_close(FILM)


def test_huge_is_valid_json_of_exactly_that_size(sandbox: Client) -> None:
    sandbox.fault("huge", bytes=300_000)

    answer = sandbox.get(FILM)

    assert len(answer.body) == 300_000 == int(answer.headers["Content-Length"])
    assert set(answer.json) == {"padding"}


def test_endless_does_not_end(sandbox: Client) -> None:
    sandbox.fault("endless")

    with sandbox.socket(FILM) as sock:
        received = 0
        while received < 500_000:
            received += len(sock.recv(65536))

    sandbox.request("DELETE", "/control/faults")
    assert sandbox.get(FILM).status == 200


@pytest.mark.parametrize("decoded", [14, 5_000_000, 2 * 1024 * 1024 + 14])
def test_a_gzip_bomb_is_small_and_correct(sandbox: Client, decoded: int) -> None:
    sandbox.fault("gzip_bomb", decoded=decoded)

    answer = sandbox.get(FILM)

    assert answer.headers["Content-Encoding"] == "gzip"
    assert len(answer.body) < 20_000
    plain = gzip.decompress(answer.body)
    assert len(plain) == decoded
    assert json.loads(plain).keys() == {"padding"}


def test_a_huge_response_that_is_not_read_does_not_fill_memory(sandbox: Client) -> None:
    sandbox.fault("huge", bytes=2**40)

    with sandbox.socket(FILM):
        assert sandbox.get("/control/calls").status == 200


# Scope and order


def test_a_fault_stops_after_its_times(sandbox: Client) -> None:
    sandbox.fault("status", status=500, times=2)

    assert [sandbox.get(FILM).status for _ in range(3)] == [500, 500, 200]
    assert fired(sandbox) == [2]


def test_a_fault_can_skip_the_first_calls(sandbox: Client) -> None:
    sandbox.fault("status", status=500, skip=2, times=1)

    assert [sandbox.get(FILM).status for _ in range(4)] == [200, 200, 500, 200]


def test_a_fault_applies_to_a_source_a_path_and_a_query(sandbox: Client) -> None:
    sandbox.fault("status", status=500, source="imdbapi", path="/titles/*/images")
    sandbox.fault("status", status=503, source="omdb", query="*i=tt0133093*")

    assert sandbox.get(FILM).status == 200
    assert sandbox.get(FILM + "/images").status == 500
    assert sandbox.get("/kinocheck/movies?imdb_id=tt1375666").status == 200
    assert sandbox.omdb(i="tt1375666").status == 200
    assert sandbox.omdb(i="tt0133093").status == 503


def test_the_newest_fault_wins(sandbox: Client) -> None:
    sandbox.fault("status", status=500)
    sandbox.fault("status", status=503)

    assert sandbox.get(FILM).status == 503
    assert fired(sandbox) == [1, 0]


def test_a_probability_selects_some_calls(sandbox: Client) -> None:
    sandbox.fault("status", status=500, probability=0.5)

    statuses = [sandbox.get(FILM).status for _ in range(40)]

    assert set(statuses) == {200, 500}
    assert fired(sandbox) == [statuses.count(500)]


def test_a_probability_of_zero_never_fires(sandbox: Client) -> None:
    sandbox.fault("status", status=500, probability=0)

    assert sandbox.get(FILM).status == 200


def test_a_response_made_by_a_fault_costs_no_credit(sandbox: Client) -> None:
    sandbox.fault("html", times=1)
    sandbox.watchmode("/regions/")

    assert sandbox.watchmode("/status/").json["quotaUsed"] == 0


def test_a_call_of_a_client_that_disconnects_is_no_longer_in_flight(sandbox: Client) -> None:
    sandbox.fault("hang", times=1)
    with sandbox.socket(FILM):
        assert eventually(lambda: sandbox.calls()["total"] == 1)

    def drained() -> bool:
        sandbox.request("POST", "/control/reset")
        return bool(sandbox.calls()["max_in_flight"]["imdbapi"] == 0)

    assert eventually(drained)
