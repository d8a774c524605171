"""Requests and responses, independent of the socket."""

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
    """One request. `path` is decoded and does not contain the prefix of the source."""

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
        """Return the first value of a query parameter."""
        return self.query.get(name, [default])[0]

    @property
    def key(self) -> str | None:
        """The API key in the query or the header, also for sources that use none."""
        for name, values in self.query.items():
            if name.lower() in KEY_PARAMETERS:
                return values[0]
        return self.headers.get(KEY_HEADER)

    @property
    def key_in(self) -> str | None:
        """Where the key was sent: `"query"` (first, because queries are logged) or `"header"`."""
        if _has_key(self.query_string):
            return "query"
        return "header" if KEY_HEADER in self.headers else None

    @property
    def safe_query(self) -> str:
        """The query string with `***` in place of each key."""
        if not _has_key(self.query_string):
            return self.query_string
        return "&".join(
            f"{name}=***" if name.lower() in KEY_PARAMETERS else pair
            for pair in self.query_string.split("&")
            for name in [pair.partition("=")[0]]
        )


def _has_key(query_string: str) -> bool:
    if "key" not in query_string.lower():  # fast path: most queries have no key
        return False
    return any(pair.partition("=")[0].lower() in KEY_PARAMETERS for pair in query_string.split("&"))


def split_target(target: str, sources: Iterable[str]) -> tuple[str, str, str]:
    """Split `/omdb/?i=tt1` into `("omdb", "/", "i=tt1")`; an unknown prefix gives `other`."""
    path, _, query = target.partition("?")
    if "%" in path:
        path = unquote(path)
    prefix, slash, rest = path[1:].partition("/")
    if path.startswith("/") and prefix in sources:
        return prefix, slash + rest or "/", query
    return "other", path, query


@dataclass(frozen=True)
class Response:
    """A complete response."""

    status: int = 200
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()

    def render(self, *, keep_alive: bool, with_body: bool = True) -> bytes:
        """Return the bytes to send. `headers` override the computed type and length."""
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
    """Return status line and headers with the final empty line."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}\r\n{lines}\r\n".encode("latin-1")


def to_json(value: Any) -> bytes:
    """Encode as compact UTF-8 JSON, as the real services do."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
