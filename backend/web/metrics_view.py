"""`/metrics`, for Prometheus."""

from collections.abc import Callable

from django.http import HttpResponse
from prometheus_client import CONTENT_TYPE_LATEST
from rest_framework.request import Request

from core.errors import Overloaded
from web.api import JSONView
from web.metrics_exchange import own_metrics


class MetricsView(JSONView):
    """What was counted since the start; `get_metrics` returns it in the format of Prometheus."""

    get_metrics: Callable[[], str] = staticmethod(own_metrics)

    def get(self, request: Request) -> HttpResponse:
        """Return all counters, summed over the server processes, in the text format."""
        try:
            metrics = self.get_metrics()
        except OSError as exc:
            raise Overloaded("The server processes could not be asked.", retry_after=5) from exc
        return HttpResponse(
            metrics, content_type=CONTENT_TYPE_LATEST, headers={"Cache-Control": "no-store"}
        )
