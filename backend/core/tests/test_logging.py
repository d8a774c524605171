import json
import logging
import sys
from typing import Any

import pytest
from django.conf import settings
from hypothesis import given
from hypothesis import strategies as st

from core.utils.logging import (
    ConsoleFormatter,
    ContextFilter,
    JSONFormatter,
    correlation_id,
    film_id,
)

NASTY = 'a\r\n{"forged": 1}\x1b[31m\u2028\ud800"}'


def record(message: str = "told", **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("core.somewhere", logging.INFO, __file__, 1, message, (), None)
    vars(made).update(extra)
    ContextFilter().filter(made)
    return made


def test_a_line_has_time_level_logger_message_and_correlation_id() -> None:
    made = record(outcome="ok", ms=1.5)
    made.created = 1_700_000_000.25

    assert json.loads(JSONFormatter().format(made)) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "INFO",
        "logger": "core.somewhere",
        "message": "told",
        "correlation_id": "-",
        "outcome": "ok",
        "ms": 1.5,
    }


def test_a_line_names_request_and_film() -> None:
    id_token, film_token = correlation_id.set("abc-5"), film_id.set("tt1375666")

    line = json.loads(JSONFormatter().format(record()))
    correlation_id.reset(id_token)
    film_id.reset(film_token)

    assert (line["correlation_id"], line["film"]) == ("abc-5", "tt1375666")


@pytest.mark.parametrize("formatter", [JSONFormatter(), ConsoleFormatter()])
def test_nothing_in_a_line_breaks_it_or_drives_a_terminal(formatter: logging.Formatter) -> None:
    text = formatter.format(record(NASTY, path=NASTY))

    assert text.isascii()
    assert text.isprintable()


@given(st.text(st.characters(exclude_categories=())), st.text())
def test_whatever_is_told_is_one_object_a_line(message: str, value: str) -> None:
    line = JSONFormatter().format(record(message.replace("%", ""), value=value))

    assert line.isascii()
    assert len(line.splitlines()) == 1
    assert json.loads(line)["value"] == value


def test_what_json_cannot_hold_is_told_as_text() -> None:
    assert json.loads(JSONFormatter().format(record(value=object())))["value"]


def failing_record() -> logging.LogRecord:
    made = record("failed")
    try:
        int(NASTY)
    except ValueError:
        made.exc_info = sys.exc_info()
    return made


def test_a_traceback_is_part_of_the_object() -> None:
    text = JSONFormatter().format(failing_record())

    assert text.isprintable()
    assert "ValueError" in json.loads(text)["exception"]


def test_a_traceback_at_a_terminal_is_readable_and_harmless() -> None:
    lines = ConsoleFormatter().format(failing_record()).split("\n")

    assert len(lines) > 2
    assert all(line.isprintable() and line.isascii() for line in lines)


def test_the_console_shows_fields_after_the_message() -> None:
    text = ConsoleFormatter().format(record(outcome="ok", status=200))

    assert text.endswith("INFO    core.somewhere [-] told outcome=ok status=200")


@pytest.mark.parametrize("name", ["httpx", "httpcore"])
def test_what_prints_whole_addresses_is_kept_quiet(name: str) -> None:
    assert settings.LOGGING["loggers"][name]["level"] == "WARNING"
    assert not logging.getLogger(name).isEnabledFor(logging.INFO)
