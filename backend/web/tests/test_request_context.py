"""What the WSGI fast path uses without Django's request."""

import pytest
from django.core.exceptions import DisallowedHost
from django.test import RequestFactory, override_settings
from hypothesis import given
from hypothesis import strategies as st

from core.utils.logging import correlation_id, film_id
from web.request_context import accepted_id, in_request_context, is_allowed_host


def test_log_lines_belong_to_the_request_only_while_it_lasts():
    with in_request_context("outer", film="tt1"):
        with in_request_context("inner"):
            within = correlation_id.get(), film_id.get()
        after = correlation_id.get(), film_id.get()

    assert within == ("inner", "-")
    assert after == ("outer", "tt1")
    assert (correlation_id.get(), film_id.get()) == ("-", "-")


def test_a_request_without_correlation_id_gets_one_of_128_random_bits():
    made = {accepted_id("") for _ in range(100)}

    assert len(made) == 100
    assert {len(each) for each in made} == {32}


ALLOWED = ["films.example", ".films.example", "127.0.0.1", "[::1]"]


def decision_of_django(environ) -> bool:
    request = RequestFactory().get("/")
    request.META = environ
    try:
        request.get_host()
    except DisallowedHost:
        return False
    return True


HOSTS = [
    "films.example",
    "FILMS.example",
    "films.example:8000",
    "films.example.",
    "a.films.example",
    "afilms.example",
    "127.0.0.1:80",
    "[::1]",
    "[::1]:8000",
    "::1",
    "films.example:port",
    "films.example,evil.test",
    "user@films.example",
    "evil.test",
    "",
    "x." * 200 + "films.example",
    "x" * 10_000,
]


@pytest.mark.parametrize("debug", [True, False])
@pytest.mark.parametrize("allowed", [ALLOWED, ["*"], []])
@pytest.mark.parametrize("host", HOSTS)
def test_a_host_is_accepted_as_django_accepts_it(host, allowed, debug):
    with override_settings(ALLOWED_HOSTS=allowed, DEBUG=debug):
        environ = {"HTTP_HOST": host, "SERVER_NAME": "10.0.0.1", "SERVER_PORT": "8000"}

        decisions = {is_allowed_host(environ) for _ in range(2)}

        assert decisions == {decision_of_django(environ)}


@given(st.text(st.characters(max_codepoint=255), max_size=20))
def test_no_host_header_makes_the_decision_differ_from_that_of_django(host):
    environ = {"HTTP_HOST": host, "SERVER_NAME": "127.0.0.1", "SERVER_PORT": "80"}

    assert is_allowed_host(environ) == decision_of_django(environ)


@pytest.mark.parametrize("name", ["127.0.0.1", "10.0.0.1"])
def test_without_a_host_header_the_name_of_the_server_decides(name):
    environ = {"SERVER_NAME": name, "SERVER_PORT": "8000", "wsgi.url_scheme": "http"}

    with override_settings(ALLOWED_HOSTS=["127.0.0.1"]):
        assert is_allowed_host(environ) == (name == "127.0.0.1") == decision_of_django(environ)


def test_a_changed_setting_is_followed():
    environ = {"HTTP_HOST": "films.example"}

    with override_settings(ALLOWED_HOSTS=["films.example"]):
        assert is_allowed_host(environ)
    with override_settings(ALLOWED_HOSTS=["other.example"]):
        assert not is_allowed_host(environ)
