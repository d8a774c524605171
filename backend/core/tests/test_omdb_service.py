import json
import logging
import ssl
from datetime import datetime, timedelta, timezone

import httpx
import pytest
import respx
from hypothesis import given
from hypothesis import strategies as st
from tenacity import wait_none

from core.errors import (
    InvalidInput,
    ServiceError,
    UpstreamBadAnswer,
    UpstreamError,
    UpstreamNotConfigured,
    UpstreamNotFound,
    UpstreamQuotaExhausted,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from core.services.circuit_breaker import BreakerPolicy, CircuitBreaker
from core.services.http_client import HttpClient, Reply
from core.services.omdb_service import _ERRORS, OmdbService

BASE = "https://omdb.test"
KEY = "canary5a"
LOST = {"Title": "Lost", "Year": "2004–2010", "imdbID": "tt0411008", "Response": "True"}
CONVERSION = (
    b'{"Response":"False","Error":"Conversion from string "3896198a" '
    b"to type 'Double' is not valid.\"}"
)


def make_service(key=KEY, attempts=1, breaker=None):
    http = HttpClient(
        timeout=1, attempts=attempts, ssl_context=ssl.create_default_context(), wait=wait_none()
    )
    return OmdbService(http=http, base_url=BASE, api_key=key, breaker=breaker)


def failed(text, status=200):
    return httpx.Response(status, json={"Response": "False", "Error": text})


@respx.mock
def test_a_title_is_requested_by_id_with_the_key_in_the_query():
    route = respx.get(f"{BASE}/").respond(json=LOST)

    assert make_service().get_title("tt0411008") == LOST
    assert dict(route.calls.last.request.url.params) == {"i": "tt0411008", "apikey": KEY}


@respx.mock
def test_a_search_returns_the_rows_and_the_total_as_text():
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


ROW = {"Title": "Lost", "imdbID": "tt0411008"}


def found(search, **fields):
    return httpx.Response(200, json={"Search": search, "Response": "True", **fields})


@pytest.mark.parametrize("total", ["abc\u202e", None, "", "1" * 30, -1, "9", 0])
@respx.mock
def test_a_page_has_at_most_ten_rows_and_an_invalid_total_is_replaced_by_the_known_minimum(total):
    respx.get(f"{BASE}/").mock(return_value=found([ROW] * 9000, totalResults=total))

    first, third = make_service().search("lost", 1), make_service().search("lost", 3)

    assert first == ([ROW] * 10, "10")
    assert third == ([ROW] * 10, "30")


@respx.mock
def test_rows_that_are_not_objects_are_dropped():
    respx.get(f"{BASE}/").mock(return_value=found([None, ROW, "x", []], totalResults="4"))

    assert make_service().search("lost") == ([ROW], "4")


@pytest.mark.parametrize(
    ("search", "total"),
    [
        (None, "12"),
        ("missing", "12"),
        ({}, "12"),
        ("Lost", None),
        ([], "12"),
        ([], 1),
        ([None, "x"], "2"),
        ([None], None),
    ],
)
@respx.mock
def test_a_success_without_the_rows_it_reports_is_a_bad_answer(search, total):
    fields = {} if search == "missing" else {"Search": search}
    respx.get(f"{BASE}/").respond(json={**fields, "totalResults": total, "Response": "True"})

    with pytest.raises(UpstreamBadAnswer):
        make_service().search("lost")


@pytest.mark.parametrize("text", ["Movie not found!", "Series not found!"])
@respx.mock
def test_a_page_without_matches_has_no_rows_and_no_total(text):
    respx.get(f"{BASE}/").mock(return_value=failed(text))

    assert make_service().search("qqq") == ([], None)


@pytest.mark.parametrize(
    ("page", "total", "known"), [(2, "10", "10"), (9, "12", "12"), (1, "0", None), (2, None, None)]
)
@respx.mock
def test_an_empty_page_past_the_end_keeps_the_total_if_there_is_one(page, total, known):
    respx.get(f"{BASE}/").mock(return_value=found([], totalResults=total))

    assert make_service().search("lost", page) == ([], known)


HTML = httpx.Response(200, html="<html>CAPTCHA</html>")

LIMIT = "Request limit reached!"
QUOTA = (UpstreamQuotaExhausted, "quota")
BAD_KEY = (UpstreamRejected, "bad_key")
ADVICE = (InvalidInput, None)
BAD_SHAPE = (UpstreamBadAnswer, "bad_shape")
BAD_JSON = (UpstreamBadAnswer, "bad_json")

ODD_ANSWERS = {
    "no such title": (failed("Movie not found!"), UpstreamNotFound, "not_found"),
    "no such series": (failed("Series not found!"), UpstreamNotFound, "not_found"),
    "no such id": (failed("Incorrect IMDb ID."), UpstreamNotFound, "not_found"),
    "no data yet": (failed("Error getting data."), UpstreamUnavailable, "no_data_yet"),
    "too many": (failed("Too many results."), *ADVICE),
    "too short": (failed("Must provide more than one character."), *ADVICE),
    "syntax": (failed("Syntax error near 'x'"), *ADVICE),
    "syntax of the database": (failed("Incorrect syntax near '%'."), *ADVICE),
    "open quotation": (failed("Unclosed quotation mark after the string 'x'."), *ADVICE),
    "null": (failed("Object reference not set to an instance of an object."), *ADVICE),
    "null with 500s on the way": (failed("OBJECT REFERENCE NOT SET…", 400), *ADVICE),
    "conversion": (failed("Conversion from string 'x' to type 'Double' is not valid."), *ADVICE),
    "format": (failed("Input string was not in a correct format."), *ADVICE),
    "no parameter": (failed("Something went wrong."), UpstreamBadAnswer, "something_went_wrong"),
    "error that is no JSON": (httpx.Response(200, content=CONVERSION), *BAD_JSON),
    "wrong key": (failed("Invalid API key!", 401), *BAD_KEY),
    "no key": (failed("No API key provided.", 401), *BAD_KEY),
    "wrong key with 200": (failed("Invalid API key!"), *BAD_KEY),
    "other 401": (failed("Account disabled.", 401), *BAD_KEY),
    "unreadable 401": (httpx.Response(401, html="<html>"), *BAD_KEY),
    "a list with 401": (httpx.Response(401, json=[]), *BAD_KEY),
    "quota": (failed(LIMIT, 401), *QUOTA),
    "quota, older": (failed("Daily request limit reached!", 401), *QUOTA),
    "quota with 200": (failed(LIMIT), *QUOTA),
    "quota with 403": (failed("REQUEST LIMIT REACHED", 403), *QUOTA),
    "quota without Response": (httpx.Response(401, json={"Error": LIMIT}), *QUOTA),
    "quota as text": (httpx.Response(401, text=LIMIT), *QUOTA),
    "quota in broken JSON": (httpx.Response(401, text=f'{{"Error":"{LIMIT}" "x"}}'), *QUOTA),
    "broken JSON of a title": (httpx.Response(200, text=f'{{"Plot":"{LIMIT}" "x"}}'), *BAD_JSON),
    "proxy": (httpx.Response(403, html="<html>"), UpstreamUnavailable, "http_403"),
    "wrong path": (httpx.Response(404, html="<html>"), UpstreamBadAnswer, "http_4xx"),
    "bad request": (httpx.Response(400, json={}), UpstreamBadAnswer, "http_4xx"),
    "success with 400": (httpx.Response(400, json=LOST), UpstreamBadAnswer, "http_4xx"),
    "outage as 200": (HTML, *BAD_JSON),
    "outage": (httpx.Response(522, html="<html>"), UpstreamUnavailable, "http_5xx"),
    "unknown error": (failed("The moon is full."), *BAD_SHAPE),
    "error without text": (httpx.Response(200, json={"Response": "False"}), *BAD_SHAPE),
    "nothing": (httpx.Response(200), *BAD_JSON),
    "no content": (httpx.Response(204), *BAD_JSON),
    "a list": (httpx.Response(200, json=[]), *BAD_SHAPE),
    "null as a whole": (httpx.Response(200, content=b"null"), *BAD_SHAPE),
    "an empty object": (httpx.Response(200, json={}), *BAD_SHAPE),
    "redirect": (
        httpx.Response(302, headers={"Location": "https://other.test/"}),
        UpstreamBadAnswer,
        "redirect_refused",
    ),
}


@pytest.mark.parametrize("name", ODD_ANSWERS)
@respx.mock
def test_each_odd_answer_becomes_the_error_that_it_means(name):
    answer, error, reason = ODD_ANSWERS[name]
    route = respx.get(f"{BASE}/").mock(return_value=answer)

    with pytest.raises(error) as caught:
        make_service().get_title("tt0411008")

    assert type(caught.value) is error
    assert getattr(caught.value, "reason", None) == reason
    assert KEY not in str(caught.value)
    assert route.call_count == 1


@pytest.mark.parametrize("response", ["True", "true", True])
@respx.mock
def test_a_success_is_a_success_whatever_its_texts_say(response):
    title = LOST | {"Response": response, "Error": "limit reached", "Plot": "Not found!"}
    respx.get(f"{BASE}/").respond(json=title)

    assert make_service().get_title("tt0411008") == title


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("Too many results.", "longer"),
        ("Must provide more than one character.", "two characters"),
        ("Syntax error near 'x'", "special characters"),
        ("Object reference not set to an instance of an object.", "other words"),
    ],
)
@respx.mock
def test_an_error_about_the_text_comes_with_advice(text, advice):
    respx.get(f"{BASE}/").mock(return_value=failed(text))

    with pytest.raises(InvalidInput, match=advice):
        make_service().search("x")


