"""The aggregator, the cache, the merge and the search."""

import inspect
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from django.core.cache import cache
from hypothesis import given
from hypothesis import strategies as st

from core.errors import (
    DeadlineExceeded,
    Overloaded,
    RegionNotCovered,
    UpstreamBadAnswer,
    UpstreamNotConfigured,
    UpstreamNotFound,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from core.services.imdb_service import IMDbService
from core.services.kinocheck_service import KinoCheckService
from core.services.source import Priority
from core.services.watchmode_service import WatchmodeService
from films.models import Film, FilmFetch, FilmRendering, WatchmodeTitle
from films.payload import SECTION_NAMES, SECTIONS, FilmPayload, RetryPolicy, merge
from films.services.background import BackgroundRefresher
from films.services.film_aggregator import FilmAggregatorService
from films.services.film_search import FilmSearchService
from films.tests.fakes import (
    INCEPTION,
    FakeAggregator,
    FakeBackground,
    FakeIMDb,
    FakeKinoCheck,
    FakeSearch,
    FakeWatchmode,
    film_payload,
    payload_of,
)
from films.tests.service import IMDB_METHODS, Service

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
OTHER = "tt0000002"
NETFLIX = {"name": "Netflix", "region": "TR"}
NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
RETRY = RetryPolicy(first=timedelta(minutes=5))


@pytest.fixture
def service(db) -> Service:
    return Service()


@pytest.mark.parametrize(
    ("fake", "real"),
    [
        (FakeIMDb, IMDbService),
        (FakeKinoCheck, KinoCheckService),
        (FakeWatchmode, WatchmodeService),
        (FakeAggregator, FilmAggregatorService),
        (FakeSearch, FilmSearchService),
        (FakeBackground, BackgroundRefresher),
    ],
)
def test_a_fake_has_the_public_methods_of_the_real_class(fake, real):
    for name, method in inspect.getmembers(real, inspect.isfunction):
        if not name.startswith("_") and name != "refusal":
            assert list(inspect.signature(getattr(fake, name)).parameters) == list(
                inspect.signature(method).parameters
            )


class TestFetchAndCache:
    def test_a_miss_merges_the_three_sources_into_twelve_keys(self, service):
        payload = service.fetch()

        assert list(payload) == TWELVE_KEYS
        assert payload["title"] == "Inception"
        assert payload["trailer"] == {"youtube_video_id": "YoHD9XEInc0"}
        assert payload["streaming"] == [{"name": "Netflix", "region": "TR"}]
        assert payload["warnings"] == []

    def test_a_miss_calls_each_method_once(self, service):
        service.fetch()

        assert service.call_count == 10
        assert sorted(service.imdb.called) == sorted(IMDB_METHODS)
        assert service.watchmode.calls == [
            ("lookup_title_id", INCEPTION),
            ("get_streaming_sources", 1182444),
        ]

    def test_a_hit_calls_no_source(self, service):
        first = service.fetch()
        calls = service.call_count

        assert service.fetch() == first
        assert service.call_count == calls

    def test_a_film_is_fetched_again_when_its_time_to_live_is_over(self, service):
        service.fetch()
        service.clock.advance(hours=24)
        service.imdb.answers["get_credits"] = {"credits": [], "totalCount": 0}

        assert service.fetch()["credits"] == {"credits": [], "totalCount": 0}

    def test_the_row_of_a_film_has_title_year_and_poster_of_its_metadata(self, service):
        service.fetch()

        film = Film.objects.get(imdb_id=INCEPTION)
        assert (film.title, film.year) == ("Inception", 2010)
        assert film.poster_url == "https://images.test/inception.jpg"
        assert film.cached_at == service.clock.time

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (UpstreamTimeout("imdbapi", "http_response_timeout"), "timeout"),
            (UpstreamUnavailable("imdbapi", "http_5xx"), "unavailable"),
            (UpstreamBadAnswer("imdbapi", "bad_json"), "bad_response"),
            (DeadlineExceeded("imdbapi", "deadline"), "deadline"),
        ],
    )
    def test_a_section_that_fails_is_empty_with_a_warning_and_the_rest_is_stored(
        self, service, error, code
    ):
        service.imdb.fail(error, "get_images")

        payload = service.fetch()

        assert payload["images"] == {}
        assert [(w["section"], w["source"], w["code"]) for w in payload["warnings"]] == [
            ("images", "imdbapi", code)
        ]
        assert service.cache.get_cached(INCEPTION) == payload

    def test_a_trailer_that_fails_is_null_and_streaming_that_fails_an_empty_list(self, service):
        service.kinocheck.fail(UpstreamUnavailable("kinocheck", "dns_error"), "get_trailer")
        error = RegionNotCovered("watchmode", "region_not_covered")
        service.watchmode.fail(error, "lookup_title_id")

        payload = service.fetch()

        assert (payload["trailer"], payload["streaming"]) == (None, [])
        assert [w["code"] for w in payload["warnings"]] == ["unavailable", "region_not_covered"]

    def test_a_missing_key_has_its_own_warning(self, service):
        error = UpstreamNotConfigured("watchmode", "not_configured")
        service.watchmode.fail(error, "lookup_title_id")

        assert [w["code"] for w in service.fetch()["warnings"]] == ["not_configured"]

    def test_a_film_without_trailer_and_offers_has_no_warning(self, service):
        service.kinocheck.answers["get_trailer"] = None
        service.watchmode.answers["lookup_title_id"] = None

        payload = service.fetch()

        assert (payload["trailer"], payload["streaming"], payload["warnings"]) == (None, [], [])

    def test_a_section_that_imdb_does_not_have_is_empty_without_a_warning(self, service):
        service.imdb.fail(UpstreamNotFound("imdbapi", "not_found"), "get_videos")

        payload = service.fetch()

        assert (payload["videos"], payload["warnings"]) == ({}, [])

    def test_a_title_that_imdb_does_not_know_is_not_stored(self, service):
        service.imdb.fail(UpstreamNotFound("imdbapi", "not_found"), "get_metadata")

        with pytest.raises(UpstreamNotFound):
            service.fetch()

        assert not Film.objects.exists()

    def test_if_metadata_fails_and_nothing_is_stored_its_error_is_raised(self, service):
        error = UpstreamUnavailable("imdbapi", "connection_refused")
        service.imdb.fail(error, "get_metadata")

        with pytest.raises(UpstreamUnavailable) as caught:
            service.fetch()

        assert caught.value is error
        assert not Film.objects.exists()

    def test_an_expired_film_keeps_the_last_good_value_of_a_section_that_fails(self, service):
        good = service.fetch()
        service.clock.advance(hours=25)
        service.imdb.fail(UpstreamTimeout("imdbapi", "http_response_timeout"), "get_credits")

        payload = service.fetch()

        assert payload["credits"] == good["credits"]
        assert [(w["section"], w["code"]) for w in payload["warnings"]] == [("credits", "stale")]

    def test_an_expired_film_is_returned_whole_if_every_source_fails(self, service):
        good = service.fetch()
        service.clock.advance(days=400)
        service.break_sources()

        payload = service.fetch()

        assert {**payload, "warnings": []} == good
        assert [w["section"] for w in payload["warnings"]] == list(SECTION_NAMES)
        assert {w["code"] for w in payload["warnings"]} == {"stale"}
        assert not service.cache.is_fresh(INCEPTION)

    def test_the_watchmode_id_is_looked_up_once_in_30_days(self, service):
        service.fetch()
        service.clock.advance(days=29)
        service.fetch()
        assert service.watchmode.called.count("lookup_title_id") == 1

        service.clock.advance(days=1)
        service.fetch()

        assert service.watchmode.called.count("lookup_title_id") == 2

    @pytest.mark.parametrize(
        ("year", "days"), [(2026, 1), (2025, 1), (None, 1), (2024, 7), (1994, 7)]
    )
    def test_that_watchmode_does_not_know_a_title_is_believed_for_a_day_or_a_week(
        self, service, year, days
    ):
        title = {"id": INCEPTION, "primaryTitle": "Inception", "startYear": year}
        service.imdb.answers["get_metadata"] = title
        service.watchmode.answers["lookup_title_id"] = None
        service.fetch()
        # Old enough to be fetched again.
        Film.objects.update(cached_at=NOW - timedelta(days=2))
        service.clock.advance(days=days, seconds=-1)

        service.fetch()
        assert service.watchmode.called == ["lookup_title_id"]

        service.clock.advance(seconds=1)
        Film.objects.update(cached_at=NOW - timedelta(days=2))
        service.fetch()
        assert service.watchmode.called == ["lookup_title_id"] * 2

    def test_a_watchmode_id_that_is_gone_is_looked_up_again_by_the_next_fetch(self, service):
        service.fetch()
        error = UpstreamNotFound("watchmode", "not_found")
        service.watchmode.fail(error, "get_streaming_sources")
        service.clock.advance(hours=25)
        assert service.fetch()["streaming"] == []
        service.watchmode.answers.clear()
        service.watchmode.calls.clear()
        service.clock.advance(hours=25)

        assert service.fetch()["streaming"] != []
        assert service.watchmode.called == ["lookup_title_id", "get_streaming_sources"]

    def test_an_id_of_the_id_map_saves_the_lookup(self, service):
        WatchmodeTitle.objects.create(imdb_id=INCEPTION, watchmode_id=7)

        service.fetch()

        assert service.watchmode.calls == [("get_streaming_sources", 7)]

    @pytest.mark.parametrize("known", [None, 5], ids=["unknown", "known"])
    def test_an_id_of_the_id_map_is_used_when_the_one_that_was_looked_up_expires(
        self, service, known
    ):
        service.watchmode.answers["lookup_title_id"] = known
        service.fetch()
        WatchmodeTitle.objects.create(imdb_id=INCEPTION, watchmode_id=7)
        service.watchmode.calls.clear()
        service.clock.advance(days=30)

        service.fetch()

        assert service.watchmode.calls == [("get_streaming_sources", 7)]

    def test_a_looked_up_id_is_used_before_that_of_the_id_map(self, service):
        service.fetch()
        WatchmodeTitle.objects.create(imdb_id=INCEPTION, watchmode_id=7)
        service.watchmode.calls.clear()
        service.clock.advance(days=29)

        service.fetch()

        assert service.watchmode.calls == [("get_streaming_sources", 1182444)]

    def test_an_id_of_the_id_map_that_is_gone_is_looked_up_by_the_next_fetch(self, service):
        WatchmodeTitle.objects.create(imdb_id=INCEPTION, watchmode_id=7)
        error = UpstreamNotFound("watchmode", "not_found")
        service.watchmode.fail(error, "get_streaming_sources")
        service.fetch()
        service.watchmode.answers.clear()
        service.watchmode.calls.clear()
        service.clock.advance(hours=25)

        assert service.fetch()["streaming"] != []
        assert service.watchmode.called == ["lookup_title_id", "get_streaming_sources"]

    def test_a_looked_up_id_that_is_gone_leaves_another_id_in_the_id_map(self, service):
        service.fetch()
        WatchmodeTitle.objects.create(imdb_id=INCEPTION, watchmode_id=7)
        error = UpstreamNotFound("watchmode", "not_found")
        service.watchmode.fail(error, "get_streaming_sources")
        service.clock.advance(hours=25)

        service.fetch()

        assert WatchmodeTitle.objects.get().watchmode_id == 7

    def test_a_watchmode_id_is_kept_if_the_call_for_the_offers_fails(self, service):
        error = UpstreamUnavailable("watchmode", "http_5xx")
        service.watchmode.fail(error, "get_streaming_sources")
        service.fetch()
        service.clock.advance(hours=25)

        service.fetch()

        assert service.watchmode.called.count("lookup_title_id") == 1

    def test_a_bug_in_a_service_is_not_reported_as_an_outage(self, service):
        service.imdb.answers["get_videos"] = ZeroDivisionError()

        with pytest.raises(ZeroDivisionError):
            service.fetch()

    def test_a_silent_source_costs_its_sections_and_no_more_than_the_deadline(self, db):
        service = Service(deadline_seconds=0.5)

        with service.kinocheck.silent("get_trailer"):
            payload = service.fetch()

        assert [(w["section"], w["code"]) for w in payload["warnings"]] == [("trailer", "deadline")]

    def test_a_film_that_was_stored_since_the_first_look_is_not_fetched_again(
        self, service, monkeypatch
    ):
        other, look = Service(clock=service.clock), service.cache.get_cached
        looks = []

        def look_too_early(imdb_id):
            looks.append(imdb_id)
            if len(looks) > 1:
                return look(imdb_id)
            assert look(imdb_id) is None
            other.fetch()
            return None

        monkeypatch.setattr(service.cache, "get_cached", look_too_early)

        assert service.fetch()["title"] == "Inception"
        assert service.call_count == 0


