"""The process that starts the server processes, replaces those that end, and stops them."""

import enum
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from web.metrics_exchange import Address, MetricsHub, local_listener

logger = logging.getLogger(__name__)

# Sent to a worker: start to drain, stop. Sent by a worker: it is ready to serve. If a worker reads
# the end of the stream, the supervisor was killed.
DRAIN, STOP, READY = b"d", b"s", b"r"

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Workers that end sooner than this, one after the other, are replaced at once, after 1, 2, 4 … s.
_SHORT_LIFE = 30.0
_LONGEST_PAUSE = 30.0


@dataclass(frozen=True)
class Links:
    """What a worker has in common with the supervisor."""

    number: int
    listener: socket.socket
    # Where it answers for health and metrics; None if that is not asked for.
    operations: socket.socket | None
    control: socket.socket
    # The socket at which it answers for its own metrics, and the address of those of all workers;
    # None where it is the only one.
    metrics: socket.socket | None
    metrics_hub: Address


@dataclass
class _Worker:
    """A worker's place: its current process, or when the next one starts."""

    number: int
    pid: int = 0
    control: socket.socket | None = None
    started_at: float = 0.0
    starts_at: float | None = 0.0
    pause: float = 0.0


class _Phase(enum.Enum):
    SERVING = enum.auto()
    DRAINING = enum.auto()
    STOPPING = enum.auto()


