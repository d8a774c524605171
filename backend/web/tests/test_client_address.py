"""For which address a request counts."""

import pytest
from django.conf import settings
from django.test import RequestFactory, override_settings
from hypothesis import given
from hypothesis import strategies as st

from web.client_address import client_address


def address(*, proxies=0, remote="192.0.2.1", forwarded=None):
    headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
    request = RequestFactory().get("/", REMOTE_ADDR=remote, headers=headers)
    with override_settings(REST_FRAMEWORK=settings.REST_FRAMEWORK | {"NUM_PROXIES": proxies}):
        return client_address(request)


@pytest.mark.parametrize(
    ("sent", "counted"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("198.51.100.7:4711", "198.51.100.7"),
        (" 198.51.100.7 ", "198.51.100.7"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("::ffff:c633:6407", "198.51.100.7"),
        ("[::ffff:198.51.100.7]:4711", "198.51.100.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::9]:4711", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::9]", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::9", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
    ],
)
def test_an_address_counts_without_port_and_ipv6_by_its_network(sent, counted):
    assert address(remote=sent) == counted
    assert address(proxies=1, forwarded=sent) == counted
    assert address(proxies=1, forwarded=f"203.0.113.5, {sent}") == counted


@pytest.mark.parametrize(
    "sent", ["", " ", "unknown", "_hidden", "198.51.100", "198.51.100.7.8", "[", "1.2.3.4:5:6", "é"]
)
def test_what_is_no_address_counts_for_the_proxy(sent):
    assert address(proxies=1, remote="192.0.2.1:80", forwarded=sent) == "192.0.2.1"


@pytest.mark.parametrize(
    ("proxies", "counted"),
    [(0, "192.0.2.1"), (1, "10.0.0.3"), (2, "10.0.0.2"), (3, "10.0.0.1"), (9, "10.0.0.1")],
)
def test_the_address_is_the_one_that_the_last_trusted_proxy_saw(proxies, counted):
    assert address(proxies=proxies, forwarded="10.0.0.1, 10.0.0.2,10.0.0.3") == counted


def test_without_a_forwarded_address_the_connection_counts():
    assert address(proxies=2) == "192.0.2.1"


def test_a_connection_without_address_has_one_count_of_its_own():
    assert address(remote="") == ""


@given(st.ip_addresses(v=6), st.integers(0, 2**64 - 1))
def test_all_addresses_of_a_network_count_together(any_address, suffix):
    first = address(remote=str(any_address))
    neighbour = type(any_address)((int(any_address) >> 64 << 64) | suffix)

    if any_address.ipv4_mapped or neighbour.ipv4_mapped:
        return
    assert first == address(remote=str(neighbour))


@given(st.text(max_size=60))
def test_no_forwarded_text_makes_it_fail(text):
    assert address(proxies=1, forwarded=text.encode().decode("latin-1"))
