import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from core.tests.support import close_clients
from core.utils.logging import ContextFilter, JSONFormatter


class LogText:
    """All that was logged, from DEBUG on, in the format of production."""

    def __init__(self, stream: io.StringIO) -> None:
        self._stream = stream

    def __str__(self) -> str:
        return self._stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in str(self).splitlines()]

    def of(self, message: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["message"] == message]


@pytest.fixture
def log() -> Iterator[LogText]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JSONFormatter())
    handler.addFilter(ContextFilter())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield LogText(stream)
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    yield
    close_clients()
