"""Print the path of one cold film and of one hit through the code: `make trace`.

Each line is a function of backend/, indented by depth, with the SQL statements and upstream calls
that it makes, for the request thread and for every thread that works for the request. The counts
follow. `--short` prints only the functions through which a request enters another file.

The service runs inside this program as a WSGI application, on SQLite and the sandbox.
"""

import argparse
import io
import itertools
import os
import re
import sqlite3
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from inspect import CO_ASYNC_GENERATOR, CO_GENERATOR
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

from tools.harness.sandbox import running
from tools.harness.server import BACKEND, bare_environment, manage, on_sandbox

PREFIX = f"{BACKEND}{os.sep}"
# The programs beside the service.
LEFT_OUT = tuple(f"{PREFIX}{name}{os.sep}" for name in ("sandbox", "filmosphere/tests"))
REQUEST_THREAD = "request thread"
WARM_UP, FILM = "/api/films/tt0133093", "/api/films/tt1375666"
CONTROL_STATEMENTS = {"BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "PRAGMA"}
METADATA_PATH = re.compile(r"/imdbapi/titles/tt[0-9]+|/imdbapi/titles:batchGet")
TABLE = re.compile(r'\b(?:FROM|INTO|UPDATE)\s+"?(\w+)', re.IGNORECASE)


_numbers = itertools.count()


@dataclass
class Node:
    """A function that was entered, or what it did: a statement, a call, work for a thread."""

    kind: str  # "function", "sql", "call" or "task"
    text: str
    file: str = ""
    children: list["Node"] = field(default_factory=list)
    at: int = field(default_factory=_numbers.__next__)

    @cached_property
    def signature(self) -> tuple[Any, ...]:
        """Equal for the same functions in the same order, whatever they were called for."""
        text = self.text if self.kind == "function" else self.kind
        inner = [child.signature for child in self.children]
        return text, tuple(
            one for one, before in zip(inner, [None, *inner], strict=False) if one != before
        )

    @property
    def all(self) -> Iterator["Node"]:
        """This node and everything below it."""
        yield self
        for child in self.children:
            yield from child.all

    @property
    def line(self) -> str:
        """The node as it is printed."""
        if self.kind == "function":
            return f"{self.file}  {self.text}"
        if self.kind == "call":
            return f"→ {self.text}"
        if self.kind == "task":
            return "→ another thread"
        table = TABLE.search(self.text)
        return f"SQL {self.text.split()[0]} {table[1] if table else ''}".rstrip()


@dataclass
class Thread:
    """What one thread did for the request."""

    name: str
    root: Node = field(default_factory=lambda: Node("function", ""))
    stack: list[tuple[FrameType, Node]] = field(default_factory=list)

    def add(self, kind: str, text: str, file: str = "") -> Node:
        """Add a node below the function that runs now."""
        node = Node(kind, text, file)
        (self.stack[-1][1] if self.stack else self.root).children.append(node)
        return node

    @property
    def frames(self) -> list[FrameType]:
        """The active functions of backend/, the innermost last."""
        return [frame for frame, _ in self.stack]


class Recorder:
    """A profile function for all threads, which records while `active`."""

    def __init__(self) -> None:
        self.active = False
        self.reset()

    def reset(self) -> None:
        """Forget what was recorded; the caller becomes the request thread."""
        self.threads: dict[int, Thread] = {}
        self.objects: list[str] = []
        self._handed_over: list[str] = []
        self._request_thread = threading.get_ident()

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        """Note a function that starts or ends."""
        if not self.active or event not in {"call", "return"}:
            return
        code, thread = frame.f_code, self.thread
        if code.co_filename.startswith(PREFIX) and not code.co_filename.startswith(LEFT_OUT):
            if code.co_name.startswith("<"):  # comprehensions and lambdas
                return
            if event == "call":
                node = thread.stack[-1][1] if thread.stack else thread.root
                if not _is_resumed(frame):
                    file = code.co_filename.removeprefix(PREFIX)
                    node = thread.add("function", _name(frame), file)
                thread.stack.append((frame, node))
            elif thread.stack and thread.stack[-1][0] is frame:
                thread.stack.pop()
        elif event == "call":
            self._watch_library(frame, thread)

    @property
    def thread(self) -> Thread:
        """The record of the current thread."""
        number = threading.get_ident()
        if number not in self.threads:
            is_request = number == self._request_thread
            name = REQUEST_THREAD if is_request else f"thread {threading.current_thread().name}"
            self.threads[number] = Thread(name)
        return self.threads[number]

    def sql(self, statement: str) -> None:
        """Note an SQL statement of the current thread."""
        if self.active:
            self.thread.add("sql", " ".join(statement.split()))

    def _watch_library(self, frame: FrameType, thread: Thread) -> None:
        """Notice calls over httpx, and the futures through which other threads get work."""
        code = frame.f_code
        if code.co_name == "handle_request" and code.co_filename.endswith("_transports/default.py"):
            request = frame.f_locals["request"]
            thread.add("call", f"{request.method} {request.url.path}")
            if METADATA_PATH.fullmatch(request.url.path):
                chain = [*self._handed_over, *_classes(thread.frames)]
                self.objects = list(dict.fromkeys(chain))
        elif code.co_name == "__init__" and code.co_filename.endswith("futures/_base.py"):
            if thread.stack:
                thread.add("task", "")
            classes = _classes(thread.frames)
            if thread.name == REQUEST_THREAD and len(classes) > len(self._handed_over):
                self._handed_over = classes


def _is_resumed(frame: FrameType) -> bool:
    """Return whether a generator continues, which is no new call."""
    is_generator = frame.f_code.co_flags & (CO_GENERATOR | CO_ASYNC_GENERATOR)
    return bool(is_generator) and frame.f_lasti > 4


def _name(frame: FrameType) -> str:
    owner = frame.f_locals.get("self", frame.f_locals.get("cls"))
    kind = owner if isinstance(owner, type) else type(owner)
    code = frame.f_code
    if sys.version_info >= (3, 11):
        return code.co_qualname.replace("<locals>.", "")
    return code.co_name if owner is None else f"{kind.__name__}.{code.co_name}"


def _classes(stack: list[FrameType]) -> list[str]:
    """The classes whose methods are on the stack, from the view inwards."""
    views = [number for number, frame in enumerate(stack) if _file(frame).endswith("views.py")]
    inner = stack[views[-1] + 1 :] if views else stack
    objects = (frame.f_locals.get("self") for frame in inner)
    return [type(found).__name__ for found in objects if found is not None]


def _file(frame: FrameType) -> str:
    return frame.f_code.co_filename


# --- the service in this process -----------------------------------------------------------------


def load_application(recorder: Recorder) -> Callable[..., Any]:
    """Import the service, which reads the settings, and watch its database connections."""
    from django.db.backends.signals import connection_created  # noqa: PLC0415

    from filmosphere.wsgi import application  # noqa: PLC0415

    def watch(connection: Any, **kwargs: Any) -> None:
        raw: sqlite3.Connection = connection.connection
        raw.set_trace_callback(recorder.sql)

    connection_created.connect(watch, weak=False)
    return application


def request(application: Callable[..., Any], path: str) -> None:
    """Send one GET as a server does, and expect 200."""
    statuses: list[str] = []
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "SCRIPT_NAME": "",
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "127.0.0.1:8000",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    answer = application(environ, lambda status, *_: statuses.append(status))
    body = b"".join(answer)
    if hasattr(answer, "close"):
        answer.close()
    if statuses != ["200 OK"]:
        sys.exit(f"{path}: {statuses} {body[:300].decode()}")


def record(recorder: Recorder, application: Callable[..., Any], path: str) -> list[Thread]:
    recorder.reset()
    recorder.active = True
    try:
        request(application, path)
    finally:
        recorder.active = False
    threads = [thread for thread in recorder.threads.values() if thread.root.children]
    return sorted(threads, key=lambda thread: (thread.name != REQUEST_THREAD, thread.name))


# --- output --------------------------------------------------------------------------------------


def show(title: str, threads: list[Thread], objects: list[str], *, short: bool) -> None:
    print(f"{title}\n{'=' * len(title)}")
    printed: set[tuple[Any, ...]] = set()
    for thread in _joined(threads) if short else threads:
        print(f"\n{thread.name}")
        _print_all(thread.root.children, printed)
    print()
    for name, figure in counts(threads, objects).items():
        print(f"{name:<42} {figure}")
    if not short:
        print()
        for file, number in Counter(file for file, _ in functions(threads)).most_common():
            print(f"{number:4} functions of {file}")
    print()


def _joined(threads: list[Thread]) -> Iterator[Thread]:
    """Shorten the threads, and join those of one source."""
    known: set[str] = set()
    for name, group in groupby(threads, key=lambda thread: thread.name.rstrip("-_0123456789")):
        roots = [_shortened(thread.root) for thread in group]
        children = sorted((node for root in roots for node in root.children), key=lambda n: n.at)
        yield Thread(
            name, Node("function", "", children=[_inner(node, known) for node in children])
        )


def _inner(node: Node, known: set[str]) -> Node:
    """Leave out the outer functions that began the work of a thread before."""
    while node.line in known and len(node.children) == 1:
        node = node.children[0]
    outer = node
    while outer.kind == "function" and len(outer.children) == 1:
        known.add(outer.line)
        outer = outer.children[0]
    return node


def _shortened(node: Node) -> Node:
    """Keep what leads to statements and calls, and of that only the first function of each file."""
    kept: list[Node] = []
    for child in node.children:
        inner = _shortened(child)
        if child.kind == "function" and (child.file == node.file or not inner.children):
            kept += inner.children
        else:
            kept.append(inner)
    return Node(node.kind, node.text, node.file, kept, node.at)


def _print_all(nodes: list[Node], printed: set[tuple[Any, ...]], depth: int = 1) -> None:
    """Print nodes; what repeats at once gets a number, what was printed before is cut short."""
    position = 0
    while position < len(nodes):
        period, times = _repetition(nodes, position)
        for node in nodes[position : position + period]:
            _print_one(node, printed, depth, f"  x{times}" if times > 1 else "")
        position += period * times


def _repetition(nodes: list[Node], position: int) -> tuple[int, int]:
    """Return how many nodes repeat in a row from here, and how often."""
    for period in range(1, 5):
        block = [(node.line, node.signature) for node in nodes[position : position + period]]
        times = 1
        while True:
            start = position + period * times
            following = nodes[start : start + period]
            if [(node.line, node.signature) for node in following] != block:
                break
            times += 1
        if times > 1:
            return period, times
    return 1, 1


def _print_one(node: Node, printed: set[tuple[Any, ...]], depth: int, times: str) -> None:
    indent = "  " * depth
    if node.children and node.signature in printed:
        print(f"{indent}{node.line}{times}  …")
        for inner in node.all:
            if inner.kind in {"sql", "call"}:
                print(f"{indent}  … {inner.line}")
        return
    print(f"{indent}{node.line}{times}")
    printed.add(node.signature)
    _print_all(node.children, printed, depth + 1)


def counts(threads: list[Thread], objects: list[str]) -> dict[str, str]:
    """Return the figures by which the path is measured."""
    entered = functions(threads)
    own = _statements(thread for thread in threads if thread.name == REQUEST_THREAD)
    other = _statements(thread for thread in threads if thread.name != REQUEST_THREAD)
    return {
        "functions entered": f"{len(entered)}, with {sum(entered.values())} calls",
        "files touched": str(len({file for file, _ in entered})),
        "SQL statements of the request thread": own,
        "SQL statements of other threads": other,
        "upstream calls": str(sum(len(_kind("call", thread)) for thread in threads)),
        "objects between the view and httpx": " ".join([str(len(objects)), " → ".join(objects)]),
    }


def functions(threads: Iterable[Thread]) -> Counter[tuple[str, str]]:
    """Return how often each function, with its file, was entered."""
    entered = (node for thread in threads for node in _kind("function", thread))
    return Counter((node.file, node.text) for node in entered)


def _kind(kind: str, thread: Thread) -> list[Node]:
    return [node for child in thread.root.children for node in child.all if node.kind == kind]


def _statements(threads: Iterable[Thread]) -> str:
    verbs = [node.text.split()[0].upper() for thread in threads for node in _kind("sql", thread)]
    control = sum(verb in CONTROL_STATEMENTS for verb in verbs)
    return f"{len(verbs) - control}, and {control} of transactions or connections"


def main() -> None:
    parser = argparse.ArgumentParser(prog="trace", description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="only where another file is entered")
    short = parser.parse_args().short
    with running() as sandbox, tempfile.TemporaryDirectory() as folder:
        settings = on_sandbox(
            sandbox.url,
            DATABASE_URL=f"sqlite:///{Path(folder) / 'films.sqlite3'}",
            LOG_LEVEL="ERROR",
        )
        manage("migrate", "--verbosity", "0", **settings)
        os.environ.clear()
        os.environ.update(bare_environment(**settings))
        sys.path.insert(0, str(BACKEND))
        recorder = Recorder()
        # Before the first thread of the service starts, so that none is missed.
        threading.setprofile(recorder)
        sys.setprofile(recorder)
        application = load_application(recorder)
        for path in (WARM_UP, WARM_UP):
            request(application, path)
        cold = record(recorder, application, FILM)
        show(f"Cold film: GET {FILM}", cold, recorder.objects, short=short)
        hit = record(recorder, application, FILM)
        show(f"Hit: GET {FILM}", hit, recorder.objects, short=short)
    # Do not wait for the threads of the service.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
