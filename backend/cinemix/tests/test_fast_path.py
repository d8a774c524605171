"""Movies and searches that are answered from the caches of Cinemix."""

import itertools
import uuid
from dataclasses import replace

import pytest
from django.core.cache import caches
from django.test import Client, override_settings
from django.urls import clear_url_caches, include, path
from prometheus_client import REGISTRY

from cinemix.dtos import MovieDetails, MovieResult, MovieResults
from cinemix.fast_path import DECISION, FastMovies
from cinemix.known_answers import KnownAnswers, search_question
from cinemix.movie_cache import MovieCache
from cinemix.rate_limiter import Decision, RateLimiter, Window
from cinemix.tests.fakes import ANSWER, SHAWSHANK, FakeLimiter, FakeOmdb, make_movies
from cinemix.urls import movie_paths
from core.errors import InvalidInput
from core.redis import shared_redis
from core.tests.redis_doubles import REDIS_URL, needs_redis
from films.tests.wsgi import environ_of
from web.fast_path import PlainRequest

MOVIE = f"/api/v1/search/id/?id={SHAWSHANK}"
SEARCH = "/api/v1/search/?query=shawshank&page=2"
QUESTION = search_question("shawshank", 2)
PATHS = [MOVIE, SEARCH]
FOUND = MovieResults(search_results=[MovieResult.from_omdb(ANSWER)], total_results="98")

urlpatterns: list = []


class Surface:
    """The views and the fast path, with one limiter and the configured caches."""

    def __init__(self, limiter):
        self.omdb = FakeOmdb(ANSWER)
        self.limiter = limiter
        self.answers = KnownAnswers(caches["default"])
        self.cache = MovieCache(caches["movies"])
        self._fast = FastMovies(cache=self.cache, answers=self.answers, limiter=limiter)
        movies = make_movies(self.omdb)
        paths = movie_paths(get_movies=lambda: movies, get_limiter=lambda: limiter)
        urlpatterns[:] = [path("api/v1/", include(paths))]

    def keep(self):
        self.cache.store(SHAWSHANK, MovieDetails.from_omdb(ANSWER))
        self.answers.keep_results(QUESTION, FOUND)

    def find(self, address, request=None):
        find = self._fast.find_movie if "/id/" in address else self._fast.find_search
        return find(request or PlainRequest(environ_of(address)))

    def view(self, address, **environ):
        return Client().get(address, **environ)


@pytest.fixture(autouse=True)
def _routes():
    with override_settings(ROOT_URLCONF=__name__):
        clear_url_caches()
        yield
    clear_url_caches()


@pytest.fixture
def surface():
    surface = Surface(FakeLimiter())
    surface.limiter.decision = Decision(admitted=True, remaining=9, reset=70.0)
    return surface


@pytest.fixture(params=["in memory", pytest.param("in redis", marks=needs_redis)])
def counting(request):
    """A surface with a limit of three requests."""
    is_redis = request.param == "in redis"
    get_redis = (lambda: shared_redis(REDIS_URL)) if is_redis else (lambda: None)
    return Surface(RateLimiter(window=Window(60, 10, 3), get_redis=get_redis))


@pytest.mark.parametrize("address", PATHS)
def test_what_is_kept_is_answered_as_the_view_answers_it(surface, address):
    surface.keep()

    kept, answer = surface.find(address), surface.view(address)

    assert kept.body == answer.content
    assert f"public, max-age={kept.max_age}" == answer["Cache-Control"]
    assert kept.headers == {name: answer[name] for name in kept.headers}
    assert len(kept.headers) == 3
    assert surface.omdb.asked == []


@pytest.mark.parametrize("address", PATHS)
def test_what_is_kept_counts_the_call_that_it_avoids(surface, avoided, address):
    surface.keep()

    surface.find(address)

    assert avoided() == {("omdb", "cache_hit"): 1}


@pytest.mark.parametrize("address", PATHS)
def test_what_is_not_kept_is_left_to_the_view(surface, address):
    assert surface.find(address) is None


