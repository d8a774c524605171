"""Start the service: `python -m filmosphere.serve`, as `make run` and the image do."""

import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from django.conf import settings
from django.db import connection
from django.utils.log import configure_logging
from granian import Granian
from granian.constants import Interfaces

from filmosphere.startup import (
    REDIS_WAS_THERE,
    STOPPING,
    load_settings_or_exit,
    reach_redis_or_exit,
)

logger = logging.getLogger(__name__)


def main() -> None:
    """Serve until told to stop; the sandbox, where it is the source, lives and ends with us."""
    load_settings_or_exit()
    reach_redis_or_exit()
    os.environ[REDIS_WAS_THERE] = "yes"
    # The workers read the settings again: they must find the key that was made for this run.
    os.environ["DJANGO_SECRET_KEY"] = settings.SECRET_KEY
    with sandbox(), shared_metrics(), tempfile.TemporaryDirectory() as folder:
        os.environ[STOPPING] = str(Path(folder) / "stopping")
        print(banner(), flush=True)
        server = Granian(
            "filmosphere.wsgi:application",
            address=settings.HOST,
            port=settings.PORT,
            interface=Interfaces.WSGI,
            workers=settings.WORKERS,
            blocking_threads=settings.BLOCKING_THREADS,
            respawn_failed_workers=True,
            # A request takes no longer than this; a worker that is still there then hangs.
            workers_kill_timeout=math.ceil(settings.FETCH_DEADLINE) + 2,
            log_access=False,
        )
        server.on_startup(drain_on_sigterm)
        server.serve()


def drain_on_sigterm() -> None:
    """Let SIGTERM stop the server only when balancers had time to see that it is not ready.

    A second one stops it at once, as Ctrl-C does.
    """
    stop = signal.getsignal(signal.SIGTERM)
    if not settings.DRAIN_SECONDS or not callable(stop):
        return
    # This process only starts others, which have a log of their own.
    configure_logging(settings.LOGGING_CONFIG, settings.LOGGING)

    def drain(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, stop)
        Path(os.environ[STOPPING]).touch()
        fields = {"outcome": "shutdown", "seconds": settings.DRAIN_SECONDS}
        logger.info("no longer ready, about to stop", extra=fields)
        timer = threading.Timer(settings.DRAIN_SECONDS, stop, (signum, frame))
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGTERM, drain)


def banner() -> str:
    """Return the first lines of a run: what it reads from, where it stores, what to try."""
    url = f"http://localhost:{settings.PORT}"
    database = connection.vendor
    sources = (
        f"the sandbox on http://127.0.0.1:{settings.SANDBOX_PORT} (no upstream setting is given;"
        " made-up offers and trailers, no key and no network needed, loopback only)"
        if settings.SANDBOX
        else "the real ones (upstream settings are given)"
    )
    store = "SQLite (no DATABASE_URL is given)" if database == "sqlite" else "PostgreSQL"
    redis = "used (REDIS_URL is given)" if settings.REDIS_URL else "not used (no REDIS_URL)"
    key = "made for this run" if settings.SANDBOX else "from DJANGO_SECRET_KEY"
    return "\n".join(
        [
            f"Filmosphere serves on {url} (listening on {settings.HOST})",
            f"  sources   {sources}",
            f"  database  {store}",
            f"  Redis     {redis}",
            f"  key       {key}",
            "Try it:",
            f"  curl '{url}/api/search?q=inception'",
            f"  curl {url}/api/films/tt1375666",
            f"  curl '{url}/api/v1/search/id/?id=tt1375666'",
        ]
    )


@contextmanager
def sandbox() -> Iterator[None]:
    """Run the stand-ins for the sources in a process of their own, where they are the sources."""
    if not settings.SANDBOX:
        yield
        return
    process = subprocess.Popen(
        [
            sys.executable,
            *("-m", "sandbox", "--port", str(settings.SANDBOX_PORT), "--exit-with-parent"),
        ],
        cwd=settings.BASE_DIR,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None  # noqa: S101  (a pipe was asked for)
        if not process.stdout.readline():
            sys.exit(
                f"filmosphere: the sandbox did not start on port {settings.SANDBOX_PORT}; "
                "SANDBOX_PORT chooses another one"
            )
        yield
    finally:
        process.terminate()
        process.wait(timeout=5)


@contextmanager
def shared_metrics() -> Iterator[None]:
    """Give several server processes a folder where they count together for `/metrics`."""
    if settings.WORKERS == 1:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="filmosphere-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        yield


if __name__ == "__main__":
    main()
