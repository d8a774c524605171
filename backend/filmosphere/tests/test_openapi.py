"""The OpenAPI document against real answers, and against what was promised by hand."""

import copy
import json
import re
import urllib.request

import pytest
import yaml
from drf_spectacular.generators import SchemaGenerator
from hypothesis import given, settings
from hypothesis import strategies as st

from core import source_shapes
from core.services.conformity import conforming
from core.tests.sandbox import Sandbox
from filmosphere.tests.contracts import broken_promises, differences, validator
from filmosphere.tests.house import BACKEND, PROJECT, Server, database, server

CATALOGUE = json.loads((BACKEND / "sandbox" / "catalogue.json").read_text())
TITLES = [film["id"] for film in CATALOGUE["films"]]


@pytest.fixture(scope="module")
def document():
    return json.loads(json.dumps(SchemaGenerator().get_schema(request=None, public=True)))


@pytest.fixture(scope="module")
def promised():
    return yaml.safe_load((PROJECT / "filmosphere_openapi.yaml").read_text())


@pytest.fixture(scope="module")
def house(tmp_path_factory, django_db_setup, django_db_blocker):
    folder = tmp_path_factory.mktemp("openapi")
    limits = {"FILM_MISS_THROTTLE_RATE": "", "SEARCH_THROTTLE_RATE": "", "MAX_THRESHOLD": "1000"}
    with (
        django_db_blocker.unblock(),
        database(folder) as url,
        server(folder, DATABASE_URL=url, DJANGO_DEBUG="True", HTTP_RETRIES="1", **limits) as house,
    ):
        yield house


def sources_of(house: Server) -> Sandbox:
    return Sandbox(re.search(r"sandbox on (http://[0-9.:]+)", house.output)[1])


@pytest.fixture
def sources(house) -> Sandbox:
    sources = sources_of(house)
    yield sources
    sources.clear_faults()


def post(house: Server, path: str) -> tuple[int, dict]:
    request = urllib.request.Request(house.url + path, method="POST")
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
def test_all_that_is_said_of_a_film_is_in_the_document(house, document, imdb_id):
    answer = house.get(f"/api/films/{imdb_id}")

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
        ("/api/v1/search/?query=matrix", "MovieResultsAnswer"),
        ("/api/v1/search/?query=nothing+has+this+name", "MovieResultsAnswer"),
        ("/api/v1/search/id/?id=tt0903747", "MovieAnswer"),
        ("/healthz", "Status"),
        ("/readyz", "Readiness"),
    ],
)
def test_all_that_the_others_answer_is_in_the_document(house, document, path, component):
    answer = house.get(path)

    assert answer.status == 200
    assert faults_of(document, component, answer.json) == []


def test_fields_that_nobody_knows_yet_are_allowed_where_sources_speak(document):
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
    "metadata": ("IMDbMetadata", source_shapes.IMDbMetadataSerializer),
    "credits": ("Credits", source_shapes.CreditsSerializer),
    "images": ("Images", source_shapes.ImagesSerializer),
    "videos": ("Videos", source_shapes.VideosSerializer),
    "parents_guide": ("ParentsGuide", source_shapes.ParentsGuideSerializer),
    "certificates": ("Certificates", source_shapes.CertificatesSerializer),
    "release_dates": ("ReleaseDates", source_shapes.ReleaseDatesSerializer),
    "trailer": ("Trailer", source_shapes.TrailerSerializer),
    "streaming": ("StreamingSource", source_shapes.StreamingSourceSerializer),
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
    certain = {name: real[name] for name in shape.certain} if shape.certain else {}

    left = conforming({**sent, **certain}, shape, source="any")

    assert list(validator(document, component, closed=False).iter_errors(left)) == []
    assert conforming(left, shape, source="any") is left


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
        ("/healthz", "Fine", "/healthz"),
        ("/readyz", "Fine", "/readyz"),
    ],
)
def test_an_example_is_a_real_answer_cut_short(house, document, operation, name, path):
    shown = examples_of(document, operation, "200")[name]

    assert list(differences(shown, house.get(path).json)) == []


