"""What documents for people say, done and compared."""

import json
import re
import shlex
import shutil
import subprocess

import pytest
import yaml
from django.urls import resolve
from django.utils.module_loading import import_string
from prometheus_client.parser import text_string_to_metric_families

from tools.harness.contracts import differences, requests_in
from tools.harness.log_events import LogEvent, log_events
from tools.harness.server import BACKEND, PROJECT, database, server

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def curl_lines(name: str) -> list:
    """Each curl line of a document, with the kind and the text of the answer shown for it."""
    fences = _FENCE.findall((PROJECT / name).read_text())
    found = []
    for number, (kind, text) in enumerate(fences):
        if kind != "sh":
            continue
        lines = [line for line in text.splitlines() if line.startswith("curl ")]
        following = fences[number + 1] if number + 1 < len(fences) else ("sh", "")
        answer = following if following[0] in {"json", "http", "text"} else ("", "")
        found += [(line, "", "") for line in lines[:-1]]
        found += [(line, *answer) for line in lines[-1:]]
    return [pytest.param(*each, id=f"{name}: {each[0]}") for each in found]


CURL_LINES = [*curl_lines("docs/API.md"), *curl_lines("README.md")]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    with (
        database(folder) as url,
        server(folder, DATABASE_URL=url, MAX_THRESHOLD="1000") as running,
    ):
        # So that it is a hit from the first line on, as it is for most readers.
        running.get("/api/films/tt1375666")
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("curl")


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
@pytest.mark.parametrize(("line", "kind", "shown"), CURL_LINES)
def test_a_curl_line_gives_the_answer_that_is_shown(service, folder, line, kind, shown):
    words = shlex.split(line.replace("http://localhost:8000", service.url))
    done = subprocess.run(
        [*words, "--silent", "--show-error", "--dump-header", "head.txt"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=40,
        check=True,
    )

    head = (folder / "head.txt").read_text()
    body = done.stdout.removeprefix(head.replace("\r\n", "\n")).removeprefix(head)
    assert head.split()[1] == status_of(kind, shown)
    if kind == "json":
        assert list(differences(json.loads(shown), json.loads(body))) == []
    elif kind == "http":
        shown_head, _, shown_body = shown.partition("\n\n")
        missing = [line for line in shown_head.splitlines() if not has_line(head, line)]
        assert missing == [], head
        assert not shown_body or json.loads(shown_body) == json.loads(body)
    elif kind == "text":
        assert set(shown.splitlines()) <= set(body.splitlines())


def status_of(kind: str, shown: str) -> str:
    if kind == "http":
        return shown.split()[1]
    return json.loads(shown).get("error_code", "200") if kind == "json" else "200"


def has_line(head: str, line: str) -> bool:
    """Whether a line of the head says the same, be it with other numbers, or with more for `…`."""
    pattern = re.sub(r"\d+", "[0-9]+", re.escape(line)).replace("…", ".+")
    return re.search(f"^{pattern}\r?$", head, re.MULTILINE) is not None


def test_there_are_lines_to_try():
    assert len(CURL_LINES) > 20


def test_the_sources_are_those_whose_terms_the_guide_has(service):
    rows = re.findall(
        r"^\| (.+?) \| (.+?) \|", section_of("docs/API.md", "Attribution and terms"), re.MULTILINE
    )
    asking = {name.lower().removesuffix(".dev"): "attribution" in terms for name, terms in rows[1:]}

    sources = service.get("/api/sources").json["sources"]

    assert {each["name"]: each["attribution"] is not None for each in sources} == asking


# --- Postman ----------------------------------------------------------------------------------

COLLECTION = json.loads((PROJECT / "filmosphere_postman_collection.json").read_text())


REQUESTS = requests_in(COLLECTION)


def test_the_collection_has_its_name_and_no_key_but_placeholders():
    assert COLLECTION["info"]["name"] == "Filmosphere - Film Detail APIs"
    assert COLLECTION["info"]["schema"].endswith("/v2.1.0/collection.json")
    assert {each["key"]: each["value"] for each in COLLECTION["variable"]} == {
        "base_url": "http://localhost:8000",
        "IMDBAPI_BASE": "https://api.imdbapi.dev",
        "KINO_BASE": "https://api.kinocheck.de",
        "WATCHMODE_BASE": "https://api.watchmode.com/v1",
        "WATCHMODE_API_KEY": "your_watchmode_key",
        "KINO_API_KEY": "your_key_here",
        "FILM_IMDB_ID": "tt1375666",
        "FILM_SEARCH_QUERY": "Inception",
    }
    assert "sandbox" not in json.dumps(COLLECTION)


def test_the_collection_keeps_the_names_of_its_requests():
    assert {
        "Filmosphere - Search Films",
        "Filmosphere - Get Film (aggregator)",
        "Filmosphere - Get Trailer Only",
        "Filmosphere - Get Streaming Only",
        "IMDbAPI - Get Title Metadata",
        "IMDbAPI - Credits",
        "IMDbAPI - Images",
        "IMDbAPI - Videos",
        "KinoCheck - Get Trailer by IMDb ID",
        "Watchmode - Lookup Watchmode ID (by IMDb ID)",
        "Watchmode - Get Sources (Turkey)",
    } <= {each["name"] for each in REQUESTS}


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda each: each["name"])
def test_a_request_of_the_collection_has_an_example_and_tests(request_):
    tests = [event for event in request_["event"] if event["listen"] == "test"]

    assert "pm.test(" in "".join(tests[0]["script"]["exec"])
    assert [each["code"] for each in request_["response"]]
    assert request_["request"]["url"]["raw"].startswith("{{")


