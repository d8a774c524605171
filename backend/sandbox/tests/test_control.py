import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sandbox.tests.client import Client

FILM = "/imdbapi/titles/tt1375666"


def test_calls_are_counted_and_recorded(sandbox: Client) -> None:
    before = time.monotonic()
    headers = {"X-Correlation-ID": "abc", "User-Agent": "tester"}
    sandbox.get(FILM + "/images?pageSize=1", headers)

    report = sandbox.calls()
    (call,) = report["calls"]

    assert report["total"] == 1
    assert report["by_source"] == {"imdbapi": 1, "kinocheck": 0, "watchmode": 0, "omdb": 0}
    assert before <= call.pop("at") <= time.monotonic()
    assert call.pop("seq") > 0
    assert call == {
        "source": "imdbapi",
        "path": "/titles/tt1375666/images",
        "query": "pageSize=1",
        "status": 200,
        "correlation_id": "abc",
        "fault": None,
        "key_in": None,
        "user_agent": "tester",
    }


@pytest.mark.parametrize(
    ("target", "headers", "key_in", "query"),
    [
        ("/omdb/?i=tt1&apikey=canary&plot=full", {}, "query", "i=tt1&apikey=***&plot=full"),
        ("/watchmode/v1/regions/?apiKey=canary", {}, "query", "apiKey=***"),
        ("/watchmode/v1/regions/", {"X-API-Key": "canary"}, "header", ""),
        ("/imdbapi/titles/tt1375666?key=canary", {}, "query", "key=***"),
        ("/imdbapi/search/titles?query=monkey", {}, None, "query=monkey"),
    ],
)
def test_the_place_of_a_key_is_recorded_but_not_the_key(
    sandbox: Client, target: str, headers: dict[str, str], key_in: str | None, query: str
) -> None:
    sandbox.get(target, headers)

    assert sandbox.last_call()["key_in"] == key_in
    assert sandbox.last_call()["query"] == query
    assert b"canary" not in sandbox.get("/control/calls").body


def test_calls_can_be_filtered(sandbox: Client) -> None:
    sandbox.get(FILM)
    first = sandbox.last_call()["seq"]
    sandbox.get(FILM + "/images")
    sandbox.omdb(i="tt1375666")

    assert sandbox.calls(source="imdbapi")["total"] == 2
    assert sandbox.calls(source="imdbapi")["by_source"] == {"imdbapi": 2}
    assert sandbox.calls(path="/titles/*/images")["total"] == 1
    assert sandbox.calls(since=first)["by_source"]["omdb"] == 1
    assert sandbox.calls(since=first)["total"] == 2
    assert "calls" not in sandbox.calls(summary=1)


def test_control_requests_are_neither_counted_nor_faulted(sandbox: Client) -> None:
    sandbox.fault("reset")

    assert sandbox.calls()["total"] == 0
    assert sandbox.calls()["connections"] == 0


def test_unknown_paths_are_counted_as_other(sandbox: Client) -> None:
    assert sandbox.get("/elsewhere?x=1").status == 404

    assert sandbox.calls()["by_source"]["other"] == 1
    assert sandbox.last_call()["path"] == "/elsewhere"


def test_a_keep_alive_connection_is_counted_once(sandbox: Client) -> None:
    connection = sandbox.connect()
    for _ in range(3):
        connection.request("GET", FILM)
        connection.getresponse().read()
    connection.close()

    assert sandbox.calls()["connections"] == 1
    assert sandbox.calls()["total"] == 3


def test_the_maximum_of_calls_in_flight_is_recorded(sandbox: Client) -> None:
    sandbox.set("imdbapi", latency_ms=300)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(sandbox.get, [FILM] * 4))

    assert sandbox.calls()["max_in_flight"] == {
        "imdbapi": 4,
        "kinocheck": 0,
        "watchmode": 0,
        "omdb": 0,
    }


def test_latency_can_depend_on_the_path(sandbox: Client) -> None:
    sandbox.set("imdbapi", latency_ms={"/titles/*/images": 40})

    started = time.monotonic()
    sandbox.get(FILM + "/images")

    assert time.monotonic() - started >= 0.04