@pytest.fixture(scope="module")
def strict_house(tmp_path_factory, django_db_setup, django_db_blocker):
    """With two sources down, and one request of each kind a minute."""
    folder = tmp_path_factory.mktemp("strict")
    limits = {"FILM_MISS_THROTTLE_RATE": "1/min", "SEARCH_THROTTLE_RATE": "1/min"}
    with (
        django_db_blocker.unblock(),
        database(folder) as url,
        server(folder, DATABASE_URL=url, HTTP_RETRIES="1", MAX_THRESHOLD="1", **limits) as house,
    ):
        for source in ("kinocheck", "watchmode"):
            sources_of(house).fault("status", status=503, source=source)
        yield house


def test_the_example_with_warnings_is_a_real_answer(strict_house, document):
    shown = examples_of(document, "/api/films/{imdb_id}", "200")["FilmWithWarnings"]

    real = strict_house.get(f"/api/films/{shown['imdb_id']}").json

    assert list(differences(shown, real)) == []
    assert faults_of(document, "FilmDetail", real) == []


@pytest.mark.parametrize(
    ("operation", "path"),
    [
        ("/api/search", "/api/search?q=the"),
        ("/api/films/{imdb_id}", "/api/films/tt0000001"),
        ("/api/v1/search/", "/api/v1/search/?query=matrix"),
        ("/api/v1/search/id/", "/api/v1/search/id/?id=tt0903747"),
    ],
)
def test_what_the_document_says_to_those_who_are_too_fast_is_real(
    strict_house, document, operation, path
):
    strict_house.get(path)
    answer = strict_house.get(path)

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
def test_an_error_in_the_document_is_a_real_one(house, document, operation, path, status):
    answer = house.get(path)

    assert answer.status == status
    assert examples_of(document, operation, str(status)) == {"Error": answer.json}


def test_the_wrong_method_in_the_document_is_real(house, document):
    for operation in document["paths"]:
        status, body = post(house, operation.replace("{imdb_id}", "tt1375666"))

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
def test_failures_in_the_document_are_real(house, document, sources, operation, path, source):
    # A source that is down is left alone for a while, so this comes last.
    for number, (status, fault) in enumerate([(502, "html"), (503, "reset")], start=1):
        sources.clear_faults()
        sources.fault(fault, source=source)
        # Another title: that one is unusable is remembered for a minute.
        answer = house.get(path.replace("tt0000001", f"tt000000{number}"))

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
        "getFilmStreaming",
        "getFilmTrailer",
        "getHealth",
        "getMetrics",
        "getMovie",
        "getReadiness",
        "searchFilms",
        "searchMovies",
    ]


def test_headers_of_a_film_are_in_the_document(house, document):
    answer = house.get("/api/films/tt1375666")

    described = document["paths"]["/api/films/{imdb_id}"]["get"]["responses"]["200"]["headers"]
    ours = {"etag", "age", "cache-control", "cache-status", "vary", "x-correlation-id"}
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
            "oneOf"
        ].pop(),
        lambda it: it["components"]["schemas"]["Rating"]["properties"]["voteCount"].update(
            type="string"
        ),
        lambda it: it["components"]["schemas"]["SearchResult"]["properties"]["year"].pop(
            "nullable"
        ),
        lambda it: it["components"]["schemas"]["Image"]["properties"]["url"].update(nullable=True),
        lambda it: it["components"]["schemas"]["Image"]["properties"]["url"].update(format="uri"),
        lambda it: it["components"]["schemas"]["WarningCode"]["enum"].append("tired"),
        lambda it: it["components"]["schemas"]["StreamingSource"].update(
            additionalProperties=False
        ),
    ],
)
def test_a_promise_that_is_broken_is_noticed(document, promised, change):
    changed = copy.deepcopy(document)
    change(changed)

    assert broken_promises(promised, changed) != []
