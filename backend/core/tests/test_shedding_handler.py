"""A log that nobody reads."""

import fcntl
import io
import logging
import os
import uuid
from pathlib import Path

import pytest

from core.utils.logging import SheddingHandler


def logger(stream):
    log = logging.getLogger(f"shedding-{uuid.uuid4()}")
    log.propagate = False
    log.addHandler(SheddingHandler(stream))
    return log


class Pipe:
    """A logger whose handler writes into a pipe of 8 KB, and the end to read from."""

    def __init__(self):
        self.reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 8192)
        os.set_blocking(self.reader, False)
        self._stream = os.fdopen(writer, "w")
        self.log = logger(self._stream)

    def read(self):
        try:
            return os.read(self.reader, 1 << 20).decode()
        except BlockingIOError:
            return ""

    def close(self):
        os.close(self.reader)
        self._stream.close()


@pytest.fixture
def pipe():
    pipe = Pipe()
    yield pipe
    pipe.close()


def test_lines_are_written(pipe):
    pipe.log.warning("first")
    pipe.log.warning("second ü")

    assert pipe.read() == "first\nsecond ü\n"


def test_a_full_pipe_holds_nobody_up_and_what_was_dropped_is_told(pipe):
    pipe.log.warning("x" * 8000)
    for number in range(50):
        pipe.log.warning("dropped %d %s", number, "y" * 200)

    assert pipe.read() == "x" * 8000 + "\n"
    pipe.log.warning("after")
    assert pipe.read() == "log lines dropped\nafter\n"
    pipe.log.warning("then")
    assert pipe.read() == "then\n"


def test_a_line_that_breaks_off_is_ended_before_the_next_one(pipe):
    pipe.log.warning("x" * 20000)

    assert pipe.read() == "x" * 8192
    pipe.log.warning("after")
    assert pipe.read() == "\nlog lines dropped\nafter\n"


def test_a_reader_that_went_away_is_no_error(pipe):
    os.close(pipe.reader)
    pipe.log.warning("nobody")
    pipe.reader = os.open(os.devnull, os.O_RDONLY)


def test_a_full_disk_is_no_error():
    with Path("/dev/full").open("w") as full:
        logger(full).warning("no room")


def test_a_stream_in_memory_takes_all():
    stream = io.StringIO()

    logger(stream).warning("text")

    assert stream.getvalue() == "text\n"
