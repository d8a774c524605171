"""Rows that were changed behind the back of the service."""

import gzip
import json
from collections.abc import Iterable
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection
from django.test import Client, RequestFactory
from django.urls import clear_url_caches
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from films.fast_path import FastPath
from films.http_caching import FilmAnswer, film_response
from films.models import Film, FilmFetch, FilmRendering
from films.payload import KEYS, SectionState
from films.tests.fakes import (
    INCEPTION,
    Clock,
    FakeBackground,
    film_payload,
    payload_of,
    warning,
)
from films.tests.service import Service
from films.tests.wsgi import Answer, call
from films.urls import film_paths
from films.validation import is_valid

pytestmark = pytest.mark.django_db
FILM = f"/api/films/{INCEPTION}"
OTHER = "tt0111161"

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
moments = st.timedeltas(timedelta(days=-9000), timedelta(days=30_000)).map(
    lambda span: Clock().time + span
)
damaged_payloads = st.one_of(
    json_values,
    st.just(payload_of(OTHER)),
    st.dictionaries(st.sampled_from([*KEYS, "more"]), json_values).map(
        lambda changes: payload_of(**changes)
    ),
    st.sampled_from(KEYS).map(lambda key: {k: v for k, v in payload_of().items() if k != key}),
)


@st.composite
def changed_bytes(draw: Any) -> Any:
    """A function that damages some bytes: cut, lengthened, or with another byte."""
    place, byte = draw(st.integers(0, 5000)), draw(st.binary(max_size=3))
    return lambda data: data[: place % len(data)] + byte + data[place % len(data) + 1 :]


damaged_texts = st.one_of(
    texts,
    # A text column of PostgreSQL cannot hold NUL.
    changed_bytes().map(
        lambda damage: lambda text: damage(text.encode()).replace(b"\0", b"?").decode("latin1")
    ),
)
film_damages = st.fixed_dictionaries(
    {},
    optional={
        "full_json": damaged_payloads,
        "cached_at": st.none() | moments,
        "updated_at": moments,
    },
)
rendering_damages = st.fixed_dictionaries(
    {},
    optional={
        "rendered_for": moments,
        "version": st.text("0123456789abcdef", max_size=32),
        "gzipped_version": st.text("0123456789abcdef", max_size=32),
        "body": changed_bytes(),
        "gzipped": changed_bytes(),
        "parts": damaged_texts,
        "extras": damaged_texts,
    },
)


@pytest.fixture(autouse=True)
def _standing_clock(monkeypatch):
    monkeypatch.setattr("films.http_caching.time", SimpleNamespace(time=Clock().time.timestamp))


