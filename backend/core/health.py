"""Whether the process is alive, and whether it can do its work."""

from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from core.api import ErrorSerializer, JSONView, StatusSerializer, error_body

_NO_STORE = {"Cache-Control": "no-store"}


class HealthView(JSONView):
    """The process is alive."""

    @extend_schema(responses=StatusSerializer)
    def get(self, request: Request) -> Response:
        """Answer 200 as long as the process can answer at all."""
        return Response({"status": "ok"}, headers=_NO_STORE)


class ReadinessView(JSONView):
    """The process can do its work."""

    @extend_schema(responses={200: StatusSerializer, 503: ErrorSerializer})
    def get(self, request: Request) -> Response:
        """Answer 200 where the database can be reached and has every migration, else 503."""
        try:
            executor = MigrationExecutor(connection)
            pending = executor.migration_plan(executor.loader.graph.leaf_nodes())
        except DatabaseError:
            return _not_ready("The database cannot be reached.")
        if pending:
            return _not_ready("The database lacks migrations: run manage.py migrate.")
        return Response({"status": "ok"}, headers=_NO_STORE)


def _not_ready(reason: str) -> Response:
    return Response(error_body(503, reason), status=503, headers=_NO_STORE | {"Retry-After": "5"})