class TestCache:
    def test_nothing_is_cached_at_first(self, service):
        assert service.cache.get_cached(INCEPTION) is None
        assert not service.cache.is_fresh(INCEPTION)

    def test_a_saved_payload_is_fresh_until_the_time_to_live_is_over(self, service):
        service.cache.save_cache(INCEPTION, payload_of())

        service.clock.advance(hours=23, minutes=59, seconds=59)
        assert service.cache.is_fresh(INCEPTION)
        assert service.cache.get_cached(INCEPTION).is_fresh
        service.clock.advance(seconds=1)
        assert not service.cache.is_fresh(INCEPTION)
        assert not service.cache.get_cached(INCEPTION).is_fresh

    def test_an_expired_payload_can_still_be_read(self, service):
        service.cache.save_cache(INCEPTION, payload_of())
        service.clock.advance(days=10)

        assert service.cache.get_cached(INCEPTION) == payload_of()

    def test_the_states_of_sections_are_stored_with_the_payload(self, service):
        service.imdb.fail(UpstreamTimeout("imdbapi", "http_response_timeout"), "get_credits")
        service.fetch()

        states = service.cache.get_cached(INCEPTION).states

        assert states["images"].fetched_at == service.clock.time
        assert states["credits"].fetched_at is None
        assert states["credits"].failures == 1
        assert states["credits"].retry_at == service.clock.time + timedelta(minutes=5)

    def test_a_payload_keeps_the_time_of_its_fetch(self, service):
        service.cache.save_cache(INCEPTION, film_payload(age=timedelta(hours=5)))

        assert Film.objects.get().cached_at == service.clock.time - timedelta(hours=5)

    def test_a_row_without_payload_is_no_hit(self, service):
        Film.objects.create(imdb_id=INCEPTION, title="Inception", cached_at=service.clock.time)

        assert service.cache.get_cached(INCEPTION) is None
        assert not service.cache.is_fresh(INCEPTION)

    def test_the_bytes_of_several_fresh_films_are_read_with_one_query(
        self, service, django_assert_num_queries
    ):
        for imdb_id in ("tt0000001", "tt0000002"):
            service.cache.save_cache(imdb_id, payload_of(imdb_id))
        service.cache.save_cache("tt0000003", film_payload(age=timedelta(hours=25)))

        with django_assert_num_queries(1):
            found = service.cache.read_bodies(["tt0000003", "tt0000002", "tt0000001", "tt0000004"])

        assert found == {
            imdb_id: service.cache.read_body(imdb_id, is_gzipped=False)
            for imdb_id in ("tt0000001", "tt0000002")
        }

    def test_damaged_bytes_are_not_returned_and_rendered_again(self, service):
        service.cache.save_cache(INCEPTION, payload_of())
        FilmRendering.objects.update(body=b"{}")

        assert service.cache.read_bodies([INCEPTION]) == {}

        assert service.cache.get_cached(INCEPTION) == payload_of()
        assert INCEPTION in service.cache.read_bodies([INCEPTION])

    def test_a_payload_that_was_never_cached_is_expired(self, service):
        Film.objects.create(imdb_id=INCEPTION, full_json=payload_of())

        assert not service.cache.get_cached(INCEPTION).is_fresh
        assert not service.cache.is_fresh(INCEPTION)

    def test_saving_twice_leaves_one_row(self, service):
        service.cache.save_cache(INCEPTION, payload_of(title="First"))
        service.cache.save_cache(INCEPTION, payload_of(title="Second"))

        assert list(Film.objects.values_list("title", flat=True)) == ["Second"]

    def test_a_title_is_clipped_to_what_the_column_holds_and_whole_in_the_payload(self, service):
        title = "\N{FILM FRAMES}" * 600
        service.cache.save_cache(INCEPTION, payload_of(title=title))

        film = Film.objects.get()
        assert film.title == title[:512]
        assert film.full_json["title"] == title

    @pytest.mark.parametrize(
        "year", ["2011\u20132019", "N/A", 0, -5, 2**31, 10**30, True, 1999.7, [1], None, 1869, 2037]
    )
    def test_a_year_that_is_none_is_null(self, service, year):
        service.cache.save_cache(INCEPTION, payload_of(metadata={"startYear": year}))

        assert Film.objects.get().year is None

    @pytest.mark.parametrize("year", [1870, 2010, 2036])
    def test_a_year_of_film_history_is_kept(self, service, year):
        service.cache.save_cache(INCEPTION, payload_of(metadata={"startYear": year}))

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
    def test_a_poster_that_the_column_cannot_hold_is_null(self, service, image):
        service.cache.save_cache(INCEPTION, payload_of(metadata={"primaryImage": image}))

        assert Film.objects.get().poster_url is None

    def test_a_watchmode_id_beyond_32_bits_is_kept(self, service):
        service.watchmode.answers["lookup_title_id"] = 2**40

        service.fetch()

        assert FilmFetch.objects.get().watchmode_id == 2**40

    def test_ids_saved_before_a_moment_come_oldest_first_and_those_never_cached_before_all(
        self, service
    ):
        for hours, imdb_id in ((3, "tt0000003"), (1, "tt0000001"), (2, "tt0000002")):
            service.cache.save_cache(imdb_id, film_payload(age=timedelta(hours=hours)))
        Film.objects.create(imdb_id="tt0000009", title="never cached")
        before = service.clock.time - timedelta(hours=1)

        assert service.cache.saved_before(before) == ["tt0000009", "tt0000003", "tt0000002"]
        assert service.cache.saved_before(before, limit=2) == ["tt0000009", "tt0000003"]
        assert service.cache.saved_before(before, without=["tt0000003"], limit=2) == [
            "tt0000009",
            "tt0000002",
        ]

    def test_a_film_saved_by_a_clock_that_was_ahead_was_saved_before_any_moment(self, service):
        service.cache.save_cache(INCEPTION, film_payload(age=-timedelta(days=3000)))
        service.cache.save_cache("tt0000001", film_payload(age=-timedelta(seconds=9)))

        assert service.cache.saved_before(service.clock.time) == [INCEPTION]


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
some_outcomes = st.fixed_dictionaries(
    {},
    optional={
        s.name: st.one_of(titles, errors) if s.name == "metadata" else st.one_of(values, errors)
        for s in SECTIONS
    },
)
FAILURES = UpstreamUnavailable | UpstreamBadAnswer


