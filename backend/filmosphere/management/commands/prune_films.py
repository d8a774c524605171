"""`manage.py prune_films`: deletes stored films that are unused, old, or too many."""

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError
from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from filmosphere import wiring
from filmosphere.arguments import age, count
from filmosphere.batch_command import INTERRUPTED, ServiceCommand, database_faults_named
from films.services.pruning import Pruned


class Command(ServiceCommand):
    """Deletes films of one choice and prints how many."""

    help = (
        "Delete stored films that are not read, that are old, or that are too many. A film that is "
        "being fetched, read or stored meanwhile is kept. A deleted film is fetched again when it "
        "is requested."
    )

    get_pruner = staticmethod(wiring.film_pruner)

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the three choices, of which one is required."""
        choice = parser.add_mutually_exclusive_group(required=True)
        choice.add_argument(
            "--unused-for",
            type=age,
            metavar="AGE",
            help="films that were not read for an age such as 90d; reads are noted by the day",
        )
        choice.add_argument(
            "--older-than", type=age, metavar="AGE", help="films fetched longer ago, such as 30d"
        )
        choice.add_argument(
            "--max-rows", type=count, metavar="N", help="all films but the N last read"
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="only print how many films would be deleted"
        )

    def handle(
        self,
        *args: Any,
        unused_for: timedelta | None,
        older_than: timedelta | None,
        max_rows: int | None,
        dry_run: bool,
        **options: Any,
    ) -> None:
        """Choose, delete and count, also after an interrupt."""
        pruner, total = self.get_pruner(), Pruned()
        is_interrupted = False
        with database_faults_named():
            if unused_for:
                chosen = pruner.unread_since((timezone.now() - unused_for).date())
            elif older_than:
                chosen = pruner.saved_before(timezone.now() - older_than)
            else:
                chosen = pruner.beyond(max_rows or 0)
            if dry_run:
                self.stdout.write(
                    f"{chosen.count()} of {pruner.stored()} films would be deleted (dry run)"
                )
                return
            try:
                for pruned in pruner.delete(chosen):
                    total += pruned
            except KeyboardInterrupt:
                is_interrupted = True
            except (DatabaseError, InterfaceError):
                self.stdout.write(f"{total.deleted} films deleted")
                raise
            self.stdout.write(
                f"{total.deleted} films deleted, {total.kept} kept because they were used "
                f"meanwhile; {pruner.stored()} films are stored"
            )
        if is_interrupted:
            raise CommandError("interrupted; another run continues", returncode=INTERRUPTED)
