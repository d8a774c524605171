"""Spans of requests, calls to sources and refreshes. Imported only if tracing is on.

No attribute holds text from a caller or a source, except ids of known form and `url.full`, which is
that of the log line: without its query string.
"""

import logging
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
# The version that exists has 55 characters; later ones may have more.
_LONGEST_TRACEPARENT = 200
# How long the end of a process waits for a collector that does not answer.
_CLOSE_SECONDS = 2.0


class TraceFilter(logging.Filter):
    """Adds the id of the current trace to each record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add `trace_id` if there is a trace; return True, because no record is dropped."""
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            record.trace_id = trace.format_trace_id(context.trace_id)
        return True


class RefreshSpan:
    """The span of a refresh, which may end in another thread than it started in."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def end(self, outcome: str, *, is_error: bool) -> None:
        """End the span; `outcome` is one of our words or the name of an exception."""
        self._span.set_attribute("filmosphere.outcome", outcome)
        if is_error:
            self._span.set_status(Status(StatusCode.ERROR, outcome))
        self._span.end()


class Spans:
    """Makes spans, which `provider` exports."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("filmosphere")
        # The text of an exception may have anything in it.
        self._current_span = partial(
            self._tracer.start_as_current_span,
            record_exception=False,
            set_status_on_exception=False,
        )
        # Without `tracestate` and `baggage`: they hold what other systems wrote.
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, environ: Mapping[str, Any]) -> Iterator[None]:
        """Make a span around the answer to a WSGI request; it continues the caller's trace.

        A `traceparent` that is malformed is ignored.
        """
        sent = environ.get("HTTP_TRACEPARENT", "")
        carrier = {"traceparent": sent} if len(sent) <= _LONGEST_TRACEPARENT else {}
        with self._current_span(
            _method(environ.get("REQUEST_METHOD")),
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
        ) as span:
            try:
                yield
            except BaseException as exc:
                span.set_status(Status(StatusCode.ERROR, type(exc).__name__))
                raise

    def note_answer(
        self, route: str, *, method: str | None, status: int, cache: str, reason: str
    ) -> None:
        """Complete the span of the current request."""
        span = trace.get_current_span()
        span.update_name(f"{_method(method)} {route}")
        span.set_attributes(
            {
                "http.request.method": _method(method),
                "http.route": route,
                "http.response.status_code": status,
                "filmosphere.cache": cache,
            }
        )
        if reason:
            span.set_attribute("filmosphere.reason", reason)
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR, reason))

    @contextmanager
    def upstream_call(self, fields: Mapping[str, Any]) -> Iterator[None]:
        """Make a span around an attempt to call a source (see `core.tracing`)."""
        with self._current_span(f"GET {fields['source']}", kind=SpanKind.CLIENT) as span:
            try:
                yield
            finally:
                span.set_attributes(
                    {
                        "http.request.method": "GET",
                        "url.full": fields["url"],
                        "http.request.resend_count": fields["attempt"] - 1,
                        "filmosphere.source": fields["source"],
                        "filmosphere.outcome": fields["outcome"],
                    }
                )
                if fields.get("status"):
                    span.set_attribute("http.response.status_code", fields["status"])
                if fields["outcome"] not in {"ok", "not_found"}:
                    span.set_status(Status(StatusCode.ERROR, fields["outcome"]))

    def outgoing_headers(self) -> Mapping[str, str]:
        """Return `traceparent` for a call that is made in the current span."""
        headers: dict[str, str] = {}
        self._propagator.inject(headers)
        return headers

    @contextmanager
    def refresh(
        self, imdb_id: str, sections: Collection[str], priority: str
    ) -> Iterator[RefreshSpan]:
        """Start the span of a refresh and make it the current one, without ending it."""
        span = self._tracer.start_span(
            "refresh film",
            attributes={
                "filmosphere.film": imdb_id,
                "filmosphere.sections": sorted(sections),
                "filmosphere.priority": priority.lower(),
            },
        )
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            yield RefreshSpan(span)

    def close(self) -> None:
        """Export what is left, for two seconds at most."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)


def _method(sent: str | None) -> str:
    return sent if sent in _METHODS else "_OTHER"