def test_pipelined_requests_are_answered_in_order(sandbox: Client) -> None:
    sandbox.fault("delay", seconds=0.02, times=1)
    second = f"GET {FILM} HTTP/1.1\r\nConnection: close\r\n\r\n"

    with sandbox.socket("/imdbapi/titles/tt9999998") as sock:
        sock.sendall(second.encode())
        received = b"".join(iter(lambda: sock.recv(65536), b""))

    assert received.count(b"HTTP/1.1 200 OK") == 2
    assert received.index(b"tt9999998") < received.index(b"tt1375666")


def test_head_has_no_body(sandbox: Client) -> None:
    answer = sandbox.request("HEAD", FILM)

    assert answer.body == b""
    assert int(answer.headers["Content-Length"]) > 1000


def test_invalid_http_is_refused(sandbox: Client) -> None:
    assert sandbox.read_until_close("/ HTTP/9.9\x00").startswith(b"HTTP/1.1 400 ")


def test_reset_restores_the_initial_state(sandbox: Client) -> None:
    fresh = sandbox.get("/control/settings").json
    sandbox.set("omdb", keys=["x"], latency_ms=1)
    sandbox.set("imdbapi", bucket={"capacity": 1, "per": 1})
    sandbox.watchmode("/regions/")
    sandbox.fault("html")

    sandbox.request("POST", "/control/reset")

    assert sandbox.get("/control/settings").json == fresh
    assert sandbox.get("/control/faults").json == []
    assert sandbox.calls()["total"] == 0


def test_faults_can_be_listed_and_deleted(sandbox: Client) -> None:
    first = sandbox.fault("status", status=500, source="omdb")
    second = sandbox.fault("hang", path="/titles/*")

    listed = sandbox.get("/control/faults").json

    assert [row["id"] for row in listed] == [second, first]
    assert listed[1]["status"] == 500
    assert listed[1]["fired"] == 0
    assert sandbox.request("DELETE", f"/control/faults/{first}").status == 200
    assert sandbox.request("DELETE", f"/control/faults/{first}").status == 404
    assert sandbox.request("DELETE", "/control/faults").json == {"deleted": 1}


@pytest.mark.parametrize(
    ("description", "error", "allowed"),
    [
        ({"kind": "nope"}, "unknown kind 'nope'", "hang"),
        ({}, "unknown kind None", "hang"),
        ({"kind": "hang", "source": "tmdb"}, "unknown source 'tmdb'", "omdb"),
        ({"kind": "hang", "seconds": 1}, "has no option 'seconds'", "times"),
        ({"kind": "delay"}, "needs seconds", "seconds"),
        ({"kind": "redirect"}, "needs location", "location"),
    ],
)
def test_the_error_for_an_unknown_option_lists_the_allowed_ones(
    sandbox: Client, description: dict[str, Any], error: str, allowed: str
) -> None:
    answer = sandbox.request("POST", "/control/faults", description)

    assert answer.status == 400
    assert error in answer.json["error"]
    assert allowed in answer.json["allowed"]


@pytest.mark.parametrize(
    "description",
    [
        {"kind": "delay", "seconds": "1"},
        {"kind": "delay", "seconds": -1},
        {"kind": "status", "status": 99},
        {"kind": "status", "status": 500, "headers": {"X": 1}},
        {"kind": "status", "status": 500, "headers": {"X": "a\r\nB: c"}},
        {"kind": "status", "status": 500, "headers": {"X Y": "a"}},
        {"kind": "status", "status": 500, "content_type": "ş"},
        {"kind": "redirect", "location": "/\n"},
        {"kind": "redirect", "location": "/", "status": 200},
        {"kind": "raw", "raw_b64": "%"},
        {"kind": "body", "body": 5},
        {"kind": "patch", "patch": []},
        {"kind": "rate_limited", "html": "yes"},
        {"kind": "huge", "bytes": 1},
        {"kind": "hang", "times": 0},
        {"kind": "hang", "skip": -1},
        {"kind": "hang", "probability": 2},
        {"kind": "hang", "probability": True},
        {"kind": "hang", "path": 5},
        [],
    ],
)
def test_an_invalid_value_is_refused(sandbox: Client, description: Any) -> None:
    answer = sandbox.request("POST", "/control/faults", description)

    assert answer.status == 400
    assert "must be" in answer.json["error"]
    assert sandbox.get("/control/faults").json == []


@pytest.mark.parametrize(
    "description",
    [
        {"tmdb": {}},
        {"imdbapi": 5},
        {"imdbapi": {"daily_quota": 5}},
        {"imdbapi": {"latency_ms": -1}},
        {"imdbapi": {"latency_ms": {"*": "slow"}}},
        {"imdbapi": {"bucket": {"capacity": 8}}},
        {"imdbapi": {"bucket": {"capacity": 0, "per": 5}}},
        {"imdbapi": {"malformed_id_status": 500}},
        {"imdbapi": {"retry_after": "1\r\n"}},
        {"kinocheck": {"bad_key_status": 400}},
        {"kinocheck": {"omit": ["trailer"]}},
        {"watchmode": {"quota_status": 200}},
        {"watchmode": {"regions": ["XX"]}},
        {"omdb": {"quota_status": 429}},
        {"omdb": {"keys": "one"}},
        {"omdb": {"daily_limit": -1}},
    ],
)
def test_settings_change_completely_or_not_at_all(
    sandbox: Client, description: dict[str, Any]
) -> None:
    before = sandbox.get("/control/settings").json

    answer = sandbox.request(
        "PATCH", "/control/settings", {"omdb": {"latency_ms": 9}, **description}
    )

    assert answer.status == 400
    assert answer.json["error"]
    assert sandbox.get("/control/settings").json == before


def test_a_setting_can_be_reset_to_null(sandbox: Client) -> None:
    sandbox.set("imdbapi", bucket={"capacity": 8, "per": 5})

    changed = sandbox.set("imdbapi", bucket=None)

    assert changed.json["imdbapi"]["bucket"] is None


@pytest.mark.parametrize(
    ("method", "target"),
    [("GET", "/control/nothing"), ("POST", "/control/settings"), ("GET", "/control/reset")],
)
def test_other_control_paths_are_not_found(sandbox: Client, method: str, target: str) -> None:
    assert sandbox.request(method, target).status == 404


def test_an_unknown_filter_is_refused(sandbox: Client) -> None:
    assert sandbox.get("/control/calls?sorce=imdbapi").status == 400
    assert sandbox.get("/control/calls?since=yesterday").status == 400


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("imdbapi", FILM),
        ("kinocheck", "/kinocheck/movies?imdb_id=tt1375666"),
        ("watchmode", "/watchmode/v1/regions/"),
        ("omdb", "/omdb/?i=tt1375666&apikey=5a4db0c5"),
    ],
)
def test_every_source_can_have_a_rate_limit(sandbox: Client, source: str, target: str) -> None:
    headers = {"X-API-Key": "sandbox-watchmode-key"} if source == "watchmode" else {}
    sandbox.set(source, bucket={"capacity": 2, "per": 60}, retry_after="7")

    answers = [sandbox.get(target, headers) for _ in range(3)]

    assert [answer.status for answer in answers] == [200, 200, 429]
    assert answers[-1].headers["Retry-After"] == "7"


def test_calls_are_counted_by_source_and_path(sandbox: Client) -> None:
    sandbox.get(FILM)
    sandbox.get("/imdbapi/titles/tt0133093")
    sandbox.get(FILM + "/images")
    sandbox.watchmode("/title/1114888/sources/")

    by_path = sandbox.calls(summary=1)["by_path"]

    assert by_path["imdbapi"] == {"/titles/*": 2, "/titles/*/images": 1}
    assert by_path["watchmode"] == {"/v1/title/*/sources": 1}
    assert sandbox.calls(source="imdbapi", path="*/images")["by_path"] == {
        "imdbapi": {"/titles/*/images": 1}
    }
