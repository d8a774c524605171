"""What docs/operations/security.md claims: the tests that it names exist, and a few of them."""

import ast
import re

import pytest
import yaml
from django.test import Client
from django.urls import get_resolver, resolve

from tools.harness.server import PROJECT
from web.api import unknown_route

PAGE = (PROJECT / "docs" / "operations" / "security.md").read_text()
# `path::test` in the text.
REFERENCES = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)
CLAIMS = re.findall(r"^- .*?(?=^- |^#|^$)", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("path", "name"), REFERENCES, ids=lambda each: each.split("/")[-1])
def test_each_test_that_is_named_exists(path, name):
    tree = ast.parse((PROJECT / path).read_text())

    names = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert name in names


def test_each_claim_names_a_test_and_each_of_the_ten_risks_has_claims():
    without_test = [claim for claim in CLAIMS if not re.search(r"\.py::test_\w+`\s*\Z", claim)]
    risks = re.findall(r"^## API(\d+): .*\n+(?:[^-#].*\n+)*- ", PAGE, re.MULTILINE)

    assert without_test == []
    assert risks == [str(number) for number in range(1, 11)]


def routes(resolver=None, prefix=""):
    """Each routed path that is not a pattern for everything else."""
    for pattern in (resolver or get_resolver()).url_patterns:
        route = prefix + str(pattern.pattern)
        if hasattr(pattern, "url_patterns"):
            yield from routes(pattern, route)
        elif pattern.callback is not unknown_route:
            yield "/" + route.replace("<str:imdb_id>", "{imdb_id}")


def test_each_path_that_is_routed_is_in_the_document():
    document = yaml.safe_load((PROJECT / "docs" / "openapi.yaml").read_text())
    left_out = {"/api", "/api/docs", "/api/guide", "/api/schema"}

    routed = {path.rstrip("/") or "/" for path in routes()}

    assert routed == {path.rstrip("/") or "/" for path in document["paths"]} | left_out


@pytest.mark.parametrize("path", sorted(set(routes())))
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_no_route_accepts_a_method_that_changes_something(path, method):
    answer = Client().generic(method, path.replace("{imdb_id}", "tt1375666"))

    assert answer.status_code == 405


@pytest.mark.parametrize("path", ["/admin/", "/accounts/login/", "/accounts/signup/", "/login"])
def test_no_page_for_administration_is_routed(path):
    assert resolve(path).func is unknown_route


def test_dependabot_knows_each_place_with_pinned_versions_and_groups_them():
    updates = yaml.safe_load((PROJECT / ".github" / "dependabot.yml").read_text())["updates"]

    places = {
        (update["package-ecosystem"], directory)
        for update in updates
        for directory in update.get("directories", [update.get("directory")])
    }
    assert places == {
        ("pip", "/"),
        ("pip", "/requirements"),
        ("pip", "/contract"),
        ("npm", "/contract"),
        ("docker", "/"),
        ("docker-compose", "/"),
    }
    assert all(update["groups"] for update in updates)


@pytest.mark.parametrize("pattern", ["requirements*.txt", "package.json", "Dockerfile"])
def test_files_with_versions_are_where_dependabot_looks(pattern):
    folders = {
        path.parent.relative_to(PROJECT)
        for place in (".", "requirements", "contract", "deploy", "backend", "tools")
        for path in (PROJECT / place).glob(pattern)
    }

    assert {str(folder) for folder in folders} <= {".", "requirements", "contract"}
