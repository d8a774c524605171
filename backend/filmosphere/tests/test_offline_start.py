"""What a newcomer gets from `make run` with nothing configured."""

import json
import re
import signal

import pytest

from filmosphere.tests.house import Server, database, get, server

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
def house(tmp_path_factory, django_db_setup, django_db_blocker):
    folder = tmp_path_factory.mktemp("offline")
    with (
        django_db_blocker.unblock(),
        database(folder) as url,
        server(folder, DATABASE_URL=url, DJANGO_DEBUG="True") as running,
    ):
        yield running


def calls(house: Server) -> int:
    port = re.search(r"sandbox on http://127\.0\.0\.1:(\d+)", house.output)[1]
    return get(f"http://127.0.0.1:{port}/control/calls?summary=1").json["total"]


def test_the_first_lines_say_what_it_runs_on_and_what_to_try(house):
    assert "the sandbox" in house.output
    assert "made for this run" in house.output
    assert f"curl '{house.url.replace('127.0.0.1', 'localhost')}/api/search?q=inception'" in (
        house.output
    )


def test_a_search_finds_a_film(house):
    answer = house.get("/api/search?q=inception")

    assert answer.status == 200
    assert answer.json["results"][0]["imdb_id"] == "tt1375666"


def test_a_film_has_all_nine_sections_and_no_warning(house):
    answer = house.get(INCEPTION)

    assert answer.status == 200
    assert all(answer.json[section] for section in SECTIONS)
    assert answer.json["warnings"] == []


def test_the_second_request_for_a_film_makes_no_upstream_call(house):
    house.get(INCEPTION)
    before = calls(house)

    for part in ("", "/trailer", "/streaming"):
        assert house.get(INCEPTION + part).status == 200

    assert calls(house) == before


def test_a_long_section_says_how_much_there_is(house):
    section = house.get("/api/films/tt4154796").json["credits"]

    assert len(section["credits"]) == 50
    assert section["totalCount"] > 50
    assert section["nextPageToken"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/films/tt9999999999", 404),
        ("/api/films/abc", 400),
        ("/api/nope", 404),
        ("/", 404),
        ("/accounts/login/", 404),
        ("/admin/", 404),
        ("/api/search", 400),
    ],
)
def test_every_error_has_the_one_shape_in_debug_too(house, path, status):
    answer = house.get(path)

    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/json"
    assert set(answer.json) == {"error_code", "message"}
    assert answer.json["error_code"] == str(status)


def test_a_host_that_is_not_ours_gets_our_400(house):
    answer = house.get(INCEPTION, Host="evil.example")

    assert answer.status == 400
    assert answer.json["error_code"] == "400"


def test_it_is_alive_and_ready(house):
    assert house.get("/healthz").status == 200
    assert house.get("/readyz").status == 200


def test_each_log_line_of_a_request_carries_its_correlation_id(house):
    house.get("/api/films/tt0068646", X_Correlation_ID="from-a-client.1")

    lines = [json.loads(line) for line in house.output.splitlines() if line.startswith("{")]
    mine = [line for line in lines if line["correlation_id"] == "from-a-client.1"]
    assert [line["message"] for line in mine].count("upstream call") == 10
    assert {line["film"] for line in mine} == {"tt0068646"}


def test_it_ends_when_told_to_and_takes_the_sandbox_with_it(tmp_path, django_db_blocker):
    with (
        django_db_blocker.unblock(),
        database(tmp_path) as url,
        server(tmp_path, DATABASE_URL=url) as running,
    ):
        port = re.search(r"sandbox on http://127\.0\.0\.1:(\d+)", running.output)[1]
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(timeout=15) == 0

        with pytest.raises(OSError, match="refused"):
            get(f"http://127.0.0.1:{port}/control/calls")
