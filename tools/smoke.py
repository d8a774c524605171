"""Run an installation as operators do, and let its parts fail: `make smoke`.

The locked dependencies and the files of the service are installed in a clean folder, read-only. Two
server processes run there behind nginx, with PgBouncer in front of a PostgreSQL server that has a
streaming replica, and with Redis. While clients read, the servers are restarted one after the
other, one is killed, and the database fails over. The program prints a table, and ends with status
1 if a rule is broken.
"""

import http.client
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tools.harness.databases import (
    PgBouncer,
    PrivatePostgres,
    eventually,
    execute,
    has_pgbouncer,
    has_postgres_programs,
    movable_pgbouncer,
    private_postgres,
    streaming_replica,
)
from tools.harness.proxy import NGINX, nginx_in_front
from tools.harness.sandbox import running
from tools.harness.server import (
    PROJECT,
    bare_environment,
    free_port,
    get,
    on_sandbox,
    wait_until_it_answers,
)

FILMS = tuple(f"/api/films/tt{number}" for number in ("1375666", "0111161", "0133093"))
MOVIE = "/api/v1/search/id/?id=tt1375666"
NEVER_READ_BEFORE = "/api/films/tt0068646"
CLIENTS = 8
REQUESTS = 5_000
REDIS_PASSWORD = "only-for-this-test"
# How long films that are not stored may be refused after a database has become the primary.
LONGEST_AFTER_PROMOTION = 5.0

_numbers = itertools.count()


@dataclass
class Row:
    """A step of the test with its result, and whether the result is allowed."""

    step: str
    result: str
    is_allowed: bool


@dataclass(frozen=True)
class Address:
    """Where a server process answers clients, and probes and Prometheus."""

    port: int = field(default_factory=free_port)
    operations_port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def operations_url(self) -> str:
        """The URL for probes and Prometheus."""
        return f"http://127.0.0.1:{self.operations_port}"


Servers = dict[Address, subprocess.Popen[bytes]]


