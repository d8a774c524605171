"""A film as an HTTP answer that caches can keep and ask after (RFC 9110, 9111, 9211)."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils.http import parse_etags
from rest_framework.request import Request

from core.cors import VARY
from films.services.film_answer import FilmAnswer, Origin

# REST framework's request stands in for Django's.
SomeRequest = HttpRequest | Request

# How long a cache may keep what is to be better soon.
SHORT_SECONDS = 30
# How long a cache may go on showing its copy while we fail.
STALE_IF_ERROR_SECONDS = 86_400


def accepts_gzip(meta: Mapping[str, Any]) -> bool:
    """Whether the client takes gzip, by its `Accept-Encoding` as in `request.META` or WSGI."""
    for item in meta.get("HTTP_ACCEPT_ENCODING", "").lower().split(","):
        coding, _, weight = item.replace(" ", "").partition(";")
        if coding in {"gzip", "x-gzip"}:
            return not re.fullmatch(r"q=0(\.0{0,3})?", weight)
    return False


def film_response(request: SomeRequest, answer: FilmAnswer) -> HttpResponse:
    """Return the answer, or 304 where `If-None-Match` names its version in either coding."""
    plain, gzipped = f'"{answer.version}"', f'"{answer.version}-gzip"'
    headers = {
        "ETag": gzipped if answer.is_gzipped else plain,
        "Age": str(answer.age),
        "Cache-Control": _cache_control(answer),
        "Cache-Status": _cache_status(answer),
        "Vary": VARY,
    }
    asked = request.META.get("HTTP_IF_NONE_MATCH")
    if asked and {tag.removeprefix("W/") for tag in parse_etags(asked)} & {plain, gzipped, "*"}:
        return HttpResponse(status=304, content_type="application/json", headers=headers)
    if answer.is_gzipped:
        headers["Content-Encoding"] = "gzip"
    headers["Content-Length"] = str(len(answer.body))
    return HttpResponse(answer.body, content_type="application/json", headers=headers)


def part_of(answer: FilmAnswer, section: str) -> FilmAnswer:
    """Return the answer that has only one section, with a version of its own."""
    payload: dict[str, Any] = answer.payload
    body = json.dumps(
        {"imdb_id": payload["imdb_id"], section: payload[section]},
        ensure_ascii=False,
        separators=(",", ":"),
    ).encode()
    return replace(
        answer,
        version=hashlib.sha256(body).hexdigest()[:32],
        body=body,
        is_gzipped=False,
        has_warnings=any(warning["section"] == section for warning in payload["warnings"]),
    )


def _cache_control(answer: FilmAnswer) -> str:
    seconds = answer.fresh_for
    if answer.origin is Origin.STALE:
        seconds = SHORT_SECONDS
    elif answer.has_warnings:
        seconds = min(seconds, SHORT_SECONDS)
    return f"public, max-age={seconds}, stale-if-error={STALE_IF_ERROR_SECONDS}"


def _cache_status(answer: FilmAnswer) -> str:
    if answer.origin is Origin.FETCHED:
        return f"Filmosphere; fwd=miss; stored; ttl={answer.fresh_for}"
    if answer.origin is Origin.UNSTORED:
        return "Filmosphere; fwd=miss"
    if answer.origin is Origin.STALE:
        return "Filmosphere; hit; detail=stale"
    return f"Filmosphere; hit; ttl={answer.fresh_for}"
