"""`manage.py refresh_films`: for a scheduler, so that stored films do not grow old."""

import re
from argparse import ArgumentParser, ArgumentTypeError
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError
from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from filmosphere import wiring
from filmosphere.batch_command import BatchCommand

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
# Made-up ids are forgotten so long after somebody asked for them.
_FORGOTTEN_AFTER = timedelta(days=1)


class Command(BatchCommand):
    """Fetches stored films anew that were saved too long ago, the oldest first."""

    help = (
        "Fetch stored films anew whose data is older than an age, oldest first, at the pace of the "
        "sources, and clear what is remembered of ids that came to no film."
    )

    get_cache = staticmethod(wiring.film_cache)
    get_register = staticmethod(wiring.fetch_register)

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the age and the limit."""
        parser.add_argument(
            "--older-than", required=True, type=_age, metavar="AGE", help="such as 30m, 12h or 7d"
        )
        parser.add_argument("--limit", type=_limit, metavar="N", help="at most so many films")

    def handle(
        self,
        *args: Any,
        older_than: timedelta,
        limit: int | None,
        verbosity: int,
        **options: Any,
    ) -> None:
        """Refresh, and tidy up."""
        saved_since = timezone.now() - older_than
        try:
            cache, register = self.get_cache(), self.get_register()
            forgotten = register.forget_unstored(
                timezone.now() - _FORGOTTEN_AFTER, stored=cache.stored_ids()
            )
            due = cache.saved_before(saved_since, without=register.resting())
        except (DatabaseError, InterfaceError) as exc:
            raise CommandError(f"the database cannot be used ({type(exc).__name__})") from exc
        if forgotten:
            self.stdout.write(f"{forgotten} ids without a film are forgotten")
        self.bring(due[:limit], saved_since=saved_since, verbosity=verbosity)


def _age(text: str) -> timedelta:
    match = re.fullmatch(r"([1-9][0-9]{0,5})([mhd])", text, re.ASCII)
    if not match:
        raise ArgumentTypeError("an age is a number and m, h or d, such as 30m, 12h or 7d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _limit(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text, re.ASCII):
        raise ArgumentTypeError("a limit is a number of films over 0")
    return int(text)
