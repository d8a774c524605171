"""A log whose reader is slow or gone."""

import fcntl
import io
import json
import logging
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from core import metrics  # noqa: F401  (registers them)
from core.tests.support import at_most
from core.utils.logging import JSONFormatter, NonBlockingHandler

PIPE_BYTES = 8192


class Pipe:
    """A logger that writes to a pipe of 8 KB, and the other end of the pipe."""

    def __init__(self, backlog=20_000):
        self.reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.set_blocking(self.reader, False)
        self.stream = os.fdopen(writer, "w")
        self.handler = NonBlockingHandler(self.stream, backlog=backlog)
        self.log = logger(self.handler)

    def read(self):
        try:
            return os.read(self.reader, 1 << 20).decode()
        except BlockingIOError:
            return ""

    def close(self):
        self.log.removeHandler(self.handler)
        self.handler.close()
        os.close(self.reader)
        self.stream.close()


def logger(handler):
    log = logging.getLogger(f"non-blocking-{uuid.uuid4()}")
    log.propagate = False
    log.addHandler(handler)
    return log


@pytest.fixture
def pipe():
    pipe = Pipe()
    yield pipe
    pipe.close()


def test_lines_are_written_at_once(pipe):
    pipe.log.warning("first")
    assert pipe.read() == "first\n"

    pipe.log.warning("second ü \ud800")
    assert pipe.read() == "second ü \\ud800\n"


def test_lines_for_which_there_is_no_room_follow_later_in_order(pipe):
    lines = [f"{number} {'x' * 1000}" for number in range(15)]

    with at_most(0.1):
        for line in lines:
            pipe.log.warning(line)
    text = pipe.read()
    while len(text.splitlines()) < 16:
        pipe.log.warning("after")
        text += pipe.read()

    assert text.splitlines()[:16] == [*lines, "after"]
    assert pipe.handler.dropped == 0


def test_a_line_longer_than_the_pipe_comes_out_whole(pipe):
    pipe.log.warning("x" * 15_000)
    text = pipe.read()
    pipe.log.warning("after")
    text += pipe.read()
    pipe.log.warning("then")
    text += pipe.read()

    assert text == "x" * 15_000 + "\nafter\nthen\n"


def test_lines_beyond_the_backlog_are_dropped_counted_and_reported(pipe):
    pipe.handler.setFormatter(JSONFormatter())
    pipe.log.warning("x" * PIPE_BYTES)
    with at_most(0.1):
        for _ in range(50):
            pipe.log.warning("y" * 1000)
    dropped = pipe.handler.dropped
    assert 30 <= dropped <= 40

    text = ""
    for _ in range(5):
        text += pipe.read()
        pipe.log.warning("after")
    lines = [json.loads(line) for line in (text + pipe.read()).splitlines()]

    assert [line["message"][0] for line in lines[: 52 - dropped]] == [
        "x",
        *"y" * (50 - dropped),
        "l",
    ]
    notices = [line for line in lines if line["message"] == "log lines dropped"]
    assert [(line["level"], line["outcome"], line["lines"]) for line in notices] == [
        ("WARNING", "log_full", dropped)
    ]
    assert pipe.handler.dropped == dropped


def test_dropped_lines_of_the_process_are_a_metric(pipe):
    name = "filmosphere_log_lines_dropped_total"
    before = REGISTRY.get_sample_value(name)
    logging.getLogger().addHandler(pipe.handler)
    try:
        pipe.handler.dropped = 3

        assert REGISTRY.get_sample_value(name) == before + 3
    finally:
        logging.getLogger().removeHandler(pipe.handler)


def test_each_dropped_line_is_reported_once(pipe):
    reported = 0
    for _ in range(3):
        for _ in range(50):
            pipe.log.warning("y" * 1000)
        for _ in range(5):
            reported += pipe.read().count("log lines dropped")
            pipe.log.warning("after")
        pipe.read()

    assert reported == 3


def test_a_reader_that_closed_the_pipe_is_no_error(pipe, capsys):
    os.close(pipe.reader)
    pipe.log.warning("unread")
    pipe.reader = os.open(os.devnull, os.O_RDONLY)

    assert capsys.readouterr().err == ""


def test_a_full_disk_is_no_error(capsys):
    with Path("/dev/full").open("w") as full:
        logger(NonBlockingHandler(full)).warning("no room")

    assert capsys.readouterr().err == ""


def test_a_closed_stream_is_no_error(capsys):
    stream = io.StringIO()
    stream.close()

    logger(NonBlockingHandler(stream)).warning("closed")

    assert capsys.readouterr().err == ""


def test_a_record_that_cannot_be_formatted_is_reported_and_the_next_one_is_written(pipe, capsys):
    pipe.handler.handle(logging.makeLogRecord({"msg": "%d", "args": ("no number",)}))
    pipe.log.warning("after")

    assert pipe.read() == "after\n"
    assert "Logging error" in capsys.readouterr().err


def test_a_stream_in_memory_gets_all_lines():
    stream = io.StringIO()

    logger(NonBlockingHandler(stream)).warning("text \ud800")

    assert stream.getvalue() == "text \\ud800\n"


# Processes

PROGRAM = """
import logging, os, sys
from core.utils.logging import NonBlockingHandler
log = logging.getLogger()
log.addHandler(NonBlockingHandler())
"""


def start(program, **options):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM + program],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        **options,
    )


def test_the_last_lines_come_out_at_exit():
    process = start(
        "for number in range(300): log.warning('%d %s', number, 'x' * 1000)\nprint()", stdout=-1
    )
    # At this moment the program has logged more than the pipe holds.
    process.stdout.readline()

    lines = process.communicate()[1].decode().splitlines()

    assert [line.split()[0] for line in lines] == [str(number) for number in range(300)]


def test_a_reader_that_takes_nothing_does_not_prevent_the_exit():
    process = start("for number in range(300): log.warning('x' * 1000)\nprint()", stdout=-1)
    process.stdout.readline()

    with at_most(2):
        assert process.wait(5) == 0

    process.communicate()


def test_a_process_that_forks_repeats_no_line():
    program = """
for number in range(300): log.warning('%d %s', number, 'x' * 1000)
if os.fork():
    os.wait()
print()
"""
    lines = start(program, stdout=subprocess.DEVNULL).communicate()[1].decode().splitlines()

    assert [line.split()[0] for line in lines] == [str(number) for number in range(300)]


def test_lines_of_several_processes_are_not_mixed():
    program = """
for _ in range(3): os.fork()
for number in range(200): log.warning(str(os.getpid()) * 100)
while True:
    try: os.wait()
    except ChildProcessError: break
"""
    lines = start(program).communicate()[1].decode().splitlines()

    assert len(lines) == 8 * 200
    assert len(set(lines)) == 8
