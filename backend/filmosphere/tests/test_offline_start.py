"""What a newcomer gets from `make run` with nothing configured."""

import json
import signal

import pytest

from tools.harness.databases import eventually
from tools.harness.server import Server, database, get, server

INCEPTION = "/api/films/tt1375666"
SECTIONS = (
    "metadata",
    "credits",
    "images",
    "videos",
    "parents_guide",
    "certificates",
    "release_dates",
    "trailer",
    "streaming",
)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("offline")
    with (
        database(folder) as url,
        server(folder, DATABASE_URL=url, DJANGO_DEBUG="True") as running,
    ):
        yield running


def calls(service: Server) -> int:
    return get(f"{service.sandbox_url}/control/calls?summary=1").json["total"]


def test_a_log_line_says_what_it_runs_on(service):
    # The first answer may come before the line.
    eventually(lambda: '"serving"' in service.output)
    lines = [json.loads(line) for line in service.output.splitlines()]
    serving = next(line for line in lines if line["message"] == "serving")

    assert (serving["sources"], serving["redis"]) == ("sandbox", False)
    assert service.url.endswith(f":{serving['port']}")


def test_all_output_is_log_lines(service):
    for line in service.output.splitlines():
        assert {"time", "level", "message"} <= set(json.loads(line))


def test_a_search_finds_a_film(service):
    answer = service.get("/api/search?q=inception")

    assert answer.status == 200
    assert answer.json["results"][0]["imdb_id"] == "tt1375666"


def test_a_film_has_all_nine_sections_and_no_warning(service):
    answer = service.get(INCEPTION)

    assert answer.status == 200
    assert all(answer.json[section] for section in SECTIONS)
    assert answer.json["warnings"] == []


def test_the_second_request_for_a_film_makes_no_upstream_call(service):
    service.get(INCEPTION)
    before = calls(service)

    for part in ("", "/trailer", "/streaming"):
        assert service.get(INCEPTION + part).status == 200

    assert calls(service) == before


def test_a_long_section_says_how_much_there_is(service):
    section = service.get("/api/films/tt4154796").json["credits"]

    assert len(section["credits"]) == 50
    assert section["totalCount"] > 50
    assert section["nextPageToken"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/films/tt9999999999", 404),
        ("/api/films/abc", 400),
        ("/api/nope", 404),
        ("/accounts/login/", 404),
        ("/admin/", 404),
        ("/api/search", 400),
    ],
)
def test_every_error_has_the_one_shape_in_debug_too(service, path, status):
    answer = service.get(path)

    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/json"
    assert set(answer.json) == {"error_code", "message", "reason"}
    assert answer.json["error_code"] == str(status)


def test_a_host_that_is_not_ours_gets_our_400(service):
    answer = service.get(INCEPTION, Host="evil.example")

    assert answer.status == 400
    assert answer.json["error_code"] == "400"


def test_it_is_alive_and_ready(service):
    assert service.get("/healthz").status == 200
    assert service.get("/readyz").status == 200


def test_each_log_line_of_a_request_carries_its_correlation_id(service):
    service.get("/api/films/tt0068646", X_Correlation_ID="from-a-client.1")

    lines = [json.loads(line) for line in service.output.splitlines() if line.startswith("{")]
    mine = [line for line in lines if line["correlation_id"] == "from-a-client.1"]
    assert [line["message"] for line in mine].count("upstream call") == 10
    assert {line["film"] for line in mine} == {"tt0068646"}


def test_each_line_is_json_those_of_the_web_server_included(service):
    lines = [json.loads(line) for line in service.output.splitlines()]

    assert {"filmosphere.service", "_granian.serve"} <= {line["logger"] for line in lines}


def test_a_person_gets_a_banner_and_the_sandbox_ends_with_the_service(tmp_path):
    with (
        database(tmp_path) as url,
        server(tmp_path, DATABASE_URL=url, LOG_FORMAT="console") as running,
    ):
        local = running.url.replace("127.0.0.1", "localhost")
        eventually(lambda: f"Filmosphere serves on {local}" in running.output)
        assert f"the sandbox on {running.sandbox_url}" in running.output
        assert "(DATABASE_URL is given)" in running.output
        assert "made for this run" in running.output
        assert f"{local}/api/docs" in running.output
        assert f"curl '{local}/api/search?q=inception'" in running.output

        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(timeout=15) == 0

        with pytest.raises(OSError, match="refused"):
            get(f"{running.sandbox_url}/control/calls")
