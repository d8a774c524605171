"""`/metrics`, of one process and of several."""

import socket
import threading
import time
from contextlib import suppress

import pytest
from django.test import RequestFactory
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.parser import text_string_to_metric_families
from rest_framework.test import APIClient

from web.metrics_exchange import MetricsHub, ask, local_listener, merge, own_metrics
from web.metrics_view import MetricsView


def sample(text, name, **labels):
    for family in text_string_to_metric_families(text):
        for found in family.samples:
            if found.name == name and found.labels == labels:
                return found.value
    return 0


@pytest.fixture
def client():
    return APIClient()


@pytest.mark.parametrize("path", ["/metrics", "/metrics/"])
def test_both_forms_of_the_path_return_text(client, path):
    answer = client.get(path)

    assert answer.status_code == 200
    assert answer["Content-Type"].startswith("text/plain; version=")
    assert "filmosphere_movie_cache_total" in answer.text


def test_requests_are_counted_by_route_and_status_and_never_by_what_callers_send(client):
    before = client.get("/metrics").text

    client.get("/healthz?secret")
    client.get("/no/such/path/secret")
    client.get("/")
    client.get("/api/search", HTTP_HOST="secret.example")

    after = client.get("/metrics").text
    for labels in (
        {"route": "healthz", "status": "200"},
        {"route": "unknown", "status": "400"},
        {"route": "/", "status": "200"},
        {"route": "unknown", "status": "404"},
    ):
        name = "filmosphere_requests_total"
        assert sample(after, name, **labels) == sample(before, name, **labels) + 1
        name = "filmosphere_request_duration_seconds_count"
        measured = [sample(text, name, **labels, cache="none") for text in (before, after)]
        assert measured[1] == measured[0] + 1
    assert "secret" not in after


def test_a_request_is_in_progress_until_it_is_answered(client):
    name, labels = "filmosphere_requests_in_progress", {"route": "metrics"}

    assert [sample(client.get("/metrics").text, name, **labels) for _ in range(3)] == [1, 1, 1]


def test_a_request_that_fails_is_not_left_in_progress(client, settings):
    settings.ROOT_URLCONF = "web.tests.urls_that_crash"

    assert client.get("/crash/plain").status_code == 500

    in_progress = 'filmosphere_requests_in_progress{route="crash/plain"} 0.0'
    assert in_progress in client.get("/metrics").text.splitlines()


def test_another_method_is_an_error_of_the_one_shape(client):
    answer = client.post("/metrics")

    assert answer.status_code == 405
    assert answer.json()["error_code"] == "405"


def exposition(process):
    """What a process with metrics of each kind sends."""
    registry = CollectorRegistry()
    Counter("calls", "Calls.", ["source"], registry=registry).labels("a b").inc(process)
    Gauge("busy", "Threads.", registry=registry).set(process)
    Gauge("left", "Shared.", multiprocess_mode="min", registry=registry).set(process)
    Gauge("open", "Shared.", multiprocess_mode="livemax", registry=registry).set(process)
    Histogram("took", "Seconds.", buckets=[1, 2], registry=registry).observe(process)
    Info("build", "Version.", registry=registry).info({"version": "1"})
    Gauge("made_start_time_seconds", "Moment.", registry=registry).set(process)
    return own_metrics(registry)


def test_counters_gauges_and_histograms_of_several_processes_are_combined():
    merged = merge([exposition(1), exposition(2), exposition(2)])

    assert sample(merged, "calls_total", source="a b") == 5
    assert sample(merged, "busy") == 5
    assert sample(merged, "left") == 1
    assert sample(merged, "open") == 2
    assert sample(merged, "took_bucket", le="1.0") == 1
    assert sample(merged, "took_bucket", le="+Inf") == 3
    assert sample(merged, "took_sum") == 5
    assert sample(merged, "build_info", version="1") == 1
    assert sample(merged, "made_start_time_seconds") == 1


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=4))
def test_any_value_survives(values):
    texts = []
    for value in values:
        registry = CollectorRegistry()
        Gauge("level", "Level.", multiprocess_mode="max", registry=registry).set(value)
        texts.append(own_metrics(registry))

    assert sample(merge(texts), "level") == max(values)


class Processes:
    """A hub, and processes that answer it with a text, or hang where that is None."""

    def __init__(self):
        self.hub = MetricsHub()
        self.listeners = [self.hub.listener]

    def start(self, number, text):
        listener = local_listener()
        self.listeners.append(listener)
        self.hub.add(number, listener.getsockname())
        answer = [text]
        threading.Thread(target=self._serve, args=[listener, answer], daemon=True).start()
        return answer

    def ask(self):
        threading.Thread(target=self.hub.answer, daemon=True).start()
        return ask(self.hub.listener.getsockname())

    def _serve(self, listener, answer):
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    if answer[0] is None:
                        connection.recv(1)
                    else:
                        connection.sendall(answer[0].encode())


@pytest.fixture
def processes():
    made = Processes()
    yield made
    for listener in made.listeners:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_a_process_that_hangs_is_represented_by_its_last_answer_and_delays_little(processes):
    first = processes.start(1, exposition(1))
    processes.start(2, exposition(2))
    assert sample(processes.ask(), "calls_total", source="a b") == 3
    first[0] = None
    started = time.monotonic()

    assert sample(processes.ask(), "calls_total", source="a b") == 3
    assert time.monotonic() - started < 1


def test_what_an_ended_process_counted_is_kept_but_not_its_gauges(processes):
    processes.start(1, exposition(1))
    processes.start(2, exposition(2))
    processes.ask()

    processes.hub.remove(1)
    processes.start(1, exposition(1))

    merged = processes.ask()
    assert sample(merged, "calls_total", source="a b") == 4
    assert sample(merged, "took_count") == 3
    assert sample(merged, "busy") == 3


def test_a_process_that_nobody_removed_yet_does_not_keep_the_others_from_being_read(processes):
    processes.start(1, exposition(1))
    processes.start(2, exposition(2))
    processes.listeners[1].shutdown(socket.SHUT_RDWR)
    processes.listeners[1].close()

    assert sample(processes.ask(), "calls_total", source="a b") == 2


def test_if_the_supervisor_does_not_answer_the_scrape_fails():
    def fail():
        raise TimeoutError

    answer = MetricsView.as_view(get_metrics=fail)(RequestFactory().get("/metrics"))

    assert answer.status_code == 503
    assert answer["Retry-After"] == "5"
