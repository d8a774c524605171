"""`manage.py check_upstreams`: one table of the film sources, and what to do about each."""

import logging
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, InterfaceError

from core.upstream_checks import Finding, findings
from filmosphere import wiring
from filmosphere.batch_command import quiet

_HEAD = ("source", "reachable", "key", "quota left", "region", "cost of this look", "what to do")


class Command(BaseCommand):
    """Looks at each source once, as cheaply as it allows."""

    help = (
        "Show whether each film source answers, takes our key, covers our region, and what is left "
        "of its quota. Asks as little as tells: one call each, a credit of Watchmode. Exits with "
        "status 1 where something needs attention."
    )

    get_checks = staticmethod(wiring.upstream_checks)

    def handle(self, *args: Any, verbosity: int, **options: Any) -> None:
        """Print the table."""
        try:
            with quiet(verbosity, logging.CRITICAL):
                found = list(findings(self.get_checks(), deadline_seconds=settings.FETCH_DEADLINE))
        except (DatabaseError, InterfaceError) as exc:
            raise CommandError(f"the database cannot be used ({type(exc).__name__})") from exc
        if settings.SANDBOX:
            self.stdout.write("No source is set: these are the stand-ins of the sandbox.")
        self.stdout.write(table([_HEAD, *(row(finding) for finding in found)]))
        needy = [finding.status.source for finding in found if finding.advice]
        if needy:
            raise CommandError(f"attention needed: {', '.join(needy)}", returncode=1)


def row(finding: Finding) -> tuple[str, ...]:
    """Return the cells of one source."""
    status, standing = finding.status, finding.standing
    key = {True: "accepted", False: "REFUSED", None: "-"}[status.key_accepted]
    left = f"{standing.left} of {standing.limit} {standing.period}"
    return (
        status.source,
        {True: "yes" if status.error is None else "yes, but", False: "NO", None: "not asked"}[
            status.is_reachable
        ],
        "MISSING" if status.error and status.error.code == "not_configured" else key,
        "-" if standing.left is None else left,
        "-"
        if status.covers_region is None
        else f"{status.region} {'covered' if status.covers_region else 'NOT COVERED'}",
        status.cost,
        "; ".join((*finding.advice, *finding.notes)) or "nothing",
    )


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows in columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in rows
    )
