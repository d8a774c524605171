import json
import logging
import sys
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st

from core.tests.support import CANARY, LogText
from core.utils.logging import (
    ConsoleFormatter,
    ContextFilter,
    JSONFormatter,
    correlation_id,
    film_id,
)

NASTY = 'a\r\n{"forged": 1}\x1b[31m\u2028\ud800"}'


def record(message: str = "done", **extra: Any) -> logging.LogRecord:
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
        "message": "done",
        "correlation_id": "-",
        "outcome": "ok",
        "ms": 1.5,
    }


def test_a_line_names_correlation_id_and_film() -> None:
    id_token, film_token = correlation_id.set("abc-5"), film_id.set("tt1375666")

    line = json.loads(JSONFormatter().format(record()))
    correlation_id.reset(id_token)
    film_id.reset(film_token)

    assert (line["correlation_id"], line["film"]) == ("abc-5", "tt1375666")


def test_a_line_about_another_film_than_that_of_the_request_names_it() -> None:
    token = film_id.set("tt1375666")

    line = json.loads(JSONFormatter().format(record(film="tt0068646")))
    film_id.reset(token)

    assert line["film"] == "tt0068646"


@pytest.mark.parametrize("formatter", [JSONFormatter(), ConsoleFormatter()])
def test_no_value_breaks_a_line_or_controls_a_terminal(formatter: logging.Formatter) -> None:
    text = formatter.format(record(NASTY, path=NASTY))

    assert text.isascii()
    assert text.isprintable()


@given(st.text(st.characters(exclude_categories=())), st.text())
def test_any_message_is_one_object_on_one_line(message: str, value: str) -> None:
    line = JSONFormatter().format(record(message.replace("%", ""), value=value))

    assert line.isascii()
    assert len(line.splitlines()) == 1
    assert json.loads(line)["value"] == value


def test_a_value_that_json_cannot_hold_is_logged_as_text() -> None:
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


def test_a_traceback_on_a_terminal_is_readable_and_escaped() -> None:
    lines = ConsoleFormatter().format(failing_record()).split("\n")

    assert len(lines) > 2
    assert all(line.isprintable() and line.isascii() for line in lines)


def test_the_console_shows_fields_after_the_message() -> None:
    text = ConsoleFormatter().format(record(outcome="ok", status=200))

    assert text.endswith("INFO    core.somewhere [-] done outcome=ok status=200")


@pytest.mark.parametrize("name", ["httpx", "httpcore"])
def test_loggers_that_print_whole_urls_are_limited_to_warnings(name: str) -> None:
    assert settings.LOGGING["loggers"][name]["level"] == "WARNING"
    assert not logging.getLogger(name).isEnabledFor(logging.INFO)


@pytest.mark.django_db
def test_the_parameters_of_sql_are_not_logged_at_any_level(
    log: LogText, caplog: pytest.LogCaptureFixture
) -> None:
    # As `LOG_LEVEL=DEBUG` does.
    caplog.set_level(logging.DEBUG, logger="django")

    with CaptureQueriesContext(connection) as queries, connection.cursor() as cursor:
        cursor.execute("SELECT %s", [CANARY])

    assert CANARY in queries[0]["sql"]
    assert CANARY not in str(log)
