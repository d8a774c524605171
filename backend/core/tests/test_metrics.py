import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rest_framework.test import APIClient

BACKEND = Path(__file__).resolve().parents[2]

COUNTING = """
from core import metrics
for _ in range(3):
    metrics.MOVIE_CACHE.labels("hit").inc()
"""
SHOWING = """
from django.conf import settings
settings.configure()
from core.metrics_view import _registry
from prometheus_client import generate_latest
print(generate_latest(_registry()).decode())
"""


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
def test_both_forms_answer_as_text(client, path):
    answer = client.get(path)

    assert answer.status_code == 200
    assert answer["Content-Type"].startswith("text/plain; version=")
    assert "filmosphere_movie_cache_total" in answer.text


def test_requests_are_counted_by_route_and_status_and_never_by_what_was_sent(client):
    before = client.get("/metrics").text

    client.get("/healthz?secret")
    client.get("/no/such/path/secret")
    client.get("/healthz", HTTP_HOST="secret.example")

    after = client.get("/metrics").text
    for labels in (
        {"route": "healthz", "status": "200"},
        {"route": "none", "status": "400"},
        {"route": "", "status": "404"},
    ):
        name = "filmosphere_requests_total"
        assert sample(after, name, **labels) == sample(before, name, **labels) + 1
    assert "secret" not in after


def test_other_methods_are_told_in_the_one_shape(client):
    answer = client.post("/metrics")

    assert answer.status_code == 405
    assert answer.json()["error_code"] == "405"


def test_several_processes_count_together(tmp_path):
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}

    def run(code):
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=BACKEND,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    run(COUNTING)
    run(COUNTING)

    assert sample(run(SHOWING), "filmosphere_movie_cache_total", outcome="hit") == 6