class Supervisor:
    """Keeps `count` workers running until the process gets a signal to stop.

    Each worker is a fork that serves at `listener` and `operations` by calling `work`, and ends
    with it. `on_ready` is called once, when the first worker serves. After SIGTERM all workers
    continue to serve for `drain_seconds`, and `/readyz` reports that they will stop. A second
    signal, SIGINT or SIGHUP stops them at once. Workers that still run `stop_seconds` later are
    killed.

    Only this process reacts to signals, so a signal to the whole process group does the same.
    """

    def __init__(
        self,
        *,
        count: int,
        listener: socket.socket,
        operations: socket.socket | None,
        work: Callable[[Links], None],
        on_ready: Callable[[], None],
        drain_seconds: float,
        stop_seconds: float,
    ) -> None:
        self._listener = listener
        self._operations = operations
        self._work = work
        self._on_ready = on_ready
        self._drain_seconds = drain_seconds
        self._stop_seconds = stop_seconds
        self._workers = [_Worker(number) for number in range(1, count + 1)]
        self._phase = _Phase.SERVING
        self._phase_ends = float("inf")
        self._has_served = False
        self._could_start = True
        self._selector = selectors.DefaultSelector()
        self._wakeup, self._wakeup_end = socket.socketpair()
        self._hub = MetricsHub() if count > 1 else None

    def run(self) -> bool:
        """Return when all workers have ended; False if none of them could start."""
        self._listen_to_signals()
        if self._hub:
            self._selector.register(self._hub.listener, selectors.EVENT_READ, self._hub.answer)
        try:
            while self._phase is _Phase.SERVING or any(worker.pid for worker in self._workers):
                self._start_workers()
                for key, _ in self._selector.select(self._seconds_until_next_step()):
                    key.data()
                self._collect_ended_children()
                self._proceed()
        finally:
            for worker in self._workers:
                self._kill(worker)
        return self._could_start

    def _listen_to_signals(self) -> None:
        for end in (self._wakeup, self._wakeup_end):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wakeup_end.fileno(), warn_on_full_buffer=False)
        for number in (*_STOP_SIGNALS, signal.SIGCHLD):
            # A handler must exist; the number arrives at the other end of the wakeup socket.
            signal.signal(number, lambda *_: None)
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._receive_signals)

    def _receive_signals(self) -> None:
        for number in self._wakeup.recv(1024):
            if number not in _STOP_SIGNALS:
                continue
            is_first = self._phase is _Phase.SERVING
            if is_first and number == signal.SIGTERM and self._drain_seconds:
                self._enter(_Phase.DRAINING, self._drain_seconds, DRAIN)
            elif self._phase is not _Phase.STOPPING:
                self._enter(_Phase.STOPPING, self._stop_seconds, STOP)

    def _enter(self, phase: _Phase, seconds: float, command: bytes) -> None:
        self._phase, self._phase_ends = phase, time.monotonic() + seconds
        fields = {"outcome": "shutdown", "phase": phase.name.lower(), "seconds": seconds}
        logger.info("stopping", extra=fields)
        if phase is _Phase.STOPPING:
            # The workers close theirs, so from now on connections are refused.
            self._listener.close()
        for worker in self._workers:
            worker.starts_at = None
            self._send(worker, command)

    def _proceed(self) -> None:
        if time.monotonic() < self._phase_ends:
            return
        if self._phase is _Phase.DRAINING:
            self._enter(_Phase.STOPPING, self._stop_seconds, STOP)
            return
        self._phase_ends = float("inf")
        for worker in self._workers:
            if worker.pid:
                logger.error(
                    "a worker did not stop in time",
                    extra={"outcome": "worker_killed", "worker": worker.number, "pid": worker.pid},
                )
                self._kill(worker)

    def _seconds_until_next_step(self) -> float | None:
        starts = [each.starts_at for each in self._workers if each.starts_at is not None]
        next_step = min([self._phase_ends, *starts])
        return None if next_step == float("inf") else max(0.0, next_step - time.monotonic())

    def _start_workers(self) -> None:
        for worker in self._workers:
            if worker.starts_at is not None and worker.starts_at <= time.monotonic():
                self._start(worker)

    def _start(self, worker: _Worker) -> None:
        ours, theirs = socket.socketpair()
        metrics = local_listener() if self._hub else None
        hub = self._hub and self._hub.listener.getsockname()
        pid = os.fork()
        if not pid:
            ours.close()
            self._become_worker(
                Links(worker.number, self._listener, self._operations, theirs, metrics, hub)
            )
        theirs.close()
        worker.pid, worker.control = pid, ours
        worker.started_at, worker.starts_at = time.monotonic(), None
        if self._hub and metrics:
            self._hub.add(worker.number, metrics.getsockname())
            metrics.close()
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._receive_from(ours))
        logger.info("worker started", extra={"worker": worker.number, "pid": pid})

    def _become_worker(self, links: Links) -> NoReturn:
        """Do the work in the new process; only what it needs of the supervisor stays open."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in _STOP_SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._selector.close()
            # While another worker holds the supervisor's end, the end of the stream cannot arrive.
            for worker in self._workers:
                if worker.control:
                    worker.control.close()
            for end in (self._wakeup, self._wakeup_end, self._hub and self._hub.listener):
                if end:
                    end.close()
            self._work(links)
            status = 0
        except SystemExit as exc:
            if isinstance(exc.code, str):
                print(exc.code, file=sys.stderr)  # noqa: T201  (as Python does)
        except BaseException:
            logger.exception("a worker failed", extra={"worker": links.number})
        finally:
            logging.shutdown()
            os._exit(status)

    def _receive_from(self, control: socket.socket) -> None:
        """Learn that a worker is ready; the end of the stream means that it ends."""
        try:
            message = control.recv(16)
        except OSError:
            message = b""
        if not message:
            self._selector.unregister(control)
        elif not self._has_served:
            self._has_served = True
            self._on_ready()

    def _send(self, worker: _Worker, command: bytes) -> None:
        if worker.control:
            # A worker that just ended receives nothing; SIGCHLD follows.
            with suppress(OSError):
                worker.control.send(command)

    def _collect_ended_children(self) -> None:
        # As the first process of a container, it also inherits processes whose parents ended.
        workers = {worker.pid: worker for worker in self._workers if worker.pid}
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if pid in workers:
                    self._note_end(workers[pid], os.waitstatus_to_exitcode(status))

    def _note_end(self, worker: _Worker, exit_code: int) -> None:
        is_expected = self._phase is _Phase.STOPPING and exit_code == 0
        fields = {"worker": worker.number, "pid": worker.pid, "outcome": "worker_exit"}
        fields |= {"signal": -exit_code} if exit_code < 0 else {"status": exit_code}
        logger.log(logging.INFO if is_expected else logging.ERROR, "worker ended", extra=fields)
        self._forget(worker)
        if self._phase is not _Phase.SERVING:
            return
        if not self._has_served and not any(each.pid for each in self._workers):
            # Another worker would not start either.
            self._could_start = False
            self._enter(_Phase.STOPPING, self._stop_seconds, STOP)
            return
        now = time.monotonic()
        if now - worker.started_at > _SHORT_LIFE:
            worker.pause = 0.0
        worker.starts_at = now + worker.pause
        worker.pause = min(max(1.0, 2 * worker.pause), _LONGEST_PAUSE)

    def _forget(self, worker: _Worker) -> None:
        if worker.control:
            with suppress(KeyError):
                self._selector.unregister(worker.control)
            worker.control.close()
        if self._hub:
            self._hub.remove(worker.number)
        worker.pid, worker.control = 0, None

    def _kill(self, worker: _Worker) -> None:
        if worker.pid:
            os.kill(worker.pid, signal.SIGKILL)
