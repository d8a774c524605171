"""What callers see of every fault of a source: two servers, one database, real sockets."""

import json
import re
import time
from contextlib import contextmanager

import pytest

from tools.harness.databases import (
    LONG_AGO,
    dump,
    eventually,
    execute,
    expire,
    forget_everything,
)
from tools.harness.faults import FAULTS, OTHER_TITLE, body
from tools.harness.server import database, get, on_sandbox, server

FILM = "/api/films/tt1375666"
OTHER = "/api/films/tt0068646"
DEADLINE = 1.5
QUICK = {"HTTP_TIMEOUT": "0.25", "HTTP_RETRIES": "2", "FETCH_DEADLINE": str(DEADLINE)}
CLOSED_PORT = "http://127.0.0.1:9"
# Of a row of `UpstreamState`: the circuit breaker is open.
IS_OPEN = "closed_until IS NOT NULL"


class Pair:
    """Two server processes on one database, and the sandbox that is their sources."""

    def __init__(self, one, other, url):
        self.one, self.other, self.url = one, other, url
        self.sandbox = None

    def get(self, path=FILM, *, server=None):
        """GET; whatever comes back must be a sound answer, in time."""
        started = time.monotonic()
        answer = (server or self.one).get(path)
        taken = time.monotonic() - started
        assert taken < DEADLINE + 0.5, f"{taken:.2f} s"
        assert_sound(answer)
        return answer

    def fault(self, kind, source, path="*", **options):
        self.sandbox.fault(kind, source=source, path=path, **options)

    def calls(self, source):
        return len(self.sandbox.paths(source))

    def wait_for_state(self, source, condition):
        """Wait until the processes share what one learned: a server answers first, then stores."""
        rows = f"SELECT 1 FROM core_upstreamstate WHERE source = '{source}' AND {condition}"
        eventually(lambda: execute(self.url, rows))


def assert_sound(answer):
    assert answer.status in {200, 404, 502, 503}
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Correlation-ID"]
    if answer.status == 200:
        assert len(answer.json) == 12
    else:
        assert set(answer.json) == {"error_code", "message", "reason"}
        assert answer.json["error_code"] == str(answer.status)
        assert ("Retry-After" in answer.headers) == (answer.status == 503)


def max_age(answer):
    return int(re.search(r"max-age=([0-9]+)", answer.headers["Cache-Control"])[1])


def codes(answer):
    return {warning["section"]: warning["code"] for warning in answer.json["warnings"]}


@contextmanager
def two_servers(folder, sandbox, **settings):
    with database(folder) as url:
        options = on_sandbox(
            sandbox.url, DATABASE_URL=url, HOT_SECONDS="0", **{**QUICK, **settings}
        )
        with server(folder, **options) as one, server(folder, **options) as other:
            yield Pair(one, other, url)


@pytest.fixture(scope="module")
def _pair(tmp_path_factory, _sandbox_process):
    with two_servers(tmp_path_factory.mktemp("pair"), _sandbox_process) as pair:
        yield pair


@pytest.fixture
def pair(_pair, sandbox):
    """Nothing is stored, nothing is known about the sources, and they are well."""
    forget_everything(_pair.url)
    _pair.sandbox = sandbox
    return _pair


each_fault = pytest.mark.parametrize(
    ("kind", "options", "code", "status"), FAULTS, ids=[f"{n}-{f[0]}" for n, f in enumerate(FAULTS)]
)


@each_fault
def test_a_fault_of_one_source_costs_its_section_or_the_film_and_never_what_is_stored(
    pair, kind, options, code, status
):
    if kind == "nan":
        options = {**options, "field": "id"}
    # On a section that a film can do without.
    pair.fault(kind, "kinocheck", **options)
    answer = pair.get()
    assert pair.sandbox.fired()[0] > 0
    assert answer.status == 200
    assert (answer.json["trailer"], codes(answer)) == (None, {"trailer": code})
    assert answer.json["metadata"]["primaryTitle"] == "Inception"
    good = {**answer.json, "warnings": []}

    # On the core, for a film that is stored and past its time.
    pair.sandbox.clear_faults()
    expire(pair.url)
    pair.fault(kind, "imdbapi", "/titles/tt1375666", **options)
    answer = pair.get()
    assert pair.sandbox.fired()[0] > 0
    assert answer.status == 200
    assert codes(answer)["metadata"] == "stale"
    assert answer.json["metadata"] == good["metadata"]
    # Until the next attempt: an hour if the source has something against this title.
    is_against_title = options.get("status") in {400, 418} or options == OTHER_TITLE
    assert 30 <= max_age(answer) <= (3600 if is_against_title else 60)
    assert "Age" not in answer.headers

    # On the core, with nothing stored.
    pair.sandbox.clear_faults()
    pair.fault(kind, "imdbapi", "/titles/tt1375666", **options)
    answers = []

    def is_asked():
        # The first process may store only now that the source failed.
        forget_everything(pair.url)
        answers.append(pair.get(server=pair.other))
        return pair.sandbox.fired()[0] > 0

    eventually(is_asked)
    assert answers[-1].status == status
    assert execute(pair.url, "SELECT count(*) FROM films_film") == [(0,)]
    assert not [call for call in pair.sandbox.calls() if call["source"] == "other"]


