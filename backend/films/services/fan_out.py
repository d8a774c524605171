"""All sections of a film at once, under one deadline and within the budget of each source."""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from functools import partial
from typing import Any

from django.db import DatabaseError, InterfaceError

from core.budgets import UpstreamBudgets
from core.deadline import time_left
from core.errors import DeadlineExceeded, UpstreamError, UpstreamNotFound
from core.services.bulkhead import Bulkhead
from core.services.imdb_service import IMDbService
from core.services.kinocheck_service import KinoCheckService
from core.services.turnstile import Ticket, Turnstile
from core.services.watchmode_service import WatchmodeService
from films.services.sections import METADATA, SECTIONS, STREAMING, TRAILER, Outcome

logger = logging.getLogger(__name__)

# How often to say that we are alive, and to tell other processes what we learned.
HEARTBEAT_SECONDS = 0.5

METADATA_FIRST = 0
OTHER_SECTIONS = 1
BACKGROUND = 2

# The reason of a `DeadlineExceeded` whose call was never made: the pace of the source forbade it.
IN_LINE = "in_line"

_SOURCES = {section.name: section.source for section in SECTIONS}


class WatchmodeNumber:
    """Watchmode's number for a film: what is known of it, and what a fetch found out."""

    def __init__(self, *, is_known: bool, value: int | None) -> None:
        self.is_known = is_known
        self.value = value
        self.is_new = False
        self.is_gone = False


