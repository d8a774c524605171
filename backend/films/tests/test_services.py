"""The aggregator, the cache and the merge."""

import inspect
import threading

import pytest
from django.core.cache import cache
from hypothesis import given
from hypothesis import strategies as st

from core.errors import (
    DeadlineExceeded,
    RegionNotCovered,
    UpstreamBadAnswer,
    UpstreamNotConfigured,
    UpstreamNotFound,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from core.services.imdb_service import IMDbService
from core.services.kinocheck_service import KinoCheckService
from core.services.watchmode_service import WatchmodeService
from films.models import Film, FilmFetch
from films.services.film_aggregator import FilmAggregatorService
from films.services.film_search import FilmSearchService, _cache_key, search_result
from films.services.sections import SECTIONS, has_good, merge
from films.services.upkeep import Upkeep
from films.tests.fakes import (
    INCEPTION,
    Clock,
    FakeAggregator,
    FakeIMDb,
    FakeKinoCheck,
    FakeSearch,
    FakeUpkeep,
    FakeWatchmode,
    budgets,
    bulkheads,
)
from films.tests.house import House

TWELVE_KEYS = [
    "imdb_id",
    "title",
    "metadata",
    "credits",
    "images",
    "videos",
    "parents_guide",
    "certificates",
    "release_dates",
    "trailer",
    "streaming",
    "warnings",
]


@pytest.fixture
def house(db) -> House:
    return House()


@pytest.mark.parametrize(
    ("fake", "real"),
    [
        (FakeIMDb, IMDbService),
        (FakeKinoCheck, KinoCheckService),
        (FakeWatchmode, WatchmodeService),
        (FakeAggregator, FilmAggregatorService),
        (FakeSearch, FilmSearchService),
        (FakeUpkeep, Upkeep),
    ],
)
def test_a_fake_has_the_public_methods_of_the_real_class(fake, real):
    for name, method in inspect.getmembers(real, inspect.isfunction):
        if not name.startswith("_") and name != "refusal":
            assert list(inspect.signature(getattr(fake, name)).parameters) == list(
                inspect.signature(method).parameters
            )


def test_a_miss_merges_the_three_sources_into_twelve_keys(house):
    payload = house.fetch()

    assert list(payload) == TWELVE_KEYS
    assert payload["title"] == "Inception"
    assert payload["trailer"] == {"youtube_video_id": "YoHD9XEInc0"}
    assert payload["streaming"] == [{"name": "Netflix", "region": "TR"}]
    assert payload["warnings"] == []


def test_a_miss_asks_each_method_once(house):
    house.fetch()

    assert house.calls == 10
    assert len(set(house.imdb.asked)) == 7


def test_a_hit_asks_nobody(house):
    first = house.fetch()
    calls = house.calls

    assert house.fetch() == first
    assert house.calls == calls


def test_a_film_is_fetched_again_once_its_time_to_live_is_over(house):
    house.fetch()
    house.clock.pass_by(hours=24)
    house.imdb.answers["get_credits"] = {"credits": [], "totalCount": 0}

    assert house.fetch()["credits"] == {"credits": [], "totalCount": 0}


def test_the_row_of_a_film_has_title_year_and_poster_of_its_metadata(house):
    house.fetch()

    film = Film.objects.get(imdb_id=INCEPTION)
    assert (film.title, film.year) == ("Inception", 2010)
    assert film.poster_url == "https://images.test/inception.jpg"
    assert film.cached_at == house.clock.time


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UpstreamTimeout("imdbapi", "http_response_timeout"), "timeout"),
        (UpstreamUnavailable("imdbapi", "http_5xx"), "unavailable"),
        (UpstreamBadAnswer("imdbapi", "bad_json"), "bad_response"),
        (DeadlineExceeded("imdbapi", "deadline"), "deadline"),
    ],
)
def test_a_section_that_fails_is_empty_with_a_warning_and_the_rest_is_stored(house, error, code):
    house.imdb.fail(error, "get_images")

    payload = house.fetch()

    assert payload["images"] == {}
    assert [(w["section"], w["source"], w["code"]) for w in payload["warnings"]] == [
        ("images", "imdbapi", code)
    ]
    assert house.cache.get_cached(INCEPTION) == payload


def test_a_failed_trailer_is_null_and_failed_streaming_an_empty_list(house):
    house.kinocheck.fail(UpstreamUnavailable("kinocheck", "dns_error"), "get_trailer")
    house.watchmode.fail(RegionNotCovered("watchmode", "region_not_covered"), "lookup_title_id")

    payload = house.fetch()

    assert (payload["trailer"], payload["streaming"]) == (None, [])
    assert [w["code"] for w in payload["warnings"]] == ["unavailable", "region_not_covered"]


def test_a_missing_key_is_told_as_such(house):
    house.watchmode.fail(UpstreamNotConfigured("watchmode", "not_configured"), "lookup_title_id")

    assert [w["code"] for w in house.fetch()["warnings"]] == ["not_configured"]


def test_a_film_without_trailer_and_offers_has_no_warning(house):
    house.kinocheck.answers["get_trailer"] = None
    house.watchmode.answers["lookup_title_id"] = None

    payload = house.fetch()

    assert (payload["trailer"], payload["streaming"], payload["warnings"]) == (None, [], [])


def test_a_part_that_imdb_does_not_have_is_empty_without_a_warning(house):
    house.imdb.fail(UpstreamNotFound("imdbapi", "not_found"), "get_videos")

    payload = house.fetch()

    assert (payload["videos"], payload["warnings"]) == ({}, [])


def test_a_title_unknown_to_imdb_is_not_stored(house):
    house.imdb.fail(UpstreamNotFound("imdbapi", "not_found"), "get_metadata")

    with pytest.raises(UpstreamNotFound):
        house.fetch()

    assert not Film.objects.exists()


def test_metadata_that_fails_with_nothing_stored_is_the_error_of_the_film(house):
    house.imdb.fail(UpstreamUnavailable("imdbapi", "connection_refused"), "get_metadata")

    with pytest.raises(UpstreamUnavailable):
        house.fetch()

    assert not Film.objects.exists()


def test_an_expired_film_keeps_the_last_good_value_of_a_section_that_fails(house):
    good = house.fetch()
    house.clock.pass_by(hours=25)
    house.imdb.fail(UpstreamTimeout("imdbapi", "http_response_timeout"), "get_credits")

    payload = house.fetch()

    assert payload["credits"] == good["credits"]
    assert [(w["section"], w["code"]) for w in payload["warnings"]] == [("credits", "stale")]


def test_an_expired_film_is_shown_whole_when_every_source_is_gone(house):
    good = house.fetch()
    house.clock.pass_by(days=400)
    for fake in (house.imdb, house.kinocheck, house.watchmode):
        fake.fail(UpstreamUnavailable(fake.source, "dns_error"), *set(fake.asked))

    payload = house.fetch()

    assert {**payload, "warnings": []} == good
    assert {w["code"] for w in payload["warnings"]} == {"stale"}
    assert not house.cache.is_fresh(INCEPTION)


def test_the_watchmode_number_is_looked_up_once_a_month(house):
    house.fetch()
    house.clock.pass_by(days=29)
    house.fetch()
    assert house.watchmode.asked.count("lookup_title_id") == 1

    house.clock.pass_by(days=2)
    house.fetch()

    assert house.watchmode.asked.count("lookup_title_id") == 2


def test_that_watchmode_does_not_know_a_film_is_remembered_too(house):
    house.watchmode.answers["lookup_title_id"] = None
    house.fetch()
    house.clock.pass_by(hours=25)

    house.fetch()

    assert house.watchmode.asked == ["lookup_title_id"]


def test_a_watchmode_number_that_is_gone_is_looked_up_again_next_time(house):
    house.watchmode.fail(UpstreamNotFound("watchmode", "not_found"), "get_streaming_sources")
    assert house.fetch()["streaming"] == []
    house.clock.pass_by(hours=25)
    house.watchmode.answers.clear()

    assert house.fetch()["streaming"] != []


def test_a_bug_in_a_service_is_not_taken_for_an_outage(house):
    house.imdb.answers["get_videos"] = ZeroDivisionError()

    with pytest.raises(ZeroDivisionError):
        house.fetch()


def test_metadata_goes_first_in_a_line_of_one(db):
    house = House(sources={**bulkheads(), "imdbapi": _Blocked("imdbapi", concurrency=1)})

    house.fetch()

    assert house.imdb.asked[0] == "get_metadata"


def test_a_source_that_stays_mute_costs_its_sections_and_no_more_than_the_deadline(db):
    house = House(deadline_seconds=0.05)
    never = threading.Event()
    house.kinocheck.get_trailer = lambda imdb_id: never.wait(5)
    house.fetcher._fan_out._fetches["trailer"] = house.kinocheck.get_trailer

    payload = house.fetch()
    never.set()

    assert [(w["section"], w["code"]) for w in payload["warnings"]] == [("trailer", "deadline")]


class _Blocked(type(bulkheads()["imdbapi"])):
    """Lets its only thread begin when all seven sections stand in line."""

    def __init__(self, source, *, concurrency):
        super().__init__(source, concurrency=concurrency)
        self._gate = threading.Event()
        self._in_line = 0
        super().submit(lambda: self._gate.wait(5), priority=-1)

    def submit(self, work, *, priority=1):
        future = super().submit(work, priority=priority)
        self._in_line += 1
        if self._in_line == 7:
            self._gate.set()
        return future


def test_a_film_that_was_stored_since_we_looked_is_shown_with_the_very_same_bytes(
    house, monkeypatch
):
    house.fetch()
    known = house.aggregator.answer(INCEPTION)
    really_look, looks = house.cache.hit, []

    def look(imdb_id, *, gzipped=False):
        looks.append(imdb_id)
        return None if len(looks) == 1 else really_look(imdb_id, gzipped=gzipped)

    monkeypatch.setattr(house.cache, "hit", look)
    while house.cold_slots.acquire(blocking=False):
        pass

    answer = house.aggregator.answer(INCEPTION)

    assert (answer.version, answer.body) == (known.version, known.body)


class TestCache:
    def test_nothing_is_cached_at_first(self, house):
        assert house.cache.get_cached(INCEPTION) is None
        assert not house.cache.is_fresh(INCEPTION)

    def test_a_saved_payload_is_fresh_until_the_time_to_live_is_over(self, house):
        house.cache.save_cache(INCEPTION, {"title": "Inception", "metadata": {}})

        house.clock.pass_by(hours=23, minutes=59)
        assert house.cache.is_fresh(INCEPTION)
        house.clock.pass_by(minutes=1)
        assert not house.cache.is_fresh(INCEPTION)

    def test_an_expired_payload_can_still_be_read(self, house):
        payload = {"title": "Inception", "metadata": {}}
        house.cache.save_cache(INCEPTION, payload)
        house.clock.pass_by(days=10)

        assert house.cache.get_cached(INCEPTION) == payload

    def test_a_row_without_payload_is_no_hit(self, house):
        Film.objects.create(imdb_id=INCEPTION, title="Inception", cached_at=house.clock.time)

        assert house.cache.get_cached(INCEPTION) is None
        assert not house.cache.is_fresh(INCEPTION)

    def test_saving_twice_leaves_one_row(self, house):
        house.cache.save_cache(INCEPTION, {"title": "First"})
        house.cache.save_cache(INCEPTION, {"title": "Second"})

        assert list(Film.objects.values_list("title", flat=True)) == ["Second"]

    def test_a_title_is_clipped_to_what_the_column_holds_and_whole_in_the_payload(self, house):
        title = "\N{FILM FRAMES}" * 600
        house.cache.save_cache(INCEPTION, {"title": title})

        film = Film.objects.get()
        assert film.title == title[:512]
        assert film.full_json["title"] == title

    @pytest.mark.parametrize(
        "year", ["2011\u20132019", "N/A", 0, -5, 2**31, 10**30, True, 1999.7, [1], None, 1869, 2037]
    )
    def test_a_year_that_is_none_is_null(self, house, year):
        house.cache.save_cache(INCEPTION, {"title": "x", "metadata": {"startYear": year}})

        assert Film.objects.get().year is None

    @pytest.mark.parametrize("year", [1870, 2010, 2036])
    def test_a_year_of_film_history_is_kept(self, house, year):
        house.cache.save_cache(INCEPTION, {"title": "x", "metadata": {"startYear": year}})

        assert Film.objects.get().year == year

    @pytest.mark.parametrize(
        "image",
        [
            None,
            "https://images.test/1.jpg",
            {},
            {"url": None},
            {"url": 5},
            {"url": "javascript:alert(1)"},
            {"url": "https://images.test/" + "x" * 1981},
        ],
    )
    def test_a_poster_that_the_column_cannot_hold_is_null(self, house, image):
        house.cache.save_cache(INCEPTION, {"title": "x", "metadata": {"primaryImage": image}})

        assert Film.objects.get().poster_url is None

    def test_a_watchmode_number_beyond_32_bits_is_kept(self, house):
        house.watchmode.answers["lookup_title_id"] = 2**40

        house.fetch()

        assert FilmFetch.objects.get().watchmode_id == 2**40


