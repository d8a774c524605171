"""The whole service as its users meet it: server processes, a database, and the sandbox."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.db import connection

BACKEND = Path(__file__).resolve().parents[2]
PROJECT = BACKEND.parent
START_SECONDS = 30.0

_SETTINGS = re.findall(
    r"^#? ?([A-Z][A-Z_]+)=", (PROJECT / ".env.example").read_text(), re.MULTILINE
)


@dataclass(frozen=True)
class Answer:
    """Status, headers (names as sent, looked up without regard to case) and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def get(url: str, **headers: str) -> Answer:
    """GET over a socket; an error status is an answer like any other."""
    request = urllib.request.Request(
        url, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    try:
        with urllib.request.urlopen(request, timeout=40) as response:
            return Answer(response.status, response.headers, response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.headers, error.read())


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def bare_environment(**settings: str) -> dict[str, str]:
    """The environment of a machine on which nothing of ours is set, plus `settings`."""
    kept = {name: value for name, value in os.environ.items() if name not in _SETTINGS}
    kept.pop("DJANGO_SETTINGS_MODULE", None)
    return {**kept, "ENV_FILE": os.devnull, "PYTHONUNBUFFERED": "1", **settings}


@contextmanager
def database(folder: Path) -> Iterator[str]:
    """A new, migrated database of the kind that the tests run on; gives its `DATABASE_URL`."""
    if connection.vendor == "sqlite":
        url = f"sqlite:///{folder / 'films.sqlite3'}"
        manage("migrate", "--verbosity", "0", DATABASE_URL=url)
        yield url
        return
    name = f"filmosphere_{uuid.uuid4().hex[:12]}"
    with connection._nodb_cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    try:
        url = _postgres_url(name)
        manage("migrate", "--verbosity", "0", DATABASE_URL=url)
        yield url
    finally:
        with connection._nodb_cursor() as cursor:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _postgres_url(name: str) -> str:
    given = connection.settings_dict
    secret = f":{given['PASSWORD']}" if given["PASSWORD"] else ""
    user = f"{given['USER']}{secret}@" if given["USER"] else ""
    return f"postgres://{user}{given['HOST'] or 'localhost'}:{given['PORT'] or 5432}/{name}"


def manage(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a management command to its end."""
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=BACKEND,
        env=bare_environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Server:
    """A running `filmosphere.serve`."""

    def __init__(self, process: subprocess.Popen[str], url: str, log: Path) -> None:
        self.process, self.url, self._log = process, url, log

    @property
    def output(self) -> str:
        return self._log.read_text()

    def get(self, path: str, **headers: str) -> Answer:
        return get(self.url + path, **headers)


@contextmanager
def server(folder: Path, **settings: str) -> Iterator[Server]:
    """`python -m filmosphere.serve` on a free port, with nothing set but `settings`."""
    port = free_port()
    log = folder / f"server-{port}.log"
    environment = bare_environment(
        **{
            "PORT": str(port),
            "SANDBOX_PORT": str(free_port()),
            "DRAIN_SECONDS": "0",
            **settings,
        }
    )
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "filmosphere.serve"],
            cwd=BACKEND,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
    running = Server(process, f"http://127.0.0.1:{port}", log)
    try:
        _wait_until_it_answers(running)
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def _wait_until_it_answers(running: Server) -> None:
    limit = time.monotonic() + START_SECONDS
    while time.monotonic() < limit:
        assert running.process.poll() is None, running.output
        try:
            running.get("/healthz")
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"no answer within {START_SECONDS} s:\n{running.output}")


def on_sandbox(sandbox_url: str, **settings: str) -> dict[str, str]:
    """Settings of a server whose four sources are one running sandbox."""
    return {
        "IMDBAPI_BASE": f"{sandbox_url}/imdbapi",
        "IMDBAPI_RATE": "",
        "KINO_BASE": f"{sandbox_url}/kinocheck",
        "KINO_API_KEY": "sandbox-kinocheck-key",
        "WATCHMODE_BASE": f"{sandbox_url}/watchmode/v1",
        "WATCHMODE_API_KEY": "sandbox-watchmode-key",
        "DJANGO_SECRET_KEY": "only-for-tests-" + "0123456789" * 5,
        "DJANGO_ALLOWED_HOSTS": "127.0.0.1,localhost",
        "FILM_MISS_THROTTLE_RATE": "",
        "SEARCH_THROTTLE_RATE": "",
        **settings,
    }


def get_patiently(url: str, *, tries: int = 6) -> tuple[Answer, int]:
    """GET as a polite client: a 503 or 429 is tried again when its `Retry-After` is over.

    Returns the last answer and the number of tries it took.
    """
    for number in range(1, tries + 1):
        answer = get(url)
        if answer.status not in {429, 503} or number == tries:
            break
        time.sleep(float(answer.headers["Retry-After"]))
    return answer, number
