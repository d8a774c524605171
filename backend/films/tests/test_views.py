"""The film surface over HTTP, with the real error handling."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.conf import settings
from django.core.cache import cache
from django.db import OperationalError
from django.test import Client, override_settings
from django.urls import clear_url_caches, include, path
from django.utils import timezone
from django.utils.http import http_date

from core.errors import (
    Overloaded,
    RegionNotCovered,
    UpstreamBadAnswer,
    UpstreamNotFound,
    UpstreamRateLimited,
    UpstreamUnavailable,
)
from films.models import Film
from films.payload import FilmPayload
from films.services.fan_out import SectionPages
from films.services.film_aggregator import current_reader
from films.tests.fakes import INCEPTION, FakeAggregator, FakeSearch, payload_of
from films.tests.service import IMDB_METHODS, Service
from films.urls import film_paths

FILM = f"/api/films/{INCEPTION}"
PARTS = ["", "/trailer", "/streaming"]

urlpatterns: list = []


@pytest.fixture(autouse=True)
def _routes():
    serve()
    cache.clear()
    with override_settings(ROOT_URLCONF=__name__):
        yield


def serve(*, aggregator=None, search=None, pages=None, regions=("TR",)) -> None:
    """From now on these services answer."""
    routes = film_paths(
        get_aggregator=lambda: aggregator or FakeAggregator(payload_of()),
        get_search=lambda: search or FakeSearch([]),
        get_cache=lambda: Service().cache,
        get_pages=lambda: pages or pytest.fail("no page was expected"),
        get_sources=list,
        regions=regions,
        longest_wait=15,
    )
    urlpatterns[:] = [path("api/", include(routes))]
    clear_url_caches()


def get(address, **headers):
    return Client().get(address, headers=headers)


@contextmanager
def rates(**rates: str | None) -> Iterator[None]:
    all_rates = settings.REST_FRAMEWORK["DEFAULT_THROTTLE_RATES"] | rates
    with override_settings(
        REST_FRAMEWORK=settings.REST_FRAMEWORK | {"DEFAULT_THROTTLE_RATES": all_rates}
    ):
        yield


class TestFilm:
    def test_a_film_is_its_payload(self):
        answer = get(FILM)

        assert answer.status_code == 200
        assert answer.json() == payload_of()
        assert list(answer.json()) == list(payload_of())

    @pytest.mark.parametrize("section", ["trailer", "streaming"])
    def test_a_section_comes_from_the_same_payload(self, section):
        answer = get(f"{FILM}/{section}")

        assert answer.json() == {"imdb_id": INCEPTION, section: payload_of()[section]}

    @pytest.mark.parametrize("part", PARTS)
    def test_a_final_slash_changes_nothing(self, part):
        assert get(f"{FILM}{part}/").json() == get(f"{FILM}{part}").json()

    @pytest.mark.parametrize(
        "imdb_id",
        [
            "abc",
            "tt",
            "1375666",
            "nm0000158",
            "tt12x",
            "tt1234567890123456789",
            "TT0111161",
            "%20tt0111161",
            "tt0111161%0A",
            "tt0111161%00",
            "tt１２３４５６７",
            "tt٠١٢٣٤٥٦",
            "tt0111161%3Fx%23y",
            "tt" + "1" * 4000,
        ],
    )
    @pytest.mark.parametrize("part", PARTS)
    def test_an_invalid_id_is_400_and_nothing_is_fetched(self, imdb_id, part):
        aggregator = FakeAggregator(payload_of())
        serve(aggregator=aggregator)

        answer = get(f"/api/films/{imdb_id}{part}")

        assert answer.status_code == 400
        assert answer.json()["reason"] == "invalid_parameter"
        assert aggregator.asked_for == []

    def test_an_empty_id_is_400(self):
        assert get("/api/films/").status_code == 400

    @pytest.mark.parametrize("imdb_id", ["tt137", "tt00000137", "tt0000137"])
    def test_ids_are_canonical_before_anything_else(self, imdb_id):
        aggregator = FakeAggregator(payload_of())
        serve(aggregator=aggregator)

        get(f"/api/films/{imdb_id}")

        assert aggregator.asked_for == ["tt0000137"]

    @pytest.mark.parametrize(
        ("error", "status", "reason"),
        [
            (UpstreamNotFound("imdbapi", "not_found"), 404, "not_found"),
            (UpstreamBadAnswer("imdbapi", "bad_json"), 502, "bad_response"),
            (UpstreamUnavailable("imdbapi", "dns_error"), 503, "unavailable"),
            (UpstreamRateLimited("imdbapi", "x", retry_after=30), 503, "rate_limited"),
            (Overloaded("Busy.", retry_after=1), 503, "overloaded"),
            (OperationalError("could not connect"), 503, "database_unavailable"),
        ],
    )
    @pytest.mark.parametrize("part", PARTS)
    def test_each_failure_has_its_status_and_the_one_shape(self, error, status, reason, part):
        serve(aggregator=FakeAggregator(error))

        answer = get(f"{FILM}{part}")

        assert answer.status_code == status
        assert set(answer.json()) == {"error_code", "message", "reason"}
        assert (answer.json()["error_code"], answer.json()["reason"]) == (str(status), reason)
        assert answer["Cache-Control"] == "no-store"
        assert ("Retry-After" in answer) == (status == 503)

    def test_the_wait_that_a_source_asks_for_is_passed_on(self):
        error = UpstreamRateLimited("imdbapi", "rate_limited", retry_after=29.1)
        serve(aggregator=FakeAggregator(error))

        assert get(FILM)["Retry-After"] == "30"

    def test_an_unexpected_error_is_500_in_the_one_shape(self, caplog):
        serve(aggregator=FakeAggregator(ZeroDivisionError("a bug")))

        answer = get(FILM)

        assert answer.status_code == 500
        assert answer.json()["reason"] == "internal_error"
        assert "ZeroDivisionError" in caplog.text

    @pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
    @pytest.mark.parametrize("address", [FILM, f"{FILM}/trailer", "/api/search?q=x"])
    def test_another_method_is_405_and_names_the_allowed_ones(self, method, address):
        answer = getattr(Client(), method)(address)

        assert answer.status_code == 405
        assert answer["Allow"] == "GET, HEAD, OPTIONS"
        assert answer.json()["reason"] == "method_not_allowed"

    def test_head_has_the_headers_of_get_and_no_body(self):
        got, head = get(FILM, x_correlation_id="x"), Client().head(FILM, headers={})

        assert (head.status_code, head.content) == (200, b"")
        for name in ("ETag", "Content-Length", "Cache-Control"):
            assert head[name] == got[name]


class TestPrefer:
    class Waits(FakeAggregator):
        def fetch_and_cache(self, imdb_id):
            self.wait = current_reader().wait
            return super().fetch_and_cache(imdb_id)

    @pytest.mark.parametrize("part", PARTS)
    @pytest.mark.parametrize(
        ("sent", "wait"),
        [
            ("wait=0", 0),
            ("wait=15", 15),
            ("respond-async, wait=2", 2),
            ("wait-for=5, wait=3", 3),
            ("wait=16", None),
            ("wait=-1", None),
            ("wait=1.5", None),
            ("wait=soon", None),
            ("", None),
        ],
    )
    def test_a_valid_wait_is_passed_on_and_confirmed_and_any_other_ignored(self, sent, wait, part):
        aggregator = self.Waits(payload_of())
        serve(aggregator=aggregator)

        answer = get(f"{FILM}{part}", prefer=sent)

        assert (answer.status_code, aggregator.wait) == (200, wait)
        assert answer.headers.get("Preference-Applied") == (
            None if wait is None else f"wait={wait}"
        )

    def test_without_the_header_there_is_no_preference(self):
        aggregator = self.Waits(payload_of())
        serve(aggregator=aggregator)

        assert "Preference-Applied" not in get(FILM)
        assert aggregator.wait is None

    @pytest.mark.django_db
    def test_the_answer_has_what_there_is_and_may_be_kept_for_a_short_time(self):
        service = Service()
        # The view uses the real clock.
        service.clock.time = timezone.now()
        service.vouch_for(INCEPTION)
        serve(aggregator=service.aggregator)

        with service.kinocheck.silent("get_trailer"):
            answer = get(FILM, prefer="wait=0")

        assert answer.json()["metadata"]["primaryTitle"] == "Inception"
        assert {"trailer": "deadline"}.items() <= {
            each["section"]: each["code"] for each in answer.json()["warnings"]
        }.items()
        assert "max-age=30," in answer["Cache-Control"]
        service.background.run()


class TestSeveralFilms:
    """`GET /api/films?ids=`."""

    class Mixed(FakeAggregator):
        """What `fetch_many` may find of a film."""

        outcomes = {
            "tt0000001": FilmPayload(payload_of("tt0000001"), cached_at=timezone.now()),
            "tt0000002": None,
            "tt0000003": UpstreamNotFound("imdbapi", "not_found"),
            "tt0000004": UpstreamRateLimited("imdbapi", "x", retry_after=30),
            "tt0000005": ZeroDivisionError("a bug"),
        }

        def fetch_many(self, imdb_ids):
            return {imdb_id: self.outcomes[imdb_id] for imdb_id in imdb_ids}

    @pytest.fixture(autouse=True)
    def _mixed(self):
        serve(aggregator=self.Mixed(payload_of()))

    def test_each_film_has_its_own_status(self):
        answer = get("/api/films?ids=tt4,tt2,tt1,tt3")

        films = {each.pop("imdb_id"): each for each in answer.json()["films"]}
        assert answer.status_code == 200
        assert list(films) == ["tt0000004", "tt0000002", "tt0000001", "tt0000003"]
        assert films["tt0000001"] == {"status": 200, "film": payload_of("tt0000001")}
        assert films["tt0000002"] == {"status": 202, "retry_after": 5}
        missing, limited = films["tt0000003"], films["tt0000004"]
        assert (missing["status"], missing["error"]["reason"]) == (404, "not_found")
        assert "retry_after" not in missing
        assert (limited["status"], limited["error"]["reason"]) == (503, "rate_limited")
        assert limited["retry_after"] == 30

    @pytest.mark.parametrize(
        ("ids", "directive"), [("tt1", "public"), ("tt1,tt2", "no-store"), ("tt1,tt4", "no-store")]
    )
    def test_the_response_is_kept_only_if_each_film_may_be(self, ids, directive):
        assert get(f"/api/films?ids={ids}")["Cache-Control"].startswith(directive)

    @pytest.mark.django_db
    @pytest.mark.parametrize("fields", ["", "&fields=title,metadata.primaryTitle,credits"])
    def test_a_stored_film_is_the_same_as_by_itself(self, fields):
        service = Service()
        service.clock.time = timezone.now()
        service.imdb.fail(UpstreamUnavailable("imdbapi", "dns_error"), "get_credits")
        for imdb_id in ("tt0000001", "tt0000002"):
            service.vouch_for(imdb_id)
            service.fetch(imdb_id)
        serve(aggregator=service.aggregator)

        several = get(f"/api/films?ids=tt2,tt1{fields}")
        alone = [get(f"/api/films/{imdb_id}?{fields}") for imdb_id in ("tt2", "tt1")]

        assert [item["film"] for item in several.json()["films"]] == [
            answer.json() for answer in alone
        ]
        assert alone[0].json()["warnings"]
        ages = [answer["Cache-Control"].partition(", stale")[0] for answer in (several, *alone)]
        assert len(set(ages)) == 1

    def test_a_bug_of_one_film_fails_the_request(self):
        answer = Client(raise_request_exception=False).get("/api/films?ids=tt1,tt5")

        assert (answer.status_code, answer.json()["reason"]) == (500, "internal_error")


@pytest.mark.django_db
class TestGroupedOffers:
    """`/streaming?view=grouped`."""

    def stored_by(self, *regions: str, not_covered: tuple[str, ...] = ()) -> Service:
        """A service that fetched the film with these regions configured."""
        service = Service(regions=regions)
        service.clock.time = timezone.now()
        service.watchmode.not_covered = not_covered
        service.watchmode.answers["get_streaming_sources"] = [
            {"source_id": 1, "name": "Store", "type": "buy", "region": region}
            for region in regions
            if region not in not_covered
        ]
        service.fetch()
        return service

    def grouped(self, region: str):
        return get(f"{FILM}/streaming?view=grouped&region={region}")

    def services(self, answer) -> dict[str, list[str]]:
        return {
            region: [each["name"] for offers in kinds.values() for each in offers]
            for region, kinds in answer.json()["regions"].items()
        }

    def test_each_region_that_is_asked_for_has_its_offers(self):
        service = self.stored_by("TR", "DE", "US", not_covered=("US",))
        serve(aggregator=service.aggregator, regions=("TR", "DE", "US"))

        answer = self.grouped("DE,US")

        assert self.services(answer) == {"DE": ["Store"]}
        assert (answer.json()["not_covered"], answer.json()["warnings"]) == (["US"], [])

    def test_a_plan_that_covers_no_region_is_not_shown_as_no_offers(self):
        service = Service()
        service.watchmode.fail(
            RegionNotCovered("watchmode", "region_not_covered"), "lookup_title_id"
        )
        service.fetch()
        serve(aggregator=service.aggregator)

        answer = self.grouped("TR")

        assert (answer.json()["regions"], answer.json()["not_covered"]) == ({}, ["TR"])
        assert [each["code"] for each in answer.json()["warnings"]] == ["region_not_covered"]

    def test_a_region_that_was_configured_later_is_not_shown_as_no_offers(self):
        service = self.stored_by("TR")
        serve(aggregator=service.aggregator, regions=("TR", "DE"))

        later, both, first = (self.grouped(region) for region in ("DE", "TR,DE", "TR"))

        assert self.services(both) == {"TR": ["Store"], "DE": []}
        for answer in (later, both):
            (warning,) = answer.json()["warnings"]
            assert (warning["section"], warning["code"]) == ("streaming", "deadline")
            assert answer["Cache-Control"].startswith("public, max-age=3600,")
        assert first.json()["warnings"] == []

    @pytest.mark.parametrize(
        ("regions", "calls"),
        [(("TR", "DE", "US"), 1), (("DE", "TR"), 1), (("TR", "DE"), 0), (("TR",), 0)],
    )
    def test_the_next_refresh_fetches_what_is_missing_even_if_offers_live_longer(
        self, regions, calls
    ):
        lifetimes = {"streaming": timedelta(days=9)}
        before = Service(regions=("TR", "DE"), lifetimes=lifetimes)
        before.fetch()
        after = Service(clock=before.clock, regions=regions, lifetimes=lifetimes)
        for _ in range(2):
            before.clock.advance(hours=25)
            after.fetch()

        assert after.watchmode.called == ["get_streaming_sources"] * calls


class TestPages:
    """`?page_token=` of a section."""

    @pytest.fixture
    def service(self):
        service = Service()
        self.pages = SectionPages(
            imdb=service.imdb,
            source=service.sources["imdbapi"],
            miss_slots=threading.Semaphore(1),
            keep_seconds=60,
            deadline_seconds=5,
        )
        serve(pages=self.pages)
        return service

    @pytest.mark.parametrize("section", ["credits", "images", "videos", "release_dates"])
    def test_a_page_has_the_shape_of_the_section_and_is_fetched_once(self, service, section):
        answers = [get(f"{FILM}/{section}?page_token=next") for _ in range(2)]

        (call,) = service.imdb.calls
        assert call[0] == f"get_{section}"
        for answer in answers:
            assert answer.status_code == 200
            assert set(answer.json()) == {"imdb_id", section}

    def test_each_token_is_a_page_of_its_own(self, service):
        for token in ("one", "two", "one"):
            get(f"{FILM}/credits?page_token={token}")

        assert service.call_count == 2

    # Redis has a clock of its own.
    @override_settings(
        CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    )
    def test_a_page_is_fetched_again_when_its_time_is_over(self, service, monkeypatch):
        started = time.time()
        get(f"{FILM}/credits?page_token=next")
        for seconds, calls in ((59, 1), (61, 2)):
            monkeypatch.setattr("time.time", lambda moment=started + seconds: moment)
            get(f"{FILM}/credits?page_token=next")
            assert service.call_count == calls

    # Redis has a clock of its own.
    @override_settings(
        CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    )
    def test_the_headers_follow_from_when_the_page_was_fetched(self, service, monkeypatch):
        started = float(int(time.time()))
        answers = []
        for seconds in (0, 40):
            monkeypatch.setattr("time.time", lambda moment=started + seconds: moment)
            answers.append(get(f"{FILM}/credits?page_token=aged"))

        assert [answer["Cache-Status"] for answer in answers] == [
            "Filmosphere; fwd=miss; stored; ttl=86400",
            "Filmosphere; hit; ttl=86360",
        ]
        assert [answer["Cache-Control"] for answer in answers] == [
            "public, max-age=86400, stale-if-error=86400",
            "public, max-age=86360, stale-if-error=86400",
        ]
        assert {answer["Last-Modified"] for answer in answers} == {http_date(started)}

    def test_a_page_from_a_clock_that_is_ahead_is_not_kept_longer(self, service, monkeypatch):
        started = float(int(time.time()))
        monkeypatch.setattr("time.time", lambda: started + 50)
        get(f"{FILM}/credits?page_token=next")
        monkeypatch.setattr("time.time", lambda: started)

        answer = get(f"{FILM}/credits?page_token=next")

        assert answer["Cache-Control"].startswith("public, max-age=86400,")
        assert answer["Last-Modified"] == http_date(started)

    @pytest.mark.parametrize(
        "value",
        [
            "x",
            [],
            {"credits": []},
            {"page": [], "fetched_at": 1e9},
            {"page": {"credits": "x"}, "fetched_at": 1e9},
            {"page": {"credits": [1]}, "fetched_at": 1e9},
            {"page": {}, "fetched_at": -1e300},
            {"page": {}, "fetched_at": math.nan},
            {"page": {}, "fetched_at": 10**400},
        ],
    )
    def test_what_is_kept_in_another_form_is_fetched_again(self, service, value):
        key = self.pages._key(INCEPTION, "credits", "next")
        cache.set(key, value)

        answer = get(f"{FILM}/credits?page_token=next")

        assert answer.json()["credits"]["credits"]
        assert service.call_count == 1

    def test_a_preferred_wait_is_ignored_and_not_confirmed(self, service):
        answer = get(f"{FILM}/credits?page_token=next", prefer="wait=1")

        assert answer.status_code == 200
        assert "Preference-Applied" not in answer
        assert "Prefer" not in answer["Vary"]

    def test_pages_that_are_not_in_the_cache_are_counted_per_caller(self, service):
        with rates(miss="2/min"):
            kept = [get(f"{FILM}/credits?page_token=one").status_code for _ in range(3)]
            others = [get(f"{FILM}/credits?page_token={each}") for each in ("two", "three")]

        assert kept == [200, 200, 200]
        assert [answer.status_code for answer in others] == [200, 429]
        assert others[1].json()["reason"] == "throttled"
        assert service.call_count == 2

    def test_an_invalid_token_is_not_counted(self, service):
        with rates(miss="1/min"):
            get(f"{FILM}/credits?page_token=")

            assert get(f"{FILM}/credits?page_token=next").status_code == 200

    @pytest.mark.django_db
    def test_pages_of_titles_that_nothing_vouches_for_have_a_limit_of_their_own(self, service):
        serve(pages=self.pages, aggregator=service.aggregator)
        service.vouch_for("tt0000001")
        service.fetch(INCEPTION)
        service.imdb.calls.clear()

        with rates(unknown="1/min"):
            answers = [
                get(f"/api/films/{imdb_id}/credits?page_token=next")
                for imdb_id in ("tt0000001", INCEPTION, "tt0000002", "tt0000003")
            ]

        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert len(service.imdb.calls) == 3

    @pytest.mark.django_db
    def test_a_page_of_a_title_that_is_known_not_to_exist_costs_no_call(self, service):
        serve(pages=self.pages, aggregator=service.aggregator)
        service.imdb.fail(UpstreamNotFound("imdbapi", "not_found"), "get_metadata")
        get(FILM)
        service.imdb.calls.clear()

        answer = get(f"{FILM}/credits?page_token=next")

        assert (answer.status_code, answer.json()["reason"]) == (404, "not_found")
        assert service.imdb.calls == []

    @pytest.mark.parametrize("address", ["certificates?page_token=x", "credits?page_token="])
    def test_a_section_without_pages_and_an_empty_token_are_400(self, service, address):
        answer = get(f"{FILM}/{address}")

        assert (answer.status_code, answer.json()["reason"]) == (400, "invalid_parameter")
        assert service.call_count == 0

    def test_the_length_of_a_token_is_limited(self, service):
        assert get(f"{FILM}/credits?page_token={'x' * 1000}").status_code == 200
        assert get(f"{FILM}/credits?page_token={'x' * 1001}").status_code == 400

    def test_requests_that_wait_for_pages_are_limited(self, service):
        self.pages._miss_slots.acquire()

        answer = get(f"{FILM}/credits?page_token=next")

        assert (answer.status_code, answer.json()["reason"]) == (503, "overloaded")


class TestMissLimits:
    def test_misses_are_counted_per_caller(self):
        with rates(miss="2/min"):
            answers = [get(FILM) for _ in range(3)]

        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert [answer["X-RateLimit-Remaining"] for answer in answers] == ["1", "0", "0"]
        assert answers[2].json()["reason"] == "throttled"
        assert 1 <= int(answers[2]["Retry-After"]) <= 60

    def test_titles_that_nothing_vouches_for_have_a_limit_of_their_own(self):
        aggregator = FakeAggregator(payload_of())
        serve(aggregator=aggregator)
        aggregator.is_vouched_for = False

        with rates(unknown="2/min", miss="3/min"):
            statuses = [get(FILM).status_code for _ in range(3)]
            aggregator.is_vouched_for = True
            known = [get(FILM).status_code for _ in range(2)]

        assert statuses == [200, 200, 429]
        # An unknown title counts as a miss too, unless it was refused.
        assert known == [200, 429]

    @pytest.mark.django_db
    def test_made_up_ids_in_searches_have_the_same_limit(self):
        service = Service()
        serve(search=service.search)

        with rates(unknown="2/min", search="3/min"):
            statuses = [get(f"/api/search?q=tt000000{each}").status_code for each in range(5)]
            text = get("/api/search?q=inception").status_code

        assert (statuses, text) == ([200, 200, 429, 429, 429], 200)
        assert service.imdb.called == ["get_metadata", "get_metadata", "search"]

    @pytest.mark.django_db
    def test_a_caller_who_is_too_fast_gets_an_expired_film(self):
        service = Service()
        service.fetch()
        service.clock.advance(hours=25)
        Film.objects.update(cached_at=service.clock.time - timedelta(hours=25))
        serve(aggregator=service.aggregator)
        with rates(miss="1/min"):
            service.break_sources()
            assert get(FILM).status_code == 200
            service.clock.advance(minutes=2)

            answer = get(FILM)

        assert answer.status_code == 200
        assert {each["code"] for each in answer.json()["warnings"]} == {"stale"}

    @pytest.mark.django_db
    def test_hits_and_remembered_answers_are_not_counted(self):
        service = Service()
        serve(aggregator=service.aggregator)
        service.fetch()
        service.imdb.fail(UpstreamNotFound("imdbapi", "not_found"), *IMDB_METHODS)

        with rates(miss="1/min", unknown="1/min"):
            hits = [get(FILM) for _ in range(3)]
            missing = [get("/api/films/tt0000001") for _ in range(3)]

        assert [answer.status_code for answer in hits] == [200] * 3
        assert "X-RateLimit-Limit" not in hits[0]
        assert [answer.status_code for answer in missing] == [404] * 3


class TestSearch:
    def test_the_query_is_echoed_beside_the_results(self):
        found = [{"imdb_id": INCEPTION, "title": "Inception"}]
        serve(search=FakeSearch(found))

        assert get("/api/search?q=inception").json() == {"query": "inception", "results": found}

    def test_white_space_around_the_query_is_not_searched_for(self):
        search = FakeSearch([])
        serve(search=search)

        get("/api/search?q=%20inception%20")

        assert search.asked_for == ["inception"]

    @pytest.mark.parametrize(
        "query",
        [
            "",
            "?q=",
            "?q=%20%20",
            "?q=%E2%80%8B%E2%80%8B",
            "?q=%00",
            "?q=a%0Ab",
            "?q=a%1Bb",
            "?query=x",
            "?q=" + "x" * 201,
            "?q=" + "x" * 4000,
            "?q=%FF",
        ],
    )
    def test_an_invalid_query_is_400_and_nothing_is_searched_for(self, query):
        search = FakeSearch([])
        serve(search=search)

        answer = get(f"/api/search{query}")

        assert answer.status_code == 400
        assert answer.json()["reason"] == "invalid_parameter"
        assert search.asked_for == []

    @pytest.mark.parametrize(
        "query",
        ["🎬", "سينما", "e\u0301", "' OR 1=1--", "%s%n", "{0}", "${jndi:ldap://x}", "<script>"],
    )
    def test_any_text_is_data_and_is_echoed_unchanged(self, query):
        answer = Client().get("/api/search", {"q": query})

        assert answer.status_code == 200
        assert answer.json()["query"] == query

    @pytest.mark.parametrize(
        "parameter",
        [
            "type=film",
            "type=",
            "type=movie,",
            "year=10",
            "year=2012-2008",
            "year=2010-",
            "year=",
            "limit=0",
            "limit=51",
            "limit=x",
            "limit=",
        ],
    )
    def test_a_filter_that_cannot_be_applied_is_400(self, parameter):
        answer = get(f"/api/search?q=inception&{parameter}")

        assert (answer.status_code, answer.json()["reason"]) == (400, "invalid_parameter")
        assert f"'{parameter.partition('=')[0]}'" in answer.json()["message"]

    def test_two_forms_of_one_text_are_one_query_upstream(self):
        search = FakeSearch([])
        serve(search=search)

        Client().get("/api/search", {"q": "caf\u00e9"})
        Client().get("/api/search", {"q": "cafe\u0301"})

        assert set(search.asked_for) == {"caf\u00e9"}

    def test_a_search_that_fails_is_503_and_not_an_empty_list(self):
        serve(search=FakeSearch(UpstreamUnavailable("imdbapi", "dns_error")))

        assert get("/api/search?q=x").status_code == 503

    def test_one_search_too_many_is_429_and_says_when_to_retry(self):
        with rates(search="2/min"):
            statuses = [get("/api/search?q=x").status_code for _ in range(3)]
            answer = get("/api/search?q=x")

        assert statuses == [200, 200, 429]
        assert 1 <= int(answer["Retry-After"]) <= 60
        assert answer.json()["reason"] == "throttled"

    def test_searches_that_are_answered_from_the_cache_are_not_counted(self):
        search = FakeSearch([])
        search.kept = {"x"}
        serve(search=search)

        with rates(search="1/min"):
            statuses = [get("/api/search?q=x").status_code for _ in range(5)]
            others = [get(f"/api/search?q={text}").status_code for text in "ab"]

        assert (statuses, others) == ([200] * 5, [200, 429])

    def test_a_made_up_forwarded_address_is_no_way_around_the_limit(self):
        with rates(search="2/min"):
            statuses = [
                get("/api/search?q=x", x_forwarded_for=f"10.0.0.{n}").status_code for n in range(3)
            ]

        assert statuses == [200, 200, 429]

    def test_without_a_rate_there_is_no_limit(self):
        with rates(search=None):
            assert {get("/api/search?q=x").status_code for _ in range(70)} == {200}
