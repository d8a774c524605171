"""Traces of a running service, as a collector receives them."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tools.harness.databases import eventually
from tools.harness.server import (
    database,
    free_port,
    manage,
    on_sandbox,
    run_python,
    serve_to_the_end,
    server,
)

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
KEYS = (b"sandbox-watchmode-key", b"sandbox-kinocheck-key")
FILM = "/api/films/tt1375666"


class Collector:
    """Receives spans over OTLP/HTTP."""

    def __init__(self, url):
        self.url = url
        self.bodies = []

    @property
    def batches(self):
        return [ExportTraceServiceRequest.FromString(body) for body in self.bodies]

    @property
    def spans(self):
        return [
            span
            for batch in self.batches
            for resource in batch.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def of_kind(self, kind):
        return [span for span in self.spans if span.kind == kind]


@contextmanager
def collector():
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            assert self.path == "/v1/traces"
            running.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        running = Collector(f"http://127.0.0.1:{listening.server_port}")
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield running
        finally:
            listening.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def options(tmp_path_factory, _sandbox_process):
    with database(tmp_path_factory.mktemp("traces")) as url:
        yield on_sandbox(_sandbox_process.url, DATABASE_URL=url, HOT_SECONDS="0")


def fields_of(running, message):
    lines = [json.loads(line) for line in running.output.splitlines()]
    return [line for line in lines if line["message"] == message]


def test_a_cold_film_is_one_trace_from_the_caller_to_the_sources(options, sandbox, tmp_path):
    with collector() as collected:
        settings = {**options, "OTEL_EXPORTER_OTLP_ENDPOINT": collected.url, "WORKERS": "2"}
        with server(tmp_path, **settings) as running:
            answer = running.get(FILM, traceparent=f"00-{TRACE}-{PARENT}-01")
            assert answer.status == 200
            (line,) = [each for each in fields_of(running, "request") if each["path"] == FILM]
            calls = fields_of(running, "upstream call")
        # All of it is exported by the end of the process, whatever the interval is.
        traced = [span for span in collected.spans if span.trace_id.hex() == TRACE]

        assert {each["trace_id"] for each in [line, *calls]} == {TRACE}
        (request,) = [span for span in traced if span.kind == Span.SPAN_KIND_SERVER]
        (refresh,) = [span for span in traced if span.name == "refresh film"]
        made = [span for span in traced if span.kind == Span.SPAN_KIND_CLIENT]
        assert request.parent_span_id.hex() == PARENT
        assert refresh.parent_span_id == request.span_id
        assert {span.parent_span_id for span in made} == {refresh.span_id}
        assert len(made) == len(calls) > 5
        urls = {
            value.value.string_value
            for span in made
            for value in span.attributes
            if value.key == "url.full"
        }
        assert f"{options['IMDBAPI_BASE']}/titles/tt1375666" in urls
        assert not any("?" in url for url in urls)
        assert not any(key in body for body in collected.bodies for key in KEYS)


def test_a_hit_of_the_fast_path_has_a_span_in_each_worker(options, sandbox, tmp_path):
    with collector() as collected:
        settings = {**options, "OTEL_EXPORTER_OTLP_ENDPOINT": collected.url, "WORKERS": "2"}
        settings["OTEL_BSP_SCHEDULE_DELAY"] = "100"
        with server(tmp_path, **settings) as running:
            running.get(FILM)
            workers = set()

            def both_answered():
                running.get(FILM)
                resources = [each for batch in collected.batches for each in batch.resource_spans]
                workers.update(
                    value.value.int_value
                    for each in resources
                    for value in each.resource.attributes
                    if value.key == "process.pid"
                )
                return workers == set(running.workers.values())

            assert eventually(both_answered, seconds=30)

        hits = [span for span in collected.spans if span.name == "GET films/fast"]
        assert hits


def test_a_command_exports_a_trace_for_each_film(options, sandbox):
    with collector() as collected:
        settings = {**options, "OTEL_EXPORTER_OTLP_ENDPOINT": collected.url}
        done = manage("warm_films", "tt0111161", "tt0068646", **settings)
        assert done.returncode == 0, done.stderr

        refreshes = [span for span in collected.spans if span.name == "refresh film"]
        assert len({span.trace_id for span in refreshes}) == len(refreshes) == 2
        assert not any(span.parent_span_id for span in refreshes)


def test_a_collector_that_is_away_costs_no_request_and_does_not_delay_the_stop(
    options, sandbox, tmp_path
):
    address = f"http://127.0.0.1:{free_port()}"
    with server(tmp_path, **options, OTEL_EXPORTER_OTLP_ENDPOINT=address) as running:
        assert running.get(FILM).status == 200
        running.process.terminate()
        assert running.process.wait(timeout=8) == 0


def test_a_missing_extra_stops_the_start_with_one_line(options, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['opentelemetry'] = None")

    stopped = serve_to_the_end(
        **options,
        PYTHONPATH=str(tmp_path),
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4318",
        PORT=str(free_port()),
    )

    assert stopped.returncode == 1
    assert stopped.stderr == (
        "filmosphere: OTEL_EXPORTER_OTLP_ENDPOINT is set but OpenTelemetry is not installed: "
        "pip install -r requirements/otel.txt\n"
    )


def test_without_the_setting_opentelemetry_is_not_imported(options):
    # Each import of it fails now; redis-py tries one of its own and does without.
    program = "import sys; sys.modules['opentelemetry'] = None; import filmosphere.wsgi"

    done = run_python("-c", program, timeout=30, **options)

    assert done.returncode == 0
