"""What the commands that fetch many films have in common: progress, summary, exit status."""

import logging
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, InterfaceError
from tqdm import tqdm

from filmosphere import wiring
from films.services.film_batch import BatchResult, Ending, GivenUp

INTERRUPTED = 130
_SHOWN_IDS = 5


class BatchCommand(BaseCommand):
    """Fetches films and tells how it goes.

    On a terminal a bar shows the progress, elsewhere (and with `-v 2`, which shows the log too) a
    line for each film, on standard error both; the summary goes to standard output.
    """

    get_batch = staticmethod(wiring.film_batch)

    def bring(
        self, imdb_ids: Sequence[str], *, saved_since: datetime | None, verbosity: int
    ) -> None:
        """Fetch what is missing of the films, and print a summary also when interrupted.

        Raises `CommandError` where another run is needed.
        """
        started = time.monotonic()
        results: list[BatchResult] = []
        problem: str | None = None
        status = 1
        with quiet(verbosity), _Progress(len(imdb_ids), verbosity) as progress:
            try:
                for result in self.get_batch().run(
                    imdb_ids, saved_since=saved_since, on_wait=progress.wait
                ):
                    results.append(result)
                    progress.advance(result)
            except KeyboardInterrupt:
                problem, status = "interrupted", INTERRUPTED
            except GivenUp as exc:
                problem = f"given up: IMDbAPI.dev let us down too often in a row ({exc})"
            except (DatabaseError, InterfaceError) as exc:
                problem = f"the database cannot be used ({type(exc).__name__})"
        self.stdout.write(summary(results, total=len(imdb_ids), seconds=time.monotonic() - started))
        unsettled = len(imdb_ids) - sum(result.is_settled for result in results)
        if problem or unsettled:
            detail = f"{unsettled} of {len(imdb_ids)} films need another run"
            raise CommandError(f"{problem}; {detail}" if problem else detail, returncode=status)


def summary(results: Sequence[BatchResult], *, total: int, seconds: float) -> str:
    """Return the counts of each ending in one line, and below them what is wrong with which."""
    endings = Counter(result.ending for result in results)
    counts = [f"{endings[ending]} {ending.value}" for ending in Ending]
    if len(results) < total:
        counts.append(f"{total - len(results)} not finished")
    skipped = sum(not result.was_fetched for result in results)
    lines = [f"{total} films: {', '.join(counts)} ({skipped} asked of nobody, {seconds:.0f} s)"]
    groups: dict[tuple[Ending, str], list[str]] = defaultdict(list)
    for result in results:
        if result.ending is not Ending.WHOLE:
            groups[result.ending, _reasons(result)].append(result.imdb_id)
    for (ending, reasons), ids in groups.items():
        more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
        because = f" ({reasons})" if reasons else ""
        lines.append(f"  {ending.value}{because}: {' '.join(ids[:_SHOWN_IDS])}{more}")
    return "\n".join(lines)


@contextmanager
def quiet(verbosity: int, to: int = logging.ERROR) -> Iterator[None]:
    """Keep all below a level out of the log, unless a person asked for more with `-v 2`."""
    root = logging.getLogger()
    level = root.level
    if verbosity < 2:
        root.setLevel(max(level, to))
    try:
        yield
    finally:
        root.setLevel(level)


class _Progress(AbstractContextManager["_Progress"]):
    """A bar on a terminal, lines elsewhere; nothing with verbosity 0."""

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

    def advance(self, result: BatchResult) -> None:
        self._done += 1
        self._bar.set_postfix_str("", refresh=False)
        self._bar.update()
        reasons = _reasons(result)
        because = f" ({reasons})" if reasons else ""
        self._print(f"{self._done}/{self._total} {result.imdb_id} {result.ending.value}{because}")

    def wait(self, reason: str, seconds: float) -> None:
        self._bar.set_postfix_str(f"waiting {seconds:.0f} s: {reason}")
        self._print(f"waiting {seconds:.0f} s: {reason}")

    def _print(self, text: str) -> None:
        if self._prints:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()


def _reasons(result: BatchResult) -> str:
    return ", ".join(f"{name}: {code}" for name, code in result.reasons.items())
