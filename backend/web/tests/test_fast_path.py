"""What is kept is answered before Django; all other requests go there."""

import pytest

from core import metrics
from core.errors import InvalidInput
from core.utils.logging import correlation_id, film_id
from films.tests.wsgi import call, environ_of
from web.fast_path import KeptAnswer, KeptAnswers, with_fallback

KEPT = KeptAnswer(b'{"kept": true}', 60, {"X-RateLimit-Limit": "10"})


class Django:
    """Answers 418 to everything, and remembers the environment."""

    environ: dict = {}

    def __call__(self, environ, start_response):
        self.environ = environ
        start_response("418 I'm a teapot", [])
        return []


def answering(answer, django=None):
    def find(request):
        if isinstance(answer, Exception):
            raise answer
        return answer

    return KeptAnswers(django or Django(), find={"/api/search": find})


@pytest.mark.parametrize("path", ["/api/search", "/api/search/", "/api/search?q=x"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_is_kept_is_sent_with_its_headers(path, method):
    answer = call(answering(KEPT), path, method, x_correlation_id="mine")

    assert answer.status == 200
    assert answer.body == (KEPT.body if method == "GET" else b"")
    assert answer.headers == {
        "Content-Type": "application/json",
        "Cache-Control": "public, max-age=60",
        "Vary": "Origin",
        "X-Content-Type-Options": "nosniff",
        "X-RateLimit-Limit": "10",
        "X-Correlation-ID": "mine",
        "Content-Length": "14",
    }


@pytest.mark.parametrize("answer", [None, InvalidInput("'q' is blank.")])
def test_django_answers_what_is_not_kept_and_what_is_invalid(answer):
    assert call(answering(answer), "/api/search").status == 418


@pytest.mark.parametrize(
    ("path", "method", "headers"),
    [
        ("/api/search/x", "GET", {}),
        ("/api/search", "POST", {}),
        ("/api/search", "OPTIONS", {}),
        ("/api/search", "GET", {"host": "evil.example"}),
    ],
)
def test_nothing_is_looked_up_for_other_requests(path, method, headers):
    answer = call(answering(AssertionError("looked up")), path, method, **headers)

    assert answer.status == 418


def test_the_lines_that_a_look_up_logs_have_the_id_that_django_logs():
    logged = []

    def find(request):
        logged.append(correlation_id.get())

    django = Django()
    KeptAnswers(django, find={"/api/search": find})(environ_of("/api/search"), print)

    assert logged == [django.environ["HTTP_X_CORRELATION_ID"]]
    assert correlation_id.get() == "-"


def test_an_answer_is_counted_under_its_path_and_logged_with_its_film(caplog):
    def find(request):
        film_id.set("tt1375666")
        return KEPT

    counter = metrics.REQUESTS.labels("api/search/", 200)._value
    before = counter.get()

    call(KeptAnswers(Django(), find={"/api/search": find}), "/api/search/")

    assert counter.get() == before + 1
    assert [(line.film, line.cache) for line in caplog.records] == [("tt1375666", "memory")]
    assert film_id.get() == "-"


def test_a_bug_in_front_of_django_is_logged_and_django_answers(log):
    django = Django()
    application = with_fallback(answering(RuntimeError("a bug"), django), django)

    answer = call(application, "/api/search", x_correlation_id="mine")

    assert answer.status == 418
    (line,) = log.of("unexpected error")
    assert (line["level"], line["correlation_id"]) == ("ERROR", "mine")
    assert "a bug" in line["exception"]