class Server:
    """The fast path in front of the aggregator, on one stored film."""

    def __init__(self) -> None:
        self.service = Service()
        self.service.vouch_for(INCEPTION)
        self.service.cache.save_cache(INCEPTION, film_payload())
        self.application = FastPath(
            self._django,
            cache=self.service.cache,
            background=FakeBackground(),
            seconds=0.0,
            longest_wait=15,
            note_read=self.service.reads.note,
            now=lambda: self.service.clock.time.timestamp(),  # noqa: PLW0108  (the clock moves)
        )
        self.misses = 0

    def get(self, path: str = FILM, **headers: str) -> Answer:
        return call(self.application, path, **headers)

    def _django(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.misses += 1
        section = environ["PATH_INFO"].removeprefix(FILM).strip("/") or None
        film = self.service.aggregator.fetch_and_cache(INCEPTION)
        make = partial(FilmAnswer.of_section, name=section) if section else FilmAnswer.of
        request = RequestFactory().get(environ["PATH_INFO"])
        response = film_response(request, make(film, ttl=self.service.cache.ttl))
        start_response(f"{response.status_code} x", list(response.items()))
        return [response.content]


def damage(model: type, changes: dict[str, Any]) -> None:
    row = model.objects.get()
    for name, change in changes.items():
        value = getattr(row, name)
        value = bytes(value) if isinstance(value, memoryview) else value
        changes[name] = change(value) if callable(change) else change
    model.objects.update(**changes)


@pytest.mark.parametrize("path", [FILM, f"{FILM}/trailer"])
@pytest.mark.parametrize("coding", ["identity", "gzip"])
@settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(film_damage=film_damages, rendering_damage=rendering_damages)
def test_a_damaged_row_gives_the_right_film_and_is_replaced(
    path, coding, film_damage, rendering_damage
):
    Film.objects.all().delete()
    FilmFetch.objects.all().delete()
    server = Server()
    damage(FilmRendering, dict(rendering_damage))
    damage(Film, dict(film_damage))

    answers = [server.get(path, accept_encoding=coding) for _ in range(3)]

    for answer in answers:
        assert answer.status == 200
        is_gzipped = answer.headers.get("Content-Encoding") == "gzip"
        found = json.loads(gzip.decompress(answer.body) if is_gzipped else answer.body)
        if path == FILM:
            assert is_valid(INCEPTION, found)
        else:
            assert found == {"imdb_id": INCEPTION, "trailer": found["trailer"]}
        assert 0 <= answer.max_age <= 86_410
    assert server.service.call_count in {0, 10}, "the film was fetched more than once"
    # The first request replaces a damaged payload or its bytes; a request in between may be needed
    # to find that both are damaged.
    assert server.misses <= 2
    if not film_damage and not rendering_damage:
        assert server.misses == 0


class TestBytes:
    @pytest.mark.parametrize("coding", ["identity", "gzip"])
    @pytest.mark.parametrize("column", ["body", "gzipped", "parts", "version"])
    def test_damaged_bytes_of_a_good_payload_are_rendered_again_without_a_call(
        self, coding, column
    ):
        server = Server()
        before = {each: server.get(accept_encoding=each) for each in ("identity", "gzip")}
        damage(FilmRendering, {column: b"x" if column in {"body", "gzipped"} else "x"})

        answers = [server.get(accept_encoding=coding) for _ in range(3)]

        assert answers[-1].body == before[coding].body
        assert server.service.call_count == 0
        assert server.misses <= 1

    def test_bytes_that_are_missing_are_made(self):
        server = Server()
        before = server.get()
        FilmRendering.objects.all().delete()

        assert server.get().json == before.json
        assert (server.get().body, server.misses) == (before.body, 1)

    def test_bytes_of_another_film_are_not_sent(self):
        server = Server()
        server.service.cache.save_cache(OTHER, film_payload(keys={"imdb_id": OTHER}))
        other = FilmRendering.objects.get(film=OTHER)
        columns = ("version", "body", "gzipped_version", "gzipped", "parts")
        FilmRendering.objects.filter(film=INCEPTION).update(
            **{name: getattr(other, name) for name in columns}
        )

        assert server.get().json["imdb_id"] == INCEPTION
        assert server.get().json["imdb_id"] == INCEPTION

    def test_a_database_that_accepts_no_writes_does_not_cost_the_film(self, monkeypatch):
        server = Server()
        FilmRendering.objects.all().delete()
        monkeypatch.setattr("films.services.film_cache._STORE_RENDERING", "nonsense")

        assert server.get().status == 200

    def test_bytes_rendered_again_are_not_sent_if_the_payload_is_newer(self):
        """Another process stored the film after its payload was read."""
        server = Server()
        cache = server.service.cache
        FilmRendering.objects.all().delete()
        store = cache._store_missing_rendering

        def overtaken(*args):
            server.service.clock.advance(seconds=1)
            cache.save_cache(INCEPTION, film_payload(keys={"title": "Newer"}))
            store(*args)

        cache._store_missing_rendering = overtaken
        server.get()
        cache._store_missing_rendering = store

        assert [server.get().json["title"] for _ in range(2)] == ["Newer", "Newer"]
        assert server.misses == 2

    def test_a_film_and_its_bytes_are_deleted_together(self):
        Server()

        Film.objects.all().delete()

        assert not FilmRendering.objects.exists()


class TestPayload:
    @pytest.mark.parametrize(
        "value",
        [None, [], {}, payload_of(OTHER), payload_of(warnings="x"), payload_of(metadata={})],
    )
    def test_an_invalid_payload_is_treated_as_absent_and_replaced(self, value):
        server = Server()
        FilmRendering.objects.all().delete()
        Film.objects.update(full_json=value)

        assert server.get().json["title"] == "Inception"
        assert server.service.call_count == 10
        server.get()
        assert (server.service.call_count, server.misses) == (10, 1)

    def test_it_is_logged(self, caplog):
        server = Server()
        FilmRendering.objects.all().delete()
        Film.objects.update(full_json={})

        server.get()

        assert "damaged_row" in {getattr(record, "outcome", "") for record in caplog.records}

    def test_without_sources_it_is_an_error_of_the_source(self):
        service = Server().service
        Film.objects.update(full_json={})
        service.break_sources()

        with pytest.raises(Exception, match="imdbapi"):
            service.fetch()


urlpatterns: list = []


@pytest.fixture
def service(settings):
    """A service with one stored film behind the views."""
    service = Service()
    service.vouch_for(INCEPTION)
    service.cache.save_cache(
        INCEPTION, film_payload(extras={"trailer": [OTHER_TRAILER], "streaming": EXTRA_OFFERS})
    )
    urlpatterns[:] = film_paths(
        get_aggregator=lambda: service.aggregator,
        get_search=lambda: service.search,
        get_cache=lambda: service.cache,
        get_pages=pytest.fail,
        get_sources=list,
        regions=("TR",),
        longest_wait=15,
    )
    settings.ROOT_URLCONF = __name__
    clear_url_caches()
    yield service
    clear_url_caches()


OTHER_TRAILER = {"youtube_video_id": "8hP9D6kZseM"}
EXTRA_OFFERS = {"offers": [{"source_id": 203, "type": "sub", "region": "TR"}], "not_covered": []}
GROUPED = f"/films/{INCEPTION}/streaming?view=grouped"
ALTERNATIVES = f"/films/{INCEPTION}/trailer?alternatives=true"


class TestExtras:
    @pytest.mark.parametrize("address", [GROUPED, ALTERNATIVES])
    @pytest.mark.parametrize(
        "extras",
        [
            '{"streaming":"x"}',
            "[1]",
            '{"offers":[1]}',
            '{"streaming":{"offers":[1]}}',
            '{"streaming":{"not_covered":5}}',
            '{"trailer":"x"}',
            "",
            "null",
        ],
    )
    def test_damaged_extras_are_fetched_again_once(self, service, address, extras):
        FilmRendering.objects.update(extras=extras)

        answers = [Client().get(address) for _ in range(2)]

        assert [each.status_code for each in answers] == [200, 200]
        assert service.call_count == 10

    def test_places_of_sections_are_no_extras(self, service):
        FilmRendering.objects.update(extras=FilmRendering.objects.get().parts)

        assert Client().get(GROUPED).status_code == 200

    def test_without_sources_the_film_is_shown_without_them(self, service):
        FilmRendering.objects.update(extras="[1]")
        service.break_sources()

        answer = Client().get(ALTERNATIVES)

        assert (answer.status_code, answer.json()["alternatives"]) == (200, [])
        assert service.cache.get_cached(INCEPTION).extras == {}

    def test_good_extras_cost_no_call(self, service):
        assert Client().get(ALTERNATIVES).json()["alternatives"] == [OTHER_TRAILER]
        assert Client().get(GROUPED).json()["regions"]["TR"]["sub"]
        assert service.call_count == 0


class TestSections:
    @pytest.mark.parametrize(
        ("address", "changes"),
        [
            (f"/search?q={INCEPTION}", {"metadata": {"primaryTitle": "Inception"}}),
            (f"/search?q={INCEPTION}", {"metadata": payload_of(OTHER)["metadata"]}),
            (
                f"/search?q={INCEPTION}&year=2010",
                {"metadata": payload_of()["metadata"] | {"startYear": "x"}},
            ),
            (
                f"/films/{INCEPTION}/certificates?country=TR",
                {"certificates": {"certificates": "x"}},
            ),
            (
                f"/films/{INCEPTION}/release_dates?country=TR",
                {"release_dates": {"releaseDates": [1]}},
            ),
            (
                f"/films/{INCEPTION}/release_dates?country=TR",
                {"release_dates": {"releaseDates": [{"country": "TR"}]}},
            ),
            (GROUPED, {"streaming": [{"region": "TR", "type": "sub", "source_id": [1]}]}),
            (ALTERNATIVES, {"trailer": {"youtube_video_id": 5}}),
        ],
    )
    def test_a_section_of_another_shape_is_treated_as_absent_and_replaced(
        self, service, address, changes
    ):
        FilmRendering.objects.all().delete()
        Film.objects.update(full_json=payload_of(**changes))

        answer = Client().get(address)

        assert answer.status_code == 200
        assert OTHER not in answer.content.decode()
        film = service.fetch()
        assert all(film[name] != value for name, value in changes.items())

    def test_text_that_cannot_be_sent_is_treated_as_absent(self, service):
        if connection.vendor == "postgresql":
            pytest.skip("a jsonb column cannot hold it")
        FilmRendering.objects.all().delete()
        Film.objects.update(
            full_json=payload_of(metadata=payload_of()["metadata"] | {"x": "\ud800"})
        )

        assert Client().get(f"/films/{INCEPTION}/metadata").status_code == 200


class TestClockThatWasAhead:
    def test_a_film_from_the_future_is_expired_and_fetched_again(self):
        server = Server()
        future = server.service.clock.time + timedelta(days=3000)
        Film.objects.update(cached_at=future)

        answer = server.get()

        assert server.service.call_count == 10
        assert answer.max_age == 86_400
        assert Film.objects.get().cached_at == server.service.clock.time

    def test_if_the_sources_fail_it_is_stale(self):
        server = Server()
        Film.objects.update(cached_at=server.service.clock.time + timedelta(days=3000))
        server.service.break_sources()

        answer = server.get()

        assert {each["code"] for each in answer.json["warnings"]} == {"stale"}
        assert answer.max_age == 60

    def test_a_section_from_the_future_is_not_carried_over(self):
        service = Service(lifetimes={"images": timedelta(days=30)})
        future = service.clock.time + timedelta(days=3000)
        service.cache.save_cache(
            INCEPTION, film_payload(states={"images": SectionState(fetched_at=future)})
        )

        film = service.cache.get_cached(INCEPTION)

        assert film.states["images"].fetched_at is None
        assert "images" in service.refresher.sections_to_refresh(film)

    def test_a_retry_in_the_far_future_is_due_now(self):
        service = Service()
        future = service.clock.time + timedelta(days=3000)
        film = film_payload(
            keys={"warnings": [warning("images")]},
            states={"images": SectionState(failures=1, retry_at=future)},
        )
        service.cache.save_cache(INCEPTION, film)

        assert service.background.start(INCEPTION)
        service.background.run()

        assert service.imdb.called == ["get_images"]

    def test_an_unknown_state_of_a_stored_payload_is_no_error(self):
        payload = film_payload(keys={"warnings": [warning("images")]})

        assert payload.repairable() == ["images"]
        assert payload.retries() == (("timeout", None),)
