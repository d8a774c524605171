"""The film that a reader requests: from storage or, on a miss, from all sources at once."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from django.utils import timezone

from core.db import DATABASE_FAULTS, release_connection
from core.deadline import Deadline, deadline_of
from core.errors import (
    DeadlineExceeded,
    Overloaded,
    ServiceError,
    UpstreamBadAnswer,
    UpstreamError,
    UpstreamNotFound,
    error_for_code,
)
from core.services.slots import occupied
from core.services.source import Priority
from core.services.usage import Avoided, tally
from core.utils.logging import film_id
from films.models import FilmFetch
from films.payload import CLOCK_SKEW, FILM_CALLS, METADATA, SECTION_NAMES, FilmPayload, repair_at
from films.services.background import BackgroundRefresher
from films.services.film_cache import FilmCacheService, Hit
from films.services.leases import FetchLeases, Lease
from films.services.refresh import Fetch, FilmRefresher

logger = logging.getLogger(__name__)

# How often to check whether another process is done with a film.
_POLL_SECONDS = 0.1
# How often a waiting reader checks whether it should wait longer.
_TICK_SECONDS = 0.25
_NO_SLOT = "Too many films are being fetched right now."


@dataclass(frozen=True, slots=True)
class Reader:
    """The request that waits for a film: ambient, like its deadline and its correlation id.

    `wait` is the number of seconds after which it takes what there is (`Prefer: wait`), None for
    the default. `count_miss` is called before the film is fetched for it; the argument is whether
    the title is vouched for, and it may raise `Overloaded`.
    """

    wait: float | None = None
    count_miss: Callable[[bool], object] = bool


_DEFAULT = Reader()
_reader: ContextVar[Reader] = ContextVar("reader", default=_DEFAULT)


@contextmanager
def reading_as(reader: Reader) -> Iterator[None]:
    """Let `reader` hold for the calls made inside."""
    token = _reader.set(reader)
    try:
        yield
    finally:
        _reader.reset(token)


def current_reader() -> Reader:
    """Return the reader of the current request."""
    return _reader.get()


class FilmAggregatorService:
    """Gives the payload of a film, with one fetch per film at a time in all processes.

    A request waits for a fetch at most `deadline_seconds`, and in the queue of a rate-limited
    source at most `queue_patience` seconds; the background completes what it did not wait for.
    `miss_slots` bounds the requests of this process that wait. `note_read` is called with the id of
    each stored film that is read.
    """

    def __init__(
        self,
        *,
        cache: FilmCacheService,
        leases: FetchLeases,
        refresher: FilmRefresher,
        background: BackgroundRefresher,
        miss_slots: threading.Semaphore,
        deadline_seconds: float,
        queue_patience: float,
        note_read: Callable[[str], None],
        now: Callable[[], datetime] = timezone.now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._cache = cache
        self._leases = leases
        self._refresher = refresher
        self._background = background
        self._miss_slots = miss_slots
        self._deadline_seconds = deadline_seconds
        self._queue_patience = queue_patience
        self._note_read = note_read
        self._now = now
        self._sleep = sleep

    def fetch_and_cache(self, imdb_id: str) -> dict[str, Any]:
        """Return the twelve-key payload of the film, fetched and stored unless it is fresh.

        The result is a `FilmPayload`. Sections that could not be fetched are named in `warnings`.
        Raises `UpstreamNotFound` if IMDb has no such title, `Overloaded` if too many films are
        being fetched or the caller is too fast, and another `UpstreamError` if a source could not
        answer and nothing is stored.
        """
        film_id.set(imdb_id)
        looked_at = self._now()
        film = self._cache.get_cached(imdb_id)
        if film is not None:
            self._note_read(imdb_id)
        if film is not None and film.is_fresh:
            tally.cache_hit(FILM_CALLS)
            self._background.maybe_schedule(
                imdb_id, cached_at=film.cached_at, repair_at=repair_at(film.retries())
            )
            return film
        record = self._leases.record(imdb_id)
        self._raise_if_known_to_fail(record, film)
        if film is not None and record.retry_at and record.retry_at > looked_at:
            return film.as_stale(record.retry_at)
        try:
            return self._fetch_once(imdb_id, film, record, looked_at)
        except UpstreamNotFound:
            raise
        except (UpstreamError, Overloaded, *DATABASE_FAULTS) as exc:
            if film is None:
                raise
            logger.warning("an expired film is served", extra={"outcome": type(exc).__name__})
            return film.as_stale(None)

    def fetch_many(
        self, imdb_ids: Sequence[str]
    ) -> dict[str, Hit | FilmPayload | Exception | None]:
        """Return several films by id, as far as they can be fetched in the time of one request.

        Stored films, expired ones too, are returned as they are: fresh ones as bytes. The others
        are fetched together, so that their metadata can be combined; None stands for a film whose
        metadata is under way. An exception is the one that `fetch_and_cache` would raise for the
        film.
        """
        hits = self._cache.read_bodies(imdb_ids)
        for imdb_id, hit in hits.items():
            tally.cache_hit(FILM_CALLS)
            self._note_read(imdb_id)
            self._background.maybe_schedule(
                imdb_id, cached_at=hit.cached_at, repair_at=repair_at(hit.retries())
            )
        films: dict[str, Hit | FilmPayload | Exception | None] = {**hits}
        missing: dict[str, FilmFetch] = {}
        for imdb_id in imdb_ids:
            if imdb_id in hits:
                continue
            film = self._cache.get_cached(imdb_id)
            if film is not None:
                self._note_read(imdb_id)
                if film.is_fresh:
                    tally.cache_hit(FILM_CALLS)
                # The background fetches an expired film as soon as it can.
                due = repair_at(film.retries()) if film.is_fresh else 0.0
                self._background.maybe_schedule(imdb_id, cached_at=film.cached_at, repair_at=due)
                films[imdb_id] = film if film.is_fresh else film.as_stale(None)
            else:
                missing[imdb_id] = self._leases.record(imdb_id)
        if not missing:
            return films
        try:
            with occupied(self._miss_slots, _NO_SLOT):
                patience = _Patience(
                    self._deadline_seconds, self._queue_patience, current_reader(), for_batch=True
                )
                with deadline_of(patience.deadline):
                    return films | self._fetch_missing(missing, patience)
        except Overloaded as exc:
            return films | dict.fromkeys(missing, exc)

    def vouches_for(self, imdb_id: str) -> bool:
        """Whether the film is stored, or something else shows that the title exists.

        Raises `UpstreamNotFound` if IMDb reported that there is no such title, and
        `UpstreamBadAnswer` if what it reported recently could not be used.
        """
        film = self._cache.get_cached(imdb_id)
        record = self._leases.record(imdb_id)
        self._raise_if_known_to_fail(record, film)
        return film is not None or self._leases.is_vouched_for(record)

    def _fetch_missing(
        self, missing: Mapping[str, FilmFetch], patience: "_Patience"
    ) -> dict[str, Hit | FilmPayload | Exception | None]:
        films: dict[str, Hit | FilmPayload | Exception | None] = {}
        fetched_elsewhere: list[str] = []
        led: dict[str, Fetch] = {}
        followed: dict[str, Fetch] = {}
        try:
            for imdb_id, record in missing.items():
                film_id.set(imdb_id)
                try:
                    self._raise_if_known_to_fail(record, None)
                    current_reader().count_miss(self._leases.is_vouched_for(record))
                    fetch, leads = self._refresher.join(imdb_id)
                    if not leads:
                        tally.avoided(Avoided.SINGLE_FLIGHT, FILM_CALLS)
                        followed[imdb_id] = fetch
                    elif self._start_new(fetch):
                        led[imdb_id] = fetch
                    else:
                        fetched_elsewhere.append(imdb_id)
                except (ServiceError, *DATABASE_FAULTS) as exc:
                    films[imdb_id] = exc
            for imdb_id, fetch in led.items():
                film_id.set(imdb_id)
                self._wait(fetch, patience, lambda it: it.is_complete)
                films[imdb_id] = self._outcome_of_led(fetch)
        finally:
            for fetch in led.values():
                self._background.take_over(fetch)
        for imdb_id, fetch in followed.items():
            film_id.set(imdb_id)
            self._wait(fetch, patience, lambda it: it.is_over)
            try:
                films[imdb_id] = self._outcome_of_followed(fetch)
            except (ServiceError, *DATABASE_FAULTS) as exc:
                films[imdb_id] = exc
        film_id.set("-")
        return films | self._stored_by_others(fetched_elsewhere, patience)

    def _stored_by_others(
        self, imdb_ids: Sequence[str], patience: "_Patience"
    ) -> dict[str, Hit | Exception | None]:
        """Return the films that other processes fetch, None for those that come too late."""
        films: dict[str, Hit | Exception | None] = dict.fromkeys(imdb_ids)
        waiting = list(imdb_ids)
        while waiting:
            try:
                films |= self._cache.read_bodies(waiting)
            except DATABASE_FAULTS as exc:
                return films | dict.fromkeys(waiting, exc)
            waiting = [imdb_id for imdb_id in waiting if films[imdb_id] is None]
            seconds = patience.left_in_batch()
            if not waiting or seconds <= 0:
                break
            release_connection()
            self._sleep(min(seconds, _POLL_SECONDS))
        return films

    def _start_new(self, fetch: Fetch) -> bool:
        """Start the fetch of a film that is not stored, unless another process fetches it."""
        try:
            lease = self._leases.acquire(fetch.imdb_id)
            if lease is None:
                self._refresher.fail(fetch, DeadlineExceeded(METADATA.source, "busy"))
                return False
            self._refresher.start(fetch, lease, None, SECTION_NAMES, priority=Priority.READER)
        except BaseException as exc:
            self._refresher.fail(fetch, exc)
            raise
        return True

    def _outcome_of_led(self, fetch: Fetch) -> FilmPayload | Exception | None:
        """Return the film as far as a fetch of a batch has come, None without metadata."""
        try:
            if fetch.is_complete:
                return self._refresher.finish(fetch)
            return self._refresher.store_interim(fetch) if fetch.has_metadata else None
        except (ServiceError, *DATABASE_FAULTS) as exc:
            return exc

    def _outcome_of_followed(self, fetch: Fetch) -> FilmPayload | None:
        """Return the film as far as another request's fetch has come, None without metadata."""
        if fetch.error is not None:
            raise fetch.error
        if fetch.payload is not None or not fetch.has_metadata:
            return fetch.payload
        payload = self._refresher.snapshot(fetch)
        payload.is_stored = False
        return payload

    def _raise_if_known_to_fail(self, record: FilmFetch, film: FilmPayload | None) -> None:
        if self._leases.is_missing(record, is_stored=film is not None):
            tally.avoided(Avoided.NEGATIVE_CACHE, [METADATA.source])
            raise UpstreamNotFound(METADATA.source, "remembered")
        # The circuit breaker does not cover metadata that cannot be used.
        is_recent = record.retry_at is not None and record.retry_at > self._now()
        if film is None and is_recent and record.failure == UpstreamBadAnswer.code:
            tally.avoided(Avoided.NEGATIVE_CACHE, [METADATA.source])
            raise UpstreamBadAnswer(METADATA.source, "remembered")

    def _fetch_once(
        self, imdb_id: str, film: FilmPayload | None, record: FilmFetch, looked_at: datetime
    ) -> FilmPayload:
        """Lead the fetch of the film in this process, or wait for the one that is under way."""
        with occupied(self._miss_slots, _NO_SLOT):
            reader = current_reader()
            reader.count_miss(film is not None or self._leases.is_vouched_for(record))
            patience = _Patience(
                self._deadline_seconds, self._queue_patience, reader, has_film=film is not None
            )
            with deadline_of(patience.deadline):
                fetch, leads = self._refresher.join(imdb_id)
                if leads:
                    return self._lead(fetch, film, looked_at, patience)
                tally.avoided(Avoided.SINGLE_FLIGHT, FILM_CALLS)
                self._wait(fetch, patience, lambda it: it.is_over)
                payload = self._outcome_of_followed(fetch)
                if payload is None:
                    raise DeadlineExceeded(METADATA.source, "deadline")
                return payload

    def _lead(
        self, fetch: Fetch, film: FilmPayload | None, looked_at: datetime, patience: "_Patience"
    ) -> FilmPayload:
        try:
            lease = self._wait_for_lease(fetch, film, looked_at, patience)
            if isinstance(lease, FilmPayload):
                tally.avoided(Avoided.SINGLE_FLIGHT, FILM_CALLS)
                return self._refresher.end_with(fetch, lease)
            ended_at = lease.record.ended_at
            if ended_at and ended_at >= looked_at - CLOCK_SKEW:
                # Another process may have stored the film since this request looked.
                film = self._cache.get_cached(fetch.imdb_id)
                if film is not None and film.is_fresh:
                    tally.cache_hit(FILM_CALLS)
                    self._leases.finish(lease)
                    return self._refresher.end_with(fetch, film)
            sections = self._refresher.sections_to_refresh(film)
            self._refresher.start(fetch, lease, film, sections, priority=Priority.READER)
        except BaseException as exc:
            self._refresher.fail(fetch, exc)
            raise
        try:
            self._wait(fetch, patience, lambda it: it.is_complete or patience.is_for_others(it))
            if not fetch.is_complete and patience.is_for_others(fetch):
                # Requests to other processes may wait for this film.
                interim = self._refresher.store_interim(fetch)
                if patience.seconds(fetch, self._refresher) <= 0:
                    return interim
                self._wait(fetch, patience, lambda it: it.is_complete)
            if fetch.is_complete or not fetch.has_metadata:
                return self._refresher.finish(fetch)
            return self._refresher.store_interim(fetch)
        finally:
            self._background.take_over(fetch)

    def _wait(
        self, fetch: Fetch, patience: "_Patience", is_enough: Callable[[Fetch], bool]
    ) -> None:
        """Wait until `is_enough`, as long as the reader has patience."""
        release_connection()
        fetch.wait_until(is_enough, partial(patience.seconds, fetch, self._refresher))

    def _wait_for_lease(
        self, fetch: Fetch, film: FilmPayload | None, looked_at: datetime, patience: "_Patience"
    ) -> Lease | FilmPayload:
        """Return a lease, or what the process that has the lease stored meanwhile.

        `film` is the expired copy. Raises `DeadlineExceeded` if the reader does not wait longer.
        """
        imdb_id = fetch.imdb_id
        while (lease := self._leases.acquire(imdb_id)) is None:
            release_connection()
            seconds = patience.seconds(fetch, self._refresher)
            if seconds <= 0:
                raise DeadlineExceeded(METADATA.source, "deadline")
            self._sleep(min(seconds, _POLL_SECONDS))
            if self._cache.is_fresh(imdb_id):
                stored = self._cache.get_cached(imdb_id)
                if stored is not None:
                    return stored
            record = self._leases.record(imdb_id)
            self._raise_if_known_to_fail(record, film)
            if record.failure and record.ended_at and record.ended_at >= looked_at:
                raise error_for_code(record.failure)(METADATA.source, "another process failed")
        return lease


