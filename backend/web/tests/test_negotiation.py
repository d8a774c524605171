"""Which clients get gzip."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from web.negotiation import accepts_gzip


@pytest.mark.parametrize(
    "header",
    [
        "gzip",
        "GZIP",
        "x-gzip",
        "gzip, deflate, br",
        "br,gzip",
        "deflate,\tgzip",
        "gzip;q=1",
        "gzip;q=1.000",
        "gzip;q=0.5",
        "gzip;q=0.001",
        "gzip; q=0.5",
        "gzip\t;\tq=0.5\t, br",
        "gzip;Q=0.5",
        "*",
        "*;q=0.1",
        "br, *;q=0.1",
        "identity;q=0, *",
        "*;q=0, gzip",
        "gzip, *;q=0",
    ],
)
def test_gzip_is_accepted(header):
    assert accepts_gzip(header)


@pytest.mark.parametrize(
    "header",
    [
        "",
        " ",
        ",",
        "br",
        "identity",
        "deflate, br",
        "notgzip",
        "gzipped",
        "gzip;q=0",
        "gzip;q=0.",
        "gzip;q=0.000",
        "gzip; q=0",
        "gzip;\tq=0",
        "gzip\t;q=0",
        "gzip \t; \tq=0.00 ",
        "GZIP;Q=0",
        "x-gzip;q=0",
        "gzip;q=0, *",
        "*, gzip;q=0",
        "*;q=0",
        "*;\tq=0.0",
        "gzip;q=",
        "gzip;q=abc",
        "gzip;q=0.0000",
        "gzip;q=2",
        "gzip;q=1.001",
        "gzip;q=-1",
        "gzip;",
        "gzip;level=9",
        "br;q=1;gzip",
    ],
)
def test_gzip_is_not_accepted(header):
    assert not accepts_gzip(header)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["gzip", "br", "*", "identity"]),
            st.sampled_from(["", " ", "\t", " \t"]),
            st.integers(0, 1000),
        ),
        unique_by=lambda each: each[0],
    )
)
def test_the_weight_of_gzip_or_else_of_the_rest_decides(items):
    header = ",".join(f"{name}{blank};{blank}q={weight / 1000}" for name, blank, weight in items)
    weights = {name: weight for name, _, weight in items}

    assert accepts_gzip(header) == (weights.get("gzip", weights.get("*", 0)) > 0)