def merged(outcomes, last: FilmPayload | None = None, now: datetime = NOW) -> FilmPayload:
    return merge(INCEPTION, outcomes, last, now=now, retry=RETRY)


class TestMerge:
    @given(good_outcomes)
    def test_the_twelve_keys_are_always_there(self, outcomes):
        assert list(merged(outcomes)) == TWELVE_KEYS

    @given(good_outcomes, any_outcomes)
    def test_nothing_good_is_lost(self, before, after):
        last = merged(before)

        payload = merged(after, last)

        for section in SECTIONS:
            if last.has_good(section):
                assert payload.has_good(section)
                if isinstance(after[section.name], FAILURES):
                    assert payload[section.name] == last[section.name]

    @given(good_outcomes, any_outcomes)
    def test_merging_the_same_outcomes_again_changes_nothing(self, before, after):
        once = merged(after, merged(before))

        assert merged(after, once) == once

    @given(good_outcomes)
    def test_every_section_without_a_good_value_has_a_warning_that_says_why(self, outcomes):
        payload = merged(outcomes)

        failed = {
            name: outcome.code
            for name, outcome in outcomes.items()
            if isinstance(outcome, FAILURES)
        }
        assert payload.warning_codes == failed
        assert payload.failures == failed

    @given(good_outcomes, some_outcomes)
    def test_a_section_that_was_not_fetched_stays_as_it_was(self, before, after):
        last = merged(before)

        payload = merged(after, last, NOW + timedelta(hours=1))

        for name in set(SECTION_NAMES) - set(after):
            assert payload[name] == last[name]
            assert payload.states.get(name) == last.states.get(name)
            assert payload.warning_codes.get(name) == last.warning_codes.get(name)

    @given(good_outcomes, some_outcomes)
    def test_only_new_metadata_makes_a_film_younger(self, before, after):
        later = NOW + timedelta(hours=30)

        payload = merged(after, merged(before), later)

        is_new = isinstance(after.get("metadata"), dict)
        assert payload.cached_at == (later if is_new else NOW)
        assert payload.is_fresh is not isinstance(after.get("metadata"), Exception)

    @given(good_outcomes, some_outcomes)
    def test_a_fetched_section_has_its_time_and_a_failed_one_keeps_it(self, before, after):
        last, later = merged(before), NOW + timedelta(hours=1)

        states = merged(after, last, later).states

        for name, outcome in after.items():
            is_failure = isinstance(outcome, FAILURES) or (
                name == "metadata" and isinstance(outcome, UpstreamNotFound)
            )
            if is_failure:
                known = last.states.get(name)
                assert states[name].fetched_at == (known.fetched_at if known else None)
            else:
                assert states[name].fetched_at == later
                assert (states[name].failures, states[name].retry_at) == (0, None)

    @pytest.mark.parametrize("error", [UpstreamNotFound("s", "x"), UpstreamTimeout("s", "x")])
    def test_without_metadata_there_is_no_film(self, error):
        with pytest.raises(type(error)):
            merged({**dict.fromkeys(SECTION_NAMES), "metadata": error})


