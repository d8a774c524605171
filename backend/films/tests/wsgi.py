"""A WSGI application as a server calls it."""

import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def max_age(self) -> int:
        return int(self.headers["Cache-Control"].partition("max-age=")[2].partition(",")[0])


def environ_of(path: str, method: str = "GET", **headers: str) -> dict[str, Any]:
    """The environment of a request to our host; `headers` by their names in small letters."""
    path, _, query = path.partition("?")
    return {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "testserver",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "testserver",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.url_scheme": "http",
        **{f"HTTP_{name.upper()}": value for name, value in headers.items()},
    }


def call(
    application: Callable[..., Iterable[bytes]], path: str, method: str = "GET", **headers: str
) -> Answer:
    started: list[Any] = []
    chunks = application(environ_of(path, method, **headers), lambda *given: started.append(given))
    body = b"".join(chunks)
    close = getattr(chunks, "close", None)
    if close:
        close()
    status, given = started[0]
    assert len(dict(given)) == len(given), "a header was sent twice"
    return Answer(int(status[:3]), dict(given), body)
