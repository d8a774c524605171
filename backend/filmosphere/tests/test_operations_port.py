"""Health and metrics at a port of their own (`OPS_PORT`)."""

import http.client
import os
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest
from django.db import connection
from prometheus_client.parser import text_string_to_metric_families

from tools.harness.databases import connect, eventually, execute
from tools.harness.server import (
    free_port,
    get,
    serve_to_the_end,
    server,
)

PATHS = ["/healthz", "/readyz", "/metrics"]


@contextmanager
def service(folder, **settings):
    """A service, and the address of its operations port."""
    port = free_port()
    with server(folder, **settings, OPS_PORT=str(port)) as running:
        yield running, f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def _shared(tmp_path_factory, url):
    with service(tmp_path_factory.mktemp("shared"), DATABASE_URL=url) as shared:
        yield shared


@pytest.fixture
def operations(_shared):
    return _shared[1]


@pytest.fixture
def running(_shared):
    return _shared[0]


def statuses(address):
    return [get(address + path).status for path in PATHS]


def test_metrics_are_there_and_not_at_the_port_of_clients(running, operations):
    assert statuses(operations) == [200, 200, 200]
    assert [running.get(path).status for path in PATHS] == [200, 200, 404]
    assert running.get("/metrics").json["reason"] == "unknown_route"
    assert b"filmosphere_build_info" in get(f"{operations}/metrics").body


@pytest.mark.parametrize("path", [*PATHS, "/metrics/"])
def test_any_host_is_answered(operations, path):
    assert get(operations + path, Host="10.1.2.3:9000").status == 200


@pytest.mark.parametrize("path", ["/", "/api/films/tt1375666", "/metrics/more", "/%ff"])
def test_other_paths_are_404_in_the_one_shape(operations, path):
    answer = get(operations + path, X_Correlation_ID="mine")

    assert (answer.status, answer.json["reason"]) == (404, "unknown_route")
    assert answer.headers["X-Correlation-ID"] == "mine"


@pytest.mark.parametrize("path", PATHS)
def test_other_methods_are_405_and_head_has_no_body(operations, path):
    connection = http.client.HTTPConnection(operations.removeprefix("http://"), timeout=5)
    connection.request("POST", path, b"{}")
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")
    connection.close()

    connection.request("HEAD", path)
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"")
    connection.close()


def test_requests_are_counted_like_others(operations):
    def counted():
        text = get(f"{operations}/metrics").body.decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = {"route": "readyz", "status": "200"}
                if (sample.name, sample.labels) == ("filmosphere_requests_total", labels):
                    return sample.value
        return 0

    before = counted()
    get(f"{operations}/readyz")

    assert counted() == before + 1


@pytest.mark.parametrize(
    "sent", [b"", b"GET /healthz", b"GET /metrics HTTP/1.1\r\nA: " + b"b" * 60_000]
)
def test_clients_that_are_silent_or_slow_do_not_delay_others(operations, sent):
    host, port = operations.removeprefix("http://").split(":")
    with ExitStack() as stack:
        for _ in range(200):
            client = stack.enter_context(socket.create_connection((host, int(port)), timeout=5))
            with suppress(OSError):
                client.sendall(sent)
        started = time.monotonic()

        assert statuses(operations) == [200, 200, 200]
        assert time.monotonic() - started < 3


def test_clients_that_do_not_read_the_answer_do_not_delay_others(operations):
    host, port = operations.removeprefix("http://").split(":")
    with ExitStack() as stack:
        for _ in range(30):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            stack.enter_context(client).connect((host, int(port)))
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")

        assert statuses(operations) == [200, 200, 200]


@pytest.mark.parametrize("sent", [b"\r\n\r\n", b"HELLO\r\n\r\n", b"\x16\x03\x01\r\n\r\n"])
def test_what_is_no_request_is_not_answered(operations, sent):
    host, port = operations.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as client:
        client.sendall(sent)
        with suppress(ConnectionResetError):
            assert client.recv(100) == b""

    assert statuses(operations) == [200, 200, 200]