# --- README -----------------------------------------------------------------------------------


def test_the_table_of_endpoints_has_them_all():
    table = re.findall(r"`GET (/[^?`]*)", section_of("README.md", "Endpoints"))
    document = yaml.safe_load((PROJECT / "docs" / "openapi.yaml").read_text())

    assert sorted(table) == sorted([*document["paths"], "/api/docs", "/api/guide", "/api/schema"])


def section_of(name: str, title: str) -> str:
    text = (PROJECT / name).read_text()
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]


def test_each_function_of_the_path_in_the_readme_exists():
    steps = re.findall(
        r"^ +([a-z_/]+\.py)  ([\w.]+)", (PROJECT / "README.md").read_text(), re.MULTILINE
    )

    assert steps
    for file, name in steps:
        code = (BACKEND / file).read_text()
        for part in name.split("."):
            assert re.search(rf"^ *(?:def|class) {part}\b", code, re.MULTILINE), (file, name)


# --- docs/operations/metrics.md -----------------------------------------------------------------

METRICS = (PROJECT / "docs" / "operations" / "metrics.md").read_text()
# The document has no list of their values.
OPEN_LABELS = {"route", "status", "version", "revision"}


def documented_metrics() -> dict[str, tuple[str, dict[str, set[str]]]]:
    """The type of each metric, and the values of each of its labels."""
    label_rows = re.findall(
        r"^\| `(\w+)`( of calls)? \| (.*) \|$", METRICS.partition("\n## Labels\n")[2], re.MULTILINE
    )
    values = {name + of: set(re.findall("`([a-z0-9_]+)`", text)) for name, of, text in label_rows}
    rows = re.findall(
        r"^\| `(\w+)` \| (counter|gauge|histogram) \| (.*?) ?\| .* \|$", METRICS, re.MULTILINE
    )
    found = {}
    for name, kind, text in rows:
        names, _, listed = text.partition(":")
        of = " of calls" if name.startswith("filmosphere_upstream_") else ""
        found[name] = (
            kind,
            {
                label: set(re.findall("`(.+?)`", listed))
                or values.get(label + of)
                or values.get(label)
                for label in re.findall("`(.+?)`", names)
            },
        )
    return found


