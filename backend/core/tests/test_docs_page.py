"""The OpenAPI document and the page to try it, as a running service has them."""

import json
import re

import pytest
import yaml
from django.test import Client, override_settings

from filmosphere.tests.house import PROJECT

# A request looks after the connections that tests before it have left.
pytestmark = pytest.mark.django_db

SWAGGER = "/static/drf_spectacular_sidecar/swagger-ui-dist/"


@pytest.fixture(params=[True, False], ids=["debug", "production"], autouse=True)
def _debug(request):
    with override_settings(DEBUG=request.param):
        yield


def get(path, **headers):
    answer = Client().get(path, headers=headers)
    # Files are sent from an open one.
    answer.close()
    return answer


@pytest.mark.parametrize("path", ["/api/schema", "/api/schema/"])
def test_the_document_is_the_committed_one(path):
    answer = get(path)

    assert answer.headers["Content-Type"].startswith("application/vnd.oai.openapi")
    assert yaml.safe_load(answer.content) == committed()


@pytest.mark.parametrize(
    ("query", "accept"),
    [("", "application/json"), ("?format=json", "*/*"), ("?format=json&version=%0a", "text/html")],
)
def test_the_document_comes_as_json_where_that_is_wanted(query, accept):
    answer = get(f"/api/schema{query}", Accept=accept)

    assert "json" in answer.headers["Content-Type"]
    assert json.loads(answer.content) == committed()


@pytest.mark.parametrize(("query", "accept"), [("", "image/png"), ("?format=nope", "*/*")])
def test_what_cannot_be_had_is_yaml(query, accept):
    answer = get(f"/api/schema{query}", Accept=accept)

    assert answer.status_code == 200
    assert yaml.safe_load(answer.content) == committed()


def committed():
    return yaml.safe_load((PROJECT / "docs" / "openapi.yaml").read_text())


@pytest.mark.parametrize("path", ["/api/docs", "/api/docs/"])
def test_the_page_loads_nothing_from_elsewhere(path):
    answer = get(path, Accept="text/html")

    page = answer.content.decode()
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "<script>" not in page
    loaded = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert loaded
    for address in loaded:
        assert get(address.replace("&amp;", "&")).status_code == 200, address


def test_only_the_page_has_a_content_policy():
    assert "default-src 'none'" in get("/api/docs").headers["Content-Security-Policy"]
    for path in ("/api/schema", "/healthz", "/api/nope", f"{SWAGGER}swagger-ui.css"):
        assert "Content-Security-Policy" not in get(path).headers


def test_files_of_other_packages_are_not_served():
    for path in ("/static/", "/static/rest_framework/css/default.css", f"{SWAGGER}nope.js"):
        answer = get(path)

        assert answer.status_code == 404
        assert answer.json()["error_code"] == "404"


@pytest.mark.parametrize("path", ["/api/schema", "/api/docs"])
def test_errors_there_are_json_too(path):
    answer = Client().post(path, headers={"Accept": "text/html"})

    assert answer.status_code == 405
    assert answer.headers["Content-Type"] == "application/json"
    assert set(answer.json()) == {"error_code", "message"}
    assert Client().options(path).content == b""


def test_neither_is_listed_in_the_document():
    assert not [path for path in committed()["paths"] if "schema" in path or "docs" in path]
