"""Faults that are complete HTTP answers with something wrong in them."""

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

from sandbox import checks
from sandbox.fault_kinds import Ask, Kind, Option, Options
from sandbox.messages import JSON, Response

HTML = (
    "<!DOCTYPE html>\n<html><head><title>{status} | Error</title></head>"
    "<body><h1>{status}</h1><p>Ray ID: 8f2a1c0d9e7b6a54</p></body></html>\n"
)
PROSE = ("primaryTitle", "Title", "title", "name", "displayName", "plot", "Plot", "message")

STATUS = checks.whole(200, 599)
HEADERS = Option(checks.headers, {})


def _status(ask: Ask, options: Options) -> Response:
    if options["body"] is None:
        answer = ask.upstream.error(options["status"], "injected fault")
        body, content_type = answer.body, answer.content_type
    else:
        body, content_type = options["body"].encode(), JSON
    headers = tuple(options["headers"].items())
    return Response(options["status"], body, options["content_type"] or content_type, headers)


def _body(ask: Ask, options: Options) -> Response:
    body = options["body"].encode()
    if options["body_b64"] is not None:
        body = base64.b64decode(options["body_b64"])
    headers = [*options["headers"].items()]
    if options["content_encoding"] is not None:
        headers.append(("Content-Encoding", options["content_encoding"]))
    return Response(options["status"], body, options["content_type"], tuple(headers))


def _headers(ask: Ask, options: Options) -> Response:
    real = ask.real()
    given = {name.lower() for name in options["headers"]}
    kept = [pair for pair in real.headers if pair[0].lower() not in given]
    headers = (*kept, *options["headers"].items())
    return Response(real.status, real.body, real.content_type, headers)


def _patch(ask: Ask, options: Options) -> Response:
    def merge(document: Any) -> Any:
        if isinstance(document, list):  # Watchmode's bare arrays: every row
            return [merge(row) if isinstance(row, dict) else row for row in document]
        merged = {**document, **options["patch"]}
        return {key: value for key, value in merged.items() if key not in options["remove"]}

    return _edited(ask, merge)


def _empty(ask: Ask, options: Options) -> Response:
    return Response(options["status"], b"")


def _redirect(ask: Ask, options: Options) -> Response:
    return Response(options["status"], b"", "", (("Location", options["location"]),))


def _malformed_json(ask: Ask, options: Options) -> Response:
    real = ask.real()
    half = real.body[: len(real.body) // 2] or b"{"
    return Response(200, half, real.content_type, real.headers)


def _html(ask: Ask, options: Options) -> Response:
    status = options["status"]
    return Response(status, HTML.format(status=status).encode(), "text/html; charset=UTF-8")


def _rate_limited(ask: Ask, options: Options) -> Response:
    answer = ask.upstream.error(429, "Too many network requests")
    body, content_type = answer.body, answer.content_type
    if options["html"]:
        body, content_type = HTML.format(status=429).encode(), "text/html; charset=UTF-8"
    retry_after = options["retry_after"]
    headers = (("Retry-After", retry_after),) if retry_after is not None else ()
    return Response(429, body, content_type, headers)


def _quota(ask: Ask, options: Options) -> Response:
    return ask.upstream.quota_used_up()


def _bad_key(ask: Ask, options: Options) -> Response:
    return ask.upstream.bad_key()


def _echo_key(ask: Ask, options: Options) -> Response:
    status, key = options["status"], ask.request.key
    query = ask.request.query_string
    return ask.upstream.error(status, f"Invalid API key {key} in {ask.request.path}?{query}")


def _nan(ask: Ask, options: Options) -> Response:
    def is_number(key: str, value: Any) -> bool:
        return type(value) in (int, float) and options["field"] in (None, key)

    return _injected(ask, is_number, lambda _: float("nan"), options["field"] or "number")


def _in_text(spoil: Callable[[str], str]) -> Callable[[Ask, Options], Response]:
    def answer(ask: Ask, options: Options) -> Response:
        wanted = PROSE if options["field"] is None else (options["field"],)

        def is_text(key: str, value: Any) -> bool:
            return isinstance(value, str) and key in wanted

        return _injected(ask, is_text, spoil, options["field"] or "title")

    return answer


def _injected(
    ask: Ask,
    fits: Callable[[str, Any], bool],
    spoil: Callable[[Any], Any],
    otherwise: str,
) -> Response:
    """The real answer with the first value that fits spoilt; put in as `otherwise` if none does."""

    def edit(document: Any) -> Any:
        for holder, key, value in _leaves(document):
            if fits(str(key), value):
                holder[key] = spoil(value)
                return document
        if isinstance(document, dict):
            return {**document, otherwise: spoil("")}
        return [*document, {otherwise: spoil("")}]

    return _edited(ask, edit)


def _leaves(document: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Breadth first, so that a title's own name comes before those of its people."""
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


def _edited(ask: Ask, edit: Callable[[Any], Any]) -> Response:
    real = ask.real()
    try:
        document = edit(json.loads(real.body, strict=False))
    except ValueError:  # OMDb's real answers are not always JSON: faulty enough as they are
        return real
    return Response(real.status, json.dumps(document).encode(), real.content_type, real.headers)


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
