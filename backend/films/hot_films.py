"""Films that somebody read a moment ago, answered before Django makes a request of the call."""

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from django.http import HttpResponse
from django.http.response import HttpResponseBase

from core.middleware import accepted_id, in_request_context, tell_of
from films.http_caching import accepts_gzip

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], HttpResponseBase]

# Answers remembered in a process, some 60 KB each.
_CAPACITY = 500
_LARGEST_BODY = 300_000
# Callers write these headers, and so say how much room a key takes.
_LONGEST_KEY = 300
# How Django's side tells that it answered from the database, and for how long that is good; a copy
# past its time is as good as ever. With all sources gone, to make one takes ten times a hit.
_HIT = re.compile(r"Filmosphere; hit; (?:ttl=(?P<seconds>[0-9]+)|detail=stale)")

_Key = tuple[str | None, str, bool, str | None]


@dataclass(frozen=True, slots=True)
class _Answer:
    status: str
    headers: list[tuple[str, str]]
    body: bytes
    film: str


_COLD: tuple[float, _Answer | None] = (0.0, None)


class HotFilms:
    """A WSGI application in front of Django's (PEP 3333) that repeats its hits for `seconds`.

    Whoever asks for the same film in the same way gets the same answer, `Age` included, but with a
    correlation id of their own; the log and the metrics tell of it like of any other. `path`
    matches the paths of films, its first group their ids. All else goes to `application`.
    """

    def __init__(
        self,
        application: Application,
        *,
        path: re.Pattern[str],
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._application = application
        self._path = path
        self._seconds = seconds
        self._clock = clock
        self._answers: dict[_Key, tuple[float, _Answer]] = {}

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer from memory, else from the application."""
        key = self._key(environ)
        if key is None:
            return self._application(environ, start_response)
        until, answer = self._answers.get(key, _COLD)
        if answer and self._clock() < until:
            return _repeat(answer, environ, start_response)
        asked_at = self._clock()
        response = self._application(environ, start_response)
        found = _HIT.fullmatch(response.get("Cache-Status", ""))
        # What is asked after versions of the caller's own making is not worth the room.
        is_usual = response.status_code == (304 if key[3] else 200)
        lasts = found is not None and float(found["seconds"] or "inf") > self._seconds
        # An answer that tells of the caller's limits is for nobody else.
        is_for_all = "X-RateLimit-Limit" not in response
        if is_usual and lasts and is_for_all and isinstance(response, HttpResponse):
            self._remember(key, response, until=asked_at + self._seconds)
        return response

    def _key(self, environ: Environ) -> _Key | None:
        """Return all that the answer depends on; None where it is not for us."""
        # Pages of other origins get headers of their own.
        if environ["REQUEST_METHOD"] != "GET" or "HTTP_ORIGIN" in environ:
            return None
        match = self._path.fullmatch(environ["PATH_INFO"])
        if match is None:
            return None
        host, asked_after = environ.get("HTTP_HOST"), environ.get("HTTP_IF_NONE_MATCH")
        if len(host or "") + len(asked_after or "") > _LONGEST_KEY:
            return None
        return host, match[1], accepts_gzip(environ), asked_after

    def _remember(self, key: _Key, response: HttpResponse, *, until: float) -> None:
        if len(response.content) > _LARGEST_BODY:
            return
        if len(self._answers) >= _CAPACITY:
            # What is still in use is back within a query.
            self._answers.clear()
        answer = _Answer(
            status=f"{response.status_code} {response.reason_phrase}",
            headers=[item for item in response.items() if item[0] != "X-Correlation-ID"],
            body=response.content,
            film=key[1],
        )
        last, _ = self._answers.get(key, _COLD)
        # One that took longer to make may be of an older film.
        if until >= last:
            self._answers[key] = (until, answer)


def _repeat(answer: _Answer, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    started = time.monotonic()
    identifier = accepted_id(environ.get("HTTP_X_CORRELATION_ID", ""))
    with in_request_context(identifier, film=answer.film):
        start_response(answer.status, [*answer.headers, ("X-Correlation-ID", identifier)])
        tell_of(
            "films/hot",
            method="GET",
            path=environ["PATH_INFO"],
            status=int(answer.status[:3]),
            started=started,
        )
    return [answer.body]
