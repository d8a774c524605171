"""A film as an HTTP answer that caches can store and validate (RFC 9110, 9111, 9211)."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils.http import http_date, parse_etags
from rest_framework.request import Request

from films.payload import (
    HEALING_CODES,
    SMALLEST_GZIPPED,
    Body,
    FilmPayload,
    render,
    section_body,
    to_json,
)
from films.presentation import Selection, cut, select, warned_sections
from films.services.fan_out import Page
from films.services.film_cache import Hit
from web.cors import VARY
from web.negotiation import accepts_gzip

# REST framework's request stands in for Django's.
SomeRequest = HttpRequest | Request

# Bounds of `max-age` while a warning may heal, in seconds.
_SHORTEST, _LONGEST = 30.0, 3600.0
# How long a cache may serve its copy while the service fails.
STALE_IF_ERROR_SECONDS = 86_400


# A film in use has the same date in all its answers.
_http_date = lru_cache(maxsize=1000)(http_date)


@dataclass(frozen=True, slots=True)
class Representation:
    """A body in one coding, and the values for its headers.

    `version` is the same in both codings. `fetched_at` and `expires_at` are Unix times: when the
    payload was fetched, and when the next request may get something better.
    """

    version: str
    body: bytes
    is_gzipped: bool
    fetched_at: float
    expires_at: float
    cache_status: str

    @property
    def etag(self) -> str:
        """The strong validator of this coding."""
        return f'"{self.version}-gzip"' if self.is_gzipped else f'"{self.version}"'

    def headers(self, now: float) -> list[tuple[str, str]]:
        """Return the headers at `now`, except those that depend on the request."""
        max_age = max(0, int(self.expires_at - now))
        headers = [
            ("Content-Type", "application/json"),
            ("ETag", self.etag),
            ("Last-Modified", _http_date(int(self.fetched_at))),
            (
                "Cache-Control",
                f"public, max-age={max_age}, stale-if-error={STALE_IF_ERROR_SECONDS}",
            ),
            ("Cache-Status", self.cache_status.replace("{ttl}", str(max_age))),
            ("Vary", VARY),
            ("X-Content-Type-Options", "nosniff"),
        ]
        if self.is_gzipped:
            headers.append(("Content-Encoding", "gzip"))
        return headers

    def headers_until(self, now: float) -> float:
        """Return until when (Unix time) the headers at `now` stay the same: a second at most."""
        remaining = self.expires_at - now
        return now + (remaining % 1 if remaining > 0 else 1)

    def is_known(self, if_none_match: str | None) -> bool:
        """Whether `If-None-Match` names this version, in either coding."""
        if not if_none_match:
            return False
        if if_none_match == self.etag:
            return True
        tags = {tag.removeprefix("W/") for tag in parse_etags(if_none_match)}
        return bool(tags & {f'"{self.version}"', f'"{self.version}-gzip"', "*"})


def expires_at(
    fresh_until: float, warnings: Iterable[tuple[str, float | None]], now: float
) -> float:
    """Return until when (Unix time) a cache may keep an answer with these warnings.

    A warning is its code and the time of the next attempt. One that a fetch may heal shortens the
    life of the answer to that time, at least 30 s and at most an hour from `now`; a used-up quota
    to an hour.
    """
    until = fresh_until
    for code, retry_at in warnings:
        if code in HEALING_CODES:
            due = min(max((retry_at or now) - now, _SHORTEST), _LONGEST)
            until = min(until, now + due)
        elif code == "quota_exhausted":
            until = min(until, now + _LONGEST)
    return until


@dataclass(frozen=True, slots=True)
class FilmAnswer:
    """A body made of a film, and how long it is good.

    `warnings` has the code and the time of the next attempt of each warning that the body depends
    on.
    """

    film: FilmPayload
    body: Body
    fresh_until: float
    warnings: tuple[tuple[str, float | None], ...]

    @classmethod
    def of(
        cls, film: FilmPayload | Hit, selection: Selection | None = None, *, ttl: timedelta
    ) -> "FilmAnswer":
        """Return the answer with the whole film, or with the chosen fields.

        The bytes of a `Hit` are those that are not compressed.
        """
        if isinstance(film, Hit):
            return cls._of_hit(film, selection, ttl)
        until = (film.cached_at + ttl).timestamp()
        if selection is None:
            return cls(film, film.body or render(film), until, film.retries())
        retries = film.retries(warned_sections(selection))
        return cls(film, Body(select(film, selection)), until, retries)

    @classmethod
    def _of_hit(cls, hit: Hit, selection: Selection | None, ttl: timedelta) -> "FilmAnswer":
        body, retries = hit.body, hit.retries()
        if selection is not None:
            body = cut(hit.body, hit.parts, selection)
            retries = hit.retries(warned_sections(selection))
        film = FilmPayload({}, cached_at=hit.cached_at)
        return cls(film, Body(body), (hit.cached_at + ttl).timestamp(), retries)

    @classmethod
    def of_section(
        cls,
        film: FilmPayload,
        name: str,
        *,
        ttl: timedelta,
        beside: Mapping[str, Any] | None = None,
    ) -> "FilmAnswer":
        """Return the answer with one section, and after it the keys of `beside`."""
        body = section_body(film["imdb_id"], name, to_json(film[name]))
        for key, value in (beside or {}).items():
            body = b'%b,"%b":%b}' % (body[:-1], key.encode(), to_json(value))
        until = (film.cached_at + ttl).timestamp()
        return cls(film, Body(body), until, film.retries([name]))

    @classmethod
    def of_page(cls, imdb_id: str, section: str, page: Page, *, ttl: timedelta) -> "FilmAnswer":
        """Return the answer with a further page of a section."""
        fetched_at = datetime.fromtimestamp(page.fetched_at, tz=timezone.utc)
        film = FilmPayload({}, cached_at=fetched_at, was_fetched=page.was_fetched)
        body = Body(section_body(imdb_id, section, to_json(page.value)))
        return cls(film, body, (fetched_at + ttl).timestamp(), ())

    def with_body(self, body: bytes) -> "FilmAnswer":
        """Return the answer with another body."""
        return replace(self, body=Body(body))

    def with_warning(self, code: str, *, retry_at: float) -> "FilmAnswer":
        """Return the answer with a further warning that its body depends on."""
        return replace(self, warnings=(*self.warnings, (code, retry_at)))

    def expires_at(self, now: float) -> float:
        """Return until when (Unix time) a cache may keep the answer."""
        # The life of an expired film depends on its warnings alone.
        until = self.fresh_until if self.film.is_fresh else now + _LONGEST
        return expires_at(until, self.warnings, now)

    def seconds_left(self) -> float:
        """Return for how many seconds a cache may keep the answer."""
        now = time.time()
        return self.expires_at(now) - now


def film_response(
    request: SomeRequest, answer: FilmAnswer, *, wait: float | None = None
) -> HttpResponse:
    """Return the response for what the fast path does not answer.

    304 if `If-None-Match` names its version. `wait` is the preference that was applied.
    """
    now = time.time()
    wants_gzip = accepts_gzip(request.META.get("HTTP_ACCEPT_ENCODING", ""))
    is_gzipped = wants_gzip and len(answer.body.plain) >= SMALLEST_GZIPPED
    representation = Representation(
        version=answer.body.version,
        body=answer.body.gzipped if is_gzipped else answer.body.plain,
        is_gzipped=is_gzipped,
        fetched_at=answer.film.cached_at.timestamp(),
        expires_at=answer.expires_at(now),
        cache_status=_cache_status(answer.film),
    )
    headers = dict(representation.headers(now))
    if wait is not None:
        headers["Preference-Applied"] = f"wait={wait:g}"
        headers["Vary"] = f"{VARY}, Prefer"
    if representation.is_known(request.META.get("HTTP_IF_NONE_MATCH")):
        return HttpResponse(status=304, headers=headers)
    headers["Content-Length"] = str(len(representation.body))
    return HttpResponse(representation.body, headers=headers)


def _cache_status(film: FilmPayload) -> str:
    if not film.was_fetched:
        return f"Filmosphere; hit; {'ttl={ttl}' if film.is_fresh else 'detail=stale'}"
    return f"Filmosphere; fwd=miss{'; stored; ttl={ttl}' if film.is_stored else ''}"