class TestRetries:
    """A section that keeps failing is fetched again after 5 minutes, 10, 20 ... up to a day."""

    def failing(self, times: int) -> FilmPayload:
        error = UpstreamBadAnswer("imdbapi", "bad_shape")
        payload = merged({"metadata": {"primaryTitle": "x"}, "credits": error})
        for _ in range(times - 1):
            payload = merged({"credits": error}, payload)
        return payload

    @pytest.mark.parametrize(
        ("failures", "minutes"),
        [(1, 5), (2, 10), (3, 20), (8, 640), (9, 1280), (10, 1440), (11, 1440), (5000, 1440)],
    )
    def test_the_delay_doubles_with_each_failure_up_to_a_day(self, failures, minutes):
        assert RETRY.delay(failures) == timedelta(minutes=minutes)

    @pytest.mark.parametrize(("times", "minutes"), [(1, 5), (2, 10), (4, 40)])
    def test_failures_in_a_row_are_counted(self, times, minutes):
        state = self.failing(times).states["credits"]

        assert (state.failures, state.retry_at) == (times, NOW + timedelta(minutes=minutes))

    def test_that_a_source_has_another_title_is_believed_for_an_hour(self):
        error = UpstreamBadAnswer("kinocheck", "other_title")

        payload = merged({"trailer": error})

        assert payload["warnings"][0]["code"] == "bad_response"
        assert payload.states["trailer"].retry_at == NOW + timedelta(hours=1)

    def test_a_success_ends_the_row(self):
        payload = merged({"credits": {}}, self.failing(5))

        failed = merged({"credits": UpstreamTimeout("imdbapi", "timeout")}, payload)

        assert failed.states["credits"].failures == 1

    def test_a_call_that_was_not_made_counts_as_no_failure_and_is_due_at_once(self):
        error = DeadlineExceeded("imdbapi", "deadline")
        payload = merged({"credits": error}, self.failing(3), NOW + timedelta(hours=1))

        state = payload.states["credits"]
        assert (state.failures, state.retry_at) == (3, NOW + timedelta(hours=1))

    def test_a_day_of_reads_makes_at_most_12_calls_to_a_source_that_always_fails(self, db):
        service = Service()
        service.imdb.fail(UpstreamBadAnswer("imdbapi", "bad_shape"), "get_credits")
        service.fetch()

        for _ in range(24 * 12 - 1):
            service.clock.advance(minutes=5)
            service.background.start(INCEPTION)
            service.background.run()

        assert 8 <= service.imdb.called.count("get_credits") <= 12


