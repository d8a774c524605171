import logging
import ssl
from datetime import datetime, timedelta, timezone

import httpx
import pytest
import respx
from tenacity import wait_none

from core.errors import (
    InvalidInput,
    UpstreamBadAnswer,
    UpstreamError,
    UpstreamNotConfigured,
    UpstreamNotFound,
    UpstreamQuotaExhausted,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from core.services.gate import Gate
from core.services.http_client import HttpClient
from core.services.omdb_service import OmdbService

BASE = "https://omdb.test"
KEY = "canary5a"
LOST = {"Title": "Lost", "Year": "2004–2010", "imdbID": "tt0411008", "Response": "True"}
CONVERSION = (
    b'{"Response":"False","Error":"Conversion from string "3896198a" '
    b"to type 'Double' is not valid.\"}"
)


def make_service(key=KEY, attempts=1, gate=None):
    http = HttpClient(
        timeout=1, attempts=attempts, ssl_context=ssl.create_default_context(), wait=wait_none()
    )
    return OmdbService(http=http, base_url=BASE, api_key=key, gate=gate)


def failed(text, status=200):
    return httpx.Response(status, json={"Response": "False", "Error": text})


@respx.mock
def test_a_title_is_asked_for_by_id_with_the_key_in_the_query():
    route = respx.get(f"{BASE}/").respond(json=LOST)

    assert make_service().get_title("tt0411008") == LOST
    assert dict(route.calls.last.request.url.params) == {"i": "tt0411008", "apikey": KEY}


@respx.mock
def test_a_search_gives_the_rows_and_the_total_as_text():
    row = {"Title": "Lost", "imdbID": "tt0411008"}
    route = respx.get(f"{BASE}/").respond(
        json={"Search": [row], "totalResults": "98", "Response": "True"}
    )

    assert make_service().search("lost & found", 3) == ([row], "98")
    assert dict(route.calls.last.request.url.params) == {
        "s": "lost & found",
        "page": "3",
        "apikey": KEY,
    }


@respx.mock
@pytest.mark.parametrize("total", ["abc\u202e", None, "", "1" * 30, -1])
def test_more_rows_than_a_page_has_are_cut_and_a_total_that_is_none_is_not_passed_on(total):
    rows = [{"Title": "Lost", "imdbID": "tt0411008"}] * 9000
    respx.get(f"{BASE}/").respond(json={"Search": rows, "totalResults": total, "Response": "True"})

    found, told = make_service().search("lost", 1)

    assert len(found) == 10
    assert told == "10"


@pytest.mark.parametrize("text", ["Movie not found!", "Series not found!"])
@respx.mock
def test_a_search_without_match_is_an_empty_list(text):
    respx.get(f"{BASE}/").mock(return_value=failed(text))

    assert make_service().search("qqq") == ([], "0")


HTML = httpx.Response(200, html="<html>CAPTCHA</html>")

ODD_ANSWERS = {
    "no such title": (failed("Movie not found!"), UpstreamNotFound, "not_found"),
    "no such series": (failed("Series not found!"), UpstreamNotFound, "not_found"),
    "no such id": (failed("Incorrect IMDb ID."), UpstreamNotFound, "not_found"),
    "not read yet": (failed("Error getting data."), UpstreamUnavailable, "no_data_yet"),
    "too many": (failed("Too many results."), InvalidInput, None),
    "no parameter": (failed("Something went wrong."), UpstreamBadAnswer, "something_went_wrong"),
    "error that is no JSON": (
        httpx.Response(200, content=CONVERSION),
        UpstreamBadAnswer,
        "bad_json",
    ),
    "wrong key": (failed("Invalid API key!", 401), UpstreamRejected, "bad_key"),
    "no key": (failed("No API key provided.", 401), UpstreamRejected, "bad_key"),
    "unreadable 401": (httpx.Response(401, html="<html>"), UpstreamRejected, "bad_key"),
    "quota": (failed("Request limit reached!", 401), UpstreamQuotaExhausted, "quota"),
    "quota, older": (failed("Daily request limit reached!", 401), UpstreamQuotaExhausted, "quota"),
    "quota with 200": (failed("Request limit reached!", 200), UpstreamQuotaExhausted, "quota"),
    "quota with 403": (failed("REQUEST LIMIT REACHED", 403), UpstreamQuotaExhausted, "quota"),
    "shield": (httpx.Response(403, html="<html>"), UpstreamUnavailable, "http_403"),
    "wrong path": (httpx.Response(404, html="<html>"), UpstreamBadAnswer, "http_4xx"),
    "bad request": (httpx.Response(400, json={}), UpstreamBadAnswer, "http_4xx"),
    "outage as 200": (HTML, UpstreamBadAnswer, "bad_json"),
    "outage": (httpx.Response(522, html="<html>"), UpstreamUnavailable, "http_5xx"),
    "unknown error": (failed("syntax error near 'x'"), UpstreamBadAnswer, "bad_shape"),
    "nothing": (httpx.Response(200), UpstreamBadAnswer, "bad_json"),
    "no content": (httpx.Response(204), UpstreamBadAnswer, "bad_json"),
    "a list": (httpx.Response(200, json=[]), UpstreamBadAnswer, "bad_shape"),
    "null": (httpx.Response(200, content=b"null"), UpstreamBadAnswer, "bad_shape"),
    "an empty object": (httpx.Response(200, json={}), UpstreamBadAnswer, "bad_shape"),
    "redirect": (
        httpx.Response(302, headers={"Location": "https://other.test/"}),
        UpstreamBadAnswer,
        "redirect_refused",
    ),
}


@pytest.mark.parametrize("name", ODD_ANSWERS)
@respx.mock
def test_an_odd_answer_is_told_by_its_meaning(name):
    answer, error, reason = ODD_ANSWERS[name]
    route = respx.get(f"{BASE}/").mock(return_value=answer)

    with pytest.raises(error) as caught:
        make_service().get_title("tt0411008")

    assert getattr(caught.value, "reason", None) == reason
    assert KEY not in str(caught.value)
    assert route.call_count == 1


@respx.mock
def test_no_answer_in_time_is_a_timeout():
    respx.get(f"{BASE}/").mock(side_effect=httpx.ReadTimeout)

    with pytest.raises(UpstreamTimeout):
        make_service().get_title("tt0411008")


@pytest.mark.parametrize(
    ("raw", "plot"),
    [
        (rb"an inner\spiritual way", "an innerspiritual way"),
        (rb"it\'s", "it's"),
        (rb"half \u12 escape", "half u12 escape"),
        (rb"good \u00e9, \\ and \" stay \x", 'good é, \\ and " stay x'),
        (b"a\ttab and \x1f\x08\x0b\x1a more", "a\ttab and  more"),
        (b"\xef\xbb\xbf".join([b"", b"BOM inside"]), "\ufeffBOM inside"),
        (rb"NUL \u0000 and half \ud83d", "NUL  and half \ufffd"),
    ],
)
@respx.mock
def test_json_put_together_by_hand_is_read_all_the_same(raw, plot):
    body = b'{"Title":"x","Plot":"' + raw + b'","Response":"True"}'
    respx.get(f"{BASE}/").respond(content=body)

    assert make_service().get_title("tt0079944")["Plot"] == plot


@respx.mock
def test_without_a_key_nobody_is_asked():
    with pytest.raises(UpstreamNotConfigured):
        make_service(key="").get_title("tt0411008")

    assert not respx.calls


@respx.mock
def test_a_refused_key_is_not_tried_again_for_ten_minutes(caplog):
    start = datetime(2026, 5, 1, tzinfo=timezone.utc)
    moments = [start]
    service = make_service(gate=Gate("omdb", now=lambda: moments[-1]))
    route = respx.get(f"{BASE}/").mock(return_value=failed("Invalid API key!", 401))
    waits = []
    for seconds in (0, 200):
        moments.append(start + timedelta(seconds=seconds))
        with pytest.raises(UpstreamRejected) as caught:
            service.get_title("tt0411008")
        waits.append(caught.value.retry_after)
    route.respond(json=LOST)
    moments.append(start + timedelta(seconds=600))

    assert waits == [600, 400]
    assert route.call_count == 1
    assert service.get_title("tt0411008") == LOST
    assert [record.outcome for record in caplog.records if record.levelname == "ERROR"] == [
        "bad_key"
    ]


@pytest.mark.parametrize(
    "text", ["Error getting data.", "Request limit reached!", "Incorrect IMDb ID."]
)
@respx.mock
def test_what_is_said_of_a_title_or_of_the_day_does_not_close_the_source(text):
    service = make_service()
    route = respx.get(f"{BASE}/").mock(return_value=failed(text))

    for _ in range(7):
        with pytest.raises(UpstreamError):
            service.get_title("tt0411008")

    assert route.call_count == 7


@respx.mock
def test_each_try_that_goes_out_is_told_before_it_does():
    respx.get(f"{BASE}/").respond(503)
    tries = []

    with pytest.raises(UpstreamUnavailable):
        make_service(attempts=3).get_title("tt0411008", before_attempt=lambda: tries.append(1))

    assert tries == [1, 1, 1]


@respx.mock
def test_the_key_is_in_no_log_line(caplog):
    caplog.set_level(logging.DEBUG)
    respx.get(f"{BASE}/").mock(
        side_effect=[httpx.ConnectError(f"no way to {BASE}/?apikey={KEY}"), failed(f"{KEY}?", 401)]
    )
    service = make_service()

    for _ in range(2):
        with pytest.raises(UpstreamUnavailable):
            service.get_title("tt0411008")

    assert caplog.records
    assert KEY not in caplog.text
    assert not any(KEY in repr(vars(record)) for record in caplog.records)
