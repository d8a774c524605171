import pickle
import threading
from concurrent.futures import Future
from datetime import datetime, timedelta, timezone

import pytest
from django.conf import settings
from django.core.cache import caches
from django.db import OperationalError
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from cinemix.daily_share import DailyShare
from cinemix.dtos import MovieDetails, MovieResults
from cinemix.movie_cache import CachedMovie, cache_movie, get_movie
from cinemix.tests.fakes import ANSWER, SHAWSHANK, FakeOmdb, make_movies
from core.cache_outcome import current_outcome, forget_outcome
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
from core.imdb_id import parse_imdb_id
from core.tests.clock import Clock

MOVIE = MovieDetails.from_omdb(ANSWER)
ROW = {name: ANSWER[name] for name in ("Title", "Year", "imdbID", "Type", "Poster")}
NOT_FOUND = UpstreamNotFound("omdb", "not_found")
MIDNIGHT = datetime(2026, 5, 2, tzinfo=timezone.utc)


IN_MEMORY = {
    alias: {name: value for name, value in cache.items() if name not in {"LOCATION", "OPTIONS"}}
    | {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": f"test {alias}"}
    for alias, cache in settings.CACHES.items()
}


@pytest.fixture
def clock(monkeypatch):
    """The clock of the caches, which are in process memory."""
    clock = Clock(1_800_000_000.0)
    monkeypatch.setattr("time.time", clock)
    with override_settings(CACHES=IN_MEMORY):
        for cache in caches.all():
            cache.clear()
        yield clock


def details(movies, imdb_id=SHAWSHANK, client="192.0.2.1"):
    return movies.details(imdb_id, client=client)


def search(movies, query="shawshank", page=1, client="192.0.2.1"):
    return movies.search(query, page, client=client)


def ask_in_threads(ask, number, before_join):
    found = []
    threads = [threading.Thread(target=lambda: found.append(ask())) for _ in range(number)]
    for thread in threads:
        thread.start()
    before_join()
    for thread in threads:
        thread.join(5)
    return found


# --- Titles -----------------------------------------------------------------------------------


def test_a_cached_movie_costs_no_call():
    omdb = FakeOmdb(ANSWER)
    cache_movie(SHAWSHANK, MOVIE)

    assert details(make_movies(omdb)).movie == MOVIE
    assert omdb.asked == []


def test_a_movie_is_fetched_once_and_cached(clock):
    omdb = FakeOmdb(ANSWER)
    movies = make_movies(omdb)

    first = details(movies)
    clock.now += 600
    second = details(movies)

    assert first == CachedMovie(MOVIE, 3600)
    assert second == CachedMovie(MOVIE, 3000)
    assert omdb.asked == [SHAWSHANK]


def test_what_needed_a_call_is_a_miss_and_comes_from_memory_then(clock):
    movies = make_movies(FakeOmdb(lambda: ANSWER))
    searches = make_movies(FakeOmdb(([ROW], "1")))

    def outcome_of(ask):
        forget_outcome()
        ask()
        return current_outcome()

    assert [outcome_of(lambda: details(movies)) for _ in range(2)] == ["miss", "memory"]
    assert [outcome_of(lambda: search(searches)) for _ in range(2)] == ["miss", "memory"]


def test_answers_from_a_cache_count_the_call_that_they_avoid(clock, avoided):
    movies = make_movies(FakeOmdb(lambda: ANSWER))
    searches = make_movies(FakeOmdb(([ROW], "1")))
    for _ in range(3):
        details(movies)
        search(searches)

    assert avoided() == {("omdb", "cache_hit"): 4}


def test_the_database_connection_is_released_before_the_call(monkeypatch):
    released = []
    monkeypatch.setattr("cinemix.movies.release_connection", lambda: released.append(1))
    omdb = FakeOmdb(lambda: ANSWER | {"Plot": f"released {len(released)}"})

    assert details(make_movies(omdb)).movie.plot == "released 1"


def test_simultaneous_equal_requests_make_one_call(avoided):
    go_on = threading.Event()

    def slowly():
        assert go_on.wait(5)
        return ANSWER

    omdb = FakeOmdb(slowly)
    movies = make_movies(omdb)

    found = ask_in_threads(lambda: details(movies).movie, 8, go_on.set)

    assert found == [MOVIE] * 8
    assert omdb.asked == [SHAWSHANK]
    # A thread that comes after the answer finds it in the cache.
    assert sum(avoided().values()) == 7


def test_a_movie_cached_since_the_first_look_up_costs_no_call(monkeypatch, avoided):
    omdb = FakeOmdb(ANSWER)
    movies = make_movies(omdb)

    def miss_and_store(imdb_id):
        cache_movie(imdb_id, MOVIE)

    monkeypatch.setattr(movies._cache, "look_up", miss_and_store)

    assert details(movies).movie == MOVIE
    assert omdb.asked == []
    assert avoided() == {("omdb", "cache_hit"): 1}


def test_an_answer_with_another_id_is_a_bad_answer_for_an_hour(clock):
    omdb = FakeOmdb(ANSWER)
    movies = make_movies(omdb)

    for _ in range(4):
        with pytest.raises(UpstreamBadAnswer):
            details(movies, "tt0000002")
        clock.now += 1200

    assert omdb.asked == ["tt0000002", "tt0000002"]
    assert get_movie("tt0000002") is None
    assert get_movie(SHAWSHANK) is None


@pytest.mark.parametrize("sent", ["tt111161", "tt00111161", "tt000000000111161"])
def test_an_answer_with_another_spelling_of_the_id_is_the_same_title(sent):
    omdb = FakeOmdb(ANSWER | {"imdbID": sent})
    movies = make_movies(omdb)

    assert [details(movies).movie for _ in range(2)] == [MOVIE, MOVIE]
    assert omdb.asked == [SHAWSHANK]


@pytest.mark.parametrize("odd", [{"Title": None}, {"Title": []}, {"imdbID": None}, {"imdbID": "x"}])
def test_an_unreadable_title_is_a_bad_answer_and_not_remembered(odd):
    omdb = FakeOmdb(ANSWER | odd)
    movies = make_movies(omdb)

    for _ in range(2):
        with pytest.raises(UpstreamBadAnswer):
            details(movies)

    assert omdb.asked == [SHAWSHANK] * 2
    assert get_movie(SHAWSHANK) is None


@pytest.mark.parametrize("title", ["N/A", "n/a", "", " "])
def test_a_title_without_a_name_is_not_found(title):
    with pytest.raises(UpstreamNotFound):
        details(make_movies(FakeOmdb(ANSWER | {"Title": title})))


def test_an_unknown_id_is_remembered_for_an_hour(clock, avoided):
    omdb = FakeOmdb(NOT_FOUND)
    movies = make_movies(omdb)

    for _ in range(10):
        with pytest.raises(UpstreamNotFound):
            details(movies)
    clock.now += 3599.9
    with pytest.raises(UpstreamNotFound):
        details(movies)
    assert omdb.asked == [SHAWSHANK]
    assert avoided() == {("omdb", "negative_cache"): 10}

    omdb.answer = ANSWER
    clock.now += 0.1
    assert details(movies).movie == MOVIE


def test_a_title_without_data_is_remembered_with_the_remaining_time(clock):
    omdb = FakeOmdb(UpstreamUnavailable("omdb", "no_data_yet", retry_after=3600))
    movies = make_movies(omdb)
    waits = []

    for seconds in (0, 600, 2999.5):
        clock.now += seconds
        with pytest.raises(UpstreamUnavailable) as caught:
            details(movies)
        waits.append(caught.value.retry_after)

    assert caught.value.reason == "no_data_yet"
    assert waits == [3600, 3000, 1]
    assert omdb.asked == [SHAWSHANK]


def test_input_that_omdb_rejects_is_remembered_for_a_minute(clock):
    omdb = FakeOmdb(InvalidInput("Too many titles match."))
    movies = make_movies(omdb)

    for seconds in (0, 59.9, 0.1):
        clock.now += seconds
        with pytest.raises(InvalidInput, match="Too many titles"):
            search(movies, "a")

    assert len(omdb.asked) == 2


@pytest.mark.parametrize(
    "error",
    [
        UpstreamUnavailable("omdb", "http_5xx"),
        UpstreamBadAnswer("omdb", "bad_json"),
        UpstreamRejected("omdb", "bad_key", retry_after=600),
    ],
)
def test_other_errors_are_not_remembered(error):
    omdb = FakeOmdb(error)
    movies = make_movies(omdb)

    for ask in (details, details, search, search):
        with pytest.raises(type(error)):
            ask(movies)

    assert len(omdb.asked) == 4


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    "value",
    [
        "x",
        [],
        {},
        {"code": "not_found"},
        {"invalid_input": 5},
        {"source": "omdb", "code": "not_found", "reason": "x", "until": 10**400},
    ],
)
def test_unreadable_values_in_the_cache_are_ignored(value):
    omdb = PagedOmdb(NOT_FOUND)
    movies = make_movies(omdb)
    with pytest.raises(UpstreamNotFound):
        details(movies)
    search(movies, page=2)
    stored = caches["default"]._cache
    answers = [key for key in stored if "omdb_share" not in key]
    assert len(answers) == 3
    stored |= dict.fromkeys(answers, pickle.dumps(value))

    with pytest.raises(UpstreamNotFound):
        details(movies)

    assert search(movies, page=2).total_results == "12"
    assert search(movies, page=3).total_results == "12"
    assert omdb.asked == [SHAWSHANK, ("shawshank", 2)] * 2 + [("shawshank", 3)]


