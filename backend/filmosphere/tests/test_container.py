"""What the image relies on: the health check, and the server as the first process."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tools.harness.databases import eventually
from tools.harness.server import (
    BACKEND,
    PROJECT,
    bare_environment,
    free_port,
    get,
    server,
)

# The health check


def check_health(**environment):
    """Return the status of the image's health check."""
    return subprocess.run(
        ["bash", PROJECT / "deploy/healthcheck"],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        timeout=10,
        check=False,
    ).returncode


@contextmanager
def answering(answer):
    """Answer one connection; yields its port."""

    def work():
        connection, _ = listener.accept()
        with connection:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += connection.recv(4096)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=work)
        thread.start()
        yield str(listener.getsockname()[1])
        thread.join(timeout=10)


def test_the_health_check_passes_whatever_hosts_are_allowed(options, tmp_path):
    with server(tmp_path, **options | {"DJANGO_ALLOWED_HOSTS": "films.example"}) as running:
        assert check_health(PORT=str(urlsplit(running.url).port)) == 0


def test_the_health_check_fails_where_nothing_listens():
    assert check_health(PORT=str(free_port())) != 0


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 503 Service Unavailable\r\n\r\n", b"nonsense\r\n"]
)
def test_the_health_check_fails_after_any_other_answer(answer):
    with answering(answer) as port:
        assert check_health(PORT=port) != 0


def test_the_health_check_asks_the_operations_port_where_there_is_one(options, tmp_path):
    port = str(free_port())
    with server(tmp_path, **options | {"DJANGO_ALLOWED_HOSTS": "films.example", "OPS_PORT": port}):
        assert check_health(PORT=str(free_port()), OPS_PORT=port) == 0


# The first process


def _can_unshare():
    unshare = shutil.which("unshare")
    return (
        unshare and not subprocess.run([unshare, "--pid", "--fork", "true"], check=False).returncode
    )


@pytest.fixture
def first_process(options):
    """Run the server as the first process of a PID namespace; yields it and its URL."""
    if not _can_unshare():
        pytest.skip("this user may not make PID namespaces")
    port = free_port()
    # It dies with its parent, so that a failed test leaves nothing behind.
    parent = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-m", "filmosphere.serve"],
        cwd=BACKEND,
        env=bare_environment(**options, PORT=str(port), DRAIN_SECONDS="0"),
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield parent, f"http://127.0.0.1:{port}"
    finally:
        parent.kill()
        parent.wait(timeout=10)


def children(pid):
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(each) for each in text.split()]


def answers(url):
    try:
        return get(f"{url}/healthz").status == 200
    except OSError:
        return False


def test_as_the_first_process_it_stops_on_sigterm_with_status_0(first_process):
    parent, url = first_process
    eventually(lambda: answers(url), seconds=30)
    (serving,) = children(parent.pid)

    os.kill(serving, signal.SIGTERM)

    assert parent.wait(timeout=20) == 0


def test_as_the_first_process_it_reaps_processes_whose_parents_ended(first_process):
    parent, url = first_process
    eventually(lambda: answers(url), seconds=30)
    (serving,) = children(parent.pid)
    (worker,) = children(serving)

    # As a shell in the container does that leaves something behind.
    subprocess.run(
        ["nsenter", "--target", str(serving), "--pid", "sh", "-c", "(sleep 0.2 &)"], check=True
    )

    eventually(lambda: len(children(serving)) == 2)
    eventually(lambda: children(serving) == [worker])
    assert answers(url)