@respx.mock
def test_a_silent_source_is_a_timeout():
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
def test_invalid_json_in_a_plot_is_repaired(raw, plot):
    body = b'{"Title":"x","Plot":"' + raw + b'","Response":"True"}'
    respx.get(f"{BASE}/").respond(content=body)

    assert make_service().get_title("tt0079944")["Plot"] == plot


@respx.mock
def test_without_a_key_no_call_is_made():
    with pytest.raises(UpstreamNotConfigured):
        make_service(key="").get_title("tt0411008")

    assert not respx.calls


@respx.mock
def test_a_rejected_key_is_not_used_for_ten_minutes(caplog):
    start = datetime(2026, 5, 1, tzinfo=timezone.utc)
    moments = [start]
    service = make_service(breaker=CircuitBreaker("omdb", now=lambda: moments[-1]))
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
    "text", ["Error getting data.", LIMIT, "Incorrect IMDb ID.", "Syntax error near 'x'"]
)
@respx.mock
def test_errors_about_a_title_or_the_quota_do_not_stop_further_calls(text):
    service = make_service()
    route = respx.get(f"{BASE}/").mock(return_value=failed(text))

    for _ in range(7):
        with pytest.raises((UpstreamError, InvalidInput)):
            service.get_title("tt0411008")

    assert route.call_count == 7


