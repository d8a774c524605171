"""The OpenAPI document against real answers, and against what was promised by hand."""

import copy
import json
import re
import urllib.request

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from api.openapi import DocumentGenerator
from core.services import shapes
from tools.harness.contracts import broken_promises, differences, validator
from tools.harness.sandbox import Sandbox
from tools.harness.server import BACKEND, PROJECT, Server, database, server

CATALOGUE = json.loads((BACKEND / "sandbox" / "catalogue.json").read_text())
TITLES = [film["id"] for film in CATALOGUE["films"]]


@pytest.fixture(scope="module")
def document():
    return json.loads(json.dumps(DocumentGenerator().get_schema(request=None, public=True)))


@pytest.fixture(scope="module")
def promised():
    return yaml.safe_load((PROJECT / "filmosphere_openapi.yaml").read_text())


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("openapi")
    limits = {"FILM_MISS_THROTTLE_RATE": "", "SEARCH_THROTTLE_RATE": "", "MAX_THRESHOLD": "1000"}
    settings = limits | {"DJANGO_DEBUG": "True", "HTTP_RETRIES": "1"}
    with database(folder) as url, server(folder, DATABASE_URL=url, **settings) as started:
        yield started


def sources_of(service: Server) -> Sandbox:
    return Sandbox(service.sandbox_url)


@pytest.fixture
def sources(service) -> Sandbox:
    sources = sources_of(service)
    yield sources
    sources.clear_faults()


def post(service: Server, path: str) -> tuple[int, dict]:
    request = urllib.request.Request(service.url + path, method="POST")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    with caught.value as answer:
        return answer.code, json.load(answer)


def faults_of(document, component, body) -> list[str]:
    found = validator(document, component, closed=True).iter_errors(body)
    return [f"{error.json_path}: {error.message[:200]}" for error in found]


def examples_of(document, path: str, status: str) -> dict:
    content = document["paths"][path]["get"]["responses"][status]["content"]
    return {name: each["value"] for name, each in content["application/json"]["examples"].items()}


# --- answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("imdb_id", TITLES)
def test_every_field_of_a_film_is_in_the_document(service, document, imdb_id):
    answer = service.get(f"/api/films/{imdb_id}")

    assert answer.status == 200
    assert faults_of(document, "FilmDetail", answer.json) == []


@pytest.mark.parametrize(
    ("path", "component"),
    [
        ("/api/search?q=the", "Search"),
        ("/api/search?q=Announced", "Search"),
        ("/api/search?q=nothing+has+this+name", "Search"),
        ("/api/films/tt1375666/trailer", "FilmTrailer"),
        ("/api/films/tt0346094/trailer", "FilmTrailer"),
        ("/api/films/tt1375666/streaming", "FilmStreaming"),
        ("/api/films/tt0091251/streaming", "FilmStreaming"),
        *[
            (f"/api/films/tt1375666/{path}", f"Film{component}")
            for path, component in (
                ("metadata", "Metadata"),
                ("credits", "Credits"),
                ("images", "Images"),
                ("videos", "Videos"),
                ("parents_guide", "ParentsGuide"),
                ("certificates", "Certificates"),
                ("certificates?country=US", "Certificates"),
                ("certificates?country=ZW", "Certificates"),
                ("release_dates?country=TR", "ReleaseDates"),
                ("trailer?alternatives=true", "Trailer"),
                ("streaming?view=grouped", "Offers"),
            )
        ],
        ("/api/sources", "Sources"),
        ("/api/v1/search/?query=matrix", "MovieResultsAnswer"),
        ("/api/v1/search/?query=nothing+has+this+name", "MovieResultsAnswer"),
        ("/api/v1/search/id/?id=tt0903747", "MovieAnswer"),
        ("/", "Index"),
        ("/healthz", "Status"),
        ("/readyz", "Readiness"),
    ],
)
def test_every_field_of_other_responses_is_in_the_document(service, document, path, component):
    answer = service.get(path)

    assert answer.status == 200
    assert faults_of(document, component, answer.json) == []


