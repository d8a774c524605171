"""The calls for the sections of films: which are made, in which order, and which as one."""

from concurrent.futures import wait
from typing import Any

import pytest

from core.errors import (
    RegionNotCovered,
    UpstreamNotFound,
    UpstreamQuotaExhausted,
    UpstreamRateLimited,
)
from core.models import UpstreamState
from core.services.limits import Quota, UpstreamLimits
from core.services.source import Priority, Source
from core.tests.support import InlineCoordinator
from films.payload import SECTION_NAMES
from films.services.fan_out import Calls, WatchmodeId
from films.tests.fakes import INCEPTION, Clock
from films.tests.service import RatedSource, Service

FILMS = [f"tt000000{number}" for number in range(1, 8)]


def submit(service: Service, imdb_id: str = INCEPTION, sections=SECTION_NAMES, **options) -> Calls:
    return service.fan_out.submit(
        imdb_id,
        sections,
        **{
            "watchmode_id": WatchmodeId(1, is_known=True),
            "priority": Priority.READER,
            "leave_reserve": False,
            **options,
        },
    )


def outcomes(calls: Calls) -> dict[str, Any]:
    assert not wait(calls.sections.values(), timeout=5).not_done
    return {name: call.exception() or call.result() for name, call in calls.sections.items()}


class TestCalls:
    def test_only_the_given_sections_are_called(self):
        service = Service()

        calls = submit(service, sections=["images", "trailer"])

        assert set(outcomes(calls)) == {"images", "trailer"}
        assert service.call_count == 2

    def test_each_section_is_what_its_method_returned(self):
        service = Service()

        found = outcomes(submit(service))

        for name in SECTION_NAMES:
            if name not in {"trailer", "streaming"}:
                assert found[name] == getattr(service.imdb, f"get_{name}")(INCEPTION)
        assert found["trailer"].value == service.kinocheck.get_trailer(INCEPTION)
        assert found["streaming"].value == service.watchmode.get_streaming_sources(1)

    def test_a_source_with_an_open_breaker_is_not_called_and_its_sections_say_why(self):
        service = Service()
        service.sources["imdbapi"].breaker.record_failure(
            UpstreamRateLimited("imdbapi", "rate_limited", retry_after=30)
        )

        found = outcomes(submit(service))

        assert service.imdb.calls == []
        failed = {name: type(each) for name, each in found.items() if isinstance(each, Exception)}
        assert failed == dict.fromkeys(
            set(SECTION_NAMES) - {"trailer", "streaming"}, UpstreamRateLimited
        )


class TestWatchmodeId:
    def test_a_known_id_is_not_looked_up(self):
        service = Service()

        calls = submit(service, sections=["streaming"])

        assert outcomes(calls)
        assert service.watchmode.calls == [("get_streaming_sources", 1)]
        assert not calls.watchmode_id.done()

    def test_an_id_that_is_not_known_is_looked_up(self):
        service = Service()

        calls = submit(service, sections=["streaming"], watchmode_id=WatchmodeId())

        assert outcomes(calls)
        assert calls.watchmode_id.result(5) == WatchmodeId(1182444, is_known=True)
        assert service.watchmode.calls == [
            ("lookup_title_id", INCEPTION),
            ("get_streaming_sources", 1182444),
        ]

    def test_a_title_that_watchmode_is_known_not_to_have_costs_no_call(self, avoided):
        service = Service()
        known = WatchmodeId(None, is_known=True)

        calls = submit(service, sections=["streaming"], watchmode_id=known)

        assert outcomes(calls)["streaming"].value == []
        assert service.watchmode.calls == []
        assert avoided() == {("watchmode", "negative_cache"): 1}

    def test_a_known_id_that_watchmode_dropped_is_not_known_any_more(self):
        service = Service()
        service.watchmode.fail(UpstreamNotFound("watchmode", "x"), "get_streaming_sources")

        calls = submit(service, sections=["streaming"])

        assert outcomes(calls)["streaming"].value == []
        assert calls.watchmode_id.result(5) == WatchmodeId(1, is_known=False)


class TestOffers:
    def test_those_of_all_regions_are_beside_those_of_the_first_one(self):
        service = Service(regions=("TR", "DE", "US"))
        rows = [{"source_id": 1, "region": region} for region in ("DE", "TR")]
        service.watchmode.answers["get_streaming_sources"] = rows
        service.watchmode.not_covered = ("US",)

        answer = outcomes(submit(service, sections=["streaming"]))["streaming"]

        assert answer.value == rows[1:]
        assert answer.extra == {
            "offers": rows,
            "regions": ["TR", "DE", "US"],
            "not_covered": ["US"],
        }
        assert answer.error is None

    @pytest.mark.parametrize("method", ["lookup_title_id", "get_streaming_sources"])
    def test_a_plan_that_covers_no_region_is_reported_beside_the_error(self, method):
        service = Service(regions=("TR", "DE"))
        service.watchmode.fail(RegionNotCovered("watchmode", "region_not_covered"), method)

        calls = submit(service, sections=["streaming"], watchmode_id=WatchmodeId())

        answer = outcomes(calls)["streaming"]
        assert isinstance(answer.error, RegionNotCovered)
        assert (answer.extra["offers"], answer.extra["not_covered"]) == ([], ["TR", "DE"])


