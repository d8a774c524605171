"""How long an answer may be kept, and what a miss looks like to caches and clients."""

from datetime import timedelta
from functools import partial
from types import SimpleNamespace

import pytest
from django.http import HttpResponse
from django.test import RequestFactory
from hypothesis import given
from hypothesis import strategies as st

from films.http_caching import FilmAnswer, Representation, expires_at, film_response
from films.payload import HEALING_CODES, SectionState
from films.presentation import parse_fields
from films.tests.fakes import INCEPTION, Clock, film_payload, warning

NOW = Clock().time.timestamp()
TTL = timedelta(hours=24)
OTHER_CODES = ["rejected", "not_configured", "region_not_covered", "expired", "a new one", ""]

warnings = st.lists(
    st.tuples(
        st.sampled_from([*sorted(HEALING_CODES), "quota_exhausted", *OTHER_CODES]),
        st.none() | st.floats(NOW - 10_000, NOW + 200_000),
    ),
    max_size=5,
)


def response_of(payload=None, *, section=None, fields=None, **headers) -> HttpResponse:
    request = RequestFactory().get("/", headers=headers)
    film = film_payload() if payload is None else payload
    make = partial(FilmAnswer.of_section, name=section) if section else FilmAnswer.of
    if fields:
        make = partial(FilmAnswer.of, selection=parse_fields(fields))
    return film_response(request, make(film, ttl=TTL))


def max_age(response: HttpResponse) -> int:
    return int(response["Cache-Control"].partition("max-age=")[2].partition(",")[0])


class TestExpiresAt:
    @given(st.floats(NOW - 100_000, NOW + 100_000), warnings)
    def test_no_warning_lengthens_the_life_of_an_answer(self, fresh_until, found):
        assert expires_at(fresh_until, found, NOW) <= fresh_until

    @given(st.floats(NOW + 3601, NOW + 100_000), warnings)
    def test_while_a_warning_may_heal_it_is_between_30_seconds_and_an_hour(
        self, fresh_until, found
    ):
        until = expires_at(fresh_until, found, NOW)

        heals = {code for code, _ in found} & HEALING_CODES
        if heals:
            assert NOW + 30 <= until <= NOW + 3600
        elif "quota_exhausted" in {code for code, _ in found}:
            assert until == NOW + 3600
        else:
            assert until == fresh_until

    @given(st.sampled_from(sorted(HEALING_CODES)), st.floats(NOW + 30, NOW + 3600), warnings)
    def test_it_ends_with_the_first_attempt_that_is_due(self, code, due, others):
        alone = expires_at(NOW + 80_000, [(code, due)], NOW)

        assert alone == pytest.approx(due)
        assert expires_at(NOW + 80_000, [(code, due), *others], NOW) == min(
            alone, expires_at(NOW + 80_000, others, NOW)
        )

    @pytest.mark.parametrize(
        ("code", "retry_in", "seconds"),
        [
            ("timeout", None, 30),
            ("timeout", -500, 30),
            ("unavailable", 29, 30),
            ("rate_limited", 31, 31),
            ("bad_response", 3599, 3599),
            ("stale", 86_400, 3600),
            ("deadline", 0, 30),
            ("quota_exhausted", 5, 3600),
            ("rejected", 5, 80_000),
            ("not_configured", 5, 80_000),
            ("region_not_covered", 5, 80_000),
            ("expired", 5, 80_000),
        ],
    )
    def test_each_code_has_its_rule(self, code, retry_in, seconds):
        due = None if retry_in is None else NOW + retry_in

        assert expires_at(NOW + 80_000, [(code, due)], NOW) == NOW + seconds


@pytest.fixture
def _standing_clock(monkeypatch):
    monkeypatch.setattr("films.http_caching.time", SimpleNamespace(time=lambda: NOW))


class TestHeaders:
    # Parts of 1/1024 s, which floats hold exactly.
    @given(st.integers(-3000, 100_000), st.integers(0, 1023))
    def test_they_stay_the_same_until_the_time_that_is_given(self, left, part):
        answer = Representation("v", b"{}", False, NOW, NOW + left / 1024, "hit; ttl={ttl}")

        until = answer.headers_until(NOW)

        assert NOW <= until <= NOW + 1
        if NOW + part / 1024 < until:
            assert answer.headers(NOW + part / 1024) == answer.headers(NOW)
        elif left >= 1024:
            assert answer.headers(until + 1 / 1024) != answer.headers(NOW)