@pytest.mark.parametrize("address", ["/api/v1/search/id/?id=x", "/api/v1/search/?query=x&page=0"])
def test_an_invalid_request_is_left_to_the_view_and_not_counted(surface, address):
    with pytest.raises(InvalidInput):
        surface.find(address)

    assert surface.limiter.clients == []


@pytest.mark.parametrize("address", PATHS)
def test_a_refused_request_is_left_to_the_view(surface, address):
    surface.keep()
    surface.limiter.decision = replace(surface.limiter.decision, admitted=False, retry_after=5.0)
    request = PlainRequest(environ_of(address))

    kept = surface.find(address, request)
    answer = surface.view(address, **{DECISION: request.META[DECISION]})

    assert kept is None
    assert (answer.status_code, answer["Retry-After"]) == (429, "5")


@pytest.mark.parametrize("address", PATHS)
def test_a_request_that_the_view_answers_is_counted_once(surface, address):
    surface.omdb.answer = lambda: ANSWER if "/id/" in address else ([ANSWER], "98")
    request = PlainRequest(environ_of(address))

    surface.find(address, request)
    answer = surface.view(address, **{DECISION: request.META[DECISION]})

    assert answer.status_code == 200
    assert surface.limiter.clients == ["127.0.0.1"]


@pytest.mark.parametrize("address", PATHS)
def test_answers_count_towards_the_limit(counting, address):
    counting.keep()
    client = PlainRequest(environ_of(address) | {"REMOTE_ADDR": f"client-{uuid.uuid4()}"})

    answers = [counting.find(address, client) for _ in range(4)]

    assert [answer is not None for answer in answers] == [True] * 3 + [False]
    assert [answer.headers["X-RateLimit-Remaining"] for answer in answers[:3]] == ["2", "1", "0"]


def test_a_hit_is_counted_and_logged_and_a_miss_is_left_to_the_view(surface, caplog):
    def counts():
        name = "filmosphere_movie_cache_total"
        return [REGISTRY.get_sample_value(name, {"outcome": each}) for each in ("hit", "miss")]

    hits, misses = counts()
    surface.find(MOVIE)
    surface.keep()
    surface.find(MOVIE)

    assert counts() == [hits + 1, misses]
    assert [line.message for line in caplog.records] == ["movie cache hit"]


@needs_redis
@pytest.mark.parametrize("value", [b"", b"nonsense", b"\xff", b"null", b"[]", b"{}", b"[" * 9999])
@pytest.mark.parametrize("address", PATHS)
def test_an_unreadable_value_in_redis_is_left_to_the_view(address, value):
    client = shared_redis(REDIS_URL).client
    surface = Surface(RateLimiter(get_redis=lambda: shared_redis(REDIS_URL)))
    surface.keep()
    for name in (f"movie_{SHAWSHANK}", surface.answers.results_name(QUESTION)):
        client.set(name, value, ex=60)
    request = PlainRequest(environ_of(address) | {"REMOTE_ADDR": f"client-{uuid.uuid4()}"})

    assert surface.find(address, request) is None


@needs_redis
@pytest.mark.parametrize("address", PATHS)
def test_an_answer_from_redis_costs_one_round_trip(address):
    client = shared_redis(REDIS_URL).client
    surface = Surface(RateLimiter(get_redis=lambda: shared_redis(REDIS_URL)))
    surface.keep()
    # Redis has the script from now on.
    surface.find(address)

    client_name = f"client-{uuid.uuid4()}"
    request = PlainRequest(environ_of(address) | {"REMOTE_ADDR": client_name})

    with client.monitor() as monitor:
        assert surface.find(address, request)
        client.echo(f"end of {client_name}")
        lines = iter(monitor.next_command, None)
        seen = list(itertools.takewhile(lambda line: "end of" not in line["command"], lines))
    names = [client_name, f"movie_{SHAWSHANK}", surface.answers.results_name(QUESTION)]
    # The monitor shows all databases of the server, in which others may use the same names.
    database = client.get_connection_kwargs().get("db", 0)
    sent = [
        line["command"].split()[0]
        for line in seen
        if line["client_type"] != "lua"
        and line["db"] == database
        and any(name in line["command"] for name in names)
    ]

    assert sent == ["EVALSHA"]
