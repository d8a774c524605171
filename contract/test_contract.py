"""What client teams do with the documents, with the tools that they use: `make contract`."""

import json
import os
import re
import shutil
import subprocess
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from core.tests.redis_doubles import odd_redis
from tools.harness.contracts import differences, requests_in
from tools.harness.databases import eventually, execute
from tools.harness.server import PROJECT, Server, database, server

HERE = Path(__file__).resolve().parent
TOOLS = HERE / "node_modules" / ".bin"
GENERATED = HERE / "generated"
OPENAPI = PROJECT / "docs" / "openapi.yaml"
COLLECTION = PROJECT / "filmosphere_postman_collection.json"
ENVIRONMENT = PROJECT / "filmosphere_sandbox.postman_environment.json"
CHROMIUM = next(
    filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None
)


@pytest.fixture(scope="module", params=["True", "False"], ids=["debug", "production"])
def service(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("contract")
    with (
        database(folder) as url,
        server(
            folder,
            DATABASE_URL=url,
            DJANGO_DEBUG=request.param,
            MAX_THRESHOLD="1000",
            WATCHMODE_REGIONS="TR,US",
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


# --- Metrics ----------------------------------------------------------------------------------


@pytest.mark.skipif(
    shutil.which("promtool") is None and os.environ.get("CI") != "true",
    reason="promtool is not installed here",
)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_linter_of_prometheus_finds_nothing(tmp_path, workers):
    with database(tmp_path) as url, odd_redis() as redis:
        redis.answer = b"+PONG\r\n"
        settings = {"DATABASE_URL": url, "REDIS_URL": redis.url, "WORKERS": workers}
        with server(tmp_path, **settings) as running:
            running.get("/api/films/tt1375666")
            exposition = running.get("/metrics").body

    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=exposition, capture_output=True, check=False
    )

    assert b"filmosphere_redis_up" in exposition
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


# --- OpenAPI ----------------------------------------------------------------------------------


@pytest.mark.parametrize("document", [OPENAPI, PROJECT / "filmosphere_openapi.yaml"], ids=str)
def test_two_strict_linters_find_nothing(document):
    run(TOOLS / "redocly", "lint", "--config", "redocly.yaml", document)
    run(
        *(TOOLS / "spectral", "lint", "--ruleset", "spectral.yaml"),
        *("--fail-severity", "hint", document),
    )


@pytest.fixture(scope="module")
def compiled():
    """Return the folder of the samples, compiled with the code generated from the document."""
    GENERATED.mkdir(exist_ok=True)
    zod = GENERATED / "zod.ts"
    run(TOOLS / "openapi-typescript", OPENAPI, "-o", GENERATED / "api.d.ts")
    run(
        TOOLS / "orval", "--input", OPENAPI, "--output", GENERATED / "orval.ts", "--client", "fetch"
    )
    run(TOOLS / "openapi-ts", "--input", OPENAPI, "--output", GENERATED / "hey-api")
    run(TOOLS / "openapi-zod-client", OPENAPI, "--output", zod, "--export-schemas")
    run(TOOLS / "tsc", "--project", "tsconfig.json")
    return GENERATED / "js"


def test_calls_compile_with_the_code_of_four_generators(compiled):
    samples = {"calls.js", "calls_orval.js", "calls_hey_api.js", "screen.js", "validate.js"}

    assert samples <= {path.name for path in compiled.iterdir()}


def test_answers_pass_the_generated_zod_schemas(compiled, service):
    said = run("node", compiled / "validate.js", service.url)

    assert said.startswith("Inception: ")


def test_the_data_of_a_screen_are_read_with_types(compiled, service):
    lines = run("node", compiled / "screen.js", service.url).splitlines()

    assert lines[0] == "Inception 8.8"
    assert lines[1].startswith("TR: Netflix")
    assert lines[2].startswith("US: ")
    assert lines[3] == "86 of 86 credits"
    assert lines[4:6] == ["Inception (2010)", "Breaking Bad (2008)"]
    assert lines[-1] == "tt99999999999: not_found"
    assert len(lines) == 14


def test_a_generated_python_client_reads_films(service):
    client = GENERATED / "filmosphere_client"
    python = HERE / ".venv" / "bin"
    said = run(
        python / "openapi-python-client",
        *("generate", "--path", OPENAPI, "--output-path", client),
        *("--meta", "none", "--overwrite", "--fail-on-warning"),
        PATH=f"{python}{os.pathsep}{os.environ['PATH']}",
    )
    assert "Warning" not in said

    said = run(python / "python", "read_film.py", service.url, PYTHONPATH=str(GENERATED))

    assert said.startswith("Inception: ")


# --- Postman ----------------------------------------------------------------------------------


def test_the_whole_collection_runs_twice_in_a_row(tmp_path):
    # With the regions and limits that a service has as it is started.
    _run_collection(tmp_path, times=2)


def test_the_examples_of_the_collection_are_real(tmp_path):
    report = _run_collection(tmp_path, times=1, WATCHMODE_REGIONS="TR,US")

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


def _run_collection(folder: Path, *, times: int, **settings: str) -> Path:
    """Run the collection on a new service; return the report of newman."""
    report, environment = folder / "newman.json", folder / "environment.json"
    with database(folder) as url, server(folder, DATABASE_URL=url, **settings) as running:
        given = ENVIRONMENT.read_text().replace("http://localhost:8001", running.sandbox_url)
        environment.write_text(given.replace("http://localhost:8000", running.url))
        for _ in range(times):
            run(
                *(TOOLS / "newman", "run", COLLECTION, "--environment", environment),
                *("--timeout-request", "30000"),
                *("--reporters", "cli,json", "--reporter-json-export", report),
            )
    return report


def _read(path: Path) -> dict:
    return json.loads(path.read_text())


# --- HTTP caches ------------------------------------------------------------------------------

FILM = "/api/films/tt1375666"

# Both caches need it; the other tools do not.
_NODE = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
needs_newer_node = pytest.mark.skipif(
    tuple(map(int, _NODE.strip().lstrip("v").split("."))) < (20, 18, 1),
    reason="these caches need Node 20.18.1",
)


@pytest.fixture(scope="module")
def old_film(tmp_path_factory):
    """A service whose stored film is past half its life."""
    folder = tmp_path_factory.mktemp("caches")
    with database(folder) as url, server(folder, DATABASE_URL=url) as running:
        running.get(FILM)
        fetched_at = datetime.now(timezone.utc) - timedelta(hours=16)
        execute(url, f"UPDATE films_film SET cached_at = '{fetched_at:%Y-%m-%d %H:%M:%S}'")
        yield running


@pytest.mark.parametrize(
    "cache",
    [
        pytest.param("undici", marks=needs_newer_node),
        pytest.param("make-fetch-happen", marks=needs_newer_node),
        "hishel",
        pytest.param(
            "chromium", marks=pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
        ),
    ],
)
def test_a_film_past_half_its_life_is_one_request_for_five_reads(old_film, cache):
    max_age = re.search(r"max-age=(\d+)", old_film.get(FILM).headers["Cache-Control"])[1]
    before = requests_for_the_film(old_film)

    if cache == "hishel":
        said = run(HERE / ".venv" / "bin" / "python", "caches.py", old_film.url + FILM)
    else:
        said = run("node", "caches.mjs", cache, old_film.url + FILM, CHROMIUM or "")

    assert 0 < int(max_age) < 12 * 3600
    assert said.splitlines() == ["Inception"] * 5
    assert requests_for_the_film(old_film) - before == 1


def requests_for_the_film(service: Server) -> int:
    """Return how many requests for the film are in the access log."""
    last = uuid.uuid4().hex
    service.get("/api/nope", X_Correlation_ID=last)
    # Lines are written by a thread of their own, in order.
    eventually(lambda: last in service.output)
    return service.output.count(f'"path": "{FILM}"')


# --- the page ---------------------------------------------------------------------------------


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_the_page_works_without_the_internet(service):
    GENERATED.mkdir(exist_ok=True)

    run("node", "docs_page.mjs", service.url, CHROMIUM, GENERATED / "docs_page.png")


# --- the tools --------------------------------------------------------------------------------


def test_the_lock_file_names_no_place_to_download_from():
    lock = _read(HERE / "package-lock.json")

    assert lock["packages"]
    assert [name for name, each in lock["packages"].items() if "resolved" in each] == []
