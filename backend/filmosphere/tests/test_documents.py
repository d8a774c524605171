"""What documents for people say, done and compared."""

import json
import re
import shlex
import shutil
import subprocess

import pytest
import yaml
from django.urls import resolve

from filmosphere.tests.contracts import differences
from filmosphere.tests.house import PROJECT, database, server

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
def house(tmp_path_factory, django_db_setup, django_db_blocker):
    folder = tmp_path_factory.mktemp("documents")
    with (
        django_db_blocker.unblock(),
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
def test_a_curl_line_gives_the_answer_that_is_shown(house, folder, line, kind, shown):
    words = shlex.split(line.replace("http://localhost:8000", house.url))
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


# --- Postman ----------------------------------------------------------------------------------

COLLECTION = json.loads((PROJECT / "filmosphere_postman_collection.json").read_text())


def requests_in(folder: dict) -> list[dict]:
    return [
        request
        for item in folder["item"]
        for request in (requests_in(item) if "item" in item else [item])
    ]


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


def test_the_table_of_settings_has_them_all_with_their_defaults():
    example = (PROJECT / ".env.example").read_text()
    defaults = dict(re.findall(r"^#? ?([A-Z][A-Z_]+)=(.*)$", example, re.MULTILINE))
    table = {}
    for row in re.findall(r"^\| (`[A-Z].*)$", section_of("README.md", "Settings"), re.MULTILINE):
        names, values, _ = row.split(" | ", 2)
        names = re.findall(r"`([A-Z_]+)`", names)
        values = values.split(", ") if len(names) > 1 else [values]
        # Several settings may share what is said of them.
        table |= dict(zip(names, values * (len(names) // len(values)), strict=True))

    assert set(table) == set(defaults)
    for name in ("CACHE_TTL_HOURS", "HTTP_TIMEOUT", *_optional(example)):
        if table[name].startswith("`") and table[name].endswith("`"):
            assert table[name] == f"`{defaults[name]}`"


def _optional(example: str) -> list[str]:
    return [
        name
        for name in re.findall(r"^# ([A-Z][A-Z_]+)=", example, re.MULTILINE)
        if name not in {"LOG_FORMAT", "SANDBOX_PORT", "COLD_CONCURRENCY"}
    ]


def test_the_table_of_endpoints_has_them_all():
    table = re.findall(r"`GET (/[^?`]*)", section_of("README.md", "Endpoints"))
    document = yaml.safe_load((PROJECT / "docs" / "openapi.yaml").read_text())

    assert sorted(table) == sorted([*document["paths"], "/api/docs", "/api/schema"])


def section_of(name: str, title: str) -> str:
    text = (PROJECT / name).read_text()
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]


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
        assert view.rpartition(".")[2] == resolve_view(path), path


def resolve_view(path: str) -> str:
    view = resolve(path.replace("{imdb_id}", "tt1375666")).func
    return view.view_class.__name__
