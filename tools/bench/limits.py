"""What is measured: the service, and the programs of `benchmarks/`, on processors of their own.

The process under test has the first processor. Load generators, the sandbox and the databases have
the second.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import psycopg2
import redis

from tools.harness.proxy import NGINX
from tools.harness.sandbox import Sandbox, running
from tools.harness.server import (
    PROJECT,
    Server,
    database,
    free_port,
    manage,
    on_sandbox,
    server,
    wait_until_it_answers,
)

BENCHMARKS = PROJECT / "benchmarks"
OTHERS_PYTHON = PROJECT / ".venv-benchmarks/bin/python"
VARNISH = Path("/usr/sbin/varnishd")
FILM_ID = "tt4154796"
FILM = f"/api/films/{FILM_ID}"
SERVERS, CLIENTS = {0}, {1}
BOTH = SERVERS | CLIENTS
# As many copies of films as the longest cold load takes.
TITLES = 1000


_T = TypeVar("_T")


class Missing(Exception):
    """What a measurement needs is not there."""


@dataclass(frozen=True)
class Limit:
    """A running program that the service is compared with."""

    url: str
    process: subprocess.Popen[bytes]


@dataclass(frozen=True)
class Bench:
    """What all parts share, and how long and how often they measure."""

    folder: Path
    sandbox: Sandbox
    database: str
    settings: dict[str, str]
    databases_are_pinned: bool
    seconds: int
    pairs: int
    rows: int
    memory_minutes: float

    @contextmanager
    def service(self, *, processors: set[int] = SERVERS, **settings: str) -> Iterator[Server]:
        """Run the service, unless told otherwise with eight threads, as the limits."""
        eight = {"BLOCKING_THREADS": "8", "COLD_CONCURRENCY": "6"}
        starting = server(self.folder, **self.settings | eight | settings)
        with _started_on(processors, starting) as one:
            yield one

    def in_django(self, code: str, *, url: str) -> None:
        """Run code with the models and the settings of the service."""
        settings = self.settings | {"DATABASE_URL": url}
        done = manage("shell", "--verbosity", "0", "-c", code, timeout=600, **settings)
        assert done.returncode == 0, done.stderr

    def granian(
        self, application: str, *, threads: int = 8, **settings: str
    ) -> AbstractContextManager[Limit]:
        """Run a WSGI application of `benchmarks/` under the server of the service."""
        options = (
            "--interface wsgi --http 1 --no-ws --runtime-mode mt --runtime-blocking-threads 1"
            f" --blocking-threads {threads} --log-level error --port @port@ {application}"
        )
        return self._run([sys.executable, "-m", "granian", *options.split()], settings)

    def wsgi(
        self, body: bytes, application: str = "bare_wsgi:application"
    ) -> AbstractContextManager[Limit]:
        """Run an application that returns a body."""
        path = self.folder / f"body-{hash(body)}"
        path.write_bytes(body)
        return self.granian(application, BODY=str(path))

    def fastapi(self) -> AbstractContextManager[Limit]:
        """Run FastAPI with films from Redis."""
        if not redis_answers():
            raise Missing("Redis does not answer")
        options = (
            "-m uvicorn --loop uvloop --http httptools --no-access-log --log-level error"
            " --port @port@ fastapi_redis:app"
        )
        return self._run([_others_python(), *options.split()], {"REDIS_URL": redis_url()})

    def aiohttp(self) -> AbstractContextManager[Limit]:
        """Run the aiohttp fan-out."""
        command = [_others_python(), "aiohttp_fan_out.py"]
        return self._run(command, {"SANDBOX": self.sandbox.url, "PORT": "@port@"})

    def nginx(self, backend: str) -> AbstractContextManager[Limit]:
        """Run nginx as a cache in front of a server."""
        if NGINX is None:
            raise Missing("nginx is not installed")
        command = [NGINX, "-p", str(self.folder), "-e", "stderr", "-c", "@file@"]
        return self._run(command, {}, template="nginx.conf", backend=backend)

    def varnish(self, backend: str) -> AbstractContextManager[Limit]:
        """Run Varnish as a cache in front of a server."""
        if not VARNISH.exists():
            raise Missing("Varnish is not installed")
        options = f"-F -j none -a 127.0.0.1:@port@ -n {self.folder}/varnish -s malloc,64m -f @file@"
        command = [str(VARNISH), *options.split()]
        port = backend.rpartition(":")[2]
        return self._run(command, {}, template="varnish.vcl", backend_port=port)

    def _run(
        self,
        command: Sequence[str],
        settings: dict[str, str],
        *,
        template: str | None = None,
        **words: str,
    ) -> AbstractContextManager[Limit]:
        port = free_port()
        words |= {"port": str(port), "folder": str(self.folder)}
        if template:
            path = self.folder / f"{port}-{template}"
            path.write_text(_replaced((BENCHMARKS / template).read_text(), words))
            words["file"] = str(path)
        settings = {name: _replaced(value, words) for name, value in settings.items()}
        command = [_replaced(word, words) for word in command]
        log = self.folder / f"{port}.log"
        return _started_on(SERVERS, _process(command, settings, f"http://127.0.0.1:{port}", log))


def _replaced(text: str, words: dict[str, str]) -> str:
    return re.sub(r"@(\w+)@", lambda found: words[found[1]], text)


@contextmanager
def _process(command: list[str], settings: dict[str, str], url: str, log: Path) -> Iterator[Limit]:
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=BENCHMARKS,
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "", **settings},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until_it_answers(url, process, log)
        yield Limit(url, process)
    finally:
        process.terminate()
        process.wait()


def _others_python() -> str:
    if not OTHERS_PYTHON.exists():
        raise Missing("requirements/benchmarks.txt is not installed")
    return str(OTHERS_PYTHON)


@contextmanager
def _started_on(processors: set[int], starting: AbstractContextManager[_T]) -> Iterator[_T]:
    """Enter the context, in which processes are started, on these processors."""
    with ExitStack() as stack:
        with on_processors(processors):
            started = stack.enter_context(starting)
        yield started


@contextmanager
def on_processors(processors: set[int]) -> Iterator[None]:
    """Run this thread, and the processes that it starts, on these processors."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def prepared(*, seconds: int, pairs: int, rows: int, memory_minutes: float) -> Iterator[Bench]:
    """Start what all parts share."""
    if not os.sched_getaffinity(0) >= BOTH:
        sys.exit("This needs two processors: one for the server, one for the load generator.")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        # nginx and Varnish may run as another user.
        folder.chmod(0o755)
        stack.enter_context(on_processors(CLIENTS))
        sandbox = stack.enter_context(running("--titles", str(TITLES)))
        url = stack.enter_context(database(folder))
        pinned = stack.enter_context(_databases_on(CLIENTS, url))
        settings = on_sandbox(
            sandbox.url,
            DATABASE_URL=url,
            LOG_LEVEL="WARNING",
            OMDB_BASE_URL=f"{sandbox.url}/omdb/",
            OMDB_API_KEY="5a4db0c5",
            MAX_THRESHOLD="1000000000",
        )
        yield Bench(folder, sandbox, url, settings, pinned, seconds, pairs, rows, memory_minutes)