@pytest.mark.usefixtures("_standing_clock")
class TestMiss:
    """What was fetched a moment ago, or is shown although it is expired."""

    def test_a_fetched_film_may_be_kept_for_its_time_to_live(self):
        response = response_of(film_payload(age=timedelta(), was_fetched=True))

        assert response["Cache-Control"] == "public, max-age=86400, stale-if-error=86400"
        assert response["Cache-Status"] == "Filmosphere; fwd=miss; stored; ttl=86400"
        assert response["Vary"] == "Accept-Encoding, Origin"
        assert response["Last-Modified"] == "Sun, 01 Mar 2026 12:00:00 GMT"
        assert response["Content-Length"] == str(len(response.content))
        assert response["Content-Type"] == "application/json"
        assert "Age" not in response

    def test_one_that_could_not_be_stored_says_so(self):
        response = response_of(film_payload(age=timedelta(), was_fetched=True, is_stored=False))

        assert response["Cache-Status"] == "Filmosphere; fwd=miss"

    def test_what_another_process_stored_meanwhile_is_a_hit(self):
        assert response_of()["Cache-Status"] == "Filmosphere; hit; ttl=82800"

    def test_a_film_about_to_expire_is_kept_no_longer_than_it_is_fresh(self):
        payload = film_payload(
            age=TTL - timedelta(seconds=10), keys={"warnings": [warning("images")]}
        )

        assert max_age(response_of(payload)) == 10

    def test_an_expired_film_is_kept_until_it_is_due_again(self):
        stale = film_payload(age=timedelta(hours=30), is_fresh=False).as_stale(
            Clock().time + timedelta(seconds=50)
        )

        response = response_of(stale)

        assert response["Cache-Status"] == "Filmosphere; hit; detail=stale"
        assert max_age(response) == max_age(response_of(stale, section="trailer")) == 50

    @pytest.mark.parametrize(("due", "seconds"), [(None, 30), (timedelta(days=1), 3600)])
    def test_that_is_at_least_30_seconds_and_at_most_an_hour(self, due, seconds):
        retry_at = None if due is None else Clock().time + due
        stale = film_payload(age=timedelta(hours=30), is_fresh=False).as_stale(retry_at)

        assert max_age(response_of(stale)) == seconds

    def test_a_section_is_shortened_by_its_own_warning_only(self):
        states = {"images": SectionState(failures=1, retry_at=Clock().time + timedelta(minutes=5))}
        payload = film_payload(keys={"warnings": [warning("images")]}, states=states)

        assert max_age(response_of(payload)) == 300
        assert max_age(response_of(payload, section="images")) == 300
        assert max_age(response_of(payload, section="trailer")) == 82_800

    @pytest.mark.parametrize(
        ("fields", "seconds"),
        [("title,images", 300), ("title", 82_800), ("warnings", 300), ("title,warnings", 300)],
    )
    def test_chosen_fields_are_shortened_by_the_warnings_that_they_show(self, fields, seconds):
        states = {"images": SectionState(failures=1, retry_at=Clock().time + timedelta(minutes=5))}
        payload = film_payload(keys={"warnings": [warning("images")]}, states=states)

        assert max_age(response_of(payload, fields=fields)) == seconds


@pytest.mark.usefixtures("_standing_clock")
class TestTags:
    def test_equal_payloads_have_equal_tags(self):
        assert response_of()["ETag"] == response_of()["ETag"]

    def test_a_payload_that_differs_has_another_tag(self):
        other = film_payload(keys={"title": "Inception!"})

        assert response_of()["ETag"] != response_of(other)["ETag"]

    def test_a_section_has_the_age_of_the_film_and_a_tag_of_its_own(self):
        whole, section = response_of(), response_of(section="trailer")

        assert section["ETag"] != whole["ETag"]
        for name in ("Last-Modified", "Cache-Control", "Cache-Status"):
            assert section[name] == whole[name]

    @pytest.mark.parametrize("section", [None, "trailer"])
    @pytest.mark.parametrize("form", ["{0}", "W/{0}", '"x", {0}', "*"])
    def test_a_client_that_has_the_version_gets_304(self, section, form):
        tag = response_of(section=section)["ETag"]

        response = response_of(section=section, If_None_Match=form.format(tag))

        assert (response.status_code, response.content) == (304, b"")
        assert response["Content-Type"] == "application/json"
        assert response["ETag"] == tag
        assert response["Cache-Control"]

    def test_so_does_one_that_has_it_compressed(self):
        tag = response_of()["ETag"][:-1] + '-gzip"'

        assert response_of(If_None_Match=tag).status_code == 304

    def test_the_tag_of_the_film_is_not_that_of_its_section(self):
        tag = response_of()["ETag"]

        assert response_of(section="trailer", If_None_Match=tag).status_code == 200

    @pytest.mark.parametrize("tag", ["", "garbage", '"other"', '"', "W/", "x" * 8000, '"a"b"', ","])
    def test_any_other_tag_gets_the_film(self, tag):
        response = response_of(If_None_Match=tag)

        assert response.status_code == 200
        assert response.content.startswith(b'{"imdb_id":"%b"' % INCEPTION.encode())
