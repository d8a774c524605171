"""One server process: the application under granian's WSGI server."""

import ctypes
import os
import resource
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from granian._futures import _new_cbscheduler
from granian._granian import SocketHolder, WorkerSignal, WSGIWorker
from granian._loops import loops
from granian.constants import HTTPModes
from granian.http import HTTP1Settings
from granian.wsgi import _callback_wrapper

from core import tracing
from filmosphere.startup import process
from filmosphere.supervisor import DRAIN, READY, Links
from web.metrics_exchange import answer_for_this_process

# Connections that a worker holds at the same time. More are left to the kernel, which queues them.
_CONNECTIONS = 4096
BACKLOG = 2048
# Headers of more than 49 KB are refused with 431: the buffer for them, which grows from 8 KB by
# doubling, must not exceed this before they are complete.
_HEADER_BUFFER = 32 * 1024
# mallopt(3) of glibc. By default each thread allocates in an arena of its own, and what is free in
# one is of no use to the others: 32 threads then need 15 MB more, and ever more over time.
_M_ARENA_MAX = -8
_ARENAS = 2
# granian keeps idle threads this long, in seconds.
_THREAD_IDLE = 30


def serve(links: Links, *, threads: int, idle_seconds: float, stop_seconds: float) -> None:
    """Serve until the supervisor asks to stop, or is gone, and all requests are answered.

    A connection is closed when the headers of its next request are not complete `idle_seconds`
    after it was opened or last answered.
    """
    _limit_arenas()
    shutdown, ended = WorkerSignal(), threading.Event()
    shutdown.add_cb(ended.set)
    obeying = threading.Thread(target=_obey, args=(links, shutdown, stop_seconds), daemon=True)
    obeying.start()
    if links.metrics:
        process.metrics_hub = links.metrics_hub
        answer_for_this_process(links.metrics)
    # Only now: it makes the objects of this process, which must not keep it from stopping.
    from filmosphere import operations, wsgi  # noqa: PLC0415

    if links.operations:
        operations.serve(links.operations, wsgi.operations)

    worker = WSGIWorker(
        links.number,
        (None, SocketHolder(links.listener.detach(), uds=False, backlog=BACKLOG)),
        ipc=None,
        threads=1,
        blocking_threads=1,
        py_threads=threads,
        py_threads_idle_timeout=_THREAD_IDLE,
        backpressure=_connections(),
        # Where HTTP/2 is possible as well, granian waits for the first byte without a limit.
        http_mode=HTTPModes.http1,
        http1_opts=HTTP1Settings(
            header_read_timeout=round(idle_seconds * 1000), max_buffer_size=_HEADER_BUFFER
        ),
        metrics=(None, None),
    )
    loop = loops.get("asyncio")
    callback = _callback_wrapper(_closing(wsgi.application), {})
    worker.serve_mtr(_new_cbscheduler(loop, callback, impl_asyncio=True), loop, shutdown)
    links.control.send(READY)
    ended.wait()
    if tracing.spans:
        tracing.spans.close()


def _limit_arenas() -> None:
    libc = ctypes.CDLL(None)
    # Other C libraries do not have it.
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_ARENA_MAX, _ARENAS)


def _connections() -> int:
    """Return how many connections the limit of open files allows, after raising it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _CONNECTIONS + 512
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(64, min(_CONNECTIONS, allowed - 512))


def _obey(links: Links, shutdown: Any, stop_seconds: float) -> None:
    command = _next_command(links)
    if command == DRAIN:
        process.stopping.set()
        command = _next_command(links)
    process.stopping.set()
    shutdown.set()
    if not command:
        # The supervisor was killed, so it cannot kill this process if a request hangs.
        time.sleep(stop_seconds)
        os._exit(1)


def _next_command(links: Links) -> bytes:
    """Return what the supervisor sends next; nothing if it was killed."""
    try:
        return links.control.recv(1)
    except ConnectionResetError:
        # It had not read that this worker is ready.
        return b""


def _closing(application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """Let the answers of a process that will be stopped end their connections.

    Otherwise a client could send its next request at the very moment of the stop.
    """

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            # The process may have been asked to stop since the request began.
            if process.stopping.is_set():
                headers = [*headers, ("Connection", "close")]
            return start_response(status, headers, exc_info)

        return application(environ, start)

    return answer
