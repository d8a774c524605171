"""The service in processes of its own: servers, management commands, and their database."""

import atexit
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg2

PROJECT = Path(__file__).resolve().parents[2]
BACKEND = PROJECT / "backend"
START_SECONDS = 30.0

_SETTINGS = re.findall(
    r"^#? ?([A-Z][A-Z_]+)=", (PROJECT / ".env.example").read_text(), re.MULTILINE
)


@dataclass(frozen=True)
class Answer:
    """A response: status, headers (looked up without regard to case) and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def get(url: str, **headers: str) -> Answer:
    """Send a GET request; return the response, also if its status is an error."""
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
    """Return a TCP port on which nothing listens now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def bare_environment(**settings: str) -> dict[str, str]:
    """Return the environment of this process without any setting of the service but `settings`."""
    kept = {name: value for name, value in os.environ.items() if name not in _SETTINGS}
    kept.pop("DJANGO_SETTINGS_MODULE", None)
    return {**kept, "ENV_FILE": os.devnull, "PYTHONUNBUFFERED": "1", **settings}


@contextmanager
def database(folder: Path) -> Iterator[str]:
    """Create a migrated database; yield its `DATABASE_URL`.

    It is on the PostgreSQL server that `DATABASE_URL` names, else an SQLite file in the folder.
    """
    given = os.environ.get("DATABASE_URL", "")
    if not given.startswith("postgres"):
        path = folder / "films.sqlite3"
        path.write_bytes(_migrated_sqlite())
        yield f"sqlite:///{path}"
        return
    with _new_postgres(given, template=_migrated_postgres(given)) as url:
        yield url


@contextmanager
def empty_database(folder: Path) -> Iterator[str]:
    """Create a database without tables, where `database` creates one; yield its `DATABASE_URL`."""
    given = os.environ.get("DATABASE_URL", "")
    if not given.startswith("postgres"):
        yield f"sqlite:///{folder / 'empty.sqlite3'}"
        return
    with _new_postgres(given, template="template1") as url:
        yield url


@cache
def _migrated_sqlite() -> bytes:
    """Migrate once: it takes longer than most tests."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "films.sqlite3"
        migrate(f"sqlite:///{path}")
        return path.read_bytes()


@cache
def _migrated_postgres(given: str) -> str:
    """Return the name of a migrated database, which is removed at the end of this process."""
    stack = ExitStack()
    atexit.register(stack.close)
    url = stack.enter_context(_new_postgres(given, template="template1"))
    migrate(url)
    return urlsplit(url).path.lstrip("/")


@contextmanager
def _new_postgres(given: str, *, template: str) -> Iterator[str]:
    name = f"filmosphere_{uuid.uuid4().hex[:12]}"
    with closing(psycopg2.connect(given)) as server:
        server.autocommit = True
        server.cursor().execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield urlunsplit(urlsplit(given)._replace(path=name))
    finally:
        with closing(psycopg2.connect(given)) as server:
            server.autocommit = True
            server.cursor().execute(f"DROP DATABASE {name} WITH (FORCE)")


def migrate(url: str) -> None:
    """Bring a database up to date."""
    done = manage("migrate", "--verbosity", "0", DATABASE_URL=url)
    assert done.returncode == 0, done.stderr


def manage(
    *arguments: str, stdin: str = "", timeout: float = 60, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run a management command with nothing set but `settings`; return its result."""
    return run_python("manage.py", *arguments, stdin=stdin, timeout=timeout, **settings)


def serve_to_the_end(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m filmosphere.serve`, which is expected to end by itself; return its result."""
    return run_python("-m", "filmosphere.serve", *arguments, timeout=30, **settings)


def run_python(
    *arguments: str, stdin: str = "", timeout: float = 60, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run Python in `backend` with nothing set but `settings`; return its result."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=BACKEND,
        env=bare_environment(**settings),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


class Server:
    """A running `filmosphere.serve`, and the URL of its sandbox if it started one."""

    def __init__(
        self, process: subprocess.Popen[str], url: str, sandbox_url: str, log: Path
    ) -> None:
        self.process, self.url, self.sandbox_url, self._log = process, url, sandbox_url, log

    @property
    def output(self) -> str:
        """What the server has written to its log."""
        return self._log.read_text()

    @property
    def worker(self) -> int:
        """The process id of the first worker, which changes when the worker is replaced."""
        return self.workers[1]

    @property
    def workers(self) -> dict[int, int]:
        """The process id of each worker, by its number from 1 on.

        They are read from the log, so `LOG_LEVEL` must include INFO.
        """
        started = re.findall(r'"worker started".*"worker": (\d+), "pid": (\d+)', self.output)
        return {int(number): int(pid) for number, pid in started}

    def get(self, path: str, **headers: str) -> Answer:
        return get(self.url + path, **headers)


@contextmanager
def server(folder: Path, *arguments: str, **settings: str) -> Iterator[Server]:
    """Run `python -m filmosphere.serve` on a free port, with nothing set but `settings`."""
    port = free_port()
    log = folder / f"server-{port}.log"
    sandbox_port = free_port()
    environment = bare_environment(
        **{
            "PORT": str(port),
            "SANDBOX_PORT": str(sandbox_port),
            "DRAIN_SECONDS": "0",
            **settings,
        }
    )
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "filmosphere.serve", *arguments],
            cwd=BACKEND,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            # Tests send signals to its process group.
            start_new_session=True,
        )
    running = Server(process, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{sandbox_port}", log)
    try:
        wait_until_it_answers(running.url, process, log)
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def wait_until_it_answers(url: str, process: subprocess.Popen[Any], log: Path) -> None:
    """Wait for the first response of a new process; fail with its log if there is none."""
    limit = time.monotonic() + START_SECONDS
    while time.monotonic() < limit:
        assert process.poll() is None, log.read_text()
        try:
            get(f"{url}/healthz")
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"no answer within {START_SECONDS} s:\n{log.read_text()}")


def on_sandbox(sandbox_url: str, **settings: str) -> dict[str, str]:
    """Return settings with which a server uses a running sandbox as its sources."""
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
        "UNKNOWN_ID_THROTTLE_RATE": "",
        "SEARCH_THROTTLE_RATE": "",
        **settings,
    }


def get_patiently(url: str, *, tries: int = 6) -> tuple[Answer, int]:
    """Send a GET request as a client that obeys `Retry-After` of 429 and 503.

    Return the last response and the number of tries.
    """
    for number in range(1, tries + 1):
        answer = get(url)
        if answer.status not in {429, 503} or number == tries:
            break
        time.sleep(float(answer.headers["Retry-After"]))
    return answer, number
