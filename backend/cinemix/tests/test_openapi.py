import pytest
from drf_spectacular.generators import SchemaGenerator

from cinemix.dtos import MovieDetails, MovieResult, MovieResults


@pytest.fixture(scope="module")
def document():
    return SchemaGenerator().get_schema(request=None, public=True)


@pytest.mark.parametrize("model", [MovieDetails, MovieResult, MovieResults])
def test_a_component_has_the_fields_of_the_dto_all_of_them_always_there(document, model):
    component = document["components"]["schemas"][model.__name__]

    assert set(component["properties"]) == set(model.model_fields)
    assert set(component["required"]) == set(model.model_fields)


@pytest.mark.parametrize("model", [MovieDetails, MovieResult])
def test_all_fields_but_id_and_title_may_be_null(document, model):
    properties = document["components"]["schemas"][model.__name__]["properties"]

    nullable = {name for name, schema in properties.items() if schema.get("nullable")}
    assert nullable == set(model.model_fields) - {"id", "title"}
    assert {schema["type"] for schema in properties.values()} == {"string"}


def test_there_is_nothing_in_it_that_only_openapi_3_1_knows(document):
    assert "anyOf" not in str(document["components"]["schemas"]["MovieDetails"])
    assert document["components"]["schemas"]["MovieAnswer"]["required"] == [
        "status",
        "message",
        "data",
    ]
    assert "'const'" not in str(document["components"]["schemas"]["MovieAnswer"])


def test_only_the_form_with_the_final_slash_is_listed(document):
    assert [path for path in document["paths"] if "/v1/" in path] == [
        "/api/v1/search/",
        "/api/v1/search/id/",
    ]


def test_each_operation_lists_its_errors(document):
    search = document["paths"]["/api/v1/search/"]["get"]
    movie = document["paths"]["/api/v1/search/id/"]["get"]

    assert set(search["responses"]) == {"200", "400", "405", "429", "502", "503"}
    assert set(movie["responses"]) == {"200", "400", "404", "405", "429", "502", "503"}
