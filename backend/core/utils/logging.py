"""The format of log lines, and the handler that writes them."""

import json
import logging
import math
import os
import select
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from functools import lru_cache
from io import UnsupportedOperation
from typing import IO

correlation_id: ContextVar[str] = ContextVar("correlation_id", default="-")
film_id: ContextVar[str] = ContextVar("film_id", default="-")

# Built once: `json.dumps` builds an encoder for each call that has a `default`.
_to_json = json.JSONEncoder(default=str).encode

# The attributes that the logging module sets; all others come from `extra=`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "correlation_id",
    "film",
    "taskName",
}


class ContextFilter(logging.Filter):
    """Adds the correlation id and the film of the current request to each record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the two attributes; return True, because no record is dropped.

        A film in `extra=` takes precedence over that of the request.
        """
        record.correlation_id = correlation_id.get()
        record.film = vars(record).get("film") or film_id.get()
        return True


class JSONFormatter(logging.Formatter):
    """One JSON object per line, in ASCII: no value can break the line or control a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record with all its `extra=` fields on one line."""
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
        return _to_json(line)


class NonBlockingHandler(logging.StreamHandler):  # type: ignore[type-arg]  # one at run time
    """Writes lines without waiting; a full pipe or a full disk never delays a request.

    Up to `backlog` bytes for which there is no room stay in memory and go out with a later line or
    at exit. Lines beyond that are dropped: `dropped` counts them, and a line reports the new ones
    as soon as there is room.

    Lines are not queued for another thread (`logging.handlers.QueueHandler`): that costs as much
    on each line, and a process that is killed would lose the lines in the queue.
    """

    def __init__(self, stream: IO[str] | None = None, *, backlog: int = 1_000_000) -> None:
        super().__init__(stream)
        self.dropped = 0
        self._reported = 0
        self._backlog = backlog
        self._pending: deque[bytes] = deque()
        self._pending_bytes = 0
        # The parent process writes its pending lines itself.
        os.register_at_fork(after_in_child=self._forget_pending)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, keep it for later, or count it as dropped."""
        dropped = self.dropped
        try:
            text = self.format(record)
            if dropped > self._reported:
                notice = {"outcome": "log_full", "lines": dropped - self._reported}
                text = f"{self.format(_warning('log lines dropped', notice))}\n{text}"
        except Exception:  # noqa: BLE001  (like every handler: a bad record is reported, not raised)
            self.handleError(record)
            return
        line = f"{text}\n".encode(errors="backslashreplace")
        if self._pending:
            self._write_pending(seconds=0)
        if self._pending_bytes + len(line) > self._backlog:
            self.dropped += 1
            return
        self._pending.append(line)
        self._pending_bytes += len(line)
        self._reported = dropped
        self._write_pending(seconds=0)

    def flush(self) -> None:
        """Write the pending lines, for a second at most; called at exit."""
        if self._pending:
            self._write_pending(seconds=1)

    def _write_pending(self, *, seconds: float) -> None:
        """Write until nothing is pending or there is no room, and wait `seconds` for room."""
        deadline = time.monotonic() + seconds
        # A reader that is gone, a full disk and a closed stream are no reason to fail.
        with suppress(OSError, ValueError):
            room = select.poll()
            try:
                room.register(self.stream, select.POLLOUT)
            except UnsupportedOperation:
                # A stream in memory always has room.
                self.stream.write(b"".join(self._pending).decode())
                self._forget_pending()
                return
            while self._pending and room.poll(max(0.0, deadline - time.monotonic()) * 1000):
                line = self._pending[0]
                # A pipe that polls as writable has room for this many bytes, which it then keeps
                # together (pipe(7)). One line at a time is not mixed with those of other processes.
                written = os.write(self.stream.fileno(), line[: select.PIPE_BUF])
                self._pending_bytes -= written
                if written < len(line):
                    self._pending[0] = line[written:]
                else:
                    self._pending.popleft()

    def _forget_pending(self) -> None:
        self._pending.clear()
        self._pending_bytes = 0


def _warning(message: str, fields: dict[str, object]) -> logging.LogRecord:
    standard = {"levelno": logging.WARNING, "levelname": "WARNING", "name": __name__}
    return logging.makeLogRecord({**standard, "msg": message, **fields})


class ConsoleFormatter(logging.Formatter):
    """One readable line per record, for a person at a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return time, level, logger and message, then the `extra=` fields as `key=value`."""
        fields = " ".join(f"{key}={value!s}" for key, value in _extras(record).items())
        head = f"{_timestamp(record)} {record.levelname:<7} {record.name}"
        line = f"{head} [{getattr(record, 'correlation_id', '-')}] {record.getMessage()} {fields}"
        lines = [line.rstrip()]
        if record.exc_info and record.exc_info[0]:
            lines += "".join(traceback.format_exception(*record.exc_info)).rstrip().split("\n")
        return "\n".join(text.encode("unicode_escape").decode("ascii") for text in lines)


class LogThrottle:
    """Allows one log line in `seconds`, for all threads together."""

    def __init__(self, *, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._next = -math.inf

    def is_due(self) -> bool:
        """Return whether a line may be logged now; the next one is due `seconds` later."""
        with self._lock:
            now = self._clock()
            if now < self._next:
                return False
            self._next = now + self._seconds
            return True


def _timestamp(record: logging.LogRecord) -> str:
    second = int(record.created)
    return f"{_utc(second)}.{int((record.created - second) * 1000):03d}Z"


@lru_cache(maxsize=1)
def _utc(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}