@pytest.mark.parametrize("text", ["Movie not found!", LIMIT, "Syntax error near 'x'"])
@respx.mock
def test_an_error_about_a_title_or_the_quota_ends_a_series_of_failures(text):
    service = make_service(breaker=CircuitBreaker("omdb", policy=BreakerPolicy(failures=2)))
    route = respx.get(f"{BASE}/").mock(
        side_effect=[httpx.Response(503), failed(text), httpx.Response(503), failed(text)]
    )

    for _ in range(4):
        with pytest.raises(ServiceError):
            service.get_title("tt0411008")

    assert route.call_count == 4


@respx.mock
def test_each_attempt_is_counted():
    respx.get(f"{BASE}/").respond(503)
    service = make_service(attempts=3)

    with pytest.raises(UpstreamUnavailable):
        service.get_title("tt0411008")

    assert service.breaker.usage.take_attempts() == 3


@respx.mock
def test_no_log_line_contains_the_key(caplog):
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


@respx.mock
def test_the_status_check_reports_an_error_about_the_input_as_a_bad_answer():
    respx.get(f"{BASE}/").mock(return_value=failed("Syntax error near 'x'"))

    assert isinstance(make_service().get_status().error, UpstreamBadAnswer)


class CannedHttp:
    """Returns the same reply to every request."""

    def __init__(self, reply):
        self.reply = reply

    def get(self, *args, **options):
        return self.reply


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
ANSWERS = JSON_VALUES | st.fixed_dictionaries(
    {},
    optional={
        "Response": st.sampled_from(["True", "False", "true", True, None]) | JSON_VALUES,
        "Error": st.sampled_from([text for text, _ in _ERRORS]) | JSON_VALUES,
        "Search": st.lists(st.just(ROW) | JSON_VALUES) | JSON_VALUES,
        "totalResults": st.sampled_from(["0", "12", 12]) | JSON_VALUES,
    },
)


@given(ANSWERS, st.sampled_from([200, 400, 401, 403, 404, 429]), st.integers(1, 100))
def test_any_answer_is_a_page_or_one_of_our_errors(answer, status, page):
    http = CannedHttp(Reply(status, {}, json.dumps(answer).encode()))
    service = OmdbService(http=http, base_url=BASE, api_key=KEY)
    try:
        rows, total = service.search("lost", page)
    except ServiceError:
        return

    assert len(rows) <= 10
    assert all(isinstance(row, dict) for row in rows)
    assert total is None or int(total) >= 0
    assert not rows or int(total) >= 10 * (page - 1) + len(rows)
