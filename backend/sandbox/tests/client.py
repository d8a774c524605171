"""An HTTP client for the tests, and the sandbox process that it talks to."""

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

BACKEND = Path(__file__).resolve().parents[2]
WATCHMODE = {"X-API-Key": "sandbox-watchmode-key"}
PATIENCE = 5


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    def __init__(self, port: int) -> None:
        self.port = port

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def request(
        self,
        method: str,
        target: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        connection = self.connect()
        try:
            sent = json.dumps(body).encode() if body is not None else None
            connection.request(method, target, sent, headers or {})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str, headers: dict[str, str] | None = None, /, **query: Any) -> Answer:
        target = f"{path}?{urlencode(query, doseq=True)}" if query else path
        return self.request("GET", target, headers=headers)

    def omdb(self, **query: str) -> Answer:
        return self.get("/omdb/", apikey="5a4db0c5", **query)

    def watchmode(self, path: str, **query: str) -> Answer:
        return self.get(f"/watchmode/v1{path}", WATCHMODE, **query)

    def fault(self, kind: str, **options: Any) -> str:
        answer = self.request("POST", "/control/faults", {"kind": kind, **options})
        assert answer.status == 201, answer.body
        fault_id: str = answer.json["id"]
        return fault_id

    def set(self, source: str, **settings: Any) -> Answer:
        return self.request("PATCH", "/control/settings", {source: settings})

    def calls(self, **filters: Any) -> Any:
        return self.get("/control/calls", **filters).json

    def last_call(self) -> Any:
        return self.calls()["calls"][-1]

    @contextmanager
    def socket(self, target: str) -> Iterator[socket.socket]:
        """Open a connection, send one GET and read nothing."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as sock:
            sock.sendall(f"GET {target} HTTP/1.1\r\nHost: sandbox\r\n\r\n".encode())
            yield sock

    def read_until_close(self, target: str) -> bytes:
        """Return all bytes that the server sends before it closes."""
        with self.socket(target) as sock:
            return b"".join(iter(lambda: sock.recv(65536), b""))


def start(*args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sandbox", *args],
        cwd=BACKEND,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def port_of(process: subprocess.Popen[str]) -> int:
    """Wait for the line that contains the address."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("sandbox listening on http://"), line
    return int(line.rpartition(":")[2])


@contextmanager
def running(*args: str) -> Iterator[subprocess.Popen[str]]:
    """Run the sandbox and kill it at the end."""
    process = start(*args)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def eventually(condition: Callable[[], bool]) -> bool:
    """Return whether the condition becomes true within PATIENCE seconds."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.005)
    return False
