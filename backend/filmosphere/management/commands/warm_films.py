"""`manage.py warm_films`: stores films before the first request for them."""

import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from core.errors import InvalidInput
from core.imdb_id import parse_imdb_id
from filmosphere.batch_command import BatchCommand

_SHOWN_MISTAKES = 5


class Command(BatchCommand):
    """Fetches the films that are not stored, fresh and whole, at the rate of the sources."""

    help = (
        "Fetch films before readers request them, at the rate that the sources allow. A film that "
        "is stored, fresh and whole costs no call, so an interrupted run can be started again."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the three ways to pass ids."""
        parser.add_argument(
            "imdb_ids", nargs="*", metavar="ID", help="such as tt1375666; - reads standard input"
        )
        parser.add_argument(
            "--file", metavar="PATH", help="ids from a file, one or more a line, # for comments"
        )

    def handle(
        self, *args: Any, imdb_ids: list[str], file: str | None, verbosity: int, **options: Any
    ) -> None:
        """Fetch the given films."""
        if not imdb_ids and file is None:
            raise CommandError(
                "Pass ids as arguments, with --file PATH, or with - on standard input."
            )
        self.fetch(_checked(imdb_ids, file), saved_since=None, verbosity=verbosity)


def _checked(arguments: list[str], file: str | None) -> list[str]:
    """Return each id once, in order; raises `CommandError` if one of them is invalid."""
    ids: dict[str, None] = {}
    mistakes: list[str] = []
    for place, text in _named(arguments, file):
        try:
            ids[parse_imdb_id(text)] = None
        except InvalidInput:
            mistakes.append(f"{place}: {text[:40]!a}")
    if mistakes:
        more = len(mistakes) - _SHOWN_MISTAKES
        shown = "\n  ".join(mistakes[:_SHOWN_MISTAKES] + ([f"and {more} more"] if more > 0 else []))
        raise CommandError(f"An IMDb id is 'tt' followed by digits. Invalid:\n  {shown}")
    return list(ids)


def _named(arguments: list[str], file: str | None) -> Iterator[tuple[str, str]]:
    for argument in arguments:
        if argument == "-":
            yield from _words("standard input", sys.stdin.read())
        else:
            yield "argument", argument
    if file == "-":
        yield from _words("standard input", sys.stdin.read())
    elif file is not None:
        try:
            text = Path(file).read_text("utf-8-sig", errors="replace")
        except OSError as exc:
            raise CommandError(f"{file} cannot be read: {exc.strerror}") from exc
        yield from _words(file, text)


def _words(name: str, text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.splitlines(), start=1):
        for word in line.partition("#")[0].split():
            yield f"{name}, line {number}", word