@pytest.mark.django_db
class TestSearch:
    @pytest.fixture
    def service(self) -> Service:
        cache.clear()
        return Service()

    def test_a_title_is_returned_with_five_fields(self, service):
        service.imdb.answers["search"] = [
            {
                "id": INCEPTION,
                "type": "movie",
                "primaryTitle": "Inception",
                "primaryImage": {"url": "https://images.test/1.jpg", "width": 5},
                "startYear": 2010,
            }
        ]

        assert service.search.search("inception") == [
            {
                "imdb_id": INCEPTION,
                "title": "Inception",
                "year": 2010,
                "image": "https://images.test/1.jpg",
                "type": "movie",
            }
        ]

    def test_the_same_text_in_another_case_is_answered_from_the_cache(self, service):
        service.imdb.answers["search"] = [{"id": INCEPTION}]
        found = service.search.search("inception")

        assert service.search.cached("INCEPTION") == found
        assert service.imdb.called == ["search"]

    def test_a_text_that_was_not_searched_for_is_not_in_the_cache(self, service):
        assert service.search.cached("inception") is None

    def test_an_empty_result_is_kept_too(self, service):
        service.search.search("nothing")

        assert service.search.cached("nothing") == []

    def test_an_error_is_not_kept(self, service):
        service.imdb.fail(UpstreamUnavailable("imdbapi", "dns_error"), "search")
        with pytest.raises(UpstreamUnavailable):
            service.search.search("inception")
        service.repair_sources()

        assert service.search.cached("inception") is None
        assert service.search.search("inception") == []

    def test_texts_that_differ_in_more_than_case_do_not_share_a_result(self, service):
        service.search.search("masse")

        assert service.search.cached("MASSE") is not None
        assert service.search.cached("maße") is None

    def test_missing_fields_are_null(self, service):
        service.imdb.answers["search"] = [{"id": "tt0000001"}]

        assert service.search.search("x") == [
            {"imdb_id": "tt0000001", "title": None, "year": None, "image": None, "type": None}
        ]

    @pytest.mark.parametrize("url", ["ftp://x/", "http://[broken", "javascript:alert(1)", None, 5])
    def test_an_image_that_is_no_web_address_is_null(self, service, url):
        service.imdb.answers["search"] = [{"id": "tt0000001", "primaryImage": {"url": url}}]

        assert service.search.search("x")[0]["image"] is None

    def test_the_original_title_replaces_a_missing_title(self, service):
        service.imdb.answers["search"] = [{"id": "tt0000001", "originalTitle": "Kara"}]

        assert service.search.search("x")[0]["title"] == "Kara"

    def test_no_more_than_twenty_titles_are_returned(self, service):
        service.imdb.answers["search"] = [{"id": f"tt{number:07}"} for number in range(50)]

        found = service.search.search("inception")

        assert [each["imdb_id"] for each in found] == [f"tt{number:07}" for number in range(20)]

    @pytest.mark.parametrize(
        ("query", "title"),
        [
            ("oceans eleven", "Ocean's Eleven"),
            ("Ocean’s Eleven", "Oceans Eleven"),
            ("spiderman", "Spider-Man"),
            ("spider man", "Spiderman"),
            ("swat", "S.W.A.T."),
            ("wall e", "WALL·E"),
            ("matrix", "The Matrix"),
            ("the matrix", "Matrix"),
            ("ai", "A.I."),
        ],
    )
    def test_a_title_that_equals_the_query_but_for_punctuation_is_first(
        self, service, query, title
    ):
        service.imdb.answers["search"] = [
            {"id": "tt0000001", "primaryTitle": f"{title} 2"},
            {"id": "tt0000002", "primaryTitle": "x", "originalTitle": title},
            {"id": "tt0000003", "primaryTitle": title},
        ]

        found = service.search.search(query)

        assert [each["imdb_id"][-1] for each in found] == ["2", "3", "1"]

    def test_a_search_that_fails_is_not_an_empty_list(self, service):
        service.imdb.fail(UpstreamUnavailable("imdbapi", "dns_error"), "search")

        with pytest.raises(UpstreamUnavailable):
            service.search.search("inception")

    def test_a_search_waits_for_its_source_no_longer_than_the_deadline(self):
        service = Service(deadline_seconds=0.05)

        with service.imdb.silent("search"), pytest.raises(DeadlineExceeded):
            service.search.search("inception")

    def test_no_more_searches_than_slots_wait_for_the_source(self, service):
        while service.miss_slots.acquire(blocking=False):
            pass

        with pytest.raises(Overloaded) as caught:
            service.search.search("inception")

        assert not caught.value.is_callers_fault
        assert service.imdb.called == []

    @pytest.mark.parametrize("error", [None, UpstreamUnavailable("imdbapi", "dns_error")])
    def test_a_slot_is_released_in_any_case(self, service, error):
        service.imdb.answers["search"] = error or []
        for number in range(10):
            try:
                service.search.search(f"text {number}")
            except UpstreamUnavailable:
                assert error

        assert all(service.miss_slots.acquire(blocking=False) for _ in range(4))

    def test_titles_that_were_found_are_vouched_for(self, service):
        service.imdb.answers["search"] = [{"id": INCEPTION}, {"id": INCEPTION}, {"id": "tt2"}]

        service.search.search("inception")

        assert service.leases.is_vouched_for(service.leases.record(INCEPTION))
        assert not service.leases.is_vouched_for(service.leases.record("tt3"))


