"""Whether the process is alive, and whether it can do its work."""

import threading
from collections.abc import Callable, Mapping

from django.db import DatabaseError, InterfaceError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response

from core import metrics
from core.db import fetch_row
from web.api import ErrorResponse, JSONView

_TIME = metrics.DB_QUERY_DURATION.labels("ready")
_NO_STORE = {"Cache-Control": "no-store"}

# Set once this process has found every migration applied. Reading all migrations takes
# milliseconds, and a complete database stays complete.
migrations_applied = threading.Event()


class HealthView(JSONView):
    """The process is alive."""

    def get(self, request: Request) -> Response:
        """Return 200 as long as the process can answer at all."""
        return Response({"status": "ok"}, headers=_NO_STORE)


class ReadinessView(JSONView):
    """The process can do its work; `get_upstreams` returns the state of each source."""

    get_upstreams: Callable[[], Mapping[str, str]] = staticmethod(dict)
    is_stopping: Callable[[], bool] = staticmethod(bool)

    def get(self, request: Request) -> HttpResponse:
        """Return 200 if the database answers and has every migration, else 503.

        Returns 503 as well if the process is about to stop.
        """
        if self.is_stopping():
            return _not_ready("shutting_down", "The process is about to stop.")
        try:
            with _TIME.time():
                fetch_row("SELECT 1", ())
            if not _has_every_migration():
                return _not_ready(
                    "database_unavailable",
                    "The database lacks migrations: run manage.py migrate.",
                )
            upstreams = self.get_upstreams()
        except (DatabaseError, InterfaceError):
            return _not_ready("database_unavailable", "The database cannot be reached.")
        return Response({"status": "ok", "upstreams": upstreams}, headers=_NO_STORE)


def _has_every_migration() -> bool:
    if not migrations_applied.is_set():
        executor = MigrationExecutor(connection)
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            return False
        migrations_applied.set()
    return True


def _not_ready(reason: str, message: str) -> ErrorResponse:
    return ErrorResponse(503, reason, message, retry_after=5)
