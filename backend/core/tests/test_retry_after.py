from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.services.retry_after import LONGEST, seconds_to_wait

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0),
        ("3", 3),
        (" 30 ", 30),
        ("900", 900),
        ("901", 900),
        ("31536000", 900),
        ("9" * 20, 900),
        ("Sat, 21 Nov 2026 12:00:07 GMT", 7),
        ("Sat, 21 Nov 2026 13:00:07 +0100", 7),
        ("Sat, 21 Nov 2026 12:00:07 -0000", 7),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 900),
    ],
)
def test_seconds_and_dates_are_understood(header: str, seconds: float) -> None:
    assert seconds_to_wait(header, NOW) == seconds


@pytest.mark.parametrize(
    "header",
    [None, "", " ", "-1", "1.5", "+3", "1e3", "soon", "\u0663", "\uff13", "0x10", "inf", "9" * 21],
)
def test_anything_else_is_no_answer(header: str | None) -> None:
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
def test_no_text_raises_or_gives_a_wait_out_of_bounds(text: str) -> None:
    seconds = seconds_to_wait(text, NOW)

    assert seconds is None or 0 <= seconds <= LONGEST
