"""What the access log says about where the answer of a view came from."""

import threading
from collections import Counter

import pytest
from django.core.cache import cache
from django.test import Client, override_settings
from django.urls import clear_url_caches, include, path

from core.errors import UpstreamTimeout, UpstreamUnavailable
from films.payload import FILM_CALLS
from films.services.fan_out import SectionPages
from films.tests.fakes import INCEPTION
from films.tests.service import Service
from films.urls import film_paths

FILM = f"/api/films/{INCEPTION}"
OTHER = "tt0000002"

urlpatterns: list = []

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def service():
    made = Service()
    pages = SectionPages(
        imdb=made.imdb,
        source=made.sources["imdbapi"],
        miss_slots=threading.Semaphore(4),
        keep_seconds=60,
        deadline_seconds=5,
    )
    routes = film_paths(
        get_aggregator=lambda: made.aggregator,
        get_search=lambda: made.search,
        get_cache=lambda: made.cache,
        get_pages=lambda: pages,
        get_sources=list,
        regions=("TR",),
        longest_wait=15,
    )
    urlpatterns[:] = [path("api/", include(routes))]
    clear_url_caches()
    cache.clear()
    with override_settings(ROOT_URLCONF=__name__):
        made.vouch_for(INCEPTION, OTHER)
        yield made


@pytest.fixture
def outcome_of(log):
    def get(address):
        Client().get(address)
        return log.of("request")[-1]["cache"]

    return get


def test_a_film_is_a_miss_once_and_a_row_from_then_on(service, outcome_of):
    assert [outcome_of(FILM), outcome_of(FILM), outcome_of(f"{FILM}/trailer")] == [
        "miss",
        "row",
        "row",
    ]


@pytest.mark.parametrize(
    ("address", "calls"),
    [
        (f"{FILM}?image_width=200", FILM_CALLS),
        (f"{FILM}/streaming?view=grouped", FILM_CALLS),
        (f"{FILM}/certificates?country=TR", FILM_CALLS),
        (f"/api/films?ids={INCEPTION},{OTHER}", FILM_CALLS * 2),
        (f"{FILM}/credits?page_token=abc", ["imdbapi"]),
        ("/api/search?q=inception", ["imdbapi"]),
        (f"/api/search?q={INCEPTION}", ["imdbapi"]),
    ],
)
def test_an_answer_from_a_cache_counts_the_calls_that_it_avoids(service, avoided, address, calls):
    service.fetch(OTHER)
    service.fetch()
    Client().get(address)
    avoided()

    Client().get(address)

    assert avoided() == {(source, "cache_hit"): n for source, n in Counter(calls).items()}


def test_a_film_of_which_a_section_could_not_be_fetched_is_partial(service, outcome_of):
    service.kinocheck.fail(UpstreamTimeout("kinocheck", "http_response_timeout"), "get_trailer")

    assert outcome_of(FILM) == "partial"


def test_an_expired_film_that_cannot_be_fetched_is_stale(service, outcome_of):
    service.fetch()
    service.clock.advance(hours=25)
    service.break_sources()

    assert outcome_of(FILM) == "stale"


def test_the_film_of_a_batch_that_took_longest_counts(service, outcome_of):
    service.fetch()

    assert outcome_of(f"/api/films?ids={INCEPTION}") == "row"
    assert outcome_of(f"/api/films?ids={INCEPTION},{OTHER}") == "miss"


def test_an_error_comes_from_nowhere_and_has_its_reason(service, outcome_of, log):
    service.imdb.fail(UpstreamUnavailable("imdbapi", "dns_error"), "get_metadata")

    assert outcome_of(FILM) == "none"
    assert log.of("request")[-1]["reason"] == "unavailable"


def test_a_search_is_a_miss_once_and_from_memory_then(service, outcome_of):
    address = "/api/search?q=inception"

    assert [outcome_of(address), outcome_of(address)] == ["miss", "memory"]


def test_a_page_of_a_section_is_a_miss_once_and_from_memory_then(service, outcome_of):
    address = f"{FILM}/credits?page_token=x"

    assert [outcome_of(address), outcome_of(address)] == ["miss", "memory"]


def test_nothing_is_left_over_from_the_request_before(service, outcome_of):
    service.fetch()

    assert [outcome_of(FILM), outcome_of("/api/films/no-id")] == ["row", "none"]
