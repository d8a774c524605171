"""The WSGI application with the fast path, wired to Django as the server runs it."""

import gzip
from datetime import timedelta

import pytest
from django.core.wsgi import get_wsgi_application
from django.utils import timezone

from core import metrics
from filmosphere import wiring
from films.models import Film, FilmFetch
from films.payload import SECTION_NAMES
from films.services.film_cache import FilmCacheService
from films.tests.fakes import payload_of
from films.tests.wsgi import Answer, call

FILM = "/api/films/tt1375666"
FIELDS = "?fields=title,metadata.primaryTitle,credits,trailer"
PATHS = [FILM, f"{FILM}/trailer", f"{FILM}/streaming", f"{FILM}/credits", f"{FILM}{FIELDS}"]

# Not in a transaction: between requests Django closes a connection that is in one.
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def application(settings):
    settings.HOT_SECONDS = 5.0
    return wiring.fast_path(get_wsgi_application())


@pytest.fixture
def _stored():
    FilmCacheService(ttl=timedelta(hours=24)).save_cache("tt1375666", payload_of())


def without_id(answer: Answer) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name != "X-Correlation-ID"}


@pytest.mark.usefixtures("_stored")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("headers", [{}, {"accept_encoding": "gzip"}])
def test_the_second_reader_costs_no_query(application, django_assert_num_queries, path, headers):
    first = call(application, path, **headers)

    with django_assert_num_queries(0):
        second = call(application, path, **headers)

    assert (first.status, second.status, first.body) == (200, 200, second.body)
    assert without_id(first) == without_id(second)


@pytest.mark.usefixtures("_stored")
@pytest.mark.parametrize("path", PATHS)
def test_neither_does_a_conditional_request(application, django_assert_num_queries, path):
    tag = call(application, path).headers["ETag"]

    with django_assert_num_queries(0):
        answer = call(application, path, if_none_match=tag)

    assert (answer.status, answer.headers["ETag"], answer.body) == (304, tag, b"")


@pytest.mark.usefixtures("_stored")
@pytest.mark.parametrize("section", ["", FIELDS, *(f"/{name}" for name in SECTION_NAMES)])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("headers", [{}, {"prefer": "wait=1"}, {"if_none_match": "*"}])
def test_the_fast_path_answers_as_the_view_does(application, section, method, headers):
    """A cache in front cannot tell which of the two answered."""
    view = get_wsgi_application()
    path = f"{FILM}{section}"

    fast, slow = (call(each, path, method, **headers) for each in (application, view))

    assert fast.status == slow.status
    # A server sends no body in answer to HEAD, whatever Django returns.
    assert fast.body == (b"" if method == "HEAD" else slow.body)
    for name in ("ETag", "Last-Modified", "Content-Type", "Preference-Applied"):
        assert fast.headers.get(name) == slow.headers.get(name)
    assert abs(fast.max_age - slow.max_age) <= 1
    assert set(fast.headers) <= set(slow.headers)


@pytest.mark.usefixtures("_stored")
@pytest.mark.parametrize("path", PATHS)
def test_with_gzip_both_have_the_same_content(application, path):
    view = get_wsgi_application()

    fast, slow = (
        gzip.decompress(answer.body) if "Content-Encoding" in answer.headers else answer.body
        for answer in (call(each, path, accept_encoding="gzip") for each in (application, view))
    )

    assert fast == slow


@pytest.mark.usefixtures("_stored")
def test_an_expired_film_is_stale_and_not_remembered(application):
    # Its last fetch failed, and another one is not due yet.
    Film.objects.update(cached_at=timezone.now() - timedelta(days=2))
    FilmFetch.objects.create(
        imdb_id="tt1375666", retry_at=timezone.now() + timedelta(minutes=1), failure="timeout"
    )

    answer = call(application, FILM)

    assert (answer.status, answer.headers["Cache-Status"]) == (
        200,
        "Filmosphere; hit; detail=stale",
    )
    assert 50 <= answer.max_age <= 60
    FilmCacheService(ttl=timedelta(hours=24)).save_cache("tt1375666", payload_of())
    assert call(application, FILM).json["warnings"] == []


@pytest.mark.usefixtures("_stored")
def test_hits_are_counted_and_logged_with_their_film(application, caplog):
    counter = metrics.REQUESTS.labels("films/fast", 200)._value
    call(application, FILM)
    before = counter.get()
    caplog.clear()

    call(application, FILM)

    assert counter.get() == before + 1
    assert [line.film for line in caplog.records] == ["tt1375666"]


@pytest.mark.usefixtures("_stored")
def test_all_other_requests_are_answered_by_django(application):
    assert call(application, "/healthz").status == 200
    assert call(application, "/api/films/abc").status == 400
    assert call(application, FILM, "POST").status == 405
    assert call(application, FILM, host="evil.example").status == 400
    assert call(application, f"{FILM}?fields=nonsense").status == 400


@pytest.mark.usefixtures("_stored")
def test_with_a_time_of_zero_nothing_is_remembered(settings, django_assert_num_queries):
    settings.HOT_SECONDS = 0.0
    application = wiring.fast_path(get_wsgi_application())
    call(application, FILM)

    with django_assert_num_queries(1):
        call(application, FILM)