@pytest.mark.parametrize(
    "fields",
    ["title", "trailer.title,metadata.rating", "credits.totalCount,streaming,images", "warnings"],
)
def test_a_film_with_chosen_fields_is_in_the_document(service, document, fields):
    film = service.get(f"/api/films/tt1375666?fields={fields}")
    batch = service.get(f"/api/films?ids=tt1375666,tt99999999999,tt99999999998&fields={fields}")

    assert film.status == batch.status == 200
    assert faults_of(document, "FilmPart", film.json) == []
    assert faults_of(document, "Films", batch.json) == []
    assert batch.json["films"][0]["film"] == film.json


def test_unknown_fields_are_allowed_in_what_sources_send(document):
    film = {**examples_of(document, "/api/films/{imdb_id}", "200")["Film"]}
    film["metadata"] = {**film["metadata"], "awards": {"won": 4}}
    film["streaming"] = [{"name": "A service", "currency": "TRY"}]

    assert list(validator(document, "FilmDetail", closed=False).iter_errors(film)) == []


# Whatever the sources send: one value of a real answer is replaced by any other.

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
_SECTIONS = {
    "metadata": ("IMDbMetadata", shapes.IMDbMetadata),
    "credits": ("Credits", shapes.Credits),
    "images": ("Images", shapes.Images),
    "videos": ("Videos", shapes.Videos),
    "parents_guide": ("ParentsGuide", shapes.ParentsGuide),
    "certificates": ("Certificates", shapes.Certificates),
    "release_dates": ("ReleaseDates", shapes.ReleaseDates),
    "trailer": ("Trailer", shapes.Trailer),
    "streaming": ("StreamingSource", shapes.StreamingSource),
}


def _replaced(value, data):
    """A copy of `value` in which something, somewhere, is anything else."""
    places = list(value) if isinstance(value, dict) else list(range(len(value)))
    place = data.draw(st.sampled_from(places))
    copied = copy.copy(value)
    is_leaf = not value[place] or not isinstance(value[place], dict | list)
    if is_leaf or data.draw(st.integers(0, 5)) == 0:
        copied[place] = data.draw(_JSON)
    else:
        copied[place] = _replaced(value[place], data)
    return copied


@settings(max_examples=400, deadline=None)
@given(data=st.data(), section=st.sampled_from(sorted(_SECTIONS)))
def test_what_is_left_of_any_answer_is_in_the_document(document, data, section):
    component, shape = _SECTIONS[section]
    real = examples_of(document, "/api/films/{imdb_id}", "200")["Film"][section]
    is_list = isinstance(real, list)
    sent = _replaced(real[0] if is_list else real, data)
    required = {name: real[name] for name in shape.__required_keys__}

    left = shapes.sanitize(copy.deepcopy(sent | required), shape, source="any")

    assert list(validator(document, component, closed=False).iter_errors(left)) == []
    assert shapes.sanitize(copy.deepcopy(left), shape, source="any") == left


# --- examples ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "name", "path"),
    [
        ("/api/search", "Search", "/api/search?q=the"),
        ("/api/films/{imdb_id}", "Film", "/api/films/tt1375666"),
        ("/api/films/{imdb_id}/trailer", "Trailer", "/api/films/tt1375666/trailer"),
        ("/api/films/{imdb_id}/trailer", "NoTrailer", "/api/films/tt0346094/trailer"),
        ("/api/films/{imdb_id}/streaming", "Streaming", "/api/films/tt1375666/streaming"),
        ("/api/films/{imdb_id}/streaming", "NoStreaming", "/api/films/tt0091251/streaming"),
        ("/api/v1/search/", "Movies", "/api/v1/search/?query=matrix"),
        ("/api/v1/search/", "NoMovies", "/api/v1/search/?query=nothing+has+this+name"),
        ("/api/v1/search/id/", "Movie", "/api/v1/search/id/?id=tt0903747"),
        ("/", "Index", "/"),
        ("/healthz", "Fine", "/healthz"),
        ("/readyz", "Fine", "/readyz"),
    ],
)
def test_an_example_is_a_real_answer_cut_short(service, document, operation, name, path):
    shown = examples_of(document, operation, "200")[name]

    assert list(differences(shown, service.get(path).json)) == []