values = st.one_of(
    st.none(),
    st.integers(),
    st.text(),
    st.lists(st.integers()),
    st.dictionaries(st.text(), st.text()),
)
errors = st.sampled_from(
    [
        UpstreamNotFound("source", "not_found"),
        UpstreamUnavailable("source", "http_5xx"),
        UpstreamBadAnswer("source", "bad_json"),
        DeadlineExceeded("source", "deadline"),
    ]
)
titles = st.fixed_dictionaries({"primaryTitle": st.text(min_size=1)})
good_outcomes = st.fixed_dictionaries(
    {s.name: titles if s.name == "metadata" else st.one_of(values, errors) for s in SECTIONS}
)
any_outcomes = st.fixed_dictionaries(
    {
        s.name: st.one_of(titles, errors) if s.name == "metadata" else st.one_of(values, errors)
        for s in SECTIONS
    }
)


class TestMerge:
    @given(good_outcomes)
    def test_the_twelve_keys_are_always_there(self, outcomes):
        assert list(merge(INCEPTION, outcomes, None)) == TWELVE_KEYS

    @given(good_outcomes, any_outcomes)
    def test_nothing_good_is_lost(self, before, after):
        last = merge(INCEPTION, before, None)

        payload = merge(INCEPTION, after, last)

        for section in SECTIONS:
            if has_good(last, section):
                assert has_good(payload, section)
                if isinstance(after[section.name], UpstreamUnavailable | UpstreamBadAnswer):
                    assert payload[section.name] == last[section.name]

    @given(good_outcomes, any_outcomes)
    def test_merging_the_same_outcomes_again_changes_nothing(self, before, after):
        once = merge(INCEPTION, after, merge(INCEPTION, before, None))

        assert merge(INCEPTION, after, once) == once

    @given(good_outcomes)
    def test_every_section_without_a_good_value_has_a_warning_that_tells_why(self, outcomes):
        payload = merge(INCEPTION, outcomes, None)

        failed = {
            name
            for name, outcome in outcomes.items()
            if isinstance(outcome, UpstreamUnavailable | UpstreamBadAnswer)
        }
        assert {warning["section"] for warning in payload["warnings"]} == failed


@pytest.mark.django_db
class TestSearch:
    def search(self, imdb) -> list[dict]:
        cache.clear()
        service = FilmSearchService(
            imdb=imdb,
            bulkhead=bulkheads()["imdbapi"],
            budgets=budgets(Clock()),
            cold_slots=threading.BoundedSemaphore(4),
            release_connection=lambda: None,
            deadline_seconds=5,
        )
        return service.search("inception")

    def test_a_title_is_shown_with_five_fields(self):
        imdb = FakeIMDb()
        imdb.answers["search"] = [
            {
                "id": INCEPTION,
                "type": "movie",
                "primaryTitle": "Inception",
                "primaryImage": {"url": "https://images.test/1.jpg", "width": 5},
                "startYear": 2010,
            }
        ]

        assert self.search(imdb) == [
            {
                "imdb_id": INCEPTION,
                "title": "Inception",
                "year": 2010,
                "image": "https://images.test/1.jpg",
                "type": "movie",
            }
        ]

    def test_texts_that_differ_in_more_than_case_do_not_share_an_answer(self):
        keys = [_cache_key(text) for text in ("masse", "MASSE", "maße")]

        assert keys[0] == keys[1] != keys[2]

    def test_what_a_title_lacks_is_null(self):
        assert search_result({"id": "tt1"}) == {
            "imdb_id": "tt1",
            "title": None,
            "year": None,
            "image": None,
            "type": None,
        }

    @pytest.mark.parametrize(
        "odd",
        [
            {"primaryTitle": 5, "startYear": "2010", "primaryImage": "x", "type": []},
            {"primaryTitle": None, "startYear": True, "primaryImage": {"url": "ftp://x/"}},
            {"primaryImage": {"url": "http://[broken"}},
        ],
    )
    def test_a_field_of_the_wrong_type_is_null(self, odd):
        result = search_result({"id": "tt1", **odd})

        assert set(result.values()) == {"tt1", None}

    def test_the_original_title_stands_in_for_a_missing_one(self):
        assert search_result({"id": "tt1", "originalTitle": "Kara"})["title"] == "Kara"

    def test_could_not_look_is_not_an_empty_list(self):
        imdb = FakeIMDb()
        imdb.fail(UpstreamUnavailable("imdbapi", "dns_error"), "search")

        with pytest.raises(UpstreamUnavailable):
            self.search(imdb)
