"""`/metrics`, for Prometheus."""

import os

from django.http import HttpResponse
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from rest_framework.request import Request

from core import openapi
from core.api import JSONView


class MetricsView(JSONView):
    """What was counted since the start."""

    @openapi.get_metrics
    def get(self, request: Request) -> HttpResponse:
        """All counters, summed over the server processes, in the text format of Prometheus."""
        return HttpResponse(
            generate_latest(_registry()),
            content_type=CONTENT_TYPE_LATEST,
            headers={"Cache-Control": "no-store"},
        )


def _registry() -> CollectorRegistry:
    # Set by `filmosphere.serve` for several processes: each keeps its counts in a file there.
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry
