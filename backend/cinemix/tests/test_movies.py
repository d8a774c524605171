import threading

import pytest

from cinemix.dtos import MovieDetails
from cinemix.tests.fakes import ANSWER, SHAWSHANK, FakeOmdb, FakeQuota, make_movies
from core.errors import (
    DeadlineExceeded,
    InvalidInput,
    Overloaded,
    UpstreamBadAnswer,
    UpstreamNotFound,
    UpstreamQuotaExhausted,
    UpstreamRejected,
    UpstreamUnavailable,
)

MOVIE = MovieDetails.from_omdb(ANSWER)
ROW = {name: ANSWER[name] for name in ("Title", "Year", "imdbID", "Type", "Poster")}


def test_a_movie_that_is_kept_costs_no_call():
    omdb, quota = FakeOmdb(ANSWER), FakeQuota()

    assert make_movies(omdb, quota=quota, kept={SHAWSHANK: MOVIE}).details(SHAWSHANK) == MOVIE
    assert omdb.asked == []
    assert quota.spent == 0


def test_a_movie_that_is_not_kept_is_fetched_once_and_kept():
    omdb, kept = FakeOmdb(ANSWER), {}
    movies = make_movies(omdb, kept=kept)

    assert [movies.details(SHAWSHANK) for _ in range(2)] == [MOVIE, MOVIE]
    assert omdb.asked == [SHAWSHANK]
    assert kept == {SHAWSHANK: MOVIE}


def test_the_database_connection_is_given_back_before_the_call():
    quota = FakeQuota()
    omdb = FakeOmdb(lambda: ANSWER | {"Plot": f"released {quota.released}"})

    assert make_movies(omdb, quota=quota).details(SHAWSHANK).plot == "released 1"


def test_identical_lookups_in_flight_make_one_call():
    go_on = threading.Event()

    def slowly():
        assert go_on.wait(5)
        return ANSWER

    omdb, found = FakeOmdb(slowly), []
    movies = make_movies(omdb)
    threads = [
        threading.Thread(target=lambda: found.append(movies.details(SHAWSHANK))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    go_on.set()
    for thread in threads:
        thread.join(5)

    assert found == [MOVIE] * 8
    assert omdb.asked == [SHAWSHANK]


def test_the_answer_of_another_id_is_shown_and_not_kept(caplog):
    kept = {}
    movies = make_movies(FakeOmdb(ANSWER), kept=kept)

    assert movies.details("tt00111161") == MOVIE
    assert kept == {}
    assert "another id" in caplog.text


@pytest.mark.parametrize("odd", [{"Title": "N/A"}, {"imdbID": None}, {"imdbID": "nm1"}])
def test_what_is_no_movie_is_a_bad_answer_and_not_kept(odd):
    kept = {}

    with pytest.raises(UpstreamBadAnswer):
        make_movies(FakeOmdb(ANSWER | odd), kept=kept).details(SHAWSHANK)

    assert kept == {}


@pytest.mark.parametrize(
    "error",
    [
        UpstreamNotFound("omdb", "not_found"),
        UpstreamUnavailable("omdb", "http_5xx"),
        InvalidInput("Too many"),
    ],
)
def test_an_error_is_passed_on_and_nothing_is_kept(error):
    kept = {}

    with pytest.raises(type(error)):
        make_movies(FakeOmdb(error), kept=kept).details(SHAWSHANK)

    assert kept == {}


def test_a_search_is_never_kept():
    omdb = FakeOmdb(([ROW], "98"))
    movies = make_movies(omdb)

    found = [movies.search("shawshank", 2) for _ in range(2)]

    assert [result.id for result in found[0].search_results] == [SHAWSHANK]
    assert found[0].total_results == "98"
    assert omdb.asked == [("shawshank", 2)] * 2


def test_an_odd_row_does_not_hide_the_others():
    movies = make_movies(FakeOmdb(([{"Title": "no id"}, ROW], "2")))

    assert [result.id for result in movies.search("x", 1).search_results] == [SHAWSHANK]


def test_nothing_but_odd_rows_is_a_bad_answer_and_no_empty_list():
    with pytest.raises(UpstreamBadAnswer):
        make_movies(FakeOmdb(([{"Title": "no id"}], "1"))).search("x", 1)


def test_every_try_is_counted():
    quota = FakeQuota()
    movies = make_movies(FakeOmdb(UpstreamUnavailable("omdb", "http_5xx"), tries=3), quota=quota)

    with pytest.raises(UpstreamUnavailable):
        movies.details(SHAWSHANK)

    assert quota.spent == 3


def test_without_quota_nobody_is_asked():
    quota, omdb = FakeQuota(), FakeOmdb(ANSWER)
    quota.error = UpstreamQuotaExhausted("omdb", "quota", retry_after=77)

    with pytest.raises(UpstreamQuotaExhausted):
        make_movies(omdb, quota=quota).details(SHAWSHANK)

    assert omdb.asked == []


def test_when_omdb_says_the_quota_is_used_up_the_day_is_closed_until_midnight():
    quota = FakeQuota()
    movies = make_movies(FakeOmdb(UpstreamQuotaExhausted("omdb", "quota")), quota=quota)
    quota.used_up = lambda: UpstreamQuotaExhausted("omdb", "quota", retry_after=77)

    with pytest.raises(UpstreamQuotaExhausted) as caught:
        movies.details(SHAWSHANK)

    assert len(quota.closed) == 1
    assert caught.value.retry_after == 77


def test_a_call_that_never_went_out_is_given_back():
    quota = FakeQuota()
    movies = make_movies(FakeOmdb(UpstreamRejected("omdb", "closed"), tries=0), quota=quota)

    with pytest.raises(UpstreamRejected):
        movies.details(SHAWSHANK)

    assert quota.spent == 0


def test_when_too_many_wait_the_next_is_turned_away_and_what_is_kept_still_comes():
    omdb, kept = FakeOmdb(ANSWER), {}
    movies = make_movies(omdb, kept=kept, slots=0)

    with pytest.raises(Overloaded):
        movies.details(SHAWSHANK)
    kept[SHAWSHANK] = MOVIE

    assert movies.details(SHAWSHANK) == MOVIE
    assert omdb.asked == []


def test_a_mute_source_is_given_up_at_the_deadline():
    never = threading.Event()
    movies = make_movies(FakeOmdb(lambda: never.wait(5)), seconds=0.01)

    with pytest.raises(DeadlineExceeded):
        movies.details(SHAWSHANK)
    never.set()
