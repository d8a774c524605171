"""The OpenAPI document and the page to try it, as a running service serves them."""

import json
import re

import pytest
import yaml
from django.test import Client, override_settings
from drf_spectacular.generators import SchemaGenerator

from tools.harness.server import PROJECT

# Closing a file response ends the request, which closes old database connections.
pytestmark = pytest.mark.django_db

SWAGGER = "/static/drf_spectacular_sidecar/swagger-ui-dist/"


@pytest.fixture(params=[True, False], ids=["debug", "production"], autouse=True)
def _debug(request):
    with override_settings(DEBUG=request.param):
        yield


def get(path, **headers):
    answer = Client().get(path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    # A response with a file keeps it open.
    answer.close()
    return answer


@pytest.mark.parametrize("path", ["/api/schema", "/api/schema/"])
def test_the_document_is_the_committed_one(path):
    answer = get(path)

    assert answer.headers["Content-Type"].startswith("application/vnd.oai.openapi")
    assert answer.headers["Content-Disposition"] == 'inline; filename="Filmosphere API.yaml"'
    assert yaml.safe_load(answer.content) == committed()


@pytest.mark.parametrize(
    ("query", "accept"),
    [("", "application/json"), ("?format=json", "*/*"), ("?format=json&version=%0a", "text/html")],
)
def test_the_document_is_json_if_that_is_asked_for(query, accept):
    answer = get(f"/api/schema{query}", Accept=accept)

    assert "json" in answer.headers["Content-Type"]
    assert json.loads(answer.content) == committed()


@pytest.mark.parametrize(("query", "accept"), [("", "image/png"), ("?format=nope", "*/*")])
def test_the_document_is_yaml_if_what_is_asked_for_does_not_exist(query, accept):
    answer = get(f"/api/schema{query}", Accept=accept)

    assert answer.status_code == 200
    assert yaml.safe_load(answer.content) == committed()


@pytest.mark.parametrize("query", ["", "?format=json"])
def test_the_document_is_rendered_once(query, monkeypatch):
    first = get(f"/api/schema{query}")
    monkeypatch.setattr(SchemaGenerator, "get_schema", None)

    second = get(f"/api/schema{query}")

    assert second.content == first.content
    assert second["ETag"] == first["ETag"]


@pytest.mark.parametrize("query", ["", "?format=json"])
@pytest.mark.parametrize("known", ["{etag}", "W/{etag}", '"other", {etag}', "*"])
def test_a_client_that_has_the_document_does_not_get_it_again(query, known):
    etag = get(f"/api/schema{query}")["ETag"]

    answer = get(f"/api/schema{query}", If_None_Match=known.format(etag=etag))

    assert (answer.status_code, answer.content) == (304, b"")
    assert "Content-Length" not in answer
    assert answer["ETag"] == etag
    assert "max-age" in answer["Cache-Control"]
    assert "Accept" in answer["Vary"]


@pytest.mark.parametrize("known", ['"other"', "nonsense", ""])
def test_a_client_that_has_another_document_gets_this_one(known):
    assert get("/api/schema", If_None_Match=known).status_code == 200


def test_the_two_forms_of_the_document_have_different_versions():
    assert get("/api/schema")["ETag"] != get("/api/schema?format=json")["ETag"]


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


def test_the_guide_is_text_that_the_document_links_to():
    (linked,) = re.findall(r"\[API guide\]\(([^)]*)\)", committed()["info"]["description"])

    answer = get(linked)

    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.content == (PROJECT / "docs" / "API.md").read_bytes()


def test_a_guide_that_is_not_installed_is_404(monkeypatch, tmp_path):
    monkeypatch.setattr("web.docs_page.GuideView.file", tmp_path / "none")

    answer = get("/api/guide")

    assert (answer.status_code, answer.json()["reason"]) == (404, "unknown_route")


def test_the_search_comes_first_in_the_document_and_what_must_be_given_first_in_each_operation():
    document = committed()

    assert next(iter(document["paths"])) == "/api/search"
    for methods in document["paths"].values():
        places = [parameter["in"] for parameter in methods["get"]["parameters"]]
        assert places == sorted(places, key=("path", "query", "header").index)


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
    assert set(answer.json()) == {"error_code", "message", "reason"}
    assert Client().options(path).content == b""


def test_neither_is_listed_in_the_document():
    assert not [path for path in committed()["paths"] if "schema" in path or "docs" in path]
