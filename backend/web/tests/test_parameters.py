"""Query parameters as callers sent them."""

from urllib.parse import quote, quote_plus

import pytest
from django.test import Client, RequestFactory
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.request import Request

from core.errors import InvalidInput
from web.parameters import query_parameter


def parameter(query: str, name: str = "q") -> str | None:
    return query_parameter(RequestFactory().get("/", QUERY_STRING=query), name)


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ("q=inception", "inception"),
        ("q=a+b%20c", "a b c"),
        ("q=caf%C3%A9", "café"),
        ("q=caf\xc3\xa9", "café"),
        ("q=%F0%9F%8E%AC", "🎬"),
        ("q=%EF%BF%BD", "\ufffd"),
        ("q=", ""),
        ("q", ""),
        ("q=a&q=b", "b"),
        ("q=%ff&q=b", "b"),
        ("%71=a", "a"),
        ("other=1&q=a%26b%3Dc", "a&b=c"),
        ("x=%ff&q=a", "a"),
        ("%ff=1&q=a", "a"),
        ("q=a%00b", "a\x00b"),
        ("q=100%", "100%"),
        ("q=%zz", "%zz"),
        ("Q=a", None),
        ("", None),
    ],
)
def test_a_parameter_has_its_last_value(query, value):
    assert parameter(query) == value


@pytest.mark.parametrize(
    "value", ["%ff", "%C3", "\xff", "%C3%28", "%ED%A0%80", "a%80b", "%F5%80%80%80", "%C0%80"]
)
def test_a_value_that_is_not_utf_8_is_refused(value):
    with pytest.raises(InvalidInput, match="'q'"):
        parameter(f"q={value}")


@given(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from([quote, quote_plus]))
def test_any_text_comes_back(text, encode):
    assert parameter(f"a=1&q={encode(text, safe='')}") == text


def test_the_request_of_rest_framework_can_be_asked_as_well():
    request = Request(RequestFactory().get("/?q=a"))

    assert query_parameter(request, "q") == "a"


@pytest.mark.parametrize(
    "path",
    [
        "/api/search?q=%ff",
        "/api/v1/search/?query=%ff",
        "/api/v1/search/?query=a&page=%ff",
        "/api/v1/search/id/?id=%ff",
    ],
)
def test_each_endpoint_refuses_invalid_utf_8_in_what_it_reads(client: Client, path):
    answer = client.get(path)

    assert (answer.status_code, answer.json()["reason"]) == (400, "invalid_parameter")


@pytest.mark.parametrize("path", ["/healthz", "/api/films/abc", "/api/search"])
def test_invalid_utf_8_elsewhere_is_ignored(client: Client, path):
    assert client.get(f"{path}?x=%ff&%fe=1").content == client.get(path).content
