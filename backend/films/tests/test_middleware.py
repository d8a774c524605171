"""The short way to films that are in the cache."""

import json
import re
from datetime import timedelta

import pytest
from django.db import OperationalError
from django.http import HttpResponse
from django.test import RequestFactory

from films.middleware import CachedFilmMiddleware
from films.models import Film, FilmBody
from films.services.film_cache import FilmCacheService
from films.tests.fakes import INCEPTION, Clock, FakeAggregator

PAYLOAD = {"imdb_id": INCEPTION, "title": "Inception", "metadata": {}, "warnings": []}
FILM = f"/api/films/{INCEPTION}"


def answer(aggregator, path=FILM, method="get", **headers):
    middleware = CachedFilmMiddleware(
        lambda request: HttpResponse(b"the long way"),
        path=re.compile(r"/api/films/(tt[0-9]{1,18})/?"),
        get_aggregator=lambda: aggregator,
    )
    return middleware(getattr(RequestFactory(), method)(path, headers=headers))


class Misses:
    def hit(self, imdb_id, *, gzipped=False):
        return None


class Broken:
    def hit(self, imdb_id, *, gzipped=False):
        raise OperationalError


@pytest.mark.parametrize("path", [FILM, f"{FILM}/", f"{FILM}?unknown=1"])
def test_a_hit_is_answered_at_once(path):
    response = answer(FakeAggregator(PAYLOAD), path)

    assert response.status_code == 200
    assert response["ETag"]
    assert b"Inception" in response.content


def test_a_hit_can_be_304():
    tag = answer(FakeAggregator(PAYLOAD))["ETag"]

    assert answer(FakeAggregator(PAYLOAD), if_none_match=tag).status_code == 304


def test_a_miss_goes_the_long_way():
    assert answer(Misses()).content == b"the long way"


def test_without_a_database_it_tells_so_itself_and_nobody_waits_for_it_again():
    response = answer(Broken())

    assert (response.status_code, response["Retry-After"]) == (503, "5")
    assert json.loads(response.content)["error_code"] == "503"


@pytest.mark.parametrize(
    "path", ["/api/films/abc", f"{FILM}/trailer", f"{FILM}%0A", "/api/search", "/api/films/"]
)
def test_whatever_is_no_film_goes_the_long_way(path):
    assert answer(FakeAggregator(PAYLOAD), path).content == b"the long way"


@pytest.mark.parametrize("method", ["post", "put", "delete", "options"])
def test_another_method_goes_the_long_way(method):
    assert answer(FakeAggregator(PAYLOAD), method=method).content == b"the long way"


@pytest.mark.django_db
class TestHits:
    def cache(self) -> FilmCacheService:
        self.clock = Clock()
        return FilmCacheService(ttl=timedelta(hours=24), now=self.clock)

    def test_the_bytes_of_a_hit_are_those_that_were_stored(self):
        cache = self.cache()
        cache.save_cache(INCEPTION, PAYLOAD)

        assert cache.hit(INCEPTION).answer.payload == PAYLOAD
        assert cache.hit(INCEPTION, gzipped=True).answer.payload == PAYLOAD

    def test_a_hit_costs_one_query(self, django_assert_num_queries):
        cache = self.cache()
        cache.save_cache(INCEPTION, PAYLOAD)

        with django_assert_num_queries(1):
            cache.hit(INCEPTION)

    def test_a_row_written_without_bytes_is_rendered(self):
        cache = self.cache()
        Film.objects.create(
            imdb_id=INCEPTION, title="x", full_json=PAYLOAD, cached_at=self.clock.time
        )

        assert cache.hit(INCEPTION).answer.payload == PAYLOAD

    def test_bytes_of_an_older_payload_are_not_shown(self):
        cache = self.cache()
        cache.save_cache(INCEPTION, PAYLOAD)
        film = Film.objects.get()
        film.full_json = {**PAYLOAD, "title": "Changed"}
        film.save()

        assert cache.hit(INCEPTION).answer.payload["title"] == "Changed"

    def test_an_expired_film_is_no_hit(self):
        cache = self.cache()
        cache.save_cache(INCEPTION, PAYLOAD)
        self.clock.pass_by(hours=24)

        assert cache.hit(INCEPTION) is None

    def test_equal_payloads_have_equal_versions_whoever_stored_them(self):
        cache = self.cache()
        cache.save_cache(INCEPTION, PAYLOAD)
        first = cache.hit(INCEPTION).answer.version
        cache.save_cache(INCEPTION, PAYLOAD)

        assert cache.hit(INCEPTION).answer.version == first

    def test_a_film_and_its_bytes_go_together(self):
        self.cache().save_cache(INCEPTION, PAYLOAD)

        Film.objects.all().delete()

        assert not FilmBody.objects.exists()