class _Patience:
    """How much longer a reader waits for a fetch.

    `has_film` says that an expired copy is stored, so that metadata is not waited for at all costs.
    In a batch it is not, either.
    """

    def __init__(
        self,
        deadline_seconds: float,
        queue_patience: float,
        reader: Reader,
        *,
        has_film: bool = False,
        for_batch: bool = False,
    ) -> None:
        self._has_film = has_film
        self._for_batch = for_batch
        self.deadline = Deadline(deadline_seconds)
        self._in_queue = Deadline(queue_patience)
        self._preferred = None if reader.wait is None else Deadline(reader.wait)
        # The calls that ran when the patience was over.
        self._last_calls: list[Future[Any]] | None = None

    def seconds(self, fetch: Fetch, refresher: FilmRefresher) -> float:
        """Return for how long to wait now; 0 if the reader takes what there is.

        Metadata is waited for up to the deadline. A fetch that waits for the lease of another
        process counts as queued.
        """
        if self._for_batch:
            return self.left_in_batch()
        left, in_queue = self.deadline.left(), self._in_queue.left()
        if not self._has_film and not fetch.has_metadata:
            return left
        # The reader is not notified when calls enter or leave the queue.
        left = min(left, _TICK_SECONDS)
        if self._preferred is not None:
            return min(left, self._preferred.left())
        running = [call for call in fetch.pending().values() if call.running()]
        if in_queue > 0:
            is_too_late = not running and refresher.queue_seconds(fetch) > in_queue
            return 0.0 if is_too_late else min(left, in_queue)
        if self._last_calls is None:
            self._last_calls = running
        return 0.0 if all(call.done() for call in self._last_calls) else left

    def left_in_batch(self) -> float:
        """Return for how long to wait for the films of a batch."""
        return min(self.deadline.left(), (self._preferred or self._in_queue).left())

    def is_for_others(self, fetch: Fetch) -> bool:
        """Whether to store what there is of a new film: others do not wait for more of it."""
        return fetch.last is None and fetch.has_metadata and self._in_queue.left() <= 0
