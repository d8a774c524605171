"""What HTTP caches and polite clients see of a film."""

import gzip
from dataclasses import replace
from datetime import timedelta

import pytest
from rest_framework.request import Request
from rest_framework.test import APIRequestFactory

from films.http_caching import accepts_gzip, film_response, part_of
from films.services.film_answer import FilmAnswer, FilmCopy, Origin
from films.services.rendering import render
from films.tests.fakes import INCEPTION, Clock

PAYLOAD = {
    "imdb_id": INCEPTION,
    "title": "Inception",
    "trailer": {"youtube_video_id": "YoHD9XEInc0"},
    "streaming": [],
    "warnings": [],
}


def answer(payload=PAYLOAD, *, gzipped=False, origin=Origin.HIT, **age) -> FilmAnswer:
    now = Clock().time
    copy = FilmCopy(render(payload), now - timedelta(**age or {"hours": 1}), origin)
    return copy.answer(gzipped=gzipped, now=now, ttl=timedelta(hours=24))


def request(**headers: str) -> Request:
    return Request(APIRequestFactory().get("/", headers=headers))


def warned(section: str) -> dict:
    return {**PAYLOAD, "warnings": [{"section": section, "code": "timeout"}]}


def test_a_fresh_film_may_be_kept_for_as_long_as_it_is_fresh():
    response = film_response(request(), answer(hours=1))

    assert response["Cache-Control"] == "public, max-age=82800, stale-if-error=86400"
    assert response["Age"] == "3600"
    assert response["Cache-Status"] == "Filmosphere; hit; ttl=82800"
    assert response["Vary"] == "Accept-Encoding, Origin"


def test_a_film_with_warnings_may_be_kept_for_a_short_time_only():
    response = film_response(request(), answer(warned("images")))

    assert "max-age=30," in response["Cache-Control"]


def test_a_film_past_its_time_may_be_kept_for_a_short_time_only():
    response = film_response(request(), answer(origin=Origin.STALE, hours=30))

    assert "max-age=30," in response["Cache-Control"]
    assert response["Age"] == "108000"


def test_a_film_about_to_expire_may_not_be_kept_for_longer_than_it_is_fresh():
    response = film_response(request(), answer(warned("images"), hours=23, minutes=59, seconds=50))

    assert "max-age=10," in response["Cache-Control"]


def test_a_film_just_fetched_says_so():
    response = film_response(request(), answer(origin=Origin.FETCHED, seconds=0))

    assert response["Cache-Status"] == "Filmosphere; fwd=miss; stored; ttl=86400"


def test_equal_payloads_have_equal_tags():
    assert film_response(request(), answer())["ETag"] == film_response(request(), answer())["ETag"]


def test_a_payload_that_differs_has_another_tag():
    other = answer({**PAYLOAD, "title": "Inception!"})

    assert film_response(request(), answer())["ETag"] != film_response(request(), other)["ETag"]


def test_gzip_has_a_tag_of_its_own():
    plain, packed = (
        film_response(request(), answer()),
        film_response(request(), answer(gzipped=True)),
    )

    assert packed["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.content) == plain.content
    assert packed["ETag"] != plain["ETag"]


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("tag", ['"{0}"', 'W/"{0}"', '"{0}-gzip"', '"x", "{0}"', "*"])
def test_a_client_that_has_the_version_in_either_coding_gets_304(tag, gzipped):
    wanted = answer(gzipped=gzipped)

    response = film_response(request(If_None_Match=tag.format(wanted.version)), wanted)

    assert response.status_code == 304
    assert response.content == b""
    assert response["Content-Type"] == "application/json"
    assert response["ETag"]
    assert response["Cache-Control"]


@pytest.mark.parametrize("tag", ["", "garbage", '"other"', '"', "W/", "x" * 8000, '"a"b"', ","])
def test_any_other_tag_gets_the_film(tag):
    assert film_response(request(If_None_Match=tag), answer()).status_code == 200


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("br, gzip;q=0.5", True),
        ("gzip; q=1.000", True),
        ("", False),
        ("br", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("xgzip", False),
        ("identity", False),
    ],
)
def test_gzip_is_sent_to_who_takes_it(header, wanted):
    assert accepts_gzip(request(Accept_Encoding=header).META) is wanted


def test_a_part_has_the_age_of_the_film_and_a_tag_of_its_own():
    whole = answer(gzipped=True)

    part = part_of(whole, "trailer")

    assert part.payload == {"imdb_id": INCEPTION, "trailer": PAYLOAD["trailer"]}
    assert part.version != whole.version
    assert replace(part, version="", body=b"") == replace(
        whole, version="", body=b"", is_gzipped=False
    )


def test_a_warning_counts_for_the_part_that_it_is_about():
    film = answer(warned("streaming"))

    assert part_of(film, "streaming").has_warnings
    assert not part_of(film, "trailer").has_warnings