def test_the_good_parts_are_stored_and_a_failed_one_never_as_an_empty_success(pair):
    pair.fault("hang", "kinocheck")
    pair.get()

    again = pair.get(server=pair.other)

    assert (again.json["trailer"], codes(again)) == (None, {"trailer": "timeout"})
    assert pair.calls("imdbapi") == 7


@pytest.mark.parametrize("kind", ["nul", "surrogate"])
def test_characters_that_no_column_holds_are_taken_out_and_the_film_is_stored(pair, kind):
    pair.fault(kind, "imdbapi", "/titles/tt1375666")

    cold, warm = pair.get(), pair.get(server=pair.other)

    assert pair.sandbox.fired() == [1]
    assert cold.status == 200
    assert cold.body == warm.body
    assert cold.headers["ETag"] == warm.headers["ETag"]
    assert execute(pair.url, "SELECT count(*) FROM films_film") == [(1,)]


@pytest.mark.parametrize(
    ("patch", "row"),
    [
        ({"primaryTitle": "x" * 600}, ("x" * 512, 2010)),
        ({"primaryTitle": "\N{FILM FRAMES}" * 513}, ("\N{FILM FRAMES}" * 512, 2010)),
        ({"startYear": 2**31}, ("Inception", None)),
        ({"startYear": "2010"}, ("Inception", None)),
        ({"startYear": True}, ("Inception", None)),
        ({"primaryImage": {"url": "javascript:alert(1)"}}, ("Inception", 2010)),
        ({"primaryImage": {"url": "https://images.test/" + "x" * 2000}}, ("Inception", 2010)),
        ({"primaryImage": "x", "genres": "x", "plot": 5}, ("Inception", 2010)),
        ({"plot": "<script>\u202e\\u0007</script>"}, ("Inception", 2010)),
    ],
)
def test_values_that_no_column_holds_are_clipped_or_left_out(pair, patch, row):
    pair.fault("patch", "imdbapi", "/titles/tt1375666", patch=patch)

    cold, warm = pair.get(), pair.get(server=pair.other)

    assert pair.sandbox.fired() == [1]
    assert (cold.status, cold.body) == (200, warm.body)
    assert execute(pair.url, "SELECT title, year FROM films_film") == [row]


def test_a_byte_order_mark_does_no_harm(pair):
    real = json.dumps({"id": "tt1375666", "primaryTitle": "Inception"}).encode()
    pair.fault("body", "imdbapi", "/titles/tt1375666", **body(b"\xef\xbb\xbf" + real))

    assert pair.get().json["title"] == "Inception"


def test_a_source_that_answers_with_headers_of_ours_does_not_get_them_through(pair):
    headers = {"X-Correlation-ID": "theirs", "Content-Type": "text/html; charset=utf-7"}
    pair.fault("headers", "imdbapi", headers=headers)

    answer = pair.get()

    assert pair.sandbox.fired()[0] == 7
    assert answer.headers["X-Correlation-ID"] != "theirs"


def test_a_part_that_the_source_does_not_have_is_no_fault(pair):
    for status in (404, 410, 451):
        forget_everything(pair.url)
        pair.fault("status", "imdbapi", "*/images", status=status)

        answer = pair.get()

        assert (answer.json["images"], codes(answer)) == ({}, {})
        assert pair.sandbox.fired()[0] == 1


@pytest.mark.parametrize(
    "fault",
    [
        ("status", {"status": 404}),
        ("status", {"status": 410}),
        ("body", body(b'{"code": 5, "message": "title not found", "details": []}')),
    ],
)
def test_an_unknown_title_is_404_and_requested_once_by_all_processes(pair, fault):
    kind, options = fault
    pair.fault(kind, "imdbapi", "/titles/tt1375666", **options)
    assert pair.get().status == 404
    pair.sandbox.clear_faults()
    calls = len(pair.sandbox.calls())

    assert pair.get().status == 404
    assert pair.get(server=pair.other).status == 404

    assert len(pair.sandbox.calls()) == calls
    assert execute(pair.url, "SELECT count(*) FROM films_film") == [(0,)]


# Closed for all processes


