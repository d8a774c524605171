"""How server processes start, are replaced, and stop."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.db import connection
from prometheus_client.parser import text_string_to_metric_families

from core.tests.redis_doubles import odd_redis
from filmosphere import service, worker
from filmosphere.startup import ServerProcess
from filmosphere.supervisor import READY, Links
from tools.harness.databases import eventually
from tools.harness.server import (
    BACKEND,
    bare_environment,
    empty_database,
    free_port,
    get,
    manage,
    run_python,
    serve_to_the_end,
    server,
)

FILM = "/api/films/tt1375666"
SERVE = [sys.executable, "-m", "filmosphere.serve"]


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


# Addresses


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("no-such-host.invalid", "HOST is neither an address nor a name that can be resolved"),
        (
            "two words",
            "HOST must be an address or a name to listen on; 0.0.0.0 means all addresses",
        ),
        ("a..b", "HOST is neither an address nor a name that can be resolved"),
        ("192.0.2.1", "HOST is not an address of this machine"),
        ("", "HOST must be an address or a name to listen on; 0.0.0.0 means all addresses"),
    ],
)
def test_an_unusable_address_ends_the_start_with_one_line(options, host, reason):
    ended = serve_to_the_end(**options, HOST=host, PORT=str(free_port()))

    assert (ended.returncode, ended.stderr) == (1, f"filmosphere: {reason}\n")


def test_a_name_is_listened_at(options, tmp_path):
    with server(tmp_path, **options, HOST="localhost") as running:
        assert running.get("/healthz").status == 200


def test_all_ipv6_addresses_include_those_of_ipv4(options, tmp_path):
    with server(tmp_path, **options, HOST="[::]") as running:
        assert running.get("/healthz").status == 200
        with socket.create_connection(("::1", urlsplit(running.url).port), timeout=5):
            pass


def test_a_second_server_at_the_same_address_is_refused_and_the_first_continues(options, tmp_path):
    with server(tmp_path, **options) as running:
        port = str(urlsplit(running.url).port)

        second = serve_to_the_end(**options, PORT=port)

        assert second.returncode == 1
        assert second.stderr == (
            f"filmosphere: port {port} is in use by another program; PORT chooses another one\n"
        )
        assert [running.get("/healthz").status for _ in range(20)] == [200] * 20


# Migrations


def test_migrations_are_applied_before_the_first_answer_if_asked_for(options, tmp_path):
    with (
        empty_database(tmp_path) as url,
        server(tmp_path, "--migrate", **options | {"DATABASE_URL": url}) as running,
    ):
        assert running.get("/readyz").status == 200
        assert running.get(FILM).status == 200


def test_the_time_limit_of_queries_is_not_one_of_migrations(options, tmp_path):
    # No table is created in a millisecond.
    limits = {"QUERY_TIMEOUT_MS": "1"}
    with empty_database(tmp_path) as url:
        with server(tmp_path, "--migrate", **options | limits | {"DATABASE_URL": url}):
            pass

        assert manage("migrate", "--check", DATABASE_URL=url).returncode == 0


@pytest.mark.parametrize("name", ["", "missing/films.sqlite3"])
def test_a_place_where_sqlite_cannot_write_ends_the_start_with_one_line(options, tmp_path, name):
    url = f"sqlite:///{tmp_path}/{name}"

    ended = serve_to_the_end("--migrate", **options | {"DATABASE_URL": url})

    assert (ended.returncode, ended.stderr) == (
        1,
        "CommandError: DATABASE_URL names a file for SQLite that cannot be written\n",
    )


def test_a_migration_that_fails_ends_the_start(options):
    url = f"postgres://postgres@127.0.0.1:{free_port()}/films"

    ended = serve_to_the_end("--migrate", **options | {"DATABASE_URL": url})

    assert ended.returncode == 1
    assert "OperationalError" in ended.stderr
    assert "worker started" not in ended.stderr


# Workers


def requests_counted(running):
    for family in text_string_to_metric_families(running.get("/metrics").body.decode()):
        if family.name == "filmosphere_requests":
            return sum(sample.value for sample in family.samples if sample.name.endswith("_total"))
    return 0


def test_several_workers_are_counted_together_and_keep_what_ended_ones_counted(options, tmp_path):
    with server(tmp_path, **options, WORKERS="2") as running:
        for _ in range(40):
            assert running.get("/healthz").status == 200
        counted = requests_counted(running)
        assert counted >= 40

        os.kill(running.workers[1], signal.SIGKILL)
        eventually(lambda: '"signal": 9' in running.output)

        assert requests_counted(running) >= counted


def test_a_worker_that_is_stopped_does_not_keep_metrics_from_being_read(options, tmp_path):
    with server(tmp_path, **options, WORKERS="2") as running:
        for _ in range(40):
            running.get("/healthz")
        counted = requests_counted(running)
        os.kill(running.workers[1], signal.SIGSTOP)
        try:
            # Connections may be given to the worker that is stopped.
            with ThreadPoolExecutor(8) as pool:
                reads = [pool.submit(requests_counted, running) for _ in range(8)]
                assert eventually(lambda: any(read.done() for read in reads))
                first = next(read for read in reads if read.done())
                assert first.result() >= counted
                os.kill(running.workers[1], signal.SIGCONT)
        finally:
            os.kill(running.workers[1], signal.SIGCONT)


def test_workers_that_crash_again_and_again_leave_the_others_serving(options, tmp_path):
    with server(tmp_path, **options, WORKERS="2") as running:
        survivor = running.workers[2]
        statuses = []
        stop = threading.Event()

        def read():
            while not stop.is_set():
                with suppress(OSError, http.client.HTTPException):
                    statuses.append(running.get("/healthz").status)

        with ThreadPoolExecutor(1) as pool:
            pool.submit(read)
            victims = set()
            for _ in range(3):
                victim = eventually(
                    lambda: running.workers[1] not in victims and running.workers[1]
                )
                victims.add(victim)
                os.kill(victim, signal.SIGKILL)
            eventually(lambda: running.workers[1] not in victims)
            stop.set()

        assert len(victims) == 3
        assert running.process.poll() is None
        assert (running.workers[2], is_alive(survivor)) == (survivor, True)
        assert statuses.count(200) > 10


@pytest.mark.parametrize(
    ("module", "message"),
    [
        # An installed application, a part of the views, and what only workers import.
        ("rest_framework", "the application cannot be loaded"),
        ("pydantic", "the application cannot be loaded"),
        ("filmosphere.wsgi", "a worker failed"),
    ],
)
def test_a_service_whose_code_cannot_be_imported_ends(options, tmp_path, module, message):
    broken = tmp_path / "sitecustomize.py"
    broken.write_text(f"import sys; sys.modules[{module!r}] = None")

    ended = serve_to_the_end(
        **options, PORT=str(free_port()), PYTHONPATH=str(tmp_path), LOG_FORMAT="json"
    )

    assert ended.returncode == 1
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [line["message"] for line in lines].count(message) == 1


def test_garbage_is_collected_again_when_the_application_is_loaded(options):
    program = """if True:
        import gc
        import django
        from filmosphere import service, startup

        gc.disable()
        startup.load_settings_or_exit(serves=True)
        django.setup()
        service.load_application()
        print(gc.isenabled(), gc.get_freeze_count() > 100_000)
    """

    done = run_python("-c", program, **options)

    assert done.stdout == "True True\n", done.stderr


def test_what_is_loaded_before_the_fork_opens_nothing_and_starts_no_thread(options):
    program = """if True:
        import os, sys
        import django
        from django.db import connections
        from filmosphere import service, startup

        startup.load_settings_or_exit(serves=True)
        django.setup()
        files = set(os.listdir("/proc/self/fd"))
        service.load_application()
        print(set(os.listdir("/proc/self/fd")) - files, len(os.listdir("/proc/self/task")))
        print([each.connection for each in connections.all(initialized_only=True)])
        loaded = set(sys.modules)
        import filmosphere.wsgi
        # A backend of Django's cache, which is chosen by a setting.
        print({name for name in set(sys.modules) - loaded if "django.core.cache" not in name})
    """

    done = run_python("-c", program, **options, REDIS_URL="")

    assert done.stdout.splitlines() == ["set() 1", "[None]", "{'filmosphere.wsgi'}"], done.stderr


def test_the_asgi_application_notes_reads_and_makes_spans(options):
    program = """if True:
        import threading
        import filmosphere.asgi
        from core import tracing

        print("housekeeper" in {each.name for each in threading.enumerate()}, bool(tracing.spans))
    """

    done = run_python("-c", program, **options, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4318")

    assert done.stdout == "True True\n", done.stderr


def test_a_worker_is_replaced_while_redis_is_away(options, tmp_path):
    with odd_redis() as redis:
        redis.answer = b"+PONG\r\n"
        with server(tmp_path, **options, REDIS_URL=redis.url) as running:
            redis.answer = b""
            victim = running.worker
            os.kill(victim, signal.SIGKILL)
            eventually(lambda: running.worker != victim)

            assert running.get("/healthz").status == 200


def test_nothing_needs_a_place_for_files(options, url):
    if connection.vendor == "sqlite":
        pytest.skip("SQLite is a file")
    port = free_port()
    process = subprocess.Popen(
        # As if each disk were full.
        ["prlimit", "--fsize=0", *SERVE],
        cwd=BACKEND,
        env=bare_environment(
            **options, PORT=str(port), WORKERS="2", DRAIN_SECONDS="0.2", TMPDIR="/proc/none"
        ),
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: answers(port), seconds=30)
        assert get(f"http://127.0.0.1:{port}{FILM}").status == 200
        assert get(f"http://127.0.0.1:{port}/metrics").status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=15) == 0
    finally:
        process.kill()
        process.wait()


def answers(port):
    with suppress(OSError):
        return get(f"http://127.0.0.1:{port}/healthz").status == 200


# Signals


def test_a_signal_to_the_whole_group_while_draining_ends_no_request_and_starts_no_worker(
    options, tmp_path, sandbox
):
    sandbox.fault("delay", seconds=1, source="imdbapi")
    with server(tmp_path, **options, DRAIN_SECONDS="1", WORKERS="2") as running:
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(running.get, f"/api/films/tt{n}") for n in ("0068646", "0111161")]
            eventually(lambda: sandbox.fired()[0] > 0)
            running.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            os.killpg(running.process.pid, signal.SIGTERM)

            assert {future.result().status for future in asked} == {200}
        assert running.process.wait(timeout=15) == 0
        assert running.output.count("worker started") == 2
        assert '"signal"' not in running.output


def test_workers_and_the_sandbox_end_when_the_process_that_started_them_was_killed(url, tmp_path):
    with server(tmp_path, DATABASE_URL=url, DJANGO_DEBUG="True", WORKERS="2") as running:
        children = Path(
            f"/proc/{running.process.pid}/task/{running.process.pid}/children"
        ).read_text()
        assert len(children.split()) == 3

        running.process.kill()
        running.process.wait()

        eventually(lambda: not any(is_alive(child) for child in children.split()), seconds=5)


def test_a_worker_ends_if_the_supervisor_was_killed_before_it_read_that_it_is_ready(monkeypatch):
    monkeypatch.setattr(worker, "process", ServerProcess())
    statuses: list[int] = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    shutdown = threading.Event()
    theirs, ours = socket.socketpair()
    with ours:
        ours.send(READY)
        theirs.close()

        worker._obey(Links(1, ours, None, ours, None, None), shutdown, stop_seconds=0)

    assert shutdown.is_set()
    assert statuses == [1]


@pytest.mark.parametrize("delay", [0, 0.3])
def test_a_signal_to_the_first_process_of_a_container_is_not_lost_while_it_starts(options, delay):
    unshare = shutil.which("unshare")
    contained = [unshare or "", "--pid", "--fork", "--kill-child"]
    if not unshare or subprocess.run([*contained, "true"], check=False).returncode:
        pytest.skip("cannot make a process the first of a namespace here")
    process = subprocess.Popen(
        [*contained, *SERVE],
        cwd=BACKEND,
        env=bare_environment(**options, PORT=str(free_port()), DRAIN_SECONDS="0"),
        stderr=subprocess.DEVNULL,
    )
    try:
        first = int(eventually(lambda: children_of(process.pid)))
        # As early as Python itself allows.
        eventually(lambda: catches(first, signal.SIGTERM))
        time.sleep(delay)
        os.kill(first, signal.SIGTERM)

        assert process.wait(timeout=10) == 0
    finally:
        process.kill()
        process.wait()


def catches(pid, number):
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)[1], 16)
    return bool(caught >> (number - 1) & 1)


def children_of(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().strip()


@contextmanager
def kept_connection(running):
    address = urlsplit(running.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
    connection.connect()
    try:
        yield connection
    finally:
        connection.close()


def test_no_request_on_a_kept_connection_is_lost_at_the_stop(options, tmp_path):
    with server(tmp_path, **options, DRAIN_SECONDS="0.5") as running:
        stop = threading.Event()
        started = threading.Barrier(9)

        def read():
            """Return the number of answers, and whether a request on a kept connection got none."""
            answered, is_kept = 0, False
            started.wait()
            while not stop.is_set():
                try:
                    with kept_connection(running) as connection:
                        is_kept = False
                        while not stop.is_set():
                            connection.request("GET", "/healthz")
                            response = connection.getresponse()
                            response.read()
                            answered += 1
                            if response.will_close:
                                break
                            is_kept = True
                except (OSError, http.client.HTTPException):
                    # A new connection may wait to be accepted when the server ends.
                    return answered, is_kept
            return answered, False

        with ThreadPoolExecutor(8) as pool:
            readers = [pool.submit(read) for _ in range(8)]
            started.wait()
            time.sleep(0.3)
            running.process.send_signal(signal.SIGTERM)
            running.process.wait(timeout=15)
            stop.set()
            results = [reader.result() for reader in readers]

    assert all(answered > 10 for answered, _ in results)
    assert [has_lost for _, has_lost in results] == [False] * 8


# Connections that send nothing, too little, or nothing more


def test_an_answer_that_begins_after_the_signal_ends_its_connection(monkeypatch):
    process = ServerProcess()
    monkeypatch.setattr(worker, "process", process)
    started = []

    def slow(environ, start_response):
        process.stopping.set()
        start_response("200 OK", [("ETag", '"1"')])
        return []

    answer = worker._closing(slow)
    answer({}, lambda status, headers, exc_info: started.append(headers))

    assert started == [[("ETag", '"1"'), ("Connection", "close")]]


def test_connections_that_do_not_send_a_whole_request_are_closed(options, tmp_path):
    with server(tmp_path, **options, KEEP_ALIVE_SECONDS="1") as running:
        address = urlsplit(running.url)

        def opened(data=b""):
            client = socket.create_connection((address.hostname, address.port), timeout=5)
            client.sendall(data)
            return client

        request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
        silent = [opened() for _ in range(150)]
        slow = [opened(request) for _ in range(150)]
        idle = [opened(request + b"\r\n") for _ in range(50)]
        started = time.monotonic()
        for number in range(20):
            assert running.get("/healthz").status == 200
            for client in slow:
                with suppress(OSError):
                    client.sendall(b"X-Number: %d\r\n" % number)

        assert time.monotonic() - started < 5
        for client in idle:
            assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")
        for client in [*silent, *slow, *idle]:
            with suppress(ConnectionResetError):
                assert client.recv(1) == b""
            client.close()


def test_large_headers_are_refused(options, tmp_path):
    with server(tmp_path, **options) as running:
        assert running.get("/healthz", X_Large="x" * 30_000).status == 200
        assert running.get("/healthz", X_Large="x" * 65_536).status == 431


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_drain(options, tmp_path, second):
    with server(tmp_path, **options | {"DRAIN_SECONDS": "60"}) as running:
        running.process.send_signal(signal.SIGTERM)
        eventually(lambda: running.get("/readyz").status == 503)

        running.process.send_signal(second)

        assert running.process.wait(timeout=10) == 0


def test_sigint_stops_without_a_drain(options, tmp_path):
    with server(tmp_path, **options | {"DRAIN_SECONDS": "60"}) as running:
        running.process.send_signal(signal.SIGINT)

        assert running.process.wait(timeout=10) == 0


def test_connections_send_small_answers_at_once():
    with (
        service.listen_or_exit("127.0.0.1", 0, setting="PORT") as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