# --- Searches ---------------------------------------------------------------------------------


def test_a_search_is_remembered_for_a_minute(clock):
    omdb = FakeOmdb(([ROW], "98"))
    movies = make_movies(omdb)

    found = [search(movies, page=2) for _ in range(2)]
    clock.now += 59.9
    found.append(search(movies, page=2))

    assert omdb.asked == [("shawshank", 2)]
    assert found[0] == found[1] == found[2]
    assert [result.id for result in found[0].search_results] == [SHAWSHANK]
    assert found[0].total_results == "98"
    clock.now += 0.1
    search(movies, page=2)
    assert len(omdb.asked) == 2


def test_a_search_without_matches_is_remembered(clock):
    omdb = FakeOmdb(([], None))
    movies = make_movies(omdb)

    found = [search(movies) for _ in range(3)]

    assert [(results.search_results, results.total_results) for results in found] == [([], "0")] * 3
    assert len(omdb.asked) == 1


def test_each_text_and_page_is_a_search_of_its_own():
    omdb = FakeOmdb(([ROW], "98"))
    movies = make_movies(omdb)

    for query, page in (("1 x", 1), ("x", 11), ("x", 1), ("x", 2), ("y", 1)):
        search(movies, query, page)

    assert omdb.asked == [("1 x", 1), ("x", 11), ("x", 1), ("x", 2), ("y", 1)]


def test_simultaneous_equal_searches_make_one_call():
    go_on = threading.Event()

    def slowly():
        assert go_on.wait(5)
        return [ROW], "98"

    omdb = FakeOmdb(slowly)
    movies = make_movies(omdb)

    found = ask_in_threads(lambda: search(movies).total_results, 8, go_on.set)

    assert found == ["98"] * 8
    assert omdb.asked == [("shawshank", 1)]


class PagedOmdb(FakeOmdb):
    """Finds 12 titles, and has no total past the end."""

    def search(self, text, page=1):
        self.asked.append((text, page))
        return ([ROW], "12") if page <= 2 else ([], None)


def test_a_page_past_the_end_has_the_total_of_an_earlier_page(clock, avoided):
    omdb = PagedOmdb(None)
    movies = make_movies(omdb)
    search(movies, "x", 2)
    clock.now += 3599

    found = search(movies, "x", 3)

    assert (found.search_results, found.total_results) == ([], "12")
    assert omdb.asked == [("x", 2), ("x", 3)]
    assert avoided() == {("omdb", "cache_hit"): 1}


def test_a_page_past_the_end_has_the_total_of_the_first_page():
    omdb = PagedOmdb(None)
    movies = make_movies(omdb)

    totals = [search(movies, "x", page).total_results for page in (50, 3, 50, 1)]

    assert totals == ["12"] * 4
    assert omdb.asked == [("x", 50), ("x", 1), ("x", 3)]


def test_a_later_page_of_a_search_without_matches_has_no_matches():
    omdb = FakeOmdb(([], None))
    movies = make_movies(omdb)

    totals = [search(movies, "x", page).total_results for page in (5, 6)]

    assert totals == ["0", "0"]
    assert omdb.asked == [("x", 5), ("x", 1), ("x", 6)]


def test_an_unreadable_row_does_not_hide_the_others():
    movies = make_movies(FakeOmdb(([{"Title": "no id"}, ROW], "2")))

    assert [result.id for result in search(movies).search_results] == [SHAWSHANK]


def test_only_unreadable_rows_are_a_bad_answer():
    with pytest.raises(UpstreamBadAnswer):
        search(make_movies(FakeOmdb(([{"Title": "no id"}], "1"))))


def test_rows_without_a_title_are_dropped():
    movies = make_movies(FakeOmdb(([ROW | {"Title": "N/A", "imdbID": "tt1"}], "1")))

    found = search(movies)

    assert (found.search_results, found.total_results) == ([], "1")


ODD = st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.lists(st.none())
ROWS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "imdbID": st.sampled_from(["tt1", "tt0000001", "tt2", "N/A"]) | ODD,
            "Title": st.sampled_from(["Lost", "N/A", " "]) | ODD,
            "Year": ODD,
            "Type": ODD,
            "Poster": st.sampled_from(["https://img.test/x", "javascript:x", "http://a b"]) | ODD,
        },
    ),
    max_size=6,
)


@given(ROWS)
def test_any_rows_are_a_readable_page_or_a_bad_answer(rows):
    for cache in caches.all():
        cache.clear()
    try:
        found = search(make_movies(FakeOmdb((rows, "98"))))
    except UpstreamBadAnswer:
        return

    ids = [result.id for result in found.search_results]
    assert len(ids) == len(set(ids))
    assert all(parse_imdb_id(imdb_id) == imdb_id for imdb_id in ids)
    assert all(result.title.strip() for result in found.search_results)
    assert MovieResults.model_validate_json(found.model_dump_json()) == found


def test_rows_with_the_same_id_are_collapsed_to_the_first():
    rows = [ROW, ROW | {"Title": "second"}, ROW | {"imdbID": "tt0000002"}, ROW]

    results = search(make_movies(FakeOmdb((rows, "4")))).search_results

    assert [(result.id, result.title) for result in results] == [
        (SHAWSHANK, ROW["Title"]),
        ("tt0000002", ROW["Title"]),
    ]


# --- Quota and share --------------------------------------------------------------------------


class RefusingSource:
    """Fails each call without making it, or makes it if `error` is None."""

    name = "omdb"

    def __init__(self, error):
        self.error = error

    def submit(self, call):
        future = Future()
        if self.error is None:
            future.set_result(call())
        else:
            future.set_exception(self.error)
        return future


class Day:
    """A day with a limit of calls, and a share of them for each client."""

    def __init__(self, omdb, limit=1000, source=None):
        self.now = MIDNIGHT - timedelta(days=1)
        share = DailyShare(calls_left=lambda: limit - len(omdb.asked), now=lambda: self.now)
        self.movies = make_movies(omdb, share=share, source=source)