@dataclass
class Clients:
    """Clients that read stored films all the time, each request past the cache of nginx."""

    front: str
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read until the block ends and `REQUESTS` requests are answered."""
        ended = threading.Event()
        threads = [threading.Thread(target=self._read, args=(ended,)) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
            eventually(lambda: self.answered >= REQUESTS, seconds=60)
        finally:
            ended.set()
            for thread in threads:
                thread.join()

    def _read(self, ended: threading.Event) -> None:
        connection = http.client.HTTPConnection(urlsplit(self.front).netloc, timeout=30)
        while not ended.is_set():
            number = next(_numbers)
            path = (*FILMS, f"{FILMS[0]}/trailer", MOVIE)[number % (len(FILMS) + 2)]
            separator = "&" if "?" in path else "?"
            unlike_any_other = f"{path}{separator}number={number}"
            started = time.perf_counter()
            try:
                connection.request("GET", unlike_any_other)
                response = connection.getresponse()
                body = response.read()
                if response.status != 200:
                    self.failures.append(f"{path}: {response.status} {body.decode()[:200]}")
            except (OSError, http.client.HTTPException) as exc:
                self.failures.append(f"{path}: {exc!r}")
                connection.close()
            self.milliseconds.append(1000 * (time.perf_counter() - started))
            self.answered += 1

    @property
    def summary(self) -> str:
        """How many were answered, how many failed, and how long they took."""
        ordered = sorted(self.milliseconds)
        median, slow, slowest = (ordered[int(part * (len(ordered) - 1))] for part in (0.5, 0.99, 1))
        return (
            f"{self.answered:,} requests, {len(self.failures)} failed;"
            f" p50 {median:.1f} ms, p99 {slow:.0f} ms, slowest {slowest:.0f} ms"
        )


class Installation:
    """The service in a folder of its own, which nothing writes to."""

    def __init__(self, folder: Path) -> None:
        self._home, self._logs = folder / "service", folder
        self._python = self._home / "venv/bin/python"

    def install(self) -> None:
        """Install the locked dependencies and the files that are in the image."""
        call(sys.executable, "-m", "venv", "--without-pip", str(self._home / "venv"))
        call(
            *(sys.executable, "-m", "pip", "--python", str(self._python), "install", "--quiet"),
            *("--disable-pip-version-check", "--require-hashes"),
            *("-r", str(PROJECT / "requirements/runtime.lock")),
        )
        shutil.copytree(
            PROJECT / "backend",
            self._home / "backend",
            ignore=shutil.ignore_patterns("tests", "conftest.py", "sandbox", "__pycache__"),
        )
        (self._home / "docs").mkdir()
        shutil.copy(PROJECT / "docs/API.md", self._home / "docs")
        call(str(self._python), "-m", "compileall", "-q", str(self._home / "backend"))
        call("chmod", "-R", "a-w", str(self._home))
        writes = "open('written', 'w')"
        assert self._run("-c", writes).wait(timeout=10) != 0, "the folder can be written to"

    def remove(self) -> None:
        """Remove the folder."""
        call("chmod", "-R", "u+w", str(self._home))
        shutil.rmtree(self._home)

    def migrate(self, **settings: str) -> None:
        """Run `manage.py migrate`."""
        self._run("manage.py", "migrate", "--verbosity", "0", **settings).wait(timeout=120)

    def start(self, address: Address, **settings: str) -> subprocess.Popen[bytes]:
        """Start a server; return it when it is ready."""
        log = self._logs / f"server-{address.port}.log"
        ports = {"PORT": str(address.port), "OPS_PORT": str(address.operations_port)}
        process = self._run("-m", "filmosphere.serve", log=log, **settings, **ports)
        wait_until_it_answers(address.operations_url, process, log)
        eventually(lambda: get(f"{address.operations_url}/readyz").status == 200)
        return process

    def _run(
        self, *arguments: str, log: Path | None = None, **settings: str
    ) -> subprocess.Popen[bytes]:
        # Permissions do not count for root, so it gets a read-only view of the folder.
        script = (
            'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && cd backend && exec "$@"'
        )
        is_root = ("unshare", "--mount", "sh", "-c", f'cd "$0" && {script}', str(self._home))
        with (log or Path(os.devnull)).open("ab") as output:
            return subprocess.Popen(
                [*(is_root if os.getuid() == 0 else ()), str(self._python), *arguments],
                cwd=self._home / "backend",
                env=bare_environment(**settings),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )


def main() -> None:
    if NGINX is None or not (
        has_pgbouncer and has_postgres_programs and shutil.which("redis-server")
    ):
        missing = "nginx, PgBouncer, Redis and the programs of PostgreSQL are needed"
        sys.exit(missing if os.environ.get("CI") == "true" else print(f"skipped: {missing}"))
    rows: list[Row] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="filmosphere-smoke-")))
        installation = Installation(folder)
        stack.callback(installation.remove)
        timed(rows, "locked install into a clean folder, read-only", installation.install)
        sandbox = stack.enter_context(running())
        primary = stack.enter_context(private_postgres())
        pooler = stack.enter_context(movable_pgbouncer(primary, server_login_retry="1"))
        redis = stack.enter_context(private_redis())
        installation.migrate(DATABASE_URL=pooler.url, **on_sandbox(sandbox.url))
        replica = stack.enter_context(streaming_replica(primary))
        settings = on_sandbox(
            sandbox.url,
            DATABASE_URL=pooler.url,
            DATABASE_REPLICA_URL=replica.url,
            REDIS_URL=redis,
            REDIS_PASSWORD=REDIS_PASSWORD,
            OMDB_BASE_URL=f"{sandbox.url}/omdb",
            OMDB_API_KEY="5a4db0c5",
            MAX_THRESHOLD="1000000",
            NUM_PROXIES="1",
            DRAIN_SECONDS="1",
            LOG_FORMAT="json",
        )
        addresses = (Address(), Address())
        servers = {address: installation.start(address, **settings) for address in addresses}
        stack.callback(stop_all, servers)
        urls = [address.url for address in addresses]
        front = stack.enter_context(nginx_in_front(folder, urls))

        rows += answers(front, addresses, replica, redis)
        rows.append(rolling_restart(front, installation, servers, settings))
        rows.append(one_is_killed(front, installation, servers, settings))
        rows += failover(front, primary, replica, pooler)
    print_table(rows)
    sys.exit(0 if all(row.is_allowed for row in rows) else 1)


def timed(rows: list[Row], step: str, work: Callable[[], None]) -> None:
    started = time.monotonic()
    work()
    rows.append(Row(step, f"{time.monotonic() - started:.0f} s", is_allowed=True))


def answers(
    front: str, addresses: Sequence[Address], replica: PrivatePostgres, redis: str
) -> list[Row]:
    """Fill the caches, and look at each kind of answer once."""
    paths = ["/healthz", "/readyz", *FILMS, f"{FILMS[0]}/trailer", "/api/search?q=inception", MOVIE]
    found = {path: get(front + path).status for path in paths}
    query = "SELECT count(*) FROM films_filmrendering"
    eventually(lambda: execute(replica.url, query) == [(len(FILMS),)])
    eventually(lambda: all(reads_the_replica(each) for each in addresses))
    keys = redis_cli(urlsplit(redis).port, "keys", "movie_*")
    counted = [read_metrics(each).count("filmosphere_requests_total{") for each in addresses]
    elsewhere = {get(f"{url}/metrics").status for url in (front, *(each.url for each in addresses))}
    return [
        Row(
            "health and both surfaces through nginx",
            f"{[*found.values()].count(200)} of {len(found)} answered 200",
            is_allowed=set(found.values()) == {200},
        ),
        Row(
            "metrics at the operations ports only",
            f"{counted} series of requests; elsewhere {sorted(elsewhere)}",
            is_allowed=all(counted) and elsewhere == {404},
        ),
        Row(
            "Redis holds movies, the replica is read",
            f"{len(keys.split())} keys",
            is_allowed=bool(keys.strip()),
        ),
    ]


def reads_the_replica(address: Address) -> bool:
    # It looks at the state of the replica when it reads a film, at most once a second.
    assert get(address.url + FILMS[0]).status == 200
    return "filmosphere_replica_current 1.0" in read_metrics(address)


def read_metrics(address: Address) -> str:
    return get(f"{address.operations_url}/metrics").body.decode()


def rolling_restart(
    front: str,
    installation: Installation,
    servers: Servers,
    settings: dict[str, str],
) -> Row:
    clients = Clients(front)
    codes = []
    with clients.reading():
        for address, process in [*servers.items()]:
            process.send_signal(signal.SIGTERM)
            codes.append(process.wait(timeout=30))
            servers[address] = installation.start(address, **settings)
    show(clients.failures)
    return Row(
        "rolling restart of both servers: none fails",
        f"{clients.summary}; exit codes {codes}",
        is_allowed=not clients.failures and codes == [0, 0],
    )


def one_is_killed(
    front: str,
    installation: Installation,
    servers: Servers,
    settings: dict[str, str],
) -> Row:
    clients = Clients(front)
    address, process = next(iter(servers.items()))
    with clients.reading():
        eventually(lambda: clients.answered > REQUESTS // 4, seconds=60)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
        eventually(lambda: clients.answered > REQUESTS // 2, seconds=60)
        servers[address] = installation.start(address, **settings)
    show(clients.failures)
    return Row(
        f"one server killed with -9: at most its own {CLIENTS} requests fail",
        clients.summary,
        is_allowed=len(clients.failures) <= CLIENTS,
    )


def failover(
    front: str, primary: PrivatePostgres, replica: PrivatePostgres, pooler: PgBouncer
) -> list[Row]:
    clients = Clients(front)
    with clients.reading():
        eventually(lambda: clients.answered > REQUESTS // 4, seconds=60)
        started = time.monotonic()
        primary.kill()
        refused = get(f"{front}{NEVER_READ_BEFORE}").status
        replica.promote()
        pooler.move_to(replica)
        promoted = time.monotonic()
        eventually(lambda: get(f"{front}{NEVER_READ_BEFORE}").status == 200, seconds=30)
        until_all_is_well = time.monotonic()
    show(clients.failures)
    after = until_all_is_well - promoted
    return [
        Row("failover: stored films", clients.summary, is_allowed=not clients.failures),
        Row(
            "failover: other films, only during the outage",
            f"{refused} at once, 200 after {until_all_is_well - started:.1f} s,"
            f" {after:.1f} s after the promotion",
            is_allowed=after <= LONGEST_AFTER_PROMOTION,
        ),
    ]


@contextmanager
def private_redis() -> Iterator[str]:
    """Run a Redis server that asks for a password; yield its `REDIS_URL`."""
    port = free_port()
    process = subprocess.Popen(
        [
            *("redis-server", "--bind", "127.0.0.1", "--port", str(port)),
            *("--save", "", "--appendonly", "no", "--requirepass", REDIS_PASSWORD),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: "PONG" in redis_cli(port, "ping"))
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(timeout=10)


def redis_cli(port: int | None, *command: str) -> str:
    """Return what a command to Redis prints, also if it cannot be reached."""
    done = subprocess.run(
        ["redis-cli", "-p", str(port), *command],
        env={**os.environ, "REDISCLI_AUTH": REDIS_PASSWORD},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


def stop_all(servers: Servers) -> None:
    for process in servers.values():
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    for process in servers.values():
        process.wait(timeout=30)


def call(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def show(failures: list[str]) -> None:
    for failure in failures[:10]:
        print(f"failed: {failure}", file=sys.stderr)


def print_table(rows: list[Row]) -> None:
    width = max(len(row.step) for row in rows)
    for row in rows:
        print(f"{'ok  ' if row.is_allowed else 'FAIL'}  {row.step:{width}}  {row.result}")


if __name__ == "__main__":
    main()
