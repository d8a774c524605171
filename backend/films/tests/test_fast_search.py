"""Searches that are answered from what is kept of them."""

import json

import pytest
from django.core.cache import cache
from django.test import Client, override_settings
from django.urls import clear_url_caches, include, path

from core.errors import InvalidInput
from films.fast_search import FastSearch
from films.tests.fakes import INCEPTION
from films.tests.service import Service
from films.tests.wsgi import environ_of
from films.urls import film_paths
from web.fast_path import PlainRequest

IMAGE = "https://m.media-amazon.com/images/M/x._V1_.jpg"
TITLES = [
    {"id": "tt0000001", "type": "short", "primaryTitle": "Inception: Ürsprung", "startYear": 2009},
    {
        "id": INCEPTION,
        "type": "movie",
        "primaryTitle": "Inception",
        "primaryImage": {"url": IMAGE},
        "startYear": 2010,
    },
]

urlpatterns: list = []

pytestmark = pytest.mark.django_db


@pytest.fixture
def service():
    service = Service()
    service.imdb.answers["search"] = TITLES
    urlpatterns[:] = [
        path(
            "api/",
            include(
                film_paths(
                    get_aggregator=pytest.fail,
                    get_search=lambda: service.search,
                    get_cache=pytest.fail,
                    get_pages=pytest.fail,
                    get_sources=list,
                    regions=("TR",),
                    longest_wait=15,
                )
            ),
        )
    ]
    with override_settings(ROOT_URLCONF=__name__):
        clear_url_caches()
        yield service
    clear_url_caches()


def find(service, query):
    return FastSearch(service.search).find(PlainRequest(environ_of(f"/api/search?{query}")))


@pytest.mark.parametrize(
    "query",
    [
        "q=inception",
        "q=%20INCEPTION%20",
        "q=inception&type=movie",
        "q=inception&year=2009",
        "q=inception&limit=1",
        "q=inception&image_width=300",
        "q=inception&unknown=1",
    ],
)
def test_a_kept_search_is_answered_as_the_view_answers_it(service, query):
    service.search.search("inception")

    kept, answer = find(service, query), Client().get(f"/api/search?{query}")

    assert kept.body == answer.content
    assert f"public, max-age={kept.max_age}" == answer["Cache-Control"]
    assert answer.json()["results"]
    assert service.imdb.called == ["search"]


def test_a_kept_search_counts_the_call_that_it_avoids(service, avoided):
    service.search.search("inception")

    for query in ("q=inception", "q=inception", "q=INCEPTION&limit=1"):
        find(service, query)

    assert avoided() == {("imdbapi", "cache_hit"): 3}


def test_a_search_that_is_not_kept_is_left_to_the_view(service):
    assert find(service, "q=inception") is None
    assert service.imdb.called == []


def test_an_invalid_request_is_left_to_the_view(service):
    with pytest.raises(InvalidInput):
        find(service, "q=inception&limit=0")


def test_titles_that_are_found_later_are_answered(service):
    service.search.search("inception")
    find(service, "q=inception")
    cache.clear()
    service.imdb.answers["search"] = TITLES[:1]
    service.search.search("inception")

    assert INCEPTION.encode() not in find(service, "q=inception").body


KEPT = {
    "imdb_id": INCEPTION,
    "title": "Inception",
    "original": None,
    "year": 2010,
    "end_year": None,
    "image": IMAGE,
    "type": "movie",
}


@pytest.mark.parametrize(
    "value",
    [
        "nonsense",
        "[" * 100_000,
        "[1]",
        '[{"imdb_id": "tt1"}]',
        "{}",
        [],
        5,
        *(
            json.dumps([KEPT | changes])
            for changes in (
                {"imdb_id": None},
                {"title": 5},
                {"title": "\ud800"},
                {"original": {}},
                {"year": "x"},
                {"year": 10**400},
                {"end_year": [1]},
                {"image": "javascript:alert(1)"},
                {"type": [1]},
            )
        ),
        json.dumps([KEPT | {"title": "\ud800"}], ensure_ascii=False),
    ],
)
@pytest.mark.parametrize("filters", ["", "&type=movie", "&year=2010"])
def test_a_value_of_another_shape_is_not_kept(service, monkeypatch, value, filters):
    monkeypatch.setattr(cache, "get", lambda key: value)

    assert find(service, f"q=inception{filters}") is None
    assert service.search.cached("inception") is None