class TestOrder:
    """At a source that lets one call go at a time."""

    @pytest.fixture
    def source(self) -> RatedSource:
        return RatedSource()

    @pytest.fixture
    def service(self, source) -> Service:
        return Service(sources={"imdbapi": source})

    def let_go(self, source: RatedSource, *calls: Calls) -> list[tuple[str, str]]:
        """Grant one call after the other; return section and film in the order of the calls."""
        futures = {
            future: (name, number)
            for number, each in enumerate(calls)
            for name, future in each.sections.items()
            if name not in {"trailer", "streaming"}
        }
        order = []
        while futures:
            source.grant(1)
            done = wait(futures, timeout=5, return_when="FIRST_COMPLETED").done
            assert done, "no call was made"
            order += sorted(futures.pop(future) for future in done)
        return order

    def test_metadata_is_first_and_then_what_a_screen_shows_first(self, service, source):
        order = self.let_go(source, submit(service))

        assert [name for name, _ in order] == [
            "metadata",
            "credits",
            "certificates",
            "release_dates",
            "images",
            "videos",
            "parents_guide",
        ]

    def test_all_films_get_metadata_first_and_then_take_turns(self, service, source):
        films = [submit(service, film, ["videos", "metadata", "credits"]) for film in FILMS[:2]]

        assert self.let_go(source, *films) == [
            ("metadata", 0),
            ("metadata", 1),
            ("credits", 0),
            ("credits", 1),
            ("videos", 0),
            ("videos", 1),
        ]

    def test_metadata_of_a_later_film_goes_before_the_sections_of_an_earlier_one(
        self, service, source
    ):
        first = submit(service, FILMS[0], ["metadata", "credits", "images"])
        self.let_go(source, Calls({"metadata": first.sections.pop("metadata")}, None))
        second = submit(service, FILMS[1], ["metadata", "credits"])

        assert self.let_go(source, first, second) == [
            ("metadata", 1),
            ("credits", 0),
            ("credits", 1),
            ("images", 0),
        ]

    def test_readers_go_before_the_background_and_the_background_before_commands(
        self, service, source
    ):
        order = [Priority.UNVOUCHED, Priority.BATCH, Priority.BACKGROUND, Priority.READER]
        films = [
            submit(service, FILMS[number], ["credits"], priority=priority)
            for number, priority in enumerate(order)
        ]

        assert [number for _, number in self.let_go(source, *films)] == [3, 2, 1, 0]

    def test_metadata_that_waits_at_the_same_moment_is_one_call_of_at_most_five_ids(
        self, service, source
    ):
        films = [submit(service, film, ["metadata"]) for film in FILMS]

        self.let_go(source, *films)

        assert sorted(service.imdb.calls) == [
            ("get_metadata_batch", tuple(FILMS[:5])),
            ("get_metadata_batch", tuple(FILMS[5:])),
        ]
        found = [outcomes(film)["metadata"]["id"] for film in films]
        assert found == FILMS

    def test_one_id_alone_is_no_batch(self, service, source):
        self.let_go(source, submit(service, FILMS[0], ["metadata"]))

        assert service.imdb.calls == [("get_metadata", FILMS[0])]

    def test_an_id_that_the_batch_left_out_is_called_by_itself(self, service, source):
        service.imdb.answers["get_metadata_batch"] = {FILMS[1]: {"id": FILMS[1]}}
        service.imdb.fail(UpstreamNotFound("imdbapi", "not_found"), "get_metadata")
        films = [submit(service, film, ["metadata"]) for film in FILMS[:2]]

        self.let_go(source, *films)

        assert service.imdb.calls[1:] == [("get_metadata", FILMS[0])]
        assert isinstance(outcomes(films[0])["metadata"], UpstreamNotFound)
        assert outcomes(films[1])["metadata"] == {"id": FILMS[1]}

    def test_a_batch_that_fails_is_the_error_of_each_of_its_films(self, service, source):
        error = UpstreamRateLimited("imdbapi", "rate_limited")
        service.imdb.fail(error, "get_metadata_batch")
        films = [submit(service, film, ["metadata"]) for film in FILMS[:3]]

        self.let_go(source, *films)

        assert [outcomes(film)["metadata"] for film in films] == [error] * 3


@pytest.mark.django_db
class TestQuota:
    """The last tenth of a quota is left to readers of films that are stored."""

    @pytest.fixture
    def service(self) -> Service:
        """Its source has 5 of 100 calls left in March."""
        clock, quota = Clock(), Quota("%Y-%m", 100)
        source = Source("watchmode", concurrency=1, quota=quota, clock=lambda: 0.0)
        limits = UpstreamLimits(rates={}, quotas={"watchmode": quota}, now=clock)
        InlineCoordinator(sources=[source], limits=limits)
        UpstreamState.objects.create(source="watchmode", quota_period="2026-03", quota_used=95)
        return Service(clock=clock, sources={"watchmode": source})

    def test_a_new_film_does_not_take_from_the_reserve(self, service):
        assert service.fetch().warning_codes == {"streaming": "quota_exhausted"}
        assert service.watchmode.calls == []

    @pytest.fixture
    def _stored(self, service):
        Service(clock=service.clock).fetch()
        service.clock.advance(hours=25)

    @pytest.mark.usefixtures("_stored")
    def test_a_stored_film_does(self, service):
        assert service.fetch().warning_codes == {}
        assert UpstreamState.objects.get(source="watchmode").quota_used == 96

    @pytest.mark.usefixtures("_stored")
    def test_a_command_does_not_even_for_a_stored_film(self, service):
        (result,) = service.bulk(rounds=1).run(INCEPTION)

        assert result.reasons == {"streaming": "quota_exhausted"}
        assert service.watchmode.calls == []

    def test_without_any_call_left_the_error_says_until_when(self, service):
        UpstreamState.objects.update(quota_used=100)

        calls = submit(service, sections=["streaming"])

        error = outcomes(calls)["streaming"]
        assert isinstance(error, UpstreamQuotaExhausted)
        # From noon on March 1 to the end of the month.
        assert error.retry_after == 30.5 * 86_400
