"""`manage.py runserver`, which the verification steps run in a container that already serves."""

import http.server
import subprocess
import sys
import threading
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from tools.harness.databases import eventually
from tools.harness.server import BACKEND, bare_environment, database, free_port, get, manage, server


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runserver")
    with (
        database(folder) as url,
        server(folder, DATABASE_URL=url) as it,
    ):
        yield it


@pytest.mark.parametrize("host", ["0.0.0.0:", "127.0.0.1:", "localhost:", ""])
def test_runserver_names_the_address_of_a_running_service_and_ends(running, host):
    port = urlsplit(running.url).port

    done = manage("runserver", f"{host}{port}")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"The production server already answers on port {port},"
        " so there is no development server to start.\n"
    )


def test_another_program_at_the_address_is_not_taken_for_the_service():
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()

        done = manage("runserver", "--noreload", f"127.0.0.1:{other.server_port}")

        other.shutdown()
    assert done.returncode == 1
    assert "That port is already in use." in done.stderr


def test_elsewhere_it_is_the_development_server():
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "manage.py", "runserver", "--noreload", f"127.0.0.1:{port}"],
        cwd=BACKEND,
        env=bare_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        answer = eventually(lambda: answer_at(port), seconds=30)
        assert answer.headers["Server"].startswith("WSGIServer")
    finally:
        process.kill()
        process.wait()


def answer_at(port):
    with suppress(OSError):
        return get(f"http://127.0.0.1:{port}/healthz")
