"""Django's `migrate`, of which only one at a time works on a database."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.core.checks import Tags
from django.core.management import CommandError
from django.core.management.commands import migrate
from django.db import connections

# Any number will do, as long as it stays the same.
_LOCK = 7379_2025_1125


class Command(migrate.Command):
    """Migrate the database; waits while another `migrate` works on it.

    Several containers may run it as they start. On SQLite nothing is locked.
    """

    # What it uses. Django's command also checks URLs, and so imports all views with what they need.
    requires_system_checks = (Tags.database, Tags.models)

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Do what Django's command does, unless SQLite has no place for the database."""
        database = connections[options["database"]]
        if database.vendor == "sqlite" and not _is_writable(Path(database.settings_dict["NAME"])):
            raise CommandError("DATABASE_URL names a file for SQLite that cannot be written")
        return super().execute(*args, **options)

    def handle(self, *args: Any, **options: Any) -> None:
        """Do what Django's command does."""
        if options["plan"] or options["check_unapplied"]:
            super().handle(*args, **options)
            return
        with self._exclusive(options["database"], verbosity=options["verbosity"]):
            super().handle(*args, **options)

    @contextmanager
    def _exclusive(self, alias: str, *, verbosity: int) -> Iterator[None]:
        if connections[alias].vendor != "postgresql":
            yield
            return
        # In a transaction of another connection: a lock of a session does not work behind
        # PgBouncer, and the transactions of the migrations end while the lock must stay.
        connection = connections[alias].copy()
        connection.set_autocommit(False)
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [_LOCK])
                if cursor.fetchone() != (True,):
                    if verbosity:
                        self.stdout.write("Waiting for another migrate to finish.")
                    cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            yield
        finally:
            connection.close()


def _is_writable(file: Path) -> bool:
    # SQLite has other files beside that of the database.
    places = [file.parent, file] if file.exists() else [file.parent]
    return not file.is_dir() and all(os.access(each, os.W_OK) for each in places)