@pytest.mark.django_db
class TestPastedId:
    """A search for an id, or for the address of a title."""

    @pytest.fixture
    def service(self) -> Service:
        cache.clear()
        return Service()

    def search_later(self, service: Service, **span: float) -> list[dict[str, Any]]:
        """Search when the cache has forgotten the titles."""
        cache.clear()
        service.clock.advance(**span)
        return service.search.search("tt0000137")

    @pytest.mark.parametrize(
        "other",
        [
            "tt137",
            "tt00000137",
            "TT0000137",
            "https://www.imdb.com/title/tt137/?ref_=x",
            "imdb.com:443/title/tt137",
            "https://m.imdb.com:443/de/title/tt137/?q=the matrix",
        ],
    )
    def test_all_spellings_find_one_title_with_one_call(self, service, other):
        found = service.search.search("tt0000137")

        assert [each["imdb_id"] for each in found] == ["tt0000137"]
        assert service.search.cached(other) == found
        assert service.imdb.calls == [("get_metadata", "tt0000137")]

    def test_that_there_is_no_such_title_is_believed_for_an_hour(self, service):
        service.imdb.fail(UpstreamNotFound("imdbapi", "not_found"), "get_metadata")

        found = [self.search_later(service, **span) for span in ({}, {"minutes": 59.9})]

        assert (found, service.call_count) == ([[], []], 1)
        with pytest.raises(UpstreamNotFound):
            service.fetch_unvouched("tt0000137")
        assert service.call_count == 1
        self.search_later(service, minutes=0.2)
        assert service.call_count == 2

    def test_what_a_fetch_of_the_film_showed_is_believed(self, service):
        service.imdb.fail(UpstreamNotFound("imdbapi", "not_found"), "get_metadata")
        with pytest.raises(UpstreamNotFound):
            service.fetch_unvouched("tt0000137")

        assert self.search_later(service) == []
        assert service.call_count == 1

    @pytest.mark.parametrize("reason", ["http_4xx", "other_title"])
    def test_an_id_that_the_source_rejects_is_not_asked_for_again_within_an_hour(
        self, service, reason
    ):
        service.imdb.fail(UpstreamBadAnswer("imdbapi", reason), "get_metadata")

        for span in ({}, {"minutes": 59.9}):
            with pytest.raises(UpstreamBadAnswer):
                self.search_later(service, **span)

        assert service.call_count == 1
        with pytest.raises(UpstreamBadAnswer):
            self.search_later(service, minutes=0.2)
        assert service.call_count == 2

    def test_a_source_that_fails_says_nothing_about_the_title(self, service):
        service.imdb.fail(UpstreamUnavailable("imdbapi", "dns_error"), "get_metadata")

        for _ in range(2):
            with pytest.raises(UpstreamUnavailable):
                self.search_later(service)

        assert service.call_count == 2

    @pytest.mark.parametrize(
        ("is_seen", "priority"), [(True, Priority.READER), (False, Priority.UNVOUCHED)]
    )
    def test_an_id_that_nothing_vouches_for_goes_last_and_is_counted(
        self, service, monkeypatch, is_seen, priority
    ):
        source = service.sources["imdbapi"]
        submit, priorities, counted = source.submit, [], []
        monkeypatch.setattr(
            source,
            "submit",
            lambda call, **options: (
                priorities.append(options["priority"]) or submit(call, **options)
            ),
        )
        if is_seen:
            service.vouch_for("tt0000137")

        service.search.search("tt137", count_miss=counted.append)

        assert (priorities, counted) == ([priority], [is_seen])


