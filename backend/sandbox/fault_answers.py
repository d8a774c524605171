"""Faults that are complete HTTP responses."""

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

from sandbox import checks
from sandbox.fault_kinds import Exchange, Kind, Option, Options
from sandbox.messages import JSON, Response

HTML = (
    "<!DOCTYPE html>\n<html><head><title>{status} | Error</title></head>"
    "<body><h1>{status}</h1><p>Ray ID: 8f2a1c0d9e7b6a54</p></body></html>\n"
)
PROSE = ("primaryTitle", "Title", "title", "name", "displayName", "plot", "Plot", "message")

STATUS = checks.whole(200, 599)
HEADERS = Option(checks.headers, {})


def _status(exchange: Exchange, options: Options) -> Response:
    if options["body"] is None:
        answer = exchange.upstream.error(options["status"], "injected fault")
        body, content_type = answer.body, answer.content_type
    else:
        body, content_type = options["body"].encode(), JSON
    headers = tuple(options["headers"].items())
    return Response(options["status"], body, options["content_type"] or content_type, headers)


def _body(exchange: Exchange, options: Options) -> Response:
    body = options["body"].encode()
    if options["body_b64"] is not None:
        body = base64.b64decode(options["body_b64"])
    headers = [*options["headers"].items()]
    if options["content_encoding"] is not None:
        headers.append(("Content-Encoding", options["content_encoding"]))
    return Response(options["status"], body, options["content_type"], tuple(headers))


def _headers(exchange: Exchange, options: Options) -> Response:
    healthy = exchange.healthy()
    given = {name.lower() for name in options["headers"]}
    kept = [pair for pair in healthy.headers if pair[0].lower() not in given]
    headers = (*kept, *options["headers"].items())
    return Response(healthy.status, healthy.body, healthy.content_type, headers)


def _patch(exchange: Exchange, options: Options) -> Response:
    def merge(document: Any) -> Any:
        if isinstance(document, list):  # every row of Watchmode's bare arrays
            return [merge(row) if isinstance(row, dict) else row for row in document]
        merged = {**document, **options["patch"]}
        return {key: value for key, value in merged.items() if key not in options["remove"]}

    return _edited(exchange, merge)


def _empty(exchange: Exchange, options: Options) -> Response:
    return Response(options["status"], b"")


def _redirect(exchange: Exchange, options: Options) -> Response:
    return Response(options["status"], b"", "", (("Location", options["location"]),))


def _malformed_json(exchange: Exchange, options: Options) -> Response:
    healthy = exchange.healthy()
    half = healthy.body[: len(healthy.body) // 2] or b"{"
    return Response(200, half, healthy.content_type, healthy.headers)


def _html(exchange: Exchange, options: Options) -> Response:
    status = options["status"]
    return Response(status, HTML.format(status=status).encode(), "text/html; charset=UTF-8")


def _rate_limited(exchange: Exchange, options: Options) -> Response:
    answer = exchange.upstream.error(429, "Too many network requests")
    body, content_type = answer.body, answer.content_type
    if options["html"]:
        body, content_type = HTML.format(status=429).encode(), "text/html; charset=UTF-8"
    retry_after = options["retry_after"]
    headers = (("Retry-After", retry_after),) if retry_after is not None else ()
    return Response(429, body, content_type, headers)


def _quota(exchange: Exchange, options: Options) -> Response:
    return exchange.upstream.quota_exceeded()


def _bad_key(exchange: Exchange, options: Options) -> Response:
    return exchange.upstream.invalid_key()


def _echo_key(exchange: Exchange, options: Options) -> Response:
    status, key = options["status"], exchange.request.key
    query = exchange.request.query_string
    return exchange.upstream.error(
        status, f"Invalid API key {key} in {exchange.request.path}?{query}"
    )


def _nan(exchange: Exchange, options: Options) -> Response:
    def is_number(key: str, value: Any) -> bool:
        return type(value) in (int, float) and options["field"] in (None, key)

    return _injected(exchange, is_number, lambda _: float("nan"), options["field"] or "number")


def _in_text(corrupt: Callable[[str], str]) -> Callable[[Exchange, Options], Response]:
    def answer(exchange: Exchange, options: Options) -> Response:
        wanted = PROSE if options["field"] is None else (options["field"],)

        def is_text(key: str, value: Any) -> bool:
            return isinstance(value, str) and key in wanted

        return _injected(exchange, is_text, corrupt, options["field"] or "title")

    return answer


def _injected(
    exchange: Exchange,
    matches: Callable[[str, Any], bool],
    corrupt: Callable[[Any], Any],
    otherwise: str,
) -> Response:
    """Corrupt the first matching value of the healthy response; without one, add `otherwise`."""

    def edit(document: Any) -> Any:
        for holder, key, value in _leaves(document):
            if matches(str(key), value):
                holder[key] = corrupt(value)
                return document
        if isinstance(document, dict):
            return {**document, otherwise: corrupt("")}
        return [*document, {otherwise: corrupt("")}]

    return _edited(exchange, edit)


def _leaves(document: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Breadth first, so that the name of a title comes before the names of people."""
    level = [document]
    while level:
        below = []
        for holder in level:
            pairs = holder.items() if isinstance(holder, dict) else enumerate(holder)
            for key, value in list(pairs):
                if isinstance(value, (dict, list)):
                    below.append(value)
                else:
                    yield holder, key, value
        level = below


def _edited(exchange: Exchange, edit: Callable[[Any], Any]) -> Response:
    healthy = exchange.healthy()
    try:
        document = edit(json.loads(healthy.body, strict=False))
    except ValueError:  # OMDb's healthy response is not always JSON
        return healthy
    return Response(
        healthy.status, json.dumps(document).encode(), healthy.content_type, healthy.headers
    )


FIELD = {"field": Option(checks.optional(checks.text), None)}

KINDS = {
    "status": Kind(
        {
            "status": Option(STATUS),
            "headers": HEADERS,
            "body": Option(checks.optional(checks.text), None),
            "content_type": Option(checks.optional(checks.header), None),
        },
        _status,
    ),
    "body": Kind(
        {
            "body": Option(checks.text, ""),
            "body_b64": Option(checks.optional(checks.encoded), None),
            "content_type": Option(checks.header, JSON),
            "content_encoding": Option(checks.optional(checks.header), None),
            "status": Option(STATUS, 200),
            "headers": HEADERS,
        },
        _body,
    ),
    "headers": Kind({"headers": Option(checks.headers)}, _headers),
    "patch": Kind(
        {"patch": Option(checks.an_object, {}), "remove": Option(checks.texts, [])}, _patch
    ),
    "empty": Kind({"status": Option(checks.one_of(200, 204), 200)}, _empty),
    "redirect": Kind(
        {
            "location": Option(checks.header),
            "status": Option(checks.one_of(301, 302, 303, 307, 308), 302),
        },
        _redirect,
    ),
    "malformed_json": Kind({}, _malformed_json),
    "html": Kind({"status": Option(STATUS, 200)}, _html),
    "rate_limited": Kind(
        {
            "retry_after": Option(checks.optional(checks.header), None),
            "html": Option(checks.flag, False),
        },
        _rate_limited,
    ),
    "quota": Kind({}, _quota),
    "bad_key": Kind({}, _bad_key),
    "echo_key": Kind({"status": Option(STATUS, 401)}, _echo_key),
    "nan": Kind(FIELD, _nan),
    "nul": Kind(FIELD, _in_text(lambda text: text[:1] + "\0" + text[1:])),
    "surrogate": Kind(FIELD, _in_text(lambda text: text[:1] + "\ud83d" + text[1:])),
}
