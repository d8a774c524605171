"""`manage.py import_watchmode_ids`: loads Watchmode's public id map."""

import csv
import re
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from django.core.management.base import CommandError
from tqdm import tqdm

from core.imdb_id import canonical_imdb_id
from filmosphere.batch_command import ServiceCommand, database_faults_named
from films.models import WatchmodeTitle

_CHUNK = 5_000
_LARGEST_ID = 2**63 - 1


class Command(ServiceCommand):
    """Loads the map; running it again updates it."""

    help = (
        "Load Watchmode's public id map (a CSV file with a header; the columns `Watchmode ID` and "
        "`IMDB ID` are found by name), so that a new film costs one credit instead of two."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the file."""
        parser.add_argument("path", metavar="PATH", help="the CSV file; - reads standard input")

    def handle(self, *args: Any, path: str, verbosity: int, **options: Any) -> None:
        """Read the file and store its rows."""
        counts = {"stored": 0, "skipped": 0}
        is_bar = sys.stderr.isatty() and verbosity == 1
        try:
            with (
                database_faults_named(),
                _opened(path) as lines,
                tqdm(unit=" rows", file=sys.stderr, disable=not is_bar) as bar,
            ):
                titles = _titles(lines, counts, bar)
                while chunk := {title.imdb_id: title for title in islice(titles, _CHUNK)}:
                    WatchmodeTitle.objects.bulk_create(
                        chunk.values(),
                        update_conflicts=True,
                        unique_fields=["imdb_id"],
                        update_fields=["watchmode_id"],
                    )
                    counts["stored"] += len(chunk)
        except OSError as exc:
            raise CommandError(f"{path} cannot be read ({type(exc).__name__})") from exc
        self.stdout.write(f"{counts['stored']} titles stored, {counts['skipped']} rows skipped")


def _opened(path: str) -> TextIO:
    """Open the file or standard input; bytes that are not UTF-8 become U+FFFD."""
    if path == "-":
        return TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig", errors="replace", newline="")
    return Path(path).open(encoding="utf-8-sig", errors="replace", newline="")


def _titles(lines: TextIO, counts: dict[str, int], bar: "tqdm[Any]") -> Iterator[WatchmodeTitle]:
    """Yield the rows that have both ids; counts the others as skipped."""
    names = [_normalized(name) for name in _fields(next(lines, ""))]
    try:
        watchmode, imdb = names.index("watchmodeid"), names.index("imdbid")
    except ValueError:
        raise CommandError("the header has no columns `Watchmode ID` and `IMDB ID`") from None
    for line in lines:
        bar.update()
        row = _fields(line)
        number = row[watchmode].strip() if watchmode < len(row) else ""
        imdb_id = canonical_imdb_id(row[imdb].strip()) if imdb < len(row) else None
        is_number = re.fullmatch("[0-9]{1,19}", number) and 0 < int(number) <= _LARGEST_ID
        if imdb_id is None or not is_number:
            counts["skipped"] += 1
            continue
        yield WatchmodeTitle(imdb_id=imdb_id, watchmode_id=int(number))


def _fields(line: str) -> list[str]:
    """Return the fields of a row, none if it is malformed.

    A row is one line, so that a quote that is not closed ends with it.
    """
    try:
        return next(csv.reader([line], strict=True), [])
    except csv.Error:
        return []


def _normalized(name: str) -> str:
    return name.casefold().replace(" ", "").replace("_", "").lstrip("\ufeff")