def redis_url() -> str:
    """Return the address of the Redis that `make bench` uses."""
    return os.environ["REDIS_URL"]


def redis_answers() -> bool:
    """Whether there is a Redis."""
    with closing(redis.Redis.from_url(redis_url())) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False


@contextmanager
def _databases_on(processors: set[int], url: str) -> Iterator[bool]:
    """Keep PostgreSQL and Redis on these processors; yield whether that was possible."""
    with closing(psycopg2.connect(url)) as connection:
        backend = connection.info.backend_pid
        # On another machine, or in a container, there is no such process here.
        servers = [parent_of(backend)] if Path(f"/proc/{backend}").exists() else []
    if redis_answers():
        with closing(redis.Redis.from_url(redis_url())) as client:
            servers.append(int(client.info("server")["process_id"]))
    processes = [each for server in servers for each in (server, *children_of(server))]
    everywhere = set(range(os.cpu_count() or 1))
    moved = [_moved(pid, processors) for pid in processes]
    try:
        yield bool(moved) and all(moved)
    finally:
        # Not back to where they were: that may be the processors of another run.
        for pid in processes:
            _moved(pid, everywhere)


def _moved(pid: int, processors: set[int]) -> bool:
    """Let a process run on these processors; return whether that was possible."""
    try:
        os.sched_setaffinity(pid, processors)
    except PermissionError:
        return False
    except ProcessLookupError:
        pass  # it has ended
    return True


def children_of(pid: int) -> list[int]:
    """Return the child processes of a process."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, check=False)
    return [int(line) for line in found.stdout.split()]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and all below it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own + sum(cpu_seconds(child) for child in children_of(pid))


def parent_of(pid: int) -> int:
    """Return the parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
