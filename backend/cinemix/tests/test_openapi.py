import pytest

from api.openapi import DocumentGenerator
from cinemix.dtos import MovieDetails, MovieResult, MovieResults


@pytest.fixture(scope="module")
def document():
    return DocumentGenerator().get_schema(request=None, public=True)


@pytest.mark.parametrize("model", [MovieDetails, MovieResult, MovieResults])
def test_a_component_requires_all_fields_of_the_dto(document, model):
    component = document["components"]["schemas"][model.__name__]

    assert set(component["properties"]) == set(model.model_fields)
    assert set(component["required"]) == set(model.model_fields)


@pytest.mark.parametrize("model", [MovieDetails, MovieResult])
def test_all_fields_except_id_and_title_are_nullable(document, model):
    properties = document["components"]["schemas"][model.__name__]["properties"]

    types = {
        name: [each["type"] for each in schema.get("anyOf", [schema])]
        for name, schema in properties.items()
    }
    nullable = set(model.model_fields) - {"id", "title"}
    assert types == {
        name: ["string", "null"] if name in nullable else ["string"] for name in properties
    }


def test_the_envelope_requires_all_fields(document):
    assert document["components"]["schemas"]["MovieAnswer"]["required"] == [
        "status",
        "message",
        "data",
    ]


def test_only_paths_with_a_trailing_slash_are_listed(document):
    assert [path for path in document["paths"] if "/v1/" in path] == [
        "/api/v1/search/",
        "/api/v1/search/id/",
    ]


def test_each_operation_lists_its_error_responses(document):
    search = document["paths"]["/api/v1/search/"]["get"]
    movie = document["paths"]["/api/v1/search/id/"]["get"]

    assert set(search["responses"]) == {"200", "400", "405", "429", "502", "503"}
    assert set(movie["responses"]) == {"200", "400", "404", "405", "429", "502", "503"}
