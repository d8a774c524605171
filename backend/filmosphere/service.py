"""Runs the service: the sandbox if it is the source, the listening socket, and the workers."""

import errno
import gc
import logging
import math
import multiprocessing
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec

import django
from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.urls import get_resolver
from django.utils.log import configure_logging

from filmosphere import worker
from filmosphere.startup import load_settings_or_exit, process, reach_redis_or_exit
from filmosphere.supervisor import Supervisor

logger = logging.getLogger(__name__)


def run(*, migrates: bool = False) -> None:
    """Serve until a signal asks to stop, after applying migrations if `migrates`.

    Exits with status 1 and one line on standard error if the service cannot start.
    """
    load_settings_or_exit(serves=True)
    reach_redis_or_exit()
    configure_logging(settings.LOGGING_CONFIG, settings.LOGGING)
    for warning in settings.ENVIRONMENT_WARNINGS:
        logger.warning(warning, extra={"outcome": "configuration"})
    with loading():
        django.setup()
    migration = start_migration() if migrates else None
    listener = listen_or_exit(settings.HOST, settings.PORT, setting="PORT")
    operations = settings.OPS_PORT and listen_or_exit(
        settings.HOST, settings.OPS_PORT, setting="OPS_PORT"
    )
    # Longer than any request takes.
    stop_seconds = math.ceil(settings.FETCH_DEADLINE) + 2
    with sandbox() as wait_for_sandbox:
        process.has_operations_port = operations is not None
        load_application()
        if migration:
            migration.join()
            if migration.exitcode:
                sys.exit(1)
        wait_for_sandbox()
        supervisor = Supervisor(
            count=settings.WORKERS,
            listener=listener,
            operations=operations,
            work=partial(
                worker.serve,
                threads=settings.BLOCKING_THREADS,
                idle_seconds=settings.KEEP_ALIVE_SECONDS,
                stop_seconds=stop_seconds,
            ),
            on_ready=announce,
            drain_seconds=settings.DRAIN_SECONDS,
            stop_seconds=stop_seconds,
        )
        could_start = supervisor.run()
    if not could_start:
        sys.exit(1)


@contextmanager
def loading() -> Iterator[None]:
    """Exit with status 1 and the traceback in the log if the code cannot be imported."""
    try:
        yield
    # Whatever is wrong with it.
    except Exception:
        logger.exception("the application cannot be loaded")
        sys.exit(1)


def load_application() -> None:
    """Import what workers need, so that they share it, and replace others at once.

    It opens no connection and starts no thread: workers are forks, which must not share the former
    and do not have the latter.
    """
    with loading():
        import filmosphere.observation  # noqa: PLC0415  (it needs the applications)
        import filmosphere.operations  # noqa: F401, PLC0415

        get_wsgi_application()  # imports the middleware
        get_resolver().url_patterns  # noqa: B018  (imports them with their views)
    # The objects that are there by now are left out of garbage collection: it would write to them,
    # and so copy them in each worker.
    gc.freeze()
    gc.enable()


def start_migration() -> multiprocessing.process.BaseProcess:
    """Apply migrations in a child process: its connections may take any time, unlike those here."""
    child = multiprocessing.get_context("fork").Process(target=_migrate)
    child.start()
    return child


def _migrate() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.enable()
    execute_from_command_line(["manage.py", "migrate", "--verbosity", "0"])


def listen_or_exit(host: str, port: int, *, setting: str) -> socket.socket:
    """Return a socket that listens at `host`, an address or a name; exit if that is impossible.

    `setting` is the name of the setting that has the port.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        sys.exit("filmosphere: HOST is neither an address nor a name that can be resolved")
    # A name with both kinds of addresses, such as localhost, means the IPv4 one.
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    try:
        listener = socket.create_server(
            address[:2],
            family=family,
            backlog=worker.BACKLOG,
            dualstack_ipv6=family == socket.AF_INET6 and socket.has_dualstack_ipv6(),
        )
    except OSError as exc:
        reasons = {
            errno.EADDRINUSE: f"port {port} is in use by another program; "
            f"{setting} chooses another one",
            errno.EACCES: f"port {port} is reserved for privileged programs",
            errno.EADDRNOTAVAIL: "HOST is not an address of this machine",
        }
        reason = reasons.get(exc.errno or 0, f"cannot listen: {exc.strerror}")
        sys.exit(f"filmosphere: {reason}")
    # Connections inherit it. Otherwise the kernel keeps the body of an answer back until its
    # headers are acknowledged, which clients delay by 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def announce() -> None:
    """Report that the service serves and what it uses, in a banner or in a log line."""
    url = f"http://localhost:{settings.PORT}"
    if settings.LOG_FORMAT == "json":
        uses = {
            "sources": "sandbox" if settings.SANDBOX else "real",
            "database": connection.vendor,
            "redis": bool(settings.REDIS_URL),
        }
        fields = {"host": settings.HOST, "port": settings.PORT, "workers": settings.WORKERS}
        logger.info("serving", extra=fields | uses)
        return
    print(banner(url), flush=True)


def banner(url: str) -> str:
    """Return what a person should know of this run, and requests to try."""
    sources = (
        f"the sandbox on http://127.0.0.1:{settings.SANDBOX_PORT} (no upstream setting is given;"
        " made-up offers and trailers, no key and no network needed, loopback only)"
        if settings.SANDBOX
        else "the real ones (upstream settings are given)"
    )
    database = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[connection.vendor]
    origin = "DATABASE_URL is given" if settings.DATABASE_IS_GIVEN else "no DATABASE_URL"
    redis = "used (REDIS_URL is given)" if settings.REDIS_URL else "not used (no REDIS_URL)"
    key = "from DJANGO_SECRET_KEY" if settings.SECRET_KEY_IS_GIVEN else "made for this run"
    return "\n".join(
        [
            f"Filmosphere serves on {url} (listening on {settings.HOST})",
            f"  sources   {sources}",
            f"  database  {database} ({origin})",
            f"  Redis     {redis}",
            f"  key       {key}",
            "Try it:",
            f"  {url}/api/docs  in a browser",
            f"  curl '{url}/api/search?q=inception'",
            f"  curl {url}/api/films/tt1375666",
            f"  curl '{url}/api/v1/search/id/?id=tt1375666'",
        ]
    )


@contextmanager
def sandbox() -> Iterator[Callable[[], None]]:
    """Run the stand-ins for the sources in a process of their own, if they are the sources.

    Yields a function that returns when they answer.
    """
    if not settings.SANDBOX:
        yield lambda: None
        return
    if not find_spec("sandbox"):
        sys.exit("filmosphere: no source of films is configured: IMDBAPI_BASE is missing")
    child = subprocess.Popen(
        [
            sys.executable,
            *("-m", "sandbox", "--port", str(settings.SANDBOX_PORT), "--exit-with-parent"),
        ],
        cwd=settings.BASE_DIR,
        stdout=subprocess.PIPE,
        text=True,
        # Signals to the group of this process must not end it before the workers.
        start_new_session=True,
    )

    def wait() -> None:
        assert child.stdout is not None  # noqa: S101  (a pipe was asked for)
        if not child.stdout.readline():
            sys.exit(
                f"filmosphere: the sandbox did not start on port {settings.SANDBOX_PORT}; "
                "SANDBOX_PORT chooses another one"
            )

    try:
        yield wait
    finally:
        child.terminate()
        child.wait(timeout=5)
