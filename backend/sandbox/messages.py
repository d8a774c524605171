"""What goes in and out over HTTP, without the socket."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, unquote

Headers = Iterable[tuple[str, str]]

JSON = "application/json"
KEY_HEADER = "x-api-key"
KEY_PARAMETERS = frozenset({"apikey", "api_key", "key"})
REASONS = {status.value: status.phrase for status in HTTPStatus} | {522: "Connection Timed Out"}
BODYLESS = frozenset({204, 304})


@dataclass(frozen=True)
class Request:
    """One request. `path` is decoded and has lost the prefix that names the source."""

    method: str
    source: str
    path: str
    query_string: str
    headers: dict[str, str]
    body: bytes = b""
    keep_alive: bool = True

    @cached_property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(self.query_string, keep_blank_values=True)

    def first(self, name: str, default: str = "") -> str:
        """The first value of a query parameter."""
        return self.query.get(name, [default])[0]

    @property
    def key(self) -> str | None:
        """The key the caller sent, wherever it was: a leak is a leak on any source."""
        for name, values in self.query.items():
            if name.lower() in KEY_PARAMETERS:
                return values[0]
        return self.headers.get(KEY_HEADER)

    @property
    def key_in(self) -> str | None:
        """`"query"` wins over `"header"` because it is the place that ends up in logs."""
        if _has_key(self.query_string):
            return "query"
        return "header" if KEY_HEADER in self.headers else None

    @property
    def safe_query(self) -> str:
        """The query string with every key value blotted out."""
        if not _has_key(self.query_string):
            return self.query_string
        return "&".join(
            f"{name}=***" if name.lower() in KEY_PARAMETERS else pair
            for pair in self.query_string.split("&")
            for name in [pair.partition("=")[0]]
        )


def _has_key(query_string: str) -> bool:
    if "key" not in query_string.lower():  # nearly every call: skip the splitting
        return False
    return any(pair.partition("=")[0].lower() in KEY_PARAMETERS for pair in query_string.split("&"))


def split_target(target: str, sources: Iterable[str]) -> tuple[str, str, str]:
    """`/omdb/?i=tt1` -> `("omdb", "/", "i=tt1")`; a stranger's path belongs to `other`."""
    path, _, query = target.partition("?")
    if "%" in path:
        path = unquote(path)
    prefix, slash, rest = path[1:].partition("/")
    if path.startswith("/") and prefix in sources:
        return prefix, slash + rest or "/", query
    return "other", path, query


@dataclass(frozen=True)
class Response:
    """A complete answer."""

    status: int = 200
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()

    def render(self, *, keep_alive: bool, with_body: bool = True) -> bytes:
        """The bytes to send. A type or length among `headers` stands in place of the true one."""
        headers = [*self.headers]
        given = {name.lower() for name, _ in headers}
        if self.status not in BODYLESS:
            if self.content_type and "content-type" not in given:
                headers.append(("Content-Type", self.content_type))
            if "content-length" not in given:
                headers.append(("Content-Length", str(len(self.body))))
        if not keep_alive:
            headers.append(("Connection", "close"))
        start = head(self.status, headers)
        return start + self.body if with_body and self.status not in BODYLESS else start


def head(status: int, headers: Headers) -> bytes:
    """Status line and headers, up to and including the empty line."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}\r\n{lines}\r\n".encode("latin-1")


def to_json(value: Any) -> bytes:
    """Compact UTF-8, as the real services send it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