def test_the_metrics_that_exist_are_those_in_the_document(service):
    exposition = service.get("/metrics").body.decode()

    types = dict(re.findall("^# TYPE (.+) (.+)$", exposition, re.MULTILINE))
    documented = {name: kind for name, (kind, _) in documented_metrics().items()}
    assert documented.pop("filmosphere_redis_up") == "gauge"
    assert documented.pop("filmosphere_replica_current") == "gauge"
    assert types == documented


def test_each_label_of_a_metric_and_each_of_its_values_is_in_the_document(service):
    documented = documented_metrics()
    for family in text_string_to_metric_families(service.get("/metrics").body.decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        _, labels = documented[name]
        is_ours = name.startswith("filmosphere_")
        for sample in family.samples:
            given = {label: value for label, value in sample.labels.items() if label != "le"}
            assert given.keys() == labels.keys(), sample
            for label, value in given.items():
                assert not is_ours or label in OPEN_LABELS or value in labels[label], sample


# --- generation_report.md ---------------------------------------------------------------------


def test_the_report_has_a_line_for_each_file_and_none_for_others():
    rows = re.findall(
        r"^\| `(.+?)` \| (.*) \|$", section_of("generation_report.md", "Files"), re.MULTILINE
    )
    git = subprocess.run(
        ["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    if git.returncode != 0:
        pytest.skip("this is no checkout of git")
    listed = [name for name, _ in rows]

    # A file that is to be removed, or still to be added, is no fault of the report.
    missing = [
        name
        for name in git.stdout.splitlines()
        if name not in listed and (PROJECT / name).is_file()
    ]
    assert missing == [], "make report"
    assert [name for name in listed if not (PROJECT / name).is_file()] == [], "make report"
    assert [name for name, said in rows if len(said.split()) < 2] == []
    assert len(listed) == len(set(listed))


def test_the_report_names_each_endpoint_and_its_view():
    rows = re.findall(
        r"^\| `GET (/[^?`]*).*?` \| `?(\w+).*? \| `([\w.]+)`",
        section_of("generation_report.md", "Implemented endpoints"),
        re.MULTILINE,
    )
    document = yaml.safe_load((PROJECT / "docs" / "openapi.yaml").read_text())
    operations = {path: each["get"]["operationId"] for path, each in document["paths"].items()}

    assert {path: name for path, name, _ in rows if name != "not"} == operations
    for path, _, view in rows:
        assert import_string(view).__name__ == resolve_view(path), path


def resolve_view(path: str) -> str:
    view = resolve(path.replace("{imdb_id}", "tt1375666")).func
    # A view that is loaded on request has the name of its class.
    view = getattr(view, "view_class", view)
    # A class that is made for a section differs from its base in the name of the section only.
    return (view.__base__ if view.__module__ == "films.urls" else view).__name__


# The table of log lines

_LOG_ROW = re.compile(r"^\| `(.+)` \| `(\S+)` \| ([A-Z, ]+) \|([^|]*)\| (.+) \|$", re.MULTILINE)


def log_rows() -> list:
    text = (PROJECT / "docs/operations/logs.md").read_text()
    return [
        (
            LogEvent(
                logger,
                message,
                frozenset(levels.split(", ")),
                frozenset(re.findall(r"`([^`]+)`", fields)),
            ),
            meaning,
        )
        for message, logger, levels, fields, meaning in _LOG_ROW.findall(text)
    ]


def test_the_table_of_log_lines_has_each_line_that_the_code_can_write_and_no_other():
    rows = [event for event, _ in log_rows()]

    assert len(set(rows)) == len(rows)
    assert set(rows) - log_events(BACKEND) == set(), "not in the code"
    assert log_events(BACKEND) - set(rows) == set(), "not in docs/operations/logs.md"


def test_each_line_in_the_table_has_a_meaning():
    assert [event.message for event, meaning in log_rows() if len(meaning.split()) < 3] == []