@pytest.mark.usefixtures("clock")
def test_one_address_that_asks_ten_times_a_minute_leaves_most_of_the_day_to_others(caplog):
    caplog.set_level("ERROR", "cinemix")
    omdb = FakeOmdb(NOT_FOUND)
    day = Day(omdb)
    outcomes, waits = [], []

    for number in range(14_400):
        with pytest.raises((UpstreamNotFound, Overloaded)) as caught:
            details(day.movies, f"tt{number:07}", client="192.0.2.1")
        outcomes.append(type(caught.value))
        if caught.type is Overloaded:
            assert caught.value.is_callers_fault
            waits.append((caught.value.retry_after, (MIDNIGHT - day.now).total_seconds()))
        day.now += timedelta(seconds=6)

    assert len(omdb.asked) == outcomes.count(UpstreamNotFound) <= 100
    assert all(wait == left for wait, left in waits)
    with pytest.raises(UpstreamNotFound):
        details(day.movies, "tt9999999", client="192.0.2.2")


def test_the_next_day_has_a_new_share():
    day = Day(FakeOmdb(NOT_FOUND), limit=30)
    for number in range(2):
        with pytest.raises(UpstreamNotFound):
            details(day.movies, f"tt000000{number}")
    with pytest.raises(Overloaded):
        details(day.movies, "tt0000008")

    day.now += timedelta(days=1)

    with pytest.raises(UpstreamNotFound):
        details(day.movies, "tt0000008")


def test_the_last_calls_of_a_day_are_one_for_each_address():
    day = Day(FakeOmdb(NOT_FOUND), limit=3)

    for client in ("a", "b", "c"):
        with pytest.raises(UpstreamNotFound):
            details(day.movies, f"tt000000{ord(client)}", client=client)
        with pytest.raises(Overloaded if client != "c" else UpstreamNotFound):
            details(day.movies, f"tt000001{ord(client)}", client=client)


@pytest.mark.parametrize(
    "error",
    [
        UpstreamQuotaExhausted("omdb", "quota", retry_after=77),
        UpstreamUnavailable("omdb", "circuit_open"),
        OperationalError("no database"),
    ],
)
def test_a_call_that_is_not_made_does_not_count_against_the_share(error):
    source = RefusingSource(error)
    day = Day(FakeOmdb(ANSWER), limit=10, source=source)
    for _ in range(5):
        with pytest.raises(type(error)):
            details(day.movies)

    source.error = None

    assert details(day.movies).movie == MOVIE
    with pytest.raises(Overloaded):
        details(day.movies, "tt0000002")


def test_a_failed_call_counts_against_the_share():
    day = Day(FakeOmdb(UpstreamUnavailable("omdb", "http_5xx")), limit=10)
    with pytest.raises(UpstreamUnavailable):
        details(day.movies)

    with pytest.raises(Overloaded):
        details(day.movies)


def test_known_answers_are_served_without_share():
    omdb = FakeOmdb(ANSWER)
    day = Day(omdb, limit=10)
    details(day.movies)
    omdb.answer = ([ROW], "1")
    search(day.movies, client="192.0.2.2")

    assert details(day.movies).movie == MOVIE
    assert search(day.movies, client="192.0.2.2").total_results == "1"


# --- Waiting ----------------------------------------------------------------------------------


def test_without_a_free_slot_only_cached_movies_are_served():
    omdb = FakeOmdb(ANSWER)
    movies = make_movies(omdb, slots=0)

    with pytest.raises(Overloaded) as caught:
        details(movies)
    cache_movie(SHAWSHANK, MOVIE)

    assert not caught.value.is_callers_fault
    assert details(movies).movie == MOVIE
    assert omdb.asked == []


def test_a_slot_is_free_again_after_each_request():
    omdb = FakeOmdb(NOT_FOUND)
    movies = make_movies(omdb, slots=1)

    for number in range(3):
        with pytest.raises(UpstreamNotFound):
            details(movies, f"tt000000{number}")


def test_a_silent_source_is_given_up_at_the_deadline():
    never = threading.Event()
    movies = make_movies(FakeOmdb(lambda: never.wait(5)), seconds=0.01)

    with pytest.raises(DeadlineExceeded):
        details(movies)
    never.set()
