"""`manage.py check_upstreams`: one table of the film sources, and what to do about each."""

import logging
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from core.services.diagnostics import Finding, check_sources
from filmosphere import wiring
from filmosphere.batch_command import ServiceCommand, database_faults_named, quiet

_HEAD = ("source", "reachable", "key", "quota left", "region", "cost of this check", "what to do")


class Command(ServiceCommand):
    """Checks each source once, as cheaply as it allows."""

    help = (
        "Show whether each film source answers, accepts our key, covers our region, and how much "
        "of its quota is left. Costs one call each, of Watchmode a credit. Exits with status 1 if "
        "something needs attention."
    )

    get_services = staticmethod(wiring.services_to_check)
    get_limits = staticmethod(wiring.upstream_limits)

    def handle(self, *args: Any, verbosity: int, **options: Any) -> None:
        """Print the table."""
        with database_faults_named(), quiet(verbosity, logging.CRITICAL):
            found = list(
                check_sources(
                    self.get_services(),
                    self.get_limits(),
                    deadline_seconds=settings.FETCH_DEADLINE,
                )
            )
        if settings.SANDBOX:
            self.stdout.write("No source is set: these are the stand-ins of the sandbox.")
        self.stdout.write(table([_HEAD, *(row(finding) for finding in found)]))
        failing = [finding.status.source for finding in found if finding.advice]
        if failing:
            raise CommandError(f"attention needed: {', '.join(failing)}")


def row(finding: Finding) -> tuple[str, ...]:
    """Return the cells of one source."""
    status, shared = finding.status, finding.shared
    key = {True: "accepted", False: "REJECTED", None: "-"}[status.key_accepted]
    left = f"{shared.left} of {shared.limit} {shared.period}"
    return (
        status.source,
        {True: "yes" if status.error is None else "yes, but", False: "NO", None: "not asked"}[
            status.is_reachable
        ],
        "MISSING" if status.error and status.error.code == "not_configured" else key,
        "-" if shared.left is None else left,
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
