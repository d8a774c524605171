"""Whether the process is alive, and whether it can do its work."""

from collections.abc import Callable, Mapping

from django.db import DatabaseError, InterfaceError, connection
from django.db.migrations.executor import MigrationExecutor
from rest_framework.request import Request
from rest_framework.response import Response

from core import openapi
from core.api import JSONView, error_body

_NO_STORE = {"Cache-Control": "no-store"}


class HealthView(JSONView):
    """The process is alive."""

    @openapi.get_health
    def get(self, request: Request) -> Response:
        """Answer 200 as long as the process can answer at all."""
        return Response({"status": "ok"}, headers=_NO_STORE)


class ReadinessView(JSONView):
    """The process can do its work; `get_upstreams` tells how each source stands."""

    get_upstreams: Callable[[], Mapping[str, str]] = staticmethod(dict)
    is_stopping: Callable[[], bool] = staticmethod(bool)

    @openapi.get_readiness
    def get(self, request: Request) -> Response:
        """Answer 200 where the database can be reached and has every migration, else 503.

        503 too where the process is about to be stopped.
        """
        if self.is_stopping():
            return _not_ready("The process is about to stop.")
        try:
            executor = MigrationExecutor(connection)
            pending = executor.migration_plan(executor.loader.graph.leaf_nodes())
            if pending:
                return _not_ready("The database lacks migrations: run manage.py migrate.")
            upstreams = self.get_upstreams()
        except (DatabaseError, InterfaceError):
            return _not_ready("The database cannot be reached.")
        return Response({"status": "ok", "upstreams": upstreams}, headers=_NO_STORE)


def _not_ready(reason: str) -> Response:
    return Response(error_body(503, reason), status=503, headers=_NO_STORE | {"Retry-After": "5"})
