"""Spans and trace ids, with the exporter that keeps them in memory."""

import logging
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from core import tracing
from core.errors import UpstreamUnavailable
from core.services.source import Source
from core.spans import Spans, TraceFilter
from core.tests.support import CANARY, Answers, client_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


class Exported:
    def __init__(self, exporter):
        self._exporter = exporter

    @property
    def spans(self):
        return list(self._exporter.get_finished_spans())

    @property
    def only(self):
        (span,) = self.spans
        return span


@pytest.fixture
def exported(monkeypatch):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "spans", Spans(provider))
    yield Exported(exporter)
    provider.shutdown()


def answer_request(method="GET", traceparent="", *, status=200, reason=""):
    with tracing.spans.request({"REQUEST_METHOD": method, "HTTP_TRACEPARENT": traceparent}):
        tracing.spans.note_answer(
            "api/films/<imdb_id>", method=method, status=status, cache="row", reason=reason
        )


def test_a_request_has_a_span_named_by_its_route(exported):
    answer_request()

    span = exported.only
    assert (span.name, span.kind) == ("GET api/films/<imdb_id>", SpanKind.SERVER)
    assert dict(span.attributes) == {
        "http.request.method": "GET",
        "http.route": "api/films/<imdb_id>",
        "http.response.status_code": 200,
        "filmosphere.cache": "row",
    }
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(("status", "code"), [(404, StatusCode.UNSET), (503, StatusCode.ERROR)])
def test_a_failure_of_the_service_is_an_error_with_its_reason(exported, status, code):
    answer_request(status=status, reason="some_reason")

    assert exported.only.status.status_code is code
    assert exported.only.attributes["filmosphere.reason"] == "some_reason"


def test_a_bug_is_an_error_without_its_text(exported):
    with pytest.raises(ZeroDivisionError), tracing.spans.request({"REQUEST_METHOD": "GET"}):
        raise ZeroDivisionError(CANARY)

    assert exported.only.status.status_code is StatusCode.ERROR
    assert CANARY not in exported.only.to_json()


def test_a_method_that_does_not_exist_is_no_attribute(exported):
    answer_request(CANARY)

    assert exported.only.name == "_OTHER api/films/<imdb_id>"
    assert CANARY not in exported.only.to_json()


def test_the_trace_of_the_caller_is_continued(exported):
    answer_request(traceparent=TRACEPARENT)

    span = exported.only
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == PARENT


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "no",
        TRACEPARENT.upper(),
        TRACEPARENT[:-1],
        f"{TRACEPARENT}-more",
        f"ff{TRACEPARENT[2:]}",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        TRACEPARENT.replace("4", "g"),
        "x" * 100_000,
        "\x00\xff",
    ],
)
def test_a_malformed_traceparent_is_ignored(exported, log, sent):
    answer_request(traceparent=sent)

    assert exported.only.parent is None
    assert f"{exported.only.context.trace_id:032x}" != TRACE
    assert log.lines == []


def test_a_caller_decides_whether_its_trace_is_recorded(exported):
    answer_request(traceparent=f"{TRACEPARENT[:-1]}0")

    assert exported.spans == []


def test_an_attempt_to_call_a_source_has_a_span_and_passes_the_trace_on(exported):
    answers = Answers(httpx.Response(503), httpx.Response(200, json={}))
    client = client_of(answers)

    with tracing.spans.request({"REQUEST_METHOD": "GET", "HTTP_TRACEPARENT": TRACEPARENT}):
        client.get(
            "omdb",
            "https://omdb.test/path?in=url",
            params={"apikey": CANARY},
            headers={"X-Api-Key": CANARY},
        )

    failed, succeeded, request = exported.spans
    assert [span.kind for span in exported.spans] == [
        SpanKind.CLIENT,
        SpanKind.CLIENT,
        SpanKind.SERVER,
    ]
    assert dict(failed.attributes) == {
        "http.request.method": "GET",
        "http.request.resend_count": 0,
        "http.response.status_code": 503,
        "url.full": "https://omdb.test/path",
        "filmosphere.source": "omdb",
        "filmosphere.outcome": "http_5xx",
    }
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "http_5xx")
    assert succeeded.attributes["http.request.resend_count"] == 1
    assert succeeded.status.status_code is StatusCode.UNSET
    assert {span.parent.span_id for span in (failed, succeeded)} == {request.context.span_id}
    assert [sent.headers["traceparent"] for sent in answers.requests] == [
        f"00-{TRACE}-{span.context.span_id:016x}-01" for span in (failed, succeeded)
    ]
    assert not any(CANARY in span.to_json() for span in exported.spans)


def test_the_text_of_a_network_error_is_not_exported(exported):
    client = client_of(Answers(httpx.ConnectError(CANARY)), attempts=1)

    with pytest.raises(UpstreamUnavailable):
        client.get("omdb", "https://omdb.test/")

    assert exported.only.status.description == "connection_terminated"
    assert CANARY not in exported.only.to_json()


def test_a_call_in_a_thread_of_its_source_belongs_to_the_trace_of_its_caller(exported):
    client = client_of(Answers(httpx.Response(200, json={})))
    source = Source("omdb", concurrency=1)

    def ask(number):
        sent = f"00-{number:032x}-{PARENT}-01"
        with tracing.spans.request({"REQUEST_METHOD": "GET", "HTTP_TRACEPARENT": sent}):
            source.submit(lambda: client.get("omdb", "https://omdb.test/")).result(5)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(1, 9)))

    calls = [span for span in exported.spans if span.kind is SpanKind.CLIENT]
    assert sorted(span.context.trace_id for span in calls) == list(range(1, 9))


def test_a_refresh_ends_in_another_thread_with_its_outcome(exported):
    fields = {"source": "omdb", "url": "", "attempt": 1, "outcome": "ok"}
    with (
        tracing.refresh("tt1375666", ["trailer", "credits"], "BACKGROUND") as span,
        tracing.upstream_call(fields),
    ):
        pass

    with ThreadPoolExecutor(1) as pool:
        pool.submit(span.end, "timeout", is_error=True).result(5)

    call, refresh = exported.spans
    assert call.parent.span_id == refresh.context.span_id
    assert dict(refresh.attributes) == {
        "filmosphere.film": "tt1375666",
        "filmosphere.sections": ("credits", "trailer"),
        "filmosphere.priority": "background",
        "filmosphere.outcome": "timeout",
    }
    assert refresh.status.status_code is StatusCode.ERROR


def test_log_lines_within_a_trace_name_it_and_others_have_no_field(exported):
    def record():
        made = logging.makeLogRecord({})
        TraceFilter().filter(made)
        return made

    with tracing.spans.request({"REQUEST_METHOD": "GET", "HTTP_TRACEPARENT": TRACEPARENT}):
        within = record()

    assert within.trace_id == TRACE
    assert not hasattr(record(), "trace_id")


def test_without_tracing_nothing_is_sent_and_no_span_is_made(exported, monkeypatch):
    monkeypatch.setattr(tracing, "spans", None)
    answers = Answers(httpx.Response(200, json={}))

    client_of(answers).get("omdb", "https://omdb.test/")
    with tracing.refresh("tt1375666", [], "READER") as span:
        pass

    assert span is None
    assert "traceparent" not in answers.requests[0].headers
    assert exported.spans == []