@pytest.mark.django_db
class TestAgeOfOffers:
    """The terms of Watchmode limit for how long offers may be kept."""

    @pytest.fixture
    def service(self) -> Service:
        # The film is renewed every day, and its offers are not.
        service = Service(
            offers_max_age=timedelta(days=30), lifetimes={"streaming": timedelta(days=365)}
        )
        service.fetch()
        return service

    def renew_daily(self, service: Service, days: int) -> None:
        for _ in range(days):
            service.clock.advance(days=1)
            service.fetch()

    def is_in_fast_path(self, service: Service) -> bool:
        is_there = service.cache.read_body(INCEPTION, is_gzipped=False) is not None
        assert is_there == (INCEPTION in service.cache.read_bodies([INCEPTION]))
        return is_there

    def test_offers_are_returned_for_30_days(self, service):
        self.renew_daily(service, 29)

        assert service.fetch()["streaming"] != []
        assert self.is_in_fast_path(service)

    @pytest.mark.parametrize("is_failing", [False, True])
    def test_older_offers_are_removed_with_a_warning(self, service, is_failing):
        if is_failing:
            service.watchmode.fail(UpstreamTimeout("watchmode", "x"), "get_streaming_sources")
            service.refresher._policy.lifetimes.clear()
        self.renew_daily(service, 29)
        service.clock.advance(hours=23, minutes=59)
        Film.objects.update(cached_at=service.clock.time)
        assert service.cache.get_cached(INCEPTION)["streaming"] != []
        assert self.is_in_fast_path(service)
        service.clock.advance(minutes=1)
        assert not self.is_in_fast_path(service)

        payload = service.cache.get_cached(INCEPTION)

        assert payload["streaming"] == []
        assert payload.warning_codes == {"streaming": "expired"}

    def test_they_leave_the_row_with_the_next_fetch(self, service):
        self.renew_daily(service, 29)
        service.watchmode.fail(UpstreamTimeout("watchmode", "x"), "get_streaming_sources")
        self.renew_daily(service, 1)

        assert Film.objects.get().full_json["streaming"] == []
        assert service.fetch().warning_codes == {"streaming": "timeout"}

    def test_those_of_other_regions_are_removed_too(self, service):
        rows = [{"source_id": 1, "name": "Store", "region": "DE"}]
        service.watchmode.answers["get_streaming_sources"] = rows
        service.clock.advance(days=31)
        service.fetch()
        assert service.cache.get_cached(INCEPTION).extras["streaming"]["offers"] == rows
        service.clock.advance(days=30)

        payload = service.cache.get_cached(INCEPTION)

        assert payload.extras["streaming"] is None
        assert payload.warning_codes == {"streaming": "expired"}

    @pytest.mark.parametrize("days", [29, 30])
    def test_those_beside_a_default_region_that_is_not_covered_have_an_age(self, days):
        service = Service(offers_max_age=timedelta(days=30), regions=("TR", "US"))
        service.watchmode.not_covered = ("TR",)
        rows = [{"source_id": 1, "name": "Store", "region": "US"}]
        service.watchmode.answers["get_streaming_sources"] = rows
        service.fetch()
        service.clock.advance(days=days)

        payload = service.cache.get_cached(INCEPTION)

        code = "expired" if days == 30 else "region_not_covered"
        assert payload.warning_codes == {"streaming": code}
        assert bool(payload.extras["streaming"]) == (days < 30)

    def test_without_lifetimes_they_are_as_old_as_the_film_if_the_rendering_is_lost(self):
        service = Service(offers_max_age=timedelta(days=30))
        service.fetch()
        FilmRendering.objects.all().delete()

        assert service.fetch()["streaming"] != []
        assert service.fetch().warning_codes == {}
        assert self.is_in_fast_path(service)

    def test_without_lifetimes_those_that_were_kept_after_a_failure_may_be_older(self):
        service = Service(offers_max_age=timedelta(days=30))
        service.fetch()
        service.clock.advance(days=2)
        service.watchmode.fail(UpstreamUnavailable("watchmode", "dns"), "get_streaming_sources")
        assert service.fetch().warning_codes == {"streaming": "stale"}
        FilmRendering.objects.all().delete()

        assert service.fetch().warning_codes == {"streaming": "expired"}

    def test_offers_of_unknown_age_are_removed_and_fetched_again(self, service):
        FilmRendering.objects.all().delete()

        payload = service.fetch()

        assert payload["streaming"] == []
        assert payload.warning_codes == {"streaming": "expired"}
        assert not self.is_in_fast_path(service)
        service.background.run()
        assert service.fetch()["streaming"] != []
        assert self.is_in_fast_path(service)

    def test_the_background_fetches_new_ones(self, service):
        self.renew_daily(service, 29)
        service.clock.advance(hours=18)
        Film.objects.update(cached_at=service.clock.time)
        service.clock.advance(hours=6)
        assert service.fetch()["streaming"] == []
        service.watchmode.calls.clear()

        service.background.run()

        assert service.fetch()["streaming"] != []
        assert service.fetch()["warnings"] == []

    def test_an_empty_list_is_not_too_old(self, service):
        service.watchmode.answers["get_streaming_sources"] = []
        service.fetch("tt0000001")
        service.clock.advance(days=31)
        Film.objects.update(cached_at=service.clock.time)

        assert service.fetch("tt0000001")["warnings"] == []

    def test_offers_of_a_payload_without_states_are_as_old_as_the_payload(self, service):
        service.cache.save_cache("tt0000001", payload_of("tt0000001"))

        assert service.cache.read_body("tt0000001", is_gzipped=False)
        assert service.cache.get_cached("tt0000001")["streaming"] != []
        service.clock.advance(days=30)
        assert service.cache.get_cached("tt0000001")["streaming"] == []

    def test_without_a_limit_they_are_kept(self):
        service = Service()
        service.fetch()
        service.clock.advance(days=3000)
        service.break_sources()

        assert service.fetch()["streaming"] != []


