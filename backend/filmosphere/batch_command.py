"""What the commands that fetch many films have in common: progress, summary, exit status."""

import logging
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime

from django.core.checks import Tags
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, InterfaceError
from tqdm import tqdm

from core import tracing
from filmosphere import wiring
from filmosphere.startup import start_tracing
from films.services.bulk import BulkResult, GivenUp, Status

INTERRUPTED = 130
_SHOWN_IDS = 5


class ServiceCommand(BaseCommand):
    """A command that works with films and sources, without the HTTP surface."""

    # Django would check URLs as well, and so import all views.
    requires_system_checks = (Tags.models,)


class BatchCommand(ServiceCommand):
    """Fetches films and reports its progress.

    On a terminal, standard error shows a bar; elsewhere, and with `-v 2`, which shows the log too,
    it has a line for each film. The summary goes to standard output.
    """

    get_refresher = staticmethod(wiring.bulk_refresher)
    get_coordinator = staticmethod(wiring.coordinator)

    def fetch(
        self, imdb_ids: Sequence[str], *, saved_since: datetime | None, verbosity: int
    ) -> None:
        """Fetch missing films and sections and print a summary, also after an interrupt.

        Raises `CommandError` if another run is needed.
        """
        start_tracing()
        started = time.monotonic()
        results: list[BulkResult] = []
        problem: str | None = None
        status = 1
        with quiet(verbosity), _Progress(len(imdb_ids), verbosity) as progress:
            try:
                for result in self.get_refresher().run(
                    imdb_ids, saved_since=saved_since, on_wait=progress.wait
                ):
                    results.append(result)
                    progress.advance(result)
            except KeyboardInterrupt:
                problem, status = "interrupted", INTERRUPTED
            except GivenUp as exc:
                problem = f"given up: IMDbAPI.dev failed for too many films in a row ({exc})"
            except (DatabaseError, InterfaceError) as exc:
                problem = f"the database cannot be used ({type(exc).__name__})"
            # The coordinator's thread ends with the process, and may not have stored everything.
            with suppress(DatabaseError, InterfaceError):
                self.get_coordinator().publish()
        if tracing.spans:
            tracing.spans.close()
        self.stdout.write(summary(results, total=len(imdb_ids), seconds=time.monotonic() - started))
        unsettled = len(imdb_ids) - sum(result.is_settled for result in results)
        if problem or unsettled:
            detail = f"{unsettled} of {len(imdb_ids)} films need another run"
            raise CommandError(f"{problem}; {detail}" if problem else detail, returncode=status)


def summary(results: Sequence[BulkResult], *, total: int, seconds: float) -> str:
    """Return a line with the count of each status, and below it the films by missing sections."""
    counts_by_status = Counter(result.status for result in results)
    counts = [f"{counts_by_status[status]} {status.value}" for status in Status]
    if len(results) < total:
        counts.append(f"{total - len(results)} not finished")
    skipped = sum(not result.was_fetched for result in results)
    lines = [f"{total} films: {', '.join(counts)} ({skipped} without a call, {seconds:.0f} s)"]
    groups: dict[tuple[Status, str], list[str]] = defaultdict(list)
    for result in results:
        if result.status is not Status.WHOLE:
            groups[result.status, _reasons(result)].append(result.imdb_id)
    for (status, reasons), ids in groups.items():
        more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
        because = f" ({reasons})" if reasons else ""
        lines.append(f"  {status.value}{because}: {' '.join(ids[:_SHOWN_IDS])}{more}")
    return "\n".join(lines)


@contextmanager
def database_faults_named() -> Iterator[None]:
    """Raise `CommandError`, which Django prints in one line, for an error of the database."""
    try:
        yield
    except (DatabaseError, InterfaceError) as exc:
        raise CommandError(f"the database cannot be used ({type(exc).__name__})") from exc


@contextmanager
def quiet(verbosity: int, to: int = logging.ERROR) -> Iterator[None]:
    """Keep lines below a level out of the log, unless `-v 2` asks for them."""
    root = logging.getLogger()
    level = root.level
    if verbosity < 2:
        root.setLevel(max(level, to))
    try:
        yield
    finally:
        root.setLevel(level)


class _Progress(AbstractContextManager["_Progress"]):
    """A bar on a terminal, lines elsewhere, nothing with verbosity 0."""

    def __init__(self, total: int, verbosity: int) -> None:
        self._total = total
        self._done = 0
        is_bar = sys.stderr.isatty() and verbosity == 1
        self._prints = verbosity > 0 and not is_bar
        self._bar = tqdm(
            total=total, unit="film", file=sys.stderr, disable=not is_bar, dynamic_ncols=True
        )

    def __exit__(self, *exc: object) -> None:
        self._bar.close()

    def advance(self, result: BulkResult) -> None:
        self._done += 1
        self._bar.set_postfix_str("", refresh=False)
        self._bar.update()
        reasons = _reasons(result)
        because = f" ({reasons})" if reasons else ""
        self._print(f"{self._done}/{self._total} {result.imdb_id} {result.status.value}{because}")

    def wait(self, reason: str, seconds: float) -> None:
        self._bar.set_postfix_str(f"waiting {seconds:.0f} s: {reason}")
        self._print(f"waiting {seconds:.0f} s: {reason}")

    def _print(self, text: str) -> None:
        if self._prints:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()


def _reasons(result: BulkResult) -> str:
    return ", ".join(f"{name}: {code}" for name, code in result.reasons.items())