@pytest.fixture(scope="module")
def strict_service(tmp_path_factory):
    """With two sources down, and one request of each kind a minute."""
    folder = tmp_path_factory.mktemp("strict")
    limits = {"FILM_MISS_THROTTLE_RATE": "1/min", "SEARCH_THROTTLE_RATE": "1/min"}
    with (
        database(folder) as url,
        server(folder, DATABASE_URL=url, HTTP_RETRIES="1", MAX_THRESHOLD="1", **limits) as started,
    ):
        for source in ("kinocheck", "watchmode"):
            sources_of(started).fault("status", status=503, source=source)
        yield started


def test_the_example_with_warnings_is_a_real_answer(strict_service, document):
    shown = examples_of(document, "/api/films/{imdb_id}", "200")["FilmWithWarnings"]

    real = strict_service.get(f"/api/films/{shown['imdb_id']}").json

    assert list(differences(shown, real)) == []
    assert faults_of(document, "FilmDetail", real) == []


@pytest.mark.parametrize(
    ("operation", "first", "second"),
    [
        ("/api/search", "/api/search?q=the", "/api/search?q=last"),
        ("/api/films/{imdb_id}", "/api/films/tt0000001", "/api/films/tt0000002"),
        ("/api/v1/search/", *["/api/v1/search/?query=matrix"] * 2),
        ("/api/v1/search/id/", *["/api/v1/search/id/?id=tt0903747"] * 2),
    ],
)
def test_the_429_in_the_document_is_a_real_response(
    strict_service, document, operation, first, second
):
    # What is answered from a cache is not counted.
    strict_service.get(first)
    answer = strict_service.get(second)

    assert answer.status == 429
    assert int(answer.headers["Retry-After"]) > 0
    shown = examples_of(document, operation, "429")["Error"]
    assert re.sub("[0-9]+ s", "42 s", answer.json["message"]) == shown["message"]


@pytest.mark.parametrize(
    ("operation", "path", "status"),
    [
        ("/api/search", "/api/search", 400),
        ("/api/films/{imdb_id}", "/api/films/abc", 400),
        ("/api/films/{imdb_id}", "/api/films/tt99999999999", 404),
        ("/api/v1/search/", "/api/v1/search/", 400),
        ("/api/v1/search/id/", "/api/v1/search/id/", 400),
        ("/api/v1/search/id/", "/api/v1/search/id/?id=tt99999999999", 404),
    ],
)
def test_an_error_in_the_document_is_a_real_one(service, document, operation, path, status):
    answer = service.get(path)

    assert answer.status == status
    assert examples_of(document, operation, str(status)) == {"Error": answer.json}


def test_the_wrong_method_in_the_document_is_real(service, document):
    for operation in document["paths"]:
        status, body = post(service, operation.replace("{imdb_id}", "tt1375666"))

        assert status == 405
        assert examples_of(document, operation, "405") == {"Error": body}


@pytest.mark.parametrize(
    ("operation", "path", "source"),
    [
        ("/api/search", "/api/search?q=not+yet+asked", "imdbapi"),
        ("/api/films/{imdb_id}", "/api/films/tt0000001", "imdbapi"),
        ("/api/v1/search/", "/api/v1/search/?query=not+yet+asked", "omdb"),
        ("/api/v1/search/id/", "/api/v1/search/id/?id=tt0000001", "omdb"),
    ],
)
def test_failures_in_the_document_are_real(service, document, sources, operation, path, source):
    # A source that is down is left alone for a while, so this comes last.
    for number, (status, fault) in enumerate([(502, "html"), (503, "reset")], start=1):
        sources.clear_faults()
        sources.fault(fault, source=source)
        # Another title: that one is unusable is remembered for a minute.
        answer = service.get(path.replace("tt0000001", f"tt000000{number}"))

        assert answer.status == status
        assert examples_of(document, operation, str(status)) == {"Error": answer.json}


# --- the document -----------------------------------------------------------------------------


def test_each_operation_has_a_name_a_summary_a_tag_and_knows_the_common_headers(document):
    names = []
    for path, methods in document["paths"].items():
        operation = methods["get"]
        names.append(operation["operationId"])
        assert operation["summary"], path
        assert operation["tags"], path
        assert "X-Correlation-ID" in [each["name"] for each in operation["parameters"]]
        for status, response in operation["responses"].items():
            assert response["description"], f"{path} {status}"
            assert "X-Correlation-ID" in response["headers"]
            assert ("Retry-After" in response["headers"]) == (status in {"429", "503"})

    assert sorted(names) == [
        "getFilm",
        "getFilmCertificates",
        "getFilmCredits",
        "getFilmImages",
        "getFilmMetadata",
        "getFilmParentsGuide",
        "getFilmReleaseDates",
        "getFilmStreaming",
        "getFilmTrailer",
        "getFilmVideos",
        "getFilms",
        "getHealth",
        "getIndex",
        "getMetrics",
        "getMovie",
        "getReadiness",
        "getSources",
        "searchFilms",
        "searchMovies",
    ]


