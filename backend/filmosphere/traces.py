"""From settings to OpenTelemetry. Imported only if tracing is on."""

import os

from django.conf import settings
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from core import tracing
from core.spans import Spans


def start() -> None:
    """Make spans in this process from now on, and export them in a thread."""
    exporter = OTLPSpanExporter(endpoint=f"{settings.OTEL_EXPORTER_OTLP_ENDPOINT}/v1/traces")
    name = os.environ.get("OTEL_SERVICE_NAME", "filmosphere")
    version = str(settings.SPECTACULAR_SETTINGS["VERSION"])
    resource = Resource.create(
        {"service.name": name, "service.version": version, "process.pid": os.getpid()}
    )
    # `Spans.close` ends it: a process of the server does not run what is registered for its exit.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracing.spans = Spans(provider)