def test_after_a_503_no_process_calls_the_source_before_its_retry_after_ends(pair):
    pair.fault(
        "status", "imdbapi", "/titles/tt1375666", status=503, headers={"Retry-After": "2"}, times=1
    )
    asked_at = time.monotonic()
    first = pair.get()
    assert (first.status, first.headers["Retry-After"]) == (503, "2")
    pair.wait_for_state("imdbapi", IS_OPEN)
    calls = pair.calls("imdbapi")

    while time.monotonic() < asked_at + 1.8:
        refused = pair.get(OTHER, server=pair.other)
        assert refused.status == 503
        assert 1 <= int(refused.headers["Retry-After"]) <= 2
        time.sleep(0.1)
    assert pair.calls("imdbapi") == calls
    time.sleep(max(0.0, asked_at + 2.2 - time.monotonic()))

    assert pair.get(OTHER, server=pair.other).status == 200
    assert pair.get().status == 200


@pytest.mark.parametrize(
    ("retry_after", "least", "most"), [("30", 25, 30), (None, 25, 33), ("31536000", 890, 900)]
)
def test_after_a_429_each_process_leaves_the_source_alone(pair, retry_after, least, most):
    pair.fault("rate_limited", "imdbapi", "/titles/tt1375666", retry_after=retry_after, times=1)
    assert least <= int(pair.get().headers["Retry-After"]) <= most
    pair.wait_for_state("imdbapi", IS_OPEN)
    calls = pair.calls("imdbapi")

    for which in (pair.one, pair.other) * 3:
        answer = pair.get(OTHER, server=which)
        assert answer.status == 503
        assert least <= int(answer.headers["Retry-After"]) <= most

    assert pair.calls("imdbapi") == calls


def test_the_wait_after_a_429_doubles_from_probe_to_probe(pair):
    pair.fault("rate_limited", "imdbapi", "/titles/*")
    waits = []
    for _ in range(3):
        for which in (pair.one, pair.other):
            waits.append(int(pair.get(OTHER, server=which).headers["Retry-After"]))
            pair.wait_for_state("imdbapi", f"strikes = {len(waits)}")
            # The time passes.
            execute(pair.url, f"UPDATE core_upstreamstate SET closed_until = '{LONG_AGO}'")

    for wait, base in zip(waits, (30, 60, 120, 240, 480, 900), strict=True):
        assert base - 5 <= wait <= base * 1.1 + 1


def test_a_key_that_is_rejected_is_not_shown_again_by_anybody(pair):
    pair.sandbox.set("kinocheck", keys=["another-key"])
    assert codes(pair.get()) == {"trailer": "rejected"}
    pair.wait_for_state("kinocheck", IS_OPEN)
    calls = pair.calls("kinocheck")

    for which in (pair.one, pair.other):
        for film in ("tt0111161", "tt0068646"):
            forget = f"DELETE FROM films_film WHERE imdb_id = '{film}'"
            execute(pair.url, f"DELETE FROM films_filmrendering WHERE imdb_id = '{film}'", forget)
            answer = pair.get(f"/api/films/{film}", server=which)
            assert codes(answer) == {"trailer": "rejected"}

    assert pair.calls("kinocheck") == calls
    lines = [json.loads(line) for line in pair.one.output.splitlines() if line.startswith("{")]
    assert [line for line in lines if line["level"] == "ERROR" and line["outcome"] == "bad_key"]


@pytest.mark.parametrize("status", [401, 402, 429])
def test_a_used_up_quota_is_reported_and_not_tried_again(pair, status):
    pair.sandbox.set("watchmode", quota=1000, quota_used=1000, quota_status=status)
    assert codes(pair.get()) == {"streaming": "quota_exhausted"}
    pair.wait_for_state("watchmode", IS_OPEN)
    calls = pair.calls("watchmode")

    assert codes(pair.get(OTHER, server=pair.other)) == {"streaming": "quota_exhausted"}

    assert pair.calls("watchmode") == calls


def test_a_quota_that_is_nearly_used_up_is_left_to_films_that_are_stored(pair):
    pair.get()
    pair.sandbox.set("watchmode", quota=1000, quota_used=950)
    expire(pair.url)
    pair.get()
    pair.wait_for_state("watchmode", "quota_used >= 950")
    calls = pair.calls("watchmode")

    assert codes(pair.get(OTHER, server=pair.other)) == {"streaming": "quota_exhausted"}

    assert pair.calls("watchmode") == calls
    expire(pair.url)
    assert codes(pair.get()) == {}


def test_a_dead_source_is_probed_once_per_interval_by_all_processes_and_used_when_it_is_back(pair):
    pair.fault("status", "kinocheck", status=500)
    for number in range(3):
        pair.get(f"/api/films/{('tt0111161', 'tt0068646', 'tt1375666')[number]}")
    calls, closed = pair.calls("kinocheck"), time.monotonic()
    assert calls <= 6
    pair.wait_for_state("kinocheck", IS_OPEN)

    for film in ("tt0133093", "tt0903747", "tt2758880", "tt0245429"):
        assert codes(pair.get(f"/api/films/{film}", server=pair.other)) == {
            "trailer": "unavailable"
        }
    assert pair.calls("kinocheck") <= calls + 1
    pair.sandbox.clear_faults()
    time.sleep(max(0.0, closed + 5.2 - time.monotonic()))

    assert codes(pair.get("/api/films/tt0096697", server=pair.other)) == {}
    assert codes(pair.get("/api/films/tt7366338")) == {}


# Sources that cannot be reached at all


@pytest.fixture(scope="module")
def isolated(tmp_path_factory, _sandbox_process):
    """A server with a proxy in its environment, one source on a closed port, one without name."""
    folder = tmp_path_factory.mktemp("isolated")
    with database(folder) as url:
        options = on_sandbox(
            _sandbox_process.url,
            DATABASE_URL=url,
            **QUICK,
            KINO_BASE=CLOSED_PORT,
            WATCHMODE_BASE="http://..invalid",
            HTTP_PROXY=CLOSED_PORT,
            HTTPS_PROXY=CLOSED_PORT,
            ALL_PROXY=CLOSED_PORT,
            http_proxy=CLOSED_PORT,
        )
        with server(folder, **options) as running:
            yield running


def test_unreachable_sources_cost_their_sections_and_no_proxy_is_used(isolated, sandbox):
    started = time.monotonic()

    answer = isolated.get(FILM)

    assert time.monotonic() - started < 1.5
    assert codes(answer) == {"trailer": "unavailable", "streaming": "unavailable"}
    assert len(sandbox.paths("imdbapi")) == 7
    outcomes = {
        line["outcome"]
        for line in map(
            json.loads, filter(lambda x: x.startswith("{"), isolated.output.split("\n"))
        )
        if line["message"] == "upstream call"
    }
    assert outcomes == {"ok", "connection_refused", "dns_error"}


# Keys

KEYS = {
    "KINO_API_KEY": "canary-kino-4f1d",
    "WATCHMODE_API_KEY": "canary-watch-77ab",
    "DJANGO_SECRET_KEY": "canary-secret-" + "0123456789abcdef" * 4,
}
CONTROL = "control-55e2"


def test_keys_are_seen_nowhere_and_the_search_would_find_them(tmp_path, sandbox):
    seen = []
    sandbox.set("kinocheck", keys=[KEYS["KINO_API_KEY"]])
    sandbox.set("watchmode", keys=[KEYS["WATCHMODE_API_KEY"]])
    plot = f"{CONTROL} {KEYS['KINO_API_KEY']} {KEYS['WATCHMODE_API_KEY']}"
    sandbox.fault("patch", source="imdbapi", path="/titles/tt1375666", patch={"plot": plot})
    with database(tmp_path) as url:
        options = on_sandbox(sandbox.url, DATABASE_URL=url, **QUICK, HOT_SECONDS="0")
        debug = {"LOG_LEVEL": "DEBUG", "DJANGO_DEBUG": "True"}
        with server(tmp_path, **{**options, **KEYS, **debug}) as running:

            def look(path):
                answer = get(running.url + path, X_Correlation_ID=CONTROL)
                seen.append(f"{answer.headers}{answer.body.decode()}")
                return answer

            assert codes(look(FILM)) == {}
            # IMDb last: while metadata fails, the other sources are not called.
            for source in ("kinocheck", "watchmode", "imdbapi"):
                for kind in ("echo_key", "redirect", "html", "reset"):
                    location = {"location": f"/?key={KEYS['KINO_API_KEY']}"}
                    sandbox.clear_faults()
                    sandbox.fault(
                        kind,
                        source=source,
                        path="*/tt0068646" if source == "imdbapi" else "*",
                        **(location if kind == "redirect" else {}),
                    )
                    execute(url, "DELETE FROM core_upstreamstate")
                    expire(url)
                    look(OTHER)
                    assert sandbox.fired()[0] > 0
            for path in ("/metrics", "/readyz", "/api/nope", "/api/search?q=x", "/api/schema"):
                look(path)
            log, stored = running.output, dump(url)

    places = {"log": log, "answers": "\n".join(seen), "database": stored}
    for place, text in places.items():
        assert CONTROL in text, place
        for key in KEYS.values():
            assert key not in text, place
    keys_sent = {call["key_in"] for call in sandbox.calls() if call["source"] != "imdbapi"}
    assert keys_sent == {"header"}