def test_all_parts_of_the_document_are_described(document):
    missing = []
    for name, schema in document["components"]["schemas"].items():
        places = {name: schema}
        places |= {f"{name}.{key}": each for key, each in schema.get("properties", {}).items()}
        missing += [place for place, each in places.items() if not each.get("description")]
    for name, header in document["components"]["headers"].items():
        missing += [] if header.get("description") else [name]
    for path, methods in document["paths"].items():
        operation = methods["get"]
        missing += [] if operation.get("description") else [path]
        missing += [
            f"{path} {each['name']}"
            for each in operation["parameters"]
            if not each.get("description")
        ]

    assert missing == []


def test_the_document_is_open_to_new_values_and_fields(document):
    text = json.dumps(document["components"]["schemas"])

    assert '"enum"' not in text
    assert '"additionalProperties": true' not in text
    assert '"additionalProperties": false' not in text


def test_the_document_names_version_licence_and_contact_and_needs_no_login(document):
    assert document["openapi"] == "3.1.0"
    assert document["info"]["license"]["name"] == "MIT"
    assert document["info"]["contact"]["name"]
    assert document["security"] == []
    assert "security" not in json.dumps(document["paths"])


def test_headers_of_a_film_are_in_the_document(service, document):
    answer = service.get("/api/films/tt1375666")

    described = document["paths"]["/api/films/{imdb_id}"]["get"]["responses"]["200"]["headers"]
    ours = {"etag", "last-modified", "cache-control", "cache-status", "vary", "x-correlation-id"}
    assert ours <= {name.lower() for name in answer.headers}
    assert ours <= {name.lower() for name in described}


def test_the_document_keeps_all_that_was_promised_by_hand(document, promised):
    assert broken_promises(promised, document) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it["info"].update(title="Another API"),
        lambda it: it["paths"].pop("/api/films/{imdb_id}/trailer"),
        lambda it: it["paths"]["/api/search"]["get"].update(operationId="search"),
        lambda it: it["paths"]["/api/search"]["get"]["parameters"].clear(),
        lambda it: it["paths"]["/api/search"]["get"]["parameters"].append(
            {"in": "query", "name": "page", "required": True, "schema": {"type": "integer"}}
        ),
        lambda it: it["paths"]["/api/films/{imdb_id}"]["get"]["responses"].pop("304"),
        lambda it: it["paths"]["/api/films/{imdb_id}"]["get"]["responses"]["200"]["headers"].pop(
            "ETag"
        ),
        lambda it: it["components"]["schemas"].pop("Person"),
        lambda it: it["components"]["schemas"]["FilmDetail"]["required"].remove("warnings"),
        lambda it: it["components"]["schemas"]["FilmDetail"]["properties"].pop("trailer"),
        lambda it: it["components"]["schemas"]["FilmDetail"]["properties"]["trailer"][
            "anyOf"
        ].pop(),
        lambda it: it["components"]["schemas"]["Rating"]["properties"]["voteCount"].update(
            type="string"
        ),
        lambda it: it["components"]["schemas"]["SearchResult"]["properties"]["year"]["anyOf"].pop(),
        lambda it: it["components"]["schemas"]["Image"]["properties"].update(
            url={"anyOf": [{"type": "string"}, {"type": "null"}]}
        ),
        lambda it: it["components"]["schemas"]["Image"]["properties"]["url"].update(format="uri"),
        lambda it: it["components"]["schemas"]["WarningCode"].update(enum=["timeout"]),
        lambda it: it["components"]["schemas"]["StreamingSource"].update(
            additionalProperties=False
        ),
    ],
)
def test_a_promise_that_is_broken_is_noticed(document, promised, change):
    changed = copy.deepcopy(document)
    change(changed)

    assert broken_promises(promised, changed) != []
