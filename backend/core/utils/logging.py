"""What a log line looks like, and which request and film it belongs to."""

import json
import logging
import math
import os
import select
import threading
import time
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from datetime import datetime, timezone
from typing import IO

correlation_id: ContextVar[str] = ContextVar("correlation_id", default="-")
film_id: ContextVar[str] = ContextVar("film_id", default="-")

# How long a reader that took the beginning of a line may take for the rest of it.
_PATIENCE_MS = 50

# What the logging module itself puts on a record; the rest came in through `extra=`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "correlation_id",
    "film",
    "taskName",
}


class ContextFilter(logging.Filter):
    """Adds the correlation id of the request and the film it is about to each record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Annotate the record; none is dropped."""
        record.correlation_id = correlation_id.get()
        record.film = film_id.get()
        return True


class JSONFormatter(logging.Formatter):
    """One JSON object a line, ASCII only: nothing in it can break the line or drive a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record with all its `extra=` fields as one line."""
        line = {
            "time": _timestamp(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "correlation_id": getattr(record, "correlation_id", "-"),
            **_extras(record),
        }
        if getattr(record, "film", "-") != "-":
            line["film"] = record.film  # type: ignore[attr-defined]  # set by ContextFilter
        if record.exc_info and record.exc_info[0]:
            line["exception"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line, default=str)


class SheddingHandler(logging.StreamHandler):  # type: ignore[type-arg]  # one at run time
    """Writes lines as fast as they are taken, and drops those for which there is no room.

    A log that nobody reads, a full pipe or disk, never holds up a request. How many lines were
    dropped is told once there is room again.
    """

    def __init__(self, stream: IO[str] | None = None) -> None:
        super().__init__(stream)
        self._dropped = 0
        self._is_torn = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or count it as dropped."""
        try:
            descriptor = self.stream.fileno()
        except (OSError, ValueError):
            # A stream in memory, which takes all.
            super().emit(record)
            return
        try:
            lines = [*self._told(), record]
            text = "".join(f"{self.format(line)}\n" for line in lines)
        except Exception:  # noqa: BLE001  (as every handler: a bad record is told, not raised)
            self.handleError(record)
            return
        self.flush()
        if self._write(descriptor, text.encode(errors="backslashreplace")):
            self._dropped = 0
        else:
            self._dropped += 1

    def _told(self) -> list[logging.LogRecord]:
        if not self._dropped:
            return []
        fields = {"levelno": logging.WARNING, "levelname": "WARNING", "name": __name__}
        told = {"msg": "log lines dropped", "outcome": "log_full", "lines": self._dropped}
        return [logging.makeLogRecord(fields | told)]

    def _write(self, descriptor: int, data: bytes) -> bool:
        rest = b"\n" + data if self._is_torn else data
        room = select.poll()
        room.register(descriptor, select.POLLOUT)
        begun = False
        while rest:
            # There is room for so many bytes, or for none (poll(2), pipe(7)).
            if not room.poll(_PATIENCE_MS if begun else 0):
                self._is_torn = self._is_torn or begun
                return False
            try:
                rest = rest[os.write(descriptor, rest[: select.PIPE_BUF]) :]
            except OSError:
                self._is_torn = self._is_torn or begun
                return False
            begun = True
        self._is_torn = False
        return True


class ConsoleFormatter(logging.Formatter):
    """One readable line a record, for a person at a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return time, level, logger and message, then the `extra=` fields as `key=value`."""
        fields = " ".join(f"{key}={value!s}" for key, value in _extras(record).items())
        head = f"{_timestamp(record)} {record.levelname:<7} {record.name}"
        line = f"{head} [{getattr(record, 'correlation_id', '-')}] {record.getMessage()} {fields}"
        lines = [line.rstrip()]
        if record.exc_info and record.exc_info[0]:
            lines += "".join(traceback.format_exception(*record.exc_info)).rstrip().split("\n")
        return "\n".join(text.encode("unicode_escape").decode("ascii") for text in lines)


class Seldom:
    """Is due at most once in `seconds`, for all threads together."""

    def __init__(self, *, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._next = -math.inf

    def is_due(self) -> bool:
        """Return whether it is time again; who is told so does what is due."""
        with self._lock:
            now = self._clock()
            if now < self._next:
                return False
            self._next = now + self._seconds
            return True


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, tz=timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}
