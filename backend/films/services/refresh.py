"""The one fetch of a film: readers, background and commands use the same."""

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.utils import timezone

from core import tracing
from core.db import DATABASE_FAULTS, release_connection
from core.deadline import time_left
from core.errors import DeadlineExceeded, UpstreamError, UpstreamNotFound, UpstreamUnavailable
from core.services.source import Priority, outcome_of
from core.services.usage import Avoided, tally
from core.utils.decorators import in_callers_context
from films.models import FilmFetch
from films.payload import (
    METADATA,
    SECTION_NAMES,
    SOURCE_OF,
    STREAMING,
    FilmPayload,
    Outcome,
    RetryPolicy,
    merge,
)
from films.services.fan_out import Calls, FanOut, WatchmodeId
from films.services.film_cache import FilmCacheService
from films.services.leases import MISSING_TIME, FetchLeases, Lease

if TYPE_CHECKING:
    from core.spans import RefreshSpan

logger = logging.getLogger(__name__)

# Another try does not help soon: the source rejects the id, or has it under another one.
_UNUSABLE_TITLE = frozenset({"http_4xx", "other_title"})
# Failures that may last; each further attempt comes later, up to a day. An open circuit breaker
# says nothing about the title, and costs no call.
_LASTING = frozenset({"bad_response", "unavailable"})


@dataclass(frozen=True, slots=True)
class RefreshPolicy:
    """How long the result of a fetch is believed.

    A film without metadata is fetched again after `retry`, then after twice that, up to
    `longest_retry`, or as long as a section (`RetryPolicy`) if the failure may last.
    `lifetimes` has the sections that live longer than the film. Watchmode's id is good for
    `watchmode_id`. Watchmode's answer that it does not know a title is believed for `unknown_new`
    if the title is of this or last year or has no year, else for `unknown_old`. An id of the id map
    is used instead of a lookup.
    """

    sections: RetryPolicy
    retry: timedelta = timedelta(seconds=60)
    longest_retry: timedelta = timedelta(minutes=15)
    lifetimes: Mapping[str, timedelta] = field(default_factory=dict)
    watchmode_id: timedelta = timedelta(days=30)
    unknown_new: timedelta = timedelta(days=1)
    unknown_old: timedelta = timedelta(days=7)


class Fetch:
    """One fetch of a film in this process: its calls, and what came of them.

    The request that leads it may leave before it is complete; then the background finishes it.
    """

    # Set by `FilmRefresher.start`.
    lease: Lease

    def __init__(self, imdb_id: str) -> None:
        self.imdb_id = imdb_id
        self.last: FilmPayload | None = None
        self.wanted: frozenset[str] = frozenset()
        # Everything that was due is fetched, so the result is a new copy, not a repaired one.
        self.is_renewal = False
        self.calls: dict[str, Future[Any]] = {}
        self.watchmode_id: list[Future[WatchmodeId]] = []
        self.payload: FilmPayload | None = None
        self.error: BaseException | None = None
        # None while tracing is off.
        self.span: RefreshSpan | None = None
        self._changes = 0
        self._changed = threading.Condition()
        self._is_submitted = False
        self._when_complete: Callable[[Fetch], None] | None = None

    @property
    def is_over(self) -> bool:
        """Whether the payload or the error is there for all who wait."""
        return self.payload is not None or self.error is not None

    @property
    def has_metadata(self) -> bool:
        """Whether metadata is there, stored or fetched, so that there is a film to answer with."""
        call = self.calls.get(METADATA.name)
        return self.last is not None or (
            call is not None and call.done() and not call.cancelled() and call.exception() is None
        )

    @property
    def awaits_title(self) -> bool:
        """Whether metadata, fetched alone, is queued."""
        metadata = self.calls.get(METADATA.name)
        is_queued = metadata is not None and not metadata.running() and not metadata.done()
        return is_queued and not self._is_submitted

    @property
    def is_complete(self) -> bool:
        """Whether all calls are done, or metadata failed, so that the others do not matter."""
        if not self._is_submitted:
            return False
        metadata = self.calls.get(METADATA.name)
        if self.last is None and metadata is not None and metadata.done() and not self.has_metadata:
            return True
        return all(call.done() for call in self.calls.values())

    def pending(self) -> dict[str, "Future[Any]"]:
        """Return the calls that are not done."""
        return {name: call for name, call in self.calls.items() if not call.done()}

    def add(self, calls: Calls, *, is_all: bool) -> None:
        """Add calls to the fetch; `is_all` says that no more will follow."""
        with self._changed:
            # Replaced, not changed: other threads read it.
            self.calls = {**self.calls, **calls.sections}
            self.watchmode_id.append(calls.watchmode_id)
            self._is_submitted = is_all
        for name, call in calls.sections.items():
            call.add_done_callback(partial(self._note_done, name))
        if not calls.sections:
            self._note_done("", None)

    def when_complete(self, finish: Callable[["Fetch"], None]) -> None:
        """Call `finish` as soon as the fetch is complete, in the thread that completes it."""
        with self._changed:
            self._when_complete = finish
        self._hand_over_if_complete()

    def end(self, payload: FilmPayload | None, error: BaseException | None = None) -> None:
        """Give payload or error to all who wait, unless the fetch is over."""
        if self.is_over:
            return
        if self.span is not None:
            self.span.end(_outcome(payload, error), is_error=error is not None)
        with self._changed:
            self.payload, self.error = payload, error
            self._changes += 1
            self._changed.notify_all()

    def wait_until(
        self, is_enough: Callable[["Fetch"], bool], seconds_left: Callable[[], float]
    ) -> None:
        """Wait until `is_enough(self)` is true or `seconds_left()` is 0.

        Both are called again when metadata came, when all calls are done, when the fetch is over,
        and after the seconds.
        """
        changes = self._changes
        while not is_enough(self) and (seconds := seconds_left()) > 0:
            with self._changed:
                # A change since `is_enough` was called is not missed.
                if self._changes == changes:
                    self._changed.wait(seconds)
                changes = self._changes

    def _note_done(self, name: str, _: object) -> None:
        # Waking the waiting threads for each of nine calls would cost more than the calls.
        if name == METADATA.name or self.is_complete:
            with self._changed:
                self._changes += 1
                self._changed.notify_all()
        self._hand_over_if_complete()

    def _hand_over_if_complete(self) -> None:
        with self._changed:
            finish = self._when_complete
            if finish is None or not self.is_complete:
                return
            self._when_complete = None
        finish(self)


