"""Hits, answered before Django builds a request: from memory, else with one query."""

import gzip
import logging
import math
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from urllib.parse import parse_qsl

from core import metrics
from core.db import DATABASE_FAULTS
from core.errors import InvalidInput
from core.imdb_id import parse_imdb_id
from core.services.usage import tally
from films.http_caching import Representation, expires_at
from films.payload import (
    FILM_CALLS,
    SECTION_NAMES,
    SMALLEST_GZIPPED,
    compress,
    render,
    repair_at,
    section_body,
    version_of,
)
from films.presentation import cut, parse_fields, warned_sections
from films.services.background import BackgroundRefresher
from films.services.film_cache import FilmCacheService, Hit
from web.exception_handler import database_unavailable
from web.fast_path import NOT_MODIFIED, Application, Environ, StartResponse, send
from web.negotiation import accepts_gzip
from web.prefer import preferred_wait
from web.request_context import is_allowed_host

logger = logging.getLogger(__name__)

# Its name in metrics.
ROUTE = "films/fast"
# A film is some 20 KB compressed and 60 KB plain.
_MEMORY_BYTES = 14_000_000
# What is kept beside the bytes of an answer, such as its headers and the places of the sections.
_BESIDE_BYTES = 4_000
# For how long caches may keep a copy that is sent because the database fails.
_LAST_COPY_SECONDS = 30.0
_PATH = re.compile(rf"/api/films/(tt[0-9]{{1,18}})(?:/({'|'.join(SECTION_NAMES)}))?/?", re.ASCII)
# Requests with a longer path, query and `Accept-Encoding` are not remembered, so that callers
# cannot fill memory with them.
_LONGEST_REMEMBERED = 200
# Before the text of `fields` in the name of an answer.
_FIELDS = "fields="
# Other query parameters that change the answer; all others are ignored.
_PARAMETERS = frozenset({"image_width", "page_token", "view", "region", "country", "alternatives"})


@dataclass(slots=True)
class _Answer:
    """A representation, and its headers for as long as they stay the same."""

    representation: Representation
    # From when until when (Unix times) they hold, and the headers. Replaced as a whole, because
    # threads share it.
    _headers: tuple[float, float, list[tuple[str, str]]] = (0.0, 0.0, [])

    def headers(self, now: float) -> list[tuple[str, str]]:
        """Return `Representation.headers`. The list is shared: do not change it."""
        since, until, headers = self._headers
        if not since <= now < until:
            headers = self.representation.headers(now)
            self._headers = (now, self.representation.headers_until(now), headers)
        return headers


@dataclass(slots=True)
class _Remembered:
    """A film in one coding, and the answers made of it.

    Their names are "" for the whole film, a section, or `fields=` and the text of this parameter.
    `until` is when its row is to be read again, `due_at` from when (Unix time) the background is to
    know of its hits. An `is_last_copy` has `stale` warnings.
    """

    hit: Hit
    repair_at: float | None
    due_at: float
    until: float
    size: int
    answers: dict[str, _Answer] = field(default_factory=dict)
    is_last_copy: bool = False


