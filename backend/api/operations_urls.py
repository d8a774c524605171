"""The paths at the operations port.

/healthz, /readyz                  process alive; database and migrations fine
/metrics                           metrics for Prometheus
"""

from cachetools.func import ttl_cache
from django.urls import re_path

from filmosphere import startup, wiring
from web.api import optional_slash, unknown_route
from web.health import HealthView, ReadinessView
from web.metrics_view import MetricsView

# The states are for information only, so /readyz reads them at most once a second.
_source_states = ttl_cache(maxsize=1, ttl=1)(wiring.source_states)

health_paths = [
    *optional_slash("healthz", HealthView.as_view()),
    *optional_slash(
        "readyz",
        ReadinessView.as_view(get_upstreams=_source_states, is_stopping=startup.is_stopping),
    ),
]
metrics_paths = optional_slash("metrics", MetricsView.as_view(get_metrics=startup.metrics))

urlpatterns = [*health_paths, *metrics_paths, re_path("", unknown_route)]