class FilmRefresher:
    """Fetches sections of films under leases, and stores the results."""

    def __init__(
        self,
        *,
        cache: FilmCacheService,
        leases: FetchLeases,
        fan_out: FanOut,
        policy: RefreshPolicy,
        now: Callable[[], datetime] = timezone.now,
    ) -> None:
        self._cache = cache
        self._leases = leases
        self._fan_out = fan_out
        self._policy = policy
        self._now = now
        self._lock = threading.Lock()
        self._fetches: dict[str, Fetch] = {}

    def join(self, imdb_id: str) -> tuple[Fetch, bool]:
        """Return this process's fetch of a film, and whether the caller has to lead a new one.

        The leader calls `start`, then `finish`, or `fail` if it cannot.
        """
        with self._lock:
            fetch = self._fetches.get(imdb_id)
            if fetch is not None:
                return fetch, False
            fetch = self._fetches[imdb_id] = Fetch(imdb_id)
            return fetch, True

    def lead(
        self,
        lease: Lease,
        last: FilmPayload | None,
        sections: Collection[str],
        *,
        priority: Priority,
        is_renewal: bool,
    ) -> Fetch | None:
        """Start a fetch under the lease; None, and the lease ends, if one is under way here."""
        fetch, leads = self.join(lease.imdb_id)
        if not leads:
            self._leases.finish(lease)
            return None
        self.start(fetch, lease, last, sections, priority=priority, is_renewal=is_renewal)
        return fetch

    def sections_to_refresh(self, film: FilmPayload | None) -> tuple[str, ...]:
        """Return the sections that a new copy of the film needs: those whose lifetime is over.

        While metadata keeps failing, each renewal is repeated soon. What an earlier attempt fetched
        is not fetched again within the time to live of a film.
        Offers are needed as well if a region was configured since they were fetched.
        """
        if film is None:
            return SECTION_NAMES
        warned, now = film.warning_codes, self._now()
        default = self._cache.ttl if METADATA.name in warned else timedelta(0)

        def is_carried_over(name: str) -> bool:
            lifetime, state = self._policy.lifetimes.get(name, default), film.states.get(name)
            if state is None or state.fetched_at is None or name in warned:
                return False
            if name == STREAMING.name and not self._fan_out.has_all_regions(film):
                return False
            return now - state.fetched_at < lifetime

        return tuple(name for name in SECTION_NAMES if not is_carried_over(name))

    def start(
        self,
        fetch: Fetch,
        lease: Lease,
        last: FilmPayload | None,
        sections: Collection[str],
        *,
        priority: Priority,
        is_renewal: bool = True,
    ) -> None:
        """Queue the calls for `sections`: a renewal of the whole film, or a repair of it.

        If nothing vouches for the title, metadata is fetched alone, behind everything else; the
        other sections follow once it shows that the title exists, behind the metadata of other such
        titles that is queued then. The last tenth of a quota is left to films that are stored
        already. If it raises, the fetch ends with that error.
        """
        fetch.lease, fetch.last, fetch.wanted = lease, last, frozenset(sections)
        fetch.is_renewal = is_renewal
        if is_renewal and last is not None:
            carried_over = set(SECTION_NAMES) - fetch.wanted
            tally.avoided(Avoided.CARRIED_OVER, (SOURCE_OF[name] for name in carried_over))
        known = self._known_watchmode_id(lease.record, last)

        def submit(names: Collection[str], priority: Priority) -> Calls:
            return self._fan_out.submit(
                fetch.imdb_id,
                names,
                watchmode_id=known,
                priority=priority,
                leave_reserve=last is None or priority is Priority.BATCH,
            )

        def submit_others(metadata: "Future[Any]") -> None:
            exists = not metadata.cancelled() and metadata.exception() is None
            # After the end of the fetch nothing would use the answers.
            is_wanted = exists and not fetch.is_over
            others = set(sections) - {METADATA.name} if is_wanted else set()
            with self._lock:
                gives_way = any(each.awaits_title for each in self._fetches.values())
            fetch.add(submit(others, Priority.UNVOUCHED if gives_way else priority), is_all=True)

        try:
            # The calls see the context variables of this moment, the span among them.
            with tracing.refresh(fetch.imdb_id, sections, priority.name) as fetch.span:
                if last is not None or self._leases.is_vouched_for(lease.record):
                    fetch.add(submit(sections, priority), is_all=True)
                else:
                    first = submit([METADATA.name], Priority.UNVOUCHED)
                    fetch.add(first, is_all=False)
                    metadata = first.sections[METADATA.name]
                    metadata.add_done_callback(in_callers_context(submit_others))
        except BaseException as exc:
            self.fail(fetch, exc)
            raise
        self._leases.keep(lease)

    def fetch_title(self, imdb_id: str, priority: Priority) -> dict[str, Any]:
        """Return the metadata of a film, without storing it.

        What it shows about the title is noted, as after a fetch. Raises the error of the call.
        """
        record = self._leases.record(imdb_id)
        calls = self._fan_out.submit(
            imdb_id,
            [METADATA.name],
            watchmode_id=WatchmodeId(),
            priority=priority,
            leave_reserve=True,
        )
        release_connection()
        outcome: Outcome
        try:
            outcome = outcome_of(calls.sections[METADATA.name], METADATA.source)
        except UpstreamError as exc:
            outcome = exc
        # Other errors are about the source, not about the title.
        if not isinstance(outcome, UpstreamUnavailable):
            findings = {"ended_at": self._now(), **self._findings_of_metadata(record, outcome)}
            self._write(lambda: self._leases.note(imdb_id, findings))
        if isinstance(outcome, UpstreamError):
            raise outcome
        title: dict[str, Any] = outcome
        return title

    def queue_seconds(self, fetch: Fetch) -> float:
        """Return how long the rate limits keep the next queued call of a fetch waiting."""
        return min(
            (
                self._fan_out.queue_seconds(name, call)
                for name, call in fetch.pending().items()
                if not call.running()
            ),
            default=0.0,
        )

    def snapshot(self, fetch: Fetch) -> FilmPayload:
        """Return the payload as far as the fetch has come; raises the error of `metadata`."""
        return self._merge(fetch, _outcomes(fetch))

    def store_interim(self, fetch: Fetch) -> FilmPayload:
        """Store the payload as far as the fetch has come, and keep the lease."""
        payload = self.snapshot(fetch)

        def store() -> bool:
            with transaction.atomic():
                is_ours = self._leases.is_held(fetch.lease)
                if is_ours:
                    self._cache.save_cache(fetch.imdb_id, payload)
            return is_ours

        payload.is_stored = self._write(store)
        return payload

    def finish(self, fetch: Fetch) -> FilmPayload:
        """End a fetch: merge, store and give the payload to all who wait.

        Calls that are still queued are cancelled. Raises the error of `metadata` if nothing is
        stored, and a database error that kept calls from being made. A payload that cannot be
        stored, or comes after a newer fetch of another process, is returned too.
        """
        try:
            payload = self._finish(fetch)
        except BaseException as exc:
            self.fail(fetch, exc)
            raise
        return self.end_with(fetch, payload)

    def fail(self, fetch: Fetch, error: BaseException) -> None:
        """End a fetch with an error for all who wait."""
        self._forget(fetch)
        fetch.end(None, error)

    def end_with(self, fetch: Fetch, payload: FilmPayload) -> FilmPayload:
        """End a fetch with what another process stored."""
        self._forget(fetch)
        fetch.end(payload)
        return payload

    def _finish(self, fetch: Fetch) -> FilmPayload:
        for call in fetch.calls.values():
            call.cancel()
        findings: dict[str, Any] = {}
        try:
            outcomes = _outcomes(fetch)
            findings = self._findings(fetch, outcomes)
            payload = self._merge(fetch, outcomes, findings.get("retry_at"))
        except BaseException:
            self._write(lambda: self._leases.finish(fetch.lease, **findings))
            raise

        def store() -> bool:
            with transaction.atomic():
                is_ours = self._leases.finish(fetch.lease, **findings)
                if is_ours:
                    self._cache.save_cache(fetch.imdb_id, payload)
                else:
                    logger.warning("a newer fetch was stored", extra={"outcome": "lease_lost"})
            return is_ours

        payload.is_stored = self._write(store)
        return payload

    def _merge(
        self,
        fetch: Fetch,
        outcomes: Mapping[str, Outcome],
        metadata_retry_at: datetime | None = None,
    ) -> FilmPayload:
        return merge(
            fetch.imdb_id,
            outcomes,
            fetch.last,
            now=self._now(),
            retry=self._policy.sections,
            is_renewal=fetch.is_renewal,
            metadata_retry_at=metadata_retry_at,
        )

    def _forget(self, fetch: Fetch) -> None:
        with self._lock:
            if self._fetches.get(fetch.imdb_id) is fetch:
                del self._fetches[fetch.imdb_id]

    def _write(self, write: Callable[[], bool]) -> bool:
        """Write, a second time if that fails and there is time; return whether it is stored.

        The reader gets the payload in any case.
        """
        for is_last in (False, True):
            try:
                return write()
            except DATABASE_FAULTS as exc:
                gives_up = is_last or time_left(1) <= 0
                outcome = "not_stored" if gives_up else "db_retry"
                logger.warning("write failed", extra={"outcome": outcome}, exc_info=exc)
                release_connection()
                if gives_up:
                    break
        return False

    def _findings(self, fetch: Fetch, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
        """Return what `FetchLeases.finish` stores of the fetch."""
        now, record = self._now(), fetch.lease.record
        findings: dict[str, Any] = {}
        found = next((each.result() for each in fetch.watchmode_id if each.done()), None)
        if found is not None:
            findings["watchmode_id"] = found.value if found.is_known else None
            findings["watchmode_at"] = now if found.is_known else None
            if not found.is_known:
                findings["dropped_id"] = found.value
        if METADATA.name in outcomes:
            findings |= self._findings_of_metadata(record, outcomes[METADATA.name])
        return findings

    def _findings_of_metadata(self, record: FilmFetch, metadata: Outcome) -> dict[str, Any]:
        now = self._now()
        findings: dict[str, Any] = {}
        if isinstance(metadata, UpstreamNotFound):
            findings["failure"] = metadata.code
            findings["missing_since"] = record.missing_since or now
            findings["missing_until"] = findings["retry_at"] = now + MISSING_TIME
        elif isinstance(metadata, UpstreamError):
            findings["failure"] = metadata.code
            findings["retry_at"] = now + self._delay(record, metadata)
        else:
            findings["failure"] = ""
            findings |= dict.fromkeys(("retry_at", "missing_since", "missing_until"))
        return findings

    def _delay(self, record: FilmFetch, error: UpstreamError) -> timedelta:
        """Return how long to wait after a fetch without metadata."""
        if error.reason in _UNUSABLE_TITLE:
            return MISSING_TIME
        longest = self._policy.longest_retry
        if error.code in _LASTING and error.reason != "circuit_open":
            longest = self._policy.sections.longest
        if not record.failure or record.retry_at is None or record.ended_at is None:
            return self._policy.retry
        return min(max(2 * (record.retry_at - record.ended_at), self._policy.retry), longest)

    def _known_watchmode_id(self, record: FilmFetch, last: FilmPayload | None) -> WatchmodeId:
        lifetime = self._policy.watchmode_id
        if record.watchmode_id is None:
            year = last["metadata"].get("startYear") if last is not None else None
            is_old = isinstance(year, int) and year < self._now().year - 1
            lifetime = self._policy.unknown_old if is_old else self._policy.unknown_new
        looked_up_at = record.watchmode_at
        is_current = looked_up_at is not None and self._now() - looked_up_at < lifetime
        if record.mapped_id is not None and (record.watchmode_id is None or not is_current):
            return WatchmodeId(record.mapped_id, is_known=True)
        return WatchmodeId(record.watchmode_id, is_known=True) if is_current else WatchmodeId()


def _outcome(payload: FilmPayload | None, error: BaseException | None) -> str:
    if payload is not None:
        return payload.cache_outcome
    return error.code if isinstance(error, UpstreamError) else type(error).__name__


def _outcomes(fetch: Fetch) -> dict[str, Outcome]:
    """Return the value or `UpstreamError` of each call; raises any other exception of a call."""
    outcomes: dict[str, Outcome] = {}
    for name in SECTION_NAMES:
        if name not in fetch.wanted:
            continue
        call = fetch.calls.get(name)
        if call is None or not call.done() or call.cancelled():
            outcomes[name] = DeadlineExceeded(SOURCE_OF[name], "deadline")
            continue
        error = call.exception()
        if error is not None and not isinstance(error, UpstreamError):
            raise error
        outcomes[name] = error or call.result()
    return outcomes
