"""The memory for hot films, wired to Django as the server runs it."""

import io
from datetime import timedelta

import pytest
from django.core.wsgi import get_wsgi_application
from django.utils import timezone

from core import metrics
from filmosphere.wiring import hot_films
from films.models import Film, FilmFetch
from films.services.film_cache import FilmCacheService

FILM = "tt1375666"
PAYLOAD = {"imdb_id": FILM, "title": "Inception", "metadata": {}, "warnings": []}


# Not in a transaction: between requests Django closes a connection that is in one.
@pytest.fixture
def application(settings, transactional_db):
    settings.HOT_SECONDS = 5.0
    return hot_films(get_wsgi_application())


@pytest.fixture
def _stored(transactional_db):
    FilmCacheService(ttl=timedelta(hours=24)).save_cache(FILM, PAYLOAD)


@pytest.fixture
def _expired(_stored):
    # Its last fetch failed, and another one is not due yet.
    Film.objects.update(cached_at=timezone.now() - timedelta(days=2))
    FilmFetch.objects.create(imdb_id=FILM, retry_at=timezone.now() + timedelta(minutes=1))


def get(application, **headers):
    started = []
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": f"/api/films/{FILM}",
        "SERVER_NAME": "testserver",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "testserver",
        "wsgi.input": io.BytesIO(),
        "wsgi.url_scheme": "http",
        **{f"HTTP_{name.upper()}": value for name, value in headers.items()},
    }
    answer = application(environ, lambda *given: started.append(given))
    (status, given), body = started[0], b"".join(answer)
    return int(status[:3]), dict(given), body


@pytest.mark.usefixtures("_stored")
@pytest.mark.parametrize("headers", [{}, {"accept_encoding": "gzip"}])
def test_the_second_reader_of_a_film_costs_no_query(
    application, django_assert_num_queries, headers
):
    status, given, body = get(application, **headers)

    with django_assert_num_queries(0):
        again, repeated, same = get(application, **headers)

    assert (status, again, body) == (200, 200, same)
    assert given.pop("X-Correlation-ID") != repeated.pop("X-Correlation-ID")
    assert given == repeated


@pytest.mark.usefixtures("_stored")
def test_so_does_the_second_who_has_it_already(application, django_assert_num_queries):
    tag = get(application)[1]["ETag"]
    get(application, if_none_match=tag)

    with django_assert_num_queries(0):
        status, given, body = get(application, if_none_match=tag)

    assert (status, given["ETag"], body) == (304, tag, b"")


@pytest.mark.usefixtures("_expired")
def test_so_does_the_second_who_is_shown_a_copy_past_its_time(
    application, django_assert_num_queries
):
    get(application)

    with django_assert_num_queries(0):
        status, given, _ = get(application)

    assert (status, given["Cache-Status"]) == (200, "Filmosphere; hit; detail=stale")


@pytest.mark.usefixtures("_stored")
def test_repeated_answers_are_counted_and_logged_with_their_film(application, caplog):
    counted = metrics.REQUESTS.labels("films/hot", 200)._value
    get(application)
    before = counted.get()
    caplog.clear()

    get(application)

    assert counted.get() == before + 1
    assert [line.film for line in caplog.records] == [FILM]


def test_without_a_time_there_is_no_memory(settings):
    settings.HOT_SECONDS = 0.0
    django = get_wsgi_application()

    assert hot_films(django) is django
