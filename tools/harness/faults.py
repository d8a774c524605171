"""Faults of a source, with the warning and the status that clients get."""

import base64
from typing import Any


def raw(text: bytes) -> dict[str, Any]:
    return {"raw_b64": base64.b64encode(text).decode()}


def body(text: bytes) -> dict[str, Any]:
    return {"body_b64": base64.b64encode(text).decode()}


OTHER_TITLE = body(b'{"id": "tt9", "primaryTitle": "Another"}')

# Kind, options, code of the warning, and status of the response if it affects metadata.
FAULTS: list[tuple[str, dict[str, Any], str, int]] = [
    ("hang", {}, "timeout", 503),
    ("drip_headers", {"interval": 0.05}, "timeout", 503),
    ("drip_body", {"interval": 0.05}, "timeout", 503),
    ("informational_flood", {}, "timeout", 503),
    ("reset", {}, "unavailable", 503),
    ("reset_in_headers", {}, "unavailable", 503),
    ("reset_in_body", {}, "unavailable", 503),
    ("truncate", {}, "unavailable", 503),
    ("close_early", {}, "bad_response", 502),
    ("raw", raw(b"<html>\n\nnot HTTP</html>"), "bad_response", 502),
    ("raw", raw(b"HTTP/1.1 999 Odd\r\n\r\n"), "bad_response", 502),
    ("many_headers", {}, "bad_response", 502),
    ("big_header", {}, "bad_response", 502),
    ("status", {"status": 500}, "unavailable", 503),
    ("status", {"status": 502}, "unavailable", 503),
    ("status", {"status": 504}, "unavailable", 503),
    ("status", {"status": 503, "headers": {"Retry-After": "3"}}, "unavailable", 503),
    ("status", {"status": 503, "headers": {"Retry-After": "31536000"}}, "unavailable", 503),
    ("status", {"status": 503, "headers": {"Retry-After": "soon"}}, "unavailable", 503),
    ("rate_limited", {"retry_after": "30"}, "rate_limited", 503),
    ("rate_limited", {}, "rate_limited", 503),
    ("rate_limited", {"html": True}, "rate_limited", 503),
    ("status", {"status": 401}, "rejected", 503),
    ("status", {"status": 403}, "rejected", 503),
    ("status", {"status": 402}, "quota_exhausted", 503),
    ("status", {"status": 400}, "bad_response", 502),
    ("status", {"status": 418}, "bad_response", 502),
    ("echo_key", {"status": 401}, "rejected", 503),
    ("empty", {"status": 200}, "bad_response", 502),
    ("empty", {"status": 204}, "bad_response", 502),
    ("redirect", {"location": "/elsewhere"}, "bad_response", 502),
    ("redirect", {"status": 308, "location": "//127.0.0.1:9/?key=1"}, "bad_response", 502),
    ("malformed_json", {}, "bad_response", 502),
    ("html", {}, "bad_response", 502),
    ("html", {"status": 503}, "unavailable", 503),
    ("body", body(b"[]"), "bad_response", 502),
    ("body", body(b'"text"'), "bad_response", 502),
    ("body", body(b"5"), "bad_response", 502),
    ("body", body(b"null"), "bad_response", 502),
    ("body", body(b"true"), "bad_response", 502),
    ("body", body(b'{"id": null, "primaryTitle": null, "trailer": null}'), "bad_response", 502),
    ("body", OTHER_TITLE, "bad_response", 502),
    ("body", body(b'{"error": "x", "message": "Something failed"}'), "bad_response", 502),
    ("body", body('{"id": "tt1375666"}'.encode("utf-16")), "bad_response", 502),
    ("body", body(b'{"id": ' + b"9" * 5000 + b"}"), "bad_response", 502),
    ("body", body(b"[" * 100_000), "bad_response", 502),
    ("body", body(b"[" + b"[]," * 700_000 + b"[]]"), "bad_response", 502),
    ("body", {**body(b"not gzip"), "content_encoding": "gzip"}, "bad_response", 502),
    ("body", {**body(b"{}"), "content_encoding": "br"}, "bad_response", 502),
    ("nan", {}, "bad_response", 502),
    ("huge", {}, "bad_response", 502),
    ("endless", {}, "bad_response", 502),
    ("gzip_bomb", {}, "bad_response", 502),
]