class FastPath:
    """A WSGI application (PEP 3333) in front of Django's: it answers for films that are fresh.

    It takes `GET` and `HEAD` of a film, chosen fields or a section of it, on our hosts, without
    other query parameters that change the answer. Everything else goes to `application`.
    A film is answered from memory for `seconds`, without a query. After that its copy stays as long
    as there is room, and is the answer only while the database fails, with `stale` warnings.
    """

    def __init__(
        self,
        application: Application,
        *,
        cache: FilmCacheService,
        background: BackgroundRefresher,
        seconds: float,
        longest_wait: float,
        note_read: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._application = application
        self._cache = cache
        self._background = background
        self._seconds = seconds
        self._longest_wait = longest_wait
        self._note_read = note_read
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()
        # By id and coding, in the order in which the rows were read.
        self._memory: OrderedDict[tuple[str, bool], _Remembered] = OrderedDict()
        self._bytes = 0
        # The threads that read a row: faster than a gauge that is counted up and down.
        self._reading: set[int] = set()
        metrics.REQUESTS_IN_PROGRESS.labels(ROUTE).set_function(lambda: len(self._reading))

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a hit, or pass the request on."""
        started = time.monotonic()
        asked = _asked_for(environ)
        if asked is None or not is_allowed_host(environ):
            return self._application(environ, start_response)
        imdb_id, name, wants_gzip = asked
        cache, reason = "memory", ""
        found = self._memory.get((imdb_id, wants_gzip))
        if found is None or found.until <= self._clock():
            cache = "row"
            try:
                found = self._read(imdb_id, wants_gzip=wants_gzip)
            except DATABASE_FAULTS as exc:
                # Django's view would wait for the same database once more.
                error = database_unavailable(exc)
                found = self._last_copy(imdb_id, wants_gzip=wants_gzip)
                if found is None:
                    return send(
                        environ,
                        start_response,
                        f"{error.status_code} {error.reason_phrase}",
                        [*error.items(), ("X-Content-Type-Options", "nosniff")],
                        error.content,
                        route=ROUTE,
                        reason=error.error_reason,
                        started=started,
                    )
                cache, reason = "stale", error.error_reason
        if found is None:
            return self._application(environ, start_response)
        now = self._now()
        if cache != "stale":
            self._note_hit(imdb_id, found, now)
        answer = found.answers.get(name) or self._new_answer(imdb_id, name, found)
        representation = answer.representation
        if found.is_last_copy:
            # The next request may find the database again.
            ends = now + _LAST_COPY_SECONDS
            headers = replace(representation, expires_at=ends).headers(now)
        else:
            headers = answer.headers(now)
        is_known = representation.is_known(environ.get("HTTP_IF_NONE_MATCH"))
        return send(
            environ,
            start_response,
            NOT_MODIFIED if is_known else "200 OK",
            headers + self._applied_preference(environ) if "HTTP_PREFER" in environ else headers,
            b"" if is_known else representation.body,
            route=ROUTE,
            film=imdb_id,
            cache=cache,
            reason=reason,
            started=started,
        )

    def _note_hit(self, imdb_id: str, film: _Remembered, now: float) -> None:
        tally.cache_hit(FILM_CALLS)
        self._note_read(imdb_id)
        if now >= film.due_at:
            self._background.maybe_schedule(
                imdb_id, cached_at=film.hit.cached_at, repair_at=film.repair_at
            )

    def _read(self, imdb_id: str, *, wants_gzip: bool) -> _Remembered | None:
        read_at, thread = self._clock(), threading.get_ident()
        self._reading.add(thread)
        try:
            hit = self._cache.read_body(imdb_id, is_gzipped=wants_gzip)
        finally:
            self._reading.discard(thread)
        if hit is None:
            return None
        seconds = min(self._seconds, self._cache.fresh_seconds(hit.cached_at))
        repair = repair_at(hit.retries())
        due_at = self._background.due_at(imdb_id, cached_at=hit.cached_at, repair_at=repair)
        film = _Remembered(hit, repair, due_at, read_at + seconds, _size(hit.body))
        if self._seconds:
            with self._lock:
                last = self._memory.get((imdb_id, wants_gzip))
                # A read that began earlier may have found an older film.
                if last is None or last.until < film.until:
                    self._remember(imdb_id, film)
        return film

    def _last_copy(self, imdb_id: str, *, wants_gzip: bool) -> _Remembered | None:
        """Return the film in memory with `stale` warnings, None if it is not there."""
        copies = [self._memory.get((imdb_id, coding)) for coding in (wants_gzip, not wants_gzip)]
        last = copies[0] or copies[1]
        if last is None:
            return None
        is_ready = last.is_last_copy and last.hit.is_gzipped == wants_gzip
        if is_ready and not self._cache.has_old_offers(last.hit):
            return last
        film = self._cache.as_stale(last.hit)
        body = render(film)
        stored = body.gzipped if wants_gzip else body.plain
        hit = Hit(body.version, stored, wants_gzip, film.cached_at, body.parts)
        copy = _Remembered(hit, None, math.inf, last.until, _size(stored), is_last_copy=True)
        with self._lock:
            self._remember(imdb_id, copy)
        return copy

    def _remember(self, imdb_id: str, film: _Remembered) -> None:
        key = (imdb_id, film.hit.is_gzipped)
        last = self._memory.pop(key, None)
        self._memory[key] = film
        self._grow(film.size - (last.size if last else 0))

    def _grow(self, size: int) -> None:
        self._bytes += size
        while self._bytes > _MEMORY_BYTES:
            _, oldest = self._memory.popitem(last=False)
            self._bytes -= oldest.size

    def _new_answer(self, imdb_id: str, name: str, film: _Remembered) -> _Answer:
        """Make an answer of the film, and keep it until the row is read again."""
        answer = _Answer(self._representation(imdb_id, name, film))
        with self._lock:
            film.answers[name] = answer
            if name and self._memory.get((imdb_id, film.hit.is_gzipped)) is film:
                size = _size(answer.representation.body)
                film.size += size
                self._grow(size)
        return answer

    def _representation(self, imdb_id: str, name: str, film: _Remembered) -> Representation:
        hit = film.hit
        body, is_gzipped, version = hit.body, hit.is_gzipped, hit.version
        chosen: Collection[str] = SECTION_NAMES
        if name:
            plain = gzip.decompress(body) if is_gzipped else body
            if name in hit.parts:
                part, chosen = hit.parts[name], (name,)
                body = section_body(imdb_id, name, plain[part.start : part.end])
            else:
                selection = parse_fields(name.removeprefix(_FIELDS))
                chosen = warned_sections(selection)
                body = cut(plain, hit.parts, selection)
            version = version_of(body)
            is_gzipped = is_gzipped and len(body) >= SMALLEST_GZIPPED
            if is_gzipped:
                body = compress(body)
        fetched_at = hit.cached_at.timestamp()
        detail = "detail=stale" if film.is_last_copy else "ttl={ttl}"
        return Representation(
            version=version,
            body=body,
            is_gzipped=is_gzipped,
            fetched_at=fetched_at,
            expires_at=expires_at(
                fetched_at + self._cache.ttl.total_seconds(),
                hit.retries(chosen),
                self._now(),
            ),
            cache_status=f"Filmosphere; hit; {detail}",
        )

    def _applied_preference(self, environ: Environ) -> list[tuple[str, str]]:
        wait = preferred_wait(environ["HTTP_PREFER"], longest=self._longest_wait)
        return [] if wait is None else [("Preference-Applied", f"wait={wait}")]


def _size(body: bytes) -> int:
    """Return the memory that an answer takes."""
    return len(body) + _BESIDE_BYTES


def _asked_for(environ: Environ) -> tuple[str, str, bool] | None:
    """Return the film, the name of the answer (see `_Remembered`), and whether gzip is accepted.

    None for a request that is not for us.
    """
    if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
        return None
    path, query = environ["PATH_INFO"], environ.get("QUERY_STRING", "")
    coding = environ.get("HTTP_ACCEPT_ENCODING", "")
    if len(path) + len(query) + len(coding) > _LONGEST_REMEMBERED:
        return _understood(path, query, coding)
    return _remembered(path, query, coding)


def _understood(path: str, query: str, accept_encoding: str) -> tuple[str, str, bool] | None:
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    imdb_id, name = parse_imdb_id(match[1]), match[2] or ""
    if query:
        try:
            # Of several values, the last one counts.
            parameters = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=50))
        except ValueError:
            return None
        if parameters.keys() & _PARAMETERS:
            return None
        fields = parameters.get("fields")
        if fields is not None:
            # Django's view answers what is invalid. U+FFFD stands for bytes that are not UTF-8.
            if name or "\ufffd" in fields or not _is_valid(fields):
                return None
            name = f"{_FIELDS}{fields}"
    return imdb_id, name, accepts_gzip(accept_encoding)


def _is_valid(fields: str) -> bool:
    try:
        parse_fields(fields)
    except InvalidInput:
        return False
    return True


# To understand a request takes as long as the rest of a hit. An entry takes 0.5 KB.
_remembered = lru_cache(maxsize=4096)(_understood)