@pytest.mark.skipif(connection.vendor == "sqlite", reason="no reader of SQLite has to wait")
def test_a_service_whose_threads_are_all_busy_answers_there(options, url, tmp_path):
    busy = {"BLOCKING_THREADS": "3", "HOT_SECONDS": "0", "QUERY_TIMEOUT_MS": "5000"}
    with (
        service(tmp_path, **options, **busy) as (running, operations),
        ThreadPoolExecutor(3) as pool,
        closing(connect(url)) as other,
    ):
        other.cursor().execute("LOCK TABLE films_film")
        asked = [pool.submit(running.get, "/api/films/tt1375666") for _ in range(3)]
        waiting = (
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'films_film'::regclass"
        )
        eventually(lambda: execute(url, waiting) == [(3,)])
        client = http.client.HTTPConnection(running.url.removeprefix("http://"), timeout=0.5)
        client.request("GET", "/healthz")
        with closing(client), pytest.raises(TimeoutError):
            client.getresponse()

        assert statuses(operations) == [200, 200, 200]
        assert not any(future.done() for future in asked)


def test_of_two_workers_one_may_hang(options, tmp_path):
    with service(tmp_path, **options, WORKERS="2") as (running, operations):
        eventually(lambda: b"filmosphere_workers 2.0" in get(f"{operations}/metrics").body)
        for stopped in (1, 2):
            os.kill(running.workers[stopped], signal.SIGSTOP)
            try:
                eventually(lambda pid=running.workers[stopped]: has_stopped(pid))
                answers = [statuses(operations) for _ in range(2)]
            finally:
                os.kill(running.workers[stopped], signal.SIGCONT)
            assert answers == [[200, 200, 200]] * 2


def has_stopped(pid):
    """Whether all threads have, so that none accepts another connection."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    states = {(each / "stat").read_text().rpartition(")")[2].split()[0] for each in threads}
    return states == {"T"}


def test_while_draining_it_is_not_ready_and_then_nothing_answers(options, tmp_path):
    with service(tmp_path, **options, DRAIN_SECONDS="1") as (running, operations):
        assert statuses(operations) == [200, 200, 200]

        running.process.send_signal(signal.SIGTERM)

        eventually(lambda: get(f"{operations}/readyz").status == 503)
        assert get(f"{operations}/readyz").json["reason"] == "shutting_down"
        assert get(f"{operations}/metrics").status == 200
        assert running.process.wait(timeout=15) == 0
        with pytest.raises(OSError, match="refused"):
            get(f"{operations}/healthz")


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http", "8001 8002"])
def test_a_port_that_is_none_ends_the_start_with_one_line(options, port):
    ended = serve_to_the_end(**options, PORT=str(free_port()), OPS_PORT=port)

    assert ended.returncode == 1
    assert re.fullmatch("filmosphere: OPS_PORT must be [^\n]*\n", ended.stderr)


def test_the_port_of_clients_or_of_the_sandbox_ends_the_start_with_one_line(options, url):
    port, other = str(free_port()), str(free_port())

    equal = serve_to_the_end(**options, PORT=port, OPS_PORT=port)
    sandbox = serve_to_the_end(DATABASE_URL=url, PORT=port, SANDBOX_PORT=other, OPS_PORT=other)

    expected = "filmosphere: OPS_PORT must be another port than PORT and SANDBOX_PORT\n"
    assert [(each.returncode, each.stderr) for each in (equal, sandbox)] == [(1, expected)] * 2


def test_a_port_that_is_in_use_ends_the_start_with_one_line(options):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        ended = serve_to_the_end(**options, PORT=str(free_port()), OPS_PORT=str(port))

    expected = f"port {port} is in use by another program; OPS_PORT chooses another one"
    assert (ended.returncode, ended.stderr) == (1, f"filmosphere: {expected}\n")
