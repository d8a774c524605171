"""`manage.py upstream_report`: the calls to each source, made and avoided, and what is left."""

import re
from argparse import ArgumentParser, ArgumentTypeError
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from core.services.limits import Quota, SourceStatus
from core.services.usage import KEPT_DAYS, Avoided, usage_since
from filmosphere import wiring
from filmosphere.batch_command import ServiceCommand, database_faults_named
from filmosphere.management.commands.check_upstreams import table


class Command(ServiceCommand):
    """Prints a table with a row for each source."""

    help = (
        "Show for each source how many calls were made and how many were avoided, what is left of "
        "its quota, and how much will be used at the end of the period at the present rate."
    )

    get_limits = staticmethod(wiring.upstream_limits)

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the span."""
        parser.add_argument(
            "--days", type=_days, default=1, metavar="N", help="the last N days, today included"
        )

    def handle(self, *args: Any, days: int, **options: Any) -> None:
        """Print the table."""
        limits, now = self.get_limits(), timezone.now()
        kinds = [why.value for why in Avoided]
        rows = [("source", "made", *kinds, "quota left", "forecast")]
        with database_faults_named():
            usage = usage_since((now - timedelta(days=days - 1)).date())
            for source, row in limits.read(wiring.ALL_SOURCES).items():
                counts = usage.get(source, {})
                numbers = (str(counts.get(kind, 0)) for kind in ("made", *kinds))
                quota, status = limits.quotas.get(source), limits.status(source, row)
                rows.append((source, *numbers, *_quota(quota, status, now)))
        self.stdout.write(table(rows))


def _quota(quota: Quota | None, status: SourceStatus, now: datetime) -> tuple[str, str]:
    if quota is None or status.limit is None:
        return "-", "-"
    used = round(status.used / max(_part_over(quota, now), 0.001))
    return (
        f"{status.left} of {status.limit} {status.period}",
        f"{used} of {status.limit}{' EXCEEDED' if used > status.limit else ''}",
    )


def _part_over(quota: Quota, now: datetime) -> float:
    """Return the part of the period that is over."""
    start = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if not quota.period.endswith("%d"):
        start = start.replace(day=1)
    over = (now - start).total_seconds()
    return over / (over + quota.seconds_left(now))


def _days(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,2}", text, re.ASCII) or int(text) > KEPT_DAYS:
        raise ArgumentTypeError(f"a number of days from 1 to {KEPT_DAYS}")
    return int(text)
