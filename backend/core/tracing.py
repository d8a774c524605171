"""Where spans of OpenTelemetry are made. While tracing is off, it is not even imported."""

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.spans import RefreshSpan, Spans

# None while tracing is off.
spans: "Spans | None" = None


def upstream_call(fields: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Return a span around an attempt to call a source.

    `fields` are those of its log line; they are read when the attempt ends.
    """
    return nullcontext() if spans is None else spans.upstream_call(fields)


def outgoing_headers() -> Mapping[str, str]:
    """Return the headers by which a source can continue the current trace."""
    return {} if spans is None else spans.outgoing_headers()


def refresh(
    imdb_id: str, sections: Collection[str], priority: str
) -> AbstractContextManager["RefreshSpan | None"]:
    """Return a context in which the calls of a refresh are queued; its span ends with `end`."""
    return nullcontext() if spans is None else spans.refresh(imdb_id, sections, priority)
