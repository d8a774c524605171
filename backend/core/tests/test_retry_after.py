from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.services.retry_after import LONGEST, seconds_to_wait

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("1", 1),
        ("3", 3),
        (" 30 ", 30),
        ("900", 900),
        ("901", 900),
        ("31536000", 900),
        ("9" * 20, 900),
        ("Sat, 21 Nov 2026 12:00:07 GMT", 7),
        ("Sat, 21 Nov 2026 13:00:07 +0100", 7),
        ("Sat, 21 Nov 2026 12:00:07 -0000", 7),
        ("Sat, 21 Nov 2026 12:00:01 GMT", 1),
        ("Sat, 21 Nov 2026 12:15:01 GMT", 900),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 900),
    ],
)
def test_seconds_and_dates_are_read(header: str, seconds: float) -> None:
    assert seconds_to_wait(header, NOW) == seconds


@pytest.mark.parametrize(
    "header",
    [None, "", " ", "-1", "1.5", "+3", "1e3", "soon", "\u0663", "\uff13", "0x10", "inf", "9" * 21],
)
def test_any_other_value_is_ignored(header: str | None) -> None:
    assert seconds_to_wait(header, NOW) is None


@pytest.mark.parametrize(
    "header",
    [
        "0",
        "000",
        "Sat, 21 Nov 2026 12:00:00 GMT",
        "Sat, 21 Nov 2026 11:59:59 GMT",
        "Thu, 01 Jan 1970 00:00:00 GMT",
    ],
)
def test_a_wait_that_is_over_is_ignored(header: str) -> None:
    assert seconds_to_wait(header, NOW) is None


dates = st.builds(
    "{}, {} {} {} {}:{}:{} {}".format,
    st.sampled_from(["Mon", "Sat", ""]),
    st.integers(-1, 40),
    st.sampled_from(["Jan", "Feb", "Nov", "Foo"]),
    st.integers(0, 100_000),
    st.integers(0, 99),
    st.integers(0, 99),
    st.integers(0, 99),
    st.sampled_from(["GMT", "+0000", "-0000", "+9999", "-9999", "+999999999999", "EST", ""]),
)


@given(st.text() | dates)
def test_no_text_raises_or_returns_a_wait_out_of_bounds(text: str) -> None:
    seconds = seconds_to_wait(text, NOW)

    assert seconds is None or 0 < seconds <= LONGEST