@pytest.mark.django_db
class TestAgeOfSections:
    def test_sections_of_unknown_age_are_fetched_with_the_next_refresh(self):
        service = Service(lifetimes=dict.fromkeys(SECTION_NAMES[1:], timedelta(days=365)))
        service.fetch()
        FilmRendering.objects.all().delete()
        # The film is rendered again.
        service.fetch()
        service.imdb.calls.clear()
        service.clock.advance(hours=25)

        service.fetch()

        assert set(service.imdb.called) == set(IMDB_METHODS)


@pytest.mark.django_db
class TestOldOffersOfFilmsThatNobodyReads:
    """The housekeeping chore."""

    @pytest.fixture
    def service(self) -> Service:
        service = Service(offers_max_age=timedelta(days=30))
        service.fetch()
        service.clock.advance(hours=12)
        service.fetch(OTHER)
        # The rows are older than what is in them.
        Film.objects.update(created_at=service.clock.time - timedelta(days=40))
        service.clock.advance(days=29, hours=12)
        return service

    def offers(self, imdb_id: str) -> Any:
        return Film.objects.get(imdb_id=imdb_id).full_json["streaming"]

    def test_they_leave_the_row_and_the_others_stay(self, service):
        assert service.cache.remove_old_offers() == 1

        assert (self.offers(INCEPTION), self.offers(OTHER)) == ([], [NETFLIX])
        assert b"Netflix" not in bytes(FilmRendering.objects.get(film=INCEPTION).body)
        assert "Netflix" not in FilmRendering.objects.get(film=INCEPTION).extras
        stored = service.cache.get_cached(INCEPTION)
        assert stored.warning_codes == {"streaming": "expired"}
        assert stored.cached_at == service.clock.time - timedelta(days=30)
        assert service.cache.remove_old_offers() == 0

    def test_those_of_other_regions_leave_it_too(self, service):
        FilmRendering.objects.all().delete()
        Film.objects.all().delete()
        service.watchmode.answers["get_streaming_sources"] = [{**NETFLIX, "region": "DE"}]
        service.fetch()
        service.clock.advance(days=30)

        assert service.cache.remove_old_offers() == 1
        assert "Netflix" not in FilmRendering.objects.get().extras

    def test_those_of_unknown_age_leave_it_and_the_film_is_rendered_again(self, service):
        FilmRendering.objects.filter(film=OTHER).delete()
        with_lifetimes = Service(
            clock=service.clock, offers_max_age=timedelta(days=30), lifetimes={}
        ).cache

        assert with_lifetimes.remove_old_offers() == 2
        assert self.offers(OTHER) == []
        assert FilmRendering.objects.count() == 2

    def test_rows_that_are_younger_than_the_limit_are_not_looked_at(self, service):
        Film.objects.update(created_at=service.clock.time - timedelta(days=29))
        FilmRendering.objects.all().delete()

        assert service.cache.remove_old_offers() == 0
        assert not FilmRendering.objects.exists()

    def test_damaged_rows_are_left_alone(self, service):
        Film.objects.filter(imdb_id=INCEPTION).update(full_json={"imdb_id": INCEPTION})

        assert service.cache.remove_old_offers() == 0

    def test_films_are_looked_at_in_batches(self, service, monkeypatch, django_assert_num_queries):
        monkeypatch.setattr("films.services.film_cache._BATCH", 1)
        service.clock.advance(days=1)

        assert service.cache.remove_old_offers() == 2
        with django_assert_num_queries(3):
            assert service.cache.remove_old_offers() == 0

    def test_without_a_limit_nothing_is_removed(self, service, django_assert_num_queries):
        with django_assert_num_queries(0):
            assert Service(clock=service.clock).cache.remove_old_offers() == 0