class FanOut:
    """Fetches sections of a film in parallel.

    Work for a source runs in its bulkhead's threads, this thread does all that needs the database:
    it asks `budgets` and calls `release_connection` before each wait.
    """

    def __init__(
        self,
        *,
        imdb: IMDbService,
        kinocheck: KinoCheckService,
        watchmode: WatchmodeService,
        bulkheads: Mapping[str, Bulkhead],
        budgets: UpstreamBudgets,
        release_connection: Callable[[], None],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._watchmode = watchmode
        self._bulkheads = bulkheads
        self._budgets = budgets
        self._release_connection = release_connection
        self._sleep = sleep
        self._lines = {source: Turnstile() for source in bulkheads}
        # The longest chain, two calls, goes first, and what the film cannot do without.
        self._fetches: dict[str, Callable[[str], Any]] = {
            TRAILER.name: kinocheck.get_trailer,
            METADATA.name: imdb.get_metadata,
            "credits": imdb.get_credits,
            "images": imdb.get_images,
            "videos": imdb.get_videos,
            "parents_guide": imdb.get_parents_guide,
            "certificates": imdb.get_certificates,
            "release_dates": imdb.get_release_dates,
        }

    def run(
        self,
        imdb_id: str,
        sections: Collection[str],
        *,
        number: WatchmodeNumber,
        known_film: bool,
        needs_metadata: bool = False,
        in_background: bool = False,
        heartbeat: Callable[[], object] = lambda: None,
    ) -> dict[str, Outcome]:
        """Return the answer or the `UpstreamError` of each of `sections`, by its name.

        Where the film `needs_metadata`, nobody waits long for the rest once that has failed.

        Ends with the current deadline: what is not there by then is `DeadlineExceeded`.
        `heartbeat` is called about twice a second, in this thread.
        """
        fetches: dict[str, Callable[[str], Any]] = {
            STREAMING.name: partial(self._streaming, number),
            **self._fetches,
        }
        wanted = [name for name in fetches if name in sections]
        refused = self._budgets.sync({_SOURCES[name] for name in wanted}, known_film=known_film)
        outcomes: dict[str, Outcome] = {
            name: refused[_SOURCES[name]] for name in wanted if _SOURCES[name] in refused
        }
        futures: dict[str, Future[Any]] = {}
        in_line: list[str] = []
        for name in wanted:
            if name in outcomes:
                continue
            if self._budgets.is_paced(_SOURCES[name]):
                in_line.append(name)
            else:
                futures[name] = self._submit(
                    name, partial(fetches[name], imdb_id), in_background=in_background
                )
        for name in self._paced(in_line, heartbeat, in_background=in_background):
            futures[name] = self._submit(
                name, partial(fetches[name], imdb_id), in_background=in_background
            )
        decisive = futures.get(METADATA.name) if needs_metadata else None
        self._await(futures, heartbeat, decisive)
        for name in wanted:
            if name not in outcomes:
                outcomes[name] = self._outcome(futures.get(name), _SOURCES[name])
        self._report()
        return outcomes

    def _submit(self, name: str, work: Callable[[], Any], *, in_background: bool) -> Future[Any]:
        return self._bulkheads[_SOURCES[name]].submit(
            work, priority=_priority(name, in_background=in_background)
        )

    def _paced(
        self, names: list[str], heartbeat: Callable[[], object], *, in_background: bool
    ) -> Iterator[str]:
        """Give each name as soon as the pace of its source allows the call."""
        line = list(names)
        while line and time_left(1) > 0:
            source = _SOURCES[line[0]]
            if self._budgets.closed(source):
                # Refused without a call, each with the right error.
                yield from line
                return
            ticket = self._lines[source].ticket(_priority(line[0], in_background=in_background))
            try:
                granted = self._granted(source, ticket, len(line), heartbeat)
            finally:
                self._lines[source].give_up(ticket)
            yield from line[:granted]
            line = line[granted:]

    def _granted(
        self, source: str, ticket: Ticket, wanted: int, heartbeat: Callable[[], object]
    ) -> int:
        line = self._lines[source]
        while time_left(1) > 0 and not self._budgets.closed(source):
            self._release_connection()
            if line.enter(ticket, time_left(HEARTBEAT_SECONDS)):
                try:
                    granted, seconds = self._budgets.take(source, wanted)
                    if granted:
                        return granted
                    self._release_connection()
                    self._sleep(time_left(min(seconds, HEARTBEAT_SECONDS)))
                finally:
                    line.leave()
            self._report(heartbeat)
        return 0

    def _await(
        self,
        futures: Mapping[str, Future[Any]],
        heartbeat: Callable[[], object],
        decisive: Future[Any] | None,
    ) -> None:
        pending = set(futures.values())
        self._release_connection()
        beat_at = time.monotonic() + HEARTBEAT_SECONDS
        while pending and time_left(1) > 0:
            if _has_failed(decisive):
                # A mute source holds nobody up; calls that take no longer than usual are counted.
                wait(pending, time_left(HEARTBEAT_SECONDS))
                return
            # What fails can be news that others must hear of at once. That a source is back can
            # wait for the next beat.
            _, pending = wait(pending, time_left(HEARTBEAT_SECONDS), FIRST_EXCEPTION)
            if self._budgets.has_news or time.monotonic() >= beat_at:
                self._report(heartbeat)
                self._release_connection()
                beat_at = time.monotonic() + HEARTBEAT_SECONDS

    def _outcome(self, future: Future[Any] | None, source: str) -> Outcome:
        if future is None:
            return DeadlineExceeded(source, IN_LINE)
        if not future.done():
            future.cancel()
            return DeadlineExceeded(source, "deadline")
        try:
            return future.result()
        except UpstreamError as exc:
            self._budgets.complete(exc)
            return exc

    def _report(self, heartbeat: Callable[[], object] = lambda: None) -> None:
        """Tell the other processes what we learned and that we are alive.

        A database that fails now is no reason to drop the answers that are on their way.
        """
        try:
            self._budgets.sync(())
            heartbeat()
        except (DatabaseError, InterfaceError) as exc:
            logger.warning("the database failed", extra={"outcome": type(exc).__name__})
            self._release_connection()

    def _streaming(self, number: WatchmodeNumber, imdb_id: str) -> list[dict[str, Any]]:
        if not number.is_known:
            number.value = self._watchmode.lookup_title_id(imdb_id)
            number.is_new = True
        if number.value is None:
            return []
        try:
            return self._watchmode.get_streaming_sources(number.value)
        except UpstreamNotFound:
            # Watchmode does not know the number any more: the next fetch looks it up again.
            number.is_gone = True
            return []


def _has_failed(future: Future[Any] | None) -> bool:
    return future is not None and future.done() and future.exception() is not None


def _priority(name: str, *, in_background: bool) -> int:
    if in_background:
        return BACKGROUND
    return METADATA_FIRST if name == METADATA.name else OTHER_SECTIONS
