"""`manage.py refresh_films`: renews stored films, for a scheduler."""

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.utils import timezone

from filmosphere import wiring
from filmosphere.arguments import age, count
from filmosphere.batch_command import BatchCommand, database_faults_named


class Command(BatchCommand):
    """Refreshes stored films that are older than an age, oldest first."""

    help = (
        "Refresh stored films that are older than an age, oldest first, at the rate that the "
        "sources allow."
    )

    get_cache = staticmethod(wiring.film_cache)
    get_leases = staticmethod(wiring.fetch_leases)

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the age and the limit."""
        parser.add_argument(
            "--older-than", required=True, type=age, metavar="AGE", help="such as 30m, 12h or 7d"
        )
        parser.add_argument("--limit", type=count, metavar="N", help="at most N films")

    def handle(
        self,
        *args: Any,
        older_than: timedelta,
        limit: int | None,
        verbosity: int,
        **options: Any,
    ) -> None:
        """Choose the films, then refresh."""
        saved_since = timezone.now() - older_than
        with database_faults_named():
            cache, leases = self.get_cache(), self.get_leases()
            due = cache.saved_before(saved_since, without=leases.cooling_down(), limit=limit)
        self.fetch(due, saved_since=saved_since, verbosity=verbosity)
