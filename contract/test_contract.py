"""What client teams do with the documents, with the tools that they use: `make contract`."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from filmosphere.tests.contracts import differences
from filmosphere.tests.house import PROJECT, database, server

HERE = Path(__file__).resolve().parent
TOOLS = HERE / "node_modules" / ".bin"
GENERATED = HERE / "generated"
OPENAPI = PROJECT / "docs" / "openapi.yaml"
COLLECTION = PROJECT / "filmosphere_postman_collection.json"
CHROMIUM = next(
    filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None
)


@pytest.fixture(scope="module", params=["True", "False"], ids=["debug", "production"])
def house(request, tmp_path_factory, django_db_setup, django_db_blocker):
    folder = tmp_path_factory.mktemp("contract")
    with (
        django_db_blocker.unblock(),
        database(folder) as url,
        server(
            folder, DATABASE_URL=url, DJANGO_DEBUG=request.param, MAX_THRESHOLD="1000"
        ) as running,
    ):
        yield running


def run(*command: object, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=HERE,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout


def sandbox_of(house) -> str:
    return re.search(r"sandbox on (http://[0-9.:]+)", house.output)[1]


# --- OpenAPI ----------------------------------------------------------------------------------


@pytest.mark.parametrize("document", [OPENAPI, PROJECT / "filmosphere_openapi.yaml"], ids=str)
def test_a_strict_linter_finds_nothing(document):
    run(TOOLS / "redocly", "lint", "--config", "redocly.yaml", document)


def test_calls_compile_with_the_types_made_from_the_document():
    GENERATED.mkdir(exist_ok=True)
    run(TOOLS / "openapi-typescript", OPENAPI, "-o", GENERATED / "api.d.ts")

    run(TOOLS / "tsc", "--project", "tsconfig.json")


def test_a_generated_python_client_reads_films(house):
    client = GENERATED / "filmosphere_client"
    python = HERE / ".venv" / "bin"
    said = run(
        python / "openapi-python-client",
        *("generate", "--path", OPENAPI, "--output-path", client),
        *("--meta", "none", "--overwrite", "--fail-on-warning"),
        PATH=f"{python}{os.pathsep}{os.environ['PATH']}",
    )
    assert "Warning" not in said

    said = run(python / "python", "read_film.py", house.url, PYTHONPATH=str(GENERATED))

    assert said.startswith("Inception: ")


# --- Postman ----------------------------------------------------------------------------------


def requests_in(folder: dict) -> list[dict]:
    return [
        request
        for item in folder["item"]
        for request in (requests_in(item) if "item" in item else [item])
    ]


def test_the_whole_collection_runs_and_its_examples_are_real(house, tmp_path):
    sandbox = sandbox_of(house)
    variables = {
        "base_url": house.url,
        "IMDBAPI_BASE": f"{sandbox}/imdbapi",
        "KINO_BASE": f"{sandbox}/kinocheck",
        "KINO_API_KEY": "sandbox-kinocheck-key",
        "WATCHMODE_BASE": f"{sandbox}/watchmode/v1",
        "WATCHMODE_API_KEY": "sandbox-watchmode-key",
    }
    given = [word for pair in variables.items() for word in ("--env-var", "=".join(pair))]
    report = tmp_path / "newman.json"

    run(
        *(TOOLS / "newman", "run", COLLECTION, *given, "--timeout-request", "30000"),
        *("--reporters", "cli,json", "--reporter-json-export", report),
    )

    examples = {each["name"]: each["response"][0] for each in requests_in(_read(COLLECTION))}
    executions = _read(report)["run"]["executions"]
    assert {each["item"]["name"] for each in executions} == set(examples)
    for execution in executions:
        shown, real = examples[execution["item"]["name"]], execution["response"]
        assert all(not each.get("error") for each in execution["assertions"])
        assert real["code"] == shown["code"], execution["item"]["name"]
        if shown["_postman_previewlanguage"] == "json":
            body = json.loads(bytes(real["stream"]["data"]))
            found = list(differences(json.loads(shown["body"]), body))
            assert found == [], execution["item"]["name"]


def _read(path: Path) -> dict:
    return json.loads(path.read_text())


# --- the page ---------------------------------------------------------------------------------


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_the_page_works_without_the_internet(house):
    GENERATED.mkdir(exist_ok=True)

    run("node", "docs_page.mjs", house.url, CHROMIUM, GENERATED / "docs_page.png")


# --- the tools --------------------------------------------------------------------------------


def test_the_lock_file_names_no_place_to_download_from():
    lock = _read(HERE / "package-lock.json")

    assert lock["packages"]
    assert [name for name, each in lock["packages"].items() if "resolved" in each] == []
