"""Each method of the three services: what it asks, what it returns, and every odd answer."""

import json
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import respx

from core.errors import (
    RegionNotCovered,
    UpstreamBadAnswer,
    UpstreamError,
    UpstreamNotConfigured,
    UpstreamNotFound,
    UpstreamQuotaExhausted,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from core.services.http_client import HttpClient
from core.services.imdb_service import IMDbService
from core.services.kinocheck_service import KinoCheckService
from core.services.upstream import UpstreamService
from core.services.watchmode_service import WatchmodeService
from core.tests.conftest import LogText
from core.tests.support import CANARY

IMDB, KINO, WATCHMODE = "https://imdb.test", "https://kino.test", "https://watch.test/v1"
FILM = "tt0114709"
SSL_CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

TITLE = {
    "id": FILM,
    "type": "movie",
    "primaryTitle": "Toy Story",
    "primaryImage": {"url": "https://img.test/1.jpg", "width": 1005, "height": 1500},
    "startYear": 1995,
}
TRAILER = {
    "id": "3746",
    "youtube_video_id": "O1M_iqSBEpA",
    "title": "AVENGERS 4: Endgame Super Bowl Trailer (2019)",
    "language": "en",
    "categories": ["Trailer"],
    "published": "2019-02-04T00:39:19+01:00",
    "views": 27039589,
}
KINO_FILM = {
    "id": "ly4",
    "imdb_id": FILM,
    "language": "en",
    "trailer": TRAILER,
    "videos": [TRAILER],
}
HITS = {
    "title_results": [{"id": 1114888, "name": "Ed Wood", "type": "movie", "imdb_id": FILM}],
    "people_results": [],
}
OFFERS = [
    {"source_id": 203, "name": "Netflix", "type": "sub", "region": "TR", "price": None},
    {"source_id": 349, "name": "iTunes", "type": "rent", "region": "TR", "price": 3.99},
]


@pytest.fixture
def upstream() -> Iterator[respx.MockRouter]:
    with respx.mock(assert_all_called=False) as router:
        yield router


@pytest.fixture
def http() -> HttpClient:
    return HttpClient(timeout=5, attempts=2, ssl_context=SSL_CONTEXT, sleep=lambda _: None)


@pytest.fixture
def imdb(http: HttpClient) -> IMDbService:
    return IMDbService(http=http, base_url=IMDB)


@pytest.fixture
def kino(http: HttpClient) -> KinoCheckService:
    return KinoCheckService(http=http, base_url=KINO, api_key=CANARY, language="en")


@pytest.fixture
def watchmode(http: HttpClient) -> WatchmodeService:
    return WatchmodeService(http=http, base_url=WATCHMODE, api_key=CANARY, region="TR")


def streamed(value: Any = None, *, status: int = 200, **options: Any) -> httpx.Response:
    content = options.pop("content", json.dumps(value).encode())
    return httpx.Response(status, stream=httpx.ByteStream(content), **options)


def asked(router: respx.MockRouter) -> list[str]:
    return [str(call.request.url) for call in router.calls]


# IMDbAPI.dev

SECTIONS = {
    "get_metadata": ("", TITLE, ""),
    "get_credits": (
        "/credits",
        {"credits": [{"name": {"id": "nm1"}}], "totalCount": 143, "nextPageToken": "OPAQUE"},
        "?pageSize=50",
    ),
    "get_images": (
        "/images",
        {"images": [{"url": "https://i.example/u.jpg", "type": "poster"}]},
        "?pageSize=50",
    ),
    "get_videos": ("/videos", {"videos": [{"id": "vi1"}], "totalCount": 1}, "?pageSize=50"),
    "get_parents_guide": ("/parentsGuide", {"parentsGuide": [{"category": "PROFANITY"}]}, ""),
    "get_certificates": ("/certificates", {"certificates": [{"rating": "G"}]}, ""),
    "get_release_dates": (
        "/releaseDates",
        {"releaseDates": [{"releaseDate": {"year": 1996}}]},
        "?pageSize=50",
    ),
}


@pytest.mark.parametrize("method", SECTIONS)
def test_a_section_is_asked_for_once_and_returned_as_it_came(
    upstream: respx.MockRouter, imdb: IMDbService, method: str
) -> None:
    path, answer, query = SECTIONS[method]
    upstream.get(f"{IMDB}/titles/{FILM}{path}").mock(return_value=streamed(answer))

    assert getattr(imdb, method)(FILM) == answer
    assert asked(upstream) == [f"{IMDB}/titles/{FILM}{path}{query}"]


@pytest.mark.parametrize("method", [name for name in SECTIONS if name != "get_metadata"])
@pytest.mark.parametrize("answer", [{}, None])
def test_a_section_without_rows_is_no_fault(
    upstream: respx.MockRouter, imdb: IMDbService, method: str, answer: Any
) -> None:
    rows = SECTIONS[method][0].removeprefix("/")
    sent = {rows: answer} if answer is None else answer
    upstream.get().mock(return_value=streamed(sent))

    assert getattr(imdb, method)(FILM) == {}


@pytest.mark.parametrize("method", [name for name in SECTIONS if name != "get_metadata"])
@pytest.mark.parametrize("rows", ["x", 5, {}, [1], [None], ["row"], True])
def test_rows_of_another_shape_are_refused(
    upstream: respx.MockRouter, imdb: IMDbService, method: str, rows: Any
) -> None:
    upstream.get().mock(return_value=streamed({SECTIONS[method][0].removeprefix("/"): rows}))

    with pytest.raises(UpstreamBadAnswer) as caught:
        getattr(imdb, method)(FILM)

    assert caught.value.reason == "bad_shape"


@pytest.mark.parametrize("count", ["many", None, 1.5, True, [1]])
def test_a_count_that_is_none_is_left_out(
    upstream: respx.MockRouter, imdb: IMDbService, count: Any
) -> None:
    sent = {
        "images": [{"url": "https://i.example/u.jpg"}],
        "totalCount": count,
        "nextPageToken": 7,
        "new": count,
    }
    upstream.get().mock(return_value=streamed(sent))

    assert imdb.get_images(FILM) == {"images": [{"url": "https://i.example/u.jpg"}], "new": count}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("genres", "Drama"),
        ("startYear", "1995"),
        ("startYear", True),
        ("isAdult", 0),
        ("rating", [8.3]),
        ("directors", None),
    ],
)
def test_a_field_of_a_title_that_has_another_type_is_left_out(
    upstream: respx.MockRouter, imdb: IMDbService, field: str, value: Any
) -> None:
    upstream.get().mock(return_value=streamed({**TITLE, field: value}))

    assert imdb.get_metadata(FILM) == {name: TITLE[name] for name in TITLE if name != field}


@pytest.mark.parametrize("url", ["javascript:alert(1)", 5, "https://a.example/" + "x" * 2000])
def test_a_poster_that_is_no_web_address_is_left_out(
    upstream: respx.MockRouter, imdb: IMDbService, url: Any
) -> None:
    image = {"url": url, "width": 1000}
    upstream.get().mock(return_value=streamed({**TITLE, "primaryImage": image}))

    assert imdb.get_metadata(FILM)["primaryImage"] == {"width": 1000}


@pytest.mark.parametrize(
    "title",
    [
        {"id": None, "primaryTitle": None},
        {"id": FILM},
        {"id": FILM, "primaryTitle": None},
        {"id": FILM, "primaryTitle": ""},
        {"id": FILM, "primaryTitle": " \t"},
        {"id": FILM, "primaryTitle": 5},
        {"id": FILM, "primaryTitle": ["Toy Story"]},
        {"id": "tt0000001", "primaryTitle": "Another film"},
        {"id": 114709, "primaryTitle": "Toy Story"},
        {"primaryTitle": "Toy Story"},
    ],
)
def test_a_title_without_name_or_with_another_id_is_no_film(
    upstream: respx.MockRouter, imdb: IMDbService, title: Any
) -> None:
    upstream.get().mock(return_value=streamed(title))

    with pytest.raises(UpstreamBadAnswer) as caught:
        imdb.get_metadata(FILM)

    assert caught.value.reason == "bad_shape"


def test_a_search_sends_the_text_and_returns_titles(
    upstream: respx.MockRouter, imdb: IMDbService
) -> None:
    upstream.get(f"{IMDB}/search/titles").mock(return_value=streamed({"titles": [TITLE]}))

    assert imdb.search("k\u0131\u015f & uyku") == [TITLE]
    (request,) = [call.request for call in upstream.calls]
    assert dict(request.url.params) == {"query": "k\u0131\u015f & uyku", "limit": "20"}


@pytest.mark.parametrize("answer", [{}, {"titles": []}, {"titles": None}])
def test_a_search_without_hits_is_empty(
    upstream: respx.MockRouter, imdb: IMDbService, answer: Any
) -> None:
    upstream.get().mock(return_value=streamed(answer))

    assert imdb.search("nothing like it") == []


def test_a_hit_without_id_is_left_out(upstream: respx.MockRouter, imdb: IMDbService) -> None:
    odd = ["../../x", "tt1\n", "", "nm0000001", "javascript:1", "tt" + "1" * 30]
    hits = [
        {"primaryTitle": "No id"},
        {"id": None},
        {"id": 5},
        *({"id": one} for one in odd),
        TITLE,
    ]
    upstream.get().mock(return_value=streamed({"titles": hits}))

    assert imdb.search("toy") == [TITLE]


def test_more_hits_than_were_asked_for_are_cut(
    upstream: respx.MockRouter, imdb: IMDbService
) -> None:
    upstream.get().mock(return_value=streamed({"titles": [TITLE] * 9000}))

    assert imdb.search("toy") == [TITLE] * 20


@pytest.mark.parametrize("imdb_id", ["../x", "tt1/credits", "tt1?x=y", "tt1#f", "a b", "\u0131"])
def test_an_id_stays_one_segment_of_the_path(
    upstream: respx.MockRouter, imdb: IMDbService, imdb_id: str
) -> None:
    upstream.get().mock(return_value=streamed(status=404))

    with pytest.raises(UpstreamNotFound):
        imdb.get_credits(imdb_id)

    (request,) = [call.request for call in upstream.calls]
    raw_path, _, query = request.url.raw_path.decode().partition("?")
    assert raw_path.count("/") == 3
    assert raw_path.endswith("/credits")
    assert query == "pageSize=50"


@pytest.mark.parametrize("method", ["search", *SECTIONS])
@pytest.mark.parametrize(
    ("code", "error"),
    [
        (5, UpstreamNotFound),
        (8, UpstreamRateLimited),
        (13, UpstreamBadAnswer),
        ("5", UpstreamBadAnswer),
    ],
)
def test_an_error_that_comes_with_status_200_is_an_error(
    upstream: respx.MockRouter,
    imdb: IMDbService,
    method: str,
    code: Any,
    error: type[UpstreamError],
) -> None:
    upstream.get().mock(return_value=streamed({"code": code, "message": "x", "details": []}))

    with pytest.raises(error):
        getattr(imdb, method)(FILM)


# KinoCheck


def test_the_trailer_of_a_film_is_the_one_the_editors_picked(
    upstream: respx.MockRouter, kino: KinoCheckService
) -> None:
    upstream.get(f"{KINO}/movies").mock(return_value=streamed(KINO_FILM))

    assert kino.get_trailer(FILM) == TRAILER
    assert asked(upstream) == [
        f"{KINO}/movies?imdb_id={FILM}&language=en&categories=Trailer",
    ]


def test_the_key_goes_in_headers(upstream: respx.MockRouter, kino: KinoCheckService) -> None:
    upstream.get().mock(return_value=streamed(KINO_FILM))

    kino.get_trailer(FILM)

    (request,) = [call.request for call in upstream.calls]
    assert request.headers["x-api-key"] == CANARY
    assert request.headers["x-api-host"] == "api.kinocheck.com"
    assert CANARY not in str(request.url)


def test_without_a_key_none_is_sent(upstream: respx.MockRouter, http: HttpClient) -> None:
    upstream.get().mock(return_value=streamed(KINO_FILM))

    KinoCheckService(http=http, base_url=KINO, api_key="", language="de").get_trailer(FILM)

    (request,) = [call.request for call in upstream.calls]
    assert not {"x-api-key", "x-api-host"} & set(request.headers)
    assert request.url.params["language"] == "de"


@pytest.mark.parametrize(
    "unknown",
    [
        {"status": 404, "value": {"code": 404, "message": "Not found"}},
        {"status": 404, "content": b"<html></html>"},
        {"value": {"error": "Movie not found"}},
        {"value": {"message": "not found."}},
    ],
)
def test_a_series_is_found_where_films_are_not(
    upstream: respx.MockRouter, kino: KinoCheckService, unknown: dict[str, Any]
) -> None:
    upstream.get(f"{KINO}/movies").mock(return_value=streamed(**unknown))
    upstream.get(f"{KINO}/shows").mock(return_value=streamed(KINO_FILM))

    assert kino.get_trailer(FILM) == TRAILER


def test_what_neither_knows_has_no_trailer(
    upstream: respx.MockRouter, kino: KinoCheckService
) -> None:
    upstream.get().mock(side_effect=lambda request: streamed(status=404))

    assert kino.get_trailer(FILM) is None
    assert len(upstream.calls) == 2


def test_a_film_without_trailer_is_not_looked_for_among_series(
    upstream: respx.MockRouter, kino: KinoCheckService
) -> None:
    upstream.get().mock(return_value=streamed(KINO_FILM | {"trailer": None, "videos": []}))

    assert kino.get_trailer(FILM) is None
    assert len(upstream.calls) == 1


def test_a_failure_among_series_is_told(upstream: respx.MockRouter, kino: KinoCheckService) -> None:
    upstream.get(f"{KINO}/movies").mock(return_value=streamed(status=404))
    upstream.get(f"{KINO}/shows").mock(side_effect=lambda request: streamed(status=500))

    with pytest.raises(UpstreamUnavailable):
        kino.get_trailer(FILM)


@pytest.mark.parametrize(
    "film",
    [
        {},
        {"id": None, "trailer": None},
        {"id": 5, "trailer": None},
        {"id": "ly4"},
        {"error": "the database is on fire"},
        KINO_FILM | {"imdb_id": "tt0000001"},
        KINO_FILM | {"trailer": "https://youtube.test/"},
        KINO_FILM | {"trailer": []},
        KINO_FILM | {"trailer": {}},
        KINO_FILM | {"trailer": dict.fromkeys(TRAILER)},
        KINO_FILM | {"trailer": TRAILER | {"youtube_video_id": 5}},
        KINO_FILM | {"trailer": TRAILER | {"youtube_video_id": ""}},
        KINO_FILM | {"trailer": TRAILER | {"youtube_video_id": {}}},
    ],
)
def test_a_film_of_another_shape_is_refused(
    upstream: respx.MockRouter, kino: KinoCheckService, film: Any
) -> None:
    upstream.get().mock(return_value=streamed(film))

    with pytest.raises(UpstreamBadAnswer) as caught:
        kino.get_trailer(FILM)

    assert caught.value.reason == "bad_shape"


@pytest.mark.parametrize("views", [5, "1391790", None])
def test_what_nobody_relies_on_may_have_any_shape(
    upstream: respx.MockRouter, kino: KinoCheckService, views: Any
) -> None:
    trailer = TRAILER | {"views": views}
    film = {"id": "ly4", "imdb_id": None, "trailer": trailer}
    upstream.get().mock(return_value=streamed(film))

    assert kino.get_trailer(FILM) == trailer


def test_a_refused_key_that_comes_with_status_200_is_refused(
    upstream: respx.MockRouter, kino: KinoCheckService
) -> None:
    upstream.get().mock(return_value=streamed({"error": "Invalid API key"}))

    with pytest.raises(UpstreamRejected):
        kino.get_trailer(FILM)


# Watchmode


def test_the_number_of_a_title_is_looked_up_by_its_imdb_id(
    upstream: respx.MockRouter, watchmode: WatchmodeService
) -> None:
    upstream.get(f"{WATCHMODE}/search/").mock(return_value=streamed(HITS))

    assert watchmode.lookup_title_id(FILM) == 1114888
    (request,) = [call.request for call in upstream.calls]
    assert dict(request.url.params) == {"search_field": "imdb_id", "search_value": FILM}
    assert request.headers["x-api-key"] == CANARY


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"title_results": []},
        {"title_results": None},
        {"title_results": [{"id": 1, "imdb_id": "tt0000001"}]},
        {"title_results": [{"id": None, "imdb_id": FILM}]},
        {"title_results": [{"id": "1", "imdb_id": FILM}]},
        {"title_results": [{"id": True, "imdb_id": FILM}]},
        {"title_results": [{"imdb_id": FILM}]},
    ],
)
def test_a_title_that_watchmode_does_not_know_has_no_number(
    upstream: respx.MockRouter, watchmode: WatchmodeService, answer: Any
) -> None:
    upstream.get().mock(return_value=streamed(answer))

    assert watchmode.lookup_title_id(FILM) is None


@pytest.mark.parametrize("number", [0, -1, 2**63, 10**30])
def test_a_number_that_no_column_holds_is_none(
    upstream: respx.MockRouter, watchmode: WatchmodeService, number: int
) -> None:
    hits = [{"id": number, "imdb_id": FILM}]
    upstream.get().mock(return_value=streamed({"title_results": hits}))

    assert watchmode.lookup_title_id(FILM) is None


def test_a_hit_may_leave_out_its_imdb_id(
    upstream: respx.MockRouter, watchmode: WatchmodeService
) -> None:
    hits = [{"id": 7, "imdb_id": "tt0000001"}, {"id": 8}]
    upstream.get().mock(return_value=streamed({"title_results": hits}))

    assert watchmode.lookup_title_id(FILM) == 8


def test_an_error_that_comes_with_status_200_is_not_an_unknown_title(
    upstream: respx.MockRouter, watchmode: WatchmodeService
) -> None:
    envelope = {"success": False, "statusCode": 401, "statusMessage": "no"}
    upstream.get().mock(return_value=streamed(envelope))

    with pytest.raises(UpstreamBadAnswer):
        watchmode.lookup_title_id(FILM)


def test_the_offers_are_asked_for_the_region_and_returned_as_they_came(
    upstream: respx.MockRouter, watchmode: WatchmodeService
) -> None:
    upstream.get(f"{WATCHMODE}/title/345534/sources/").mock(return_value=streamed(OFFERS))

    assert watchmode.get_streaming_sources(345534) == OFFERS
    assert asked(upstream) == [f"{WATCHMODE}/title/345534/sources/?regions=TR"]


def test_no_offers_is_no_fault(upstream: respx.MockRouter, watchmode: WatchmodeService) -> None:
    upstream.get().mock(return_value=streamed([]))

    assert watchmode.get_streaming_sources(345534) == []


@pytest.mark.parametrize(
    "answer",
    [
        {},
        "x",
        5,
        True,
        None,
        [1],
        [None],
        {"success": False, "statusCode": 404, "statusMessage": "no"},
    ],
)
def test_offers_of_another_shape_are_refused(
    upstream: respx.MockRouter, watchmode: WatchmodeService, answer: Any
) -> None:
    upstream.get().mock(return_value=streamed(answer))

    with pytest.raises(UpstreamBadAnswer) as caught:
        watchmode.get_streaming_sources(345534)

    assert caught.value.reason == "bad_shape"


def regions(*enabled: str) -> Callable[[httpx.Request], httpx.Response]:
    rows = [{"country": name, "plan_enabled": name in enabled} for name in ("US", "TR", "DE")]
    return lambda request: streamed(rows)


def test_a_region_outside_the_plan_is_told_and_not_asked_for_again(
    upstream: respx.MockRouter, http: HttpClient
) -> None:
    now = [1000.0]
    service = WatchmodeService(
        http=http, base_url=WATCHMODE, api_key="k", region="TR", clock=lambda: now[0]
    )
    upstream.get(path__startswith="/v1/title/").mock(
        side_effect=lambda request: streamed(status=400)
    )
    upstream.get(f"{WATCHMODE}/regions/").mock(side_effect=regions("US"))

    for _ in range(3):
        with pytest.raises(RegionNotCovered):
            service.get_streaming_sources(1)
        with pytest.raises(RegionNotCovered):
            service.lookup_title_id(FILM)
    within_a_day = len(upstream.calls)
    now[0] += 86_401
    with pytest.raises(RegionNotCovered):
        service.get_streaming_sources(1)

    assert within_a_day == 2
    assert len(upstream.calls) == 4


def test_another_mistake_is_not_blamed_on_the_region(
    upstream: respx.MockRouter, watchmode: WatchmodeService
) -> None:
    upstream.get(path__startswith="/v1/title/").mock(
        side_effect=lambda request: streamed(status=400)
    )
    upstream.get(f"{WATCHMODE}/regions/").mock(side_effect=regions("TR"))

    with pytest.raises(UpstreamBadAnswer) as caught:
        watchmode.get_streaming_sources(1)

    assert caught.value.reason == "http_4xx"


@pytest.mark.parametrize("answer", [{"status": 500}, {"value": {}}, {"content": b"<html>"}])
def test_a_region_that_could_not_be_looked_up_is_not_remembered(
    upstream: respx.MockRouter, watchmode: WatchmodeService, answer: dict[str, Any]
) -> None:
    upstream.get(path__startswith="/v1/title/").mock(
        side_effect=lambda request: streamed(status=400)
    )
    upstream.get(f"{WATCHMODE}/regions/").mock(side_effect=lambda request: streamed(**answer))

    for _ in range(2):
        with pytest.raises(UpstreamError) as caught:
            watchmode.get_streaming_sources(1)
        assert not isinstance(caught.value, RegionNotCovered)

    assert len([url for url in asked(upstream) if "/title/" in url]) == 2


@pytest.mark.parametrize("status", [401, 402, 403, 429])
def test_a_refusal_with_the_quota_used_up_is_about_the_quota(
    upstream: respx.MockRouter, watchmode: WatchmodeService, status: int
) -> None:
    counters = {"X-Account-Quota": "1000", "X-Account-Quota-Used": "1000"}
    upstream.get().mock(return_value=streamed(status=status, headers=counters))

    with pytest.raises(UpstreamQuotaExhausted) as caught:
        watchmode.lookup_title_id(FILM)

    assert caught.value.reason == "quota"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, UpstreamRejected),
        (402, UpstreamQuotaExhausted),
        (403, UpstreamRejected),
        (429, UpstreamRateLimited),
    ],
)
@pytest.mark.parametrize(
    "counters",
    [
        {},
        {"X-Account-Quota": "1000", "X-Account-Quota-Used": "999"},
        {"X-Account-Quota": "0", "X-Account-Quota-Used": "0"},
        {"X-Account-Quota": "-1", "X-Account-Quota-Used": "5"},
        {"X-Account-Quota": "many", "X-Account-Quota-Used": "more"},
        {"X-Account-Quota-Used": "1000"},
    ],
)
def test_a_refusal_with_credits_left_is_about_something_else(
    upstream: respx.MockRouter,
    watchmode: WatchmodeService,
    status: int,
    error: type[UpstreamError],
    counters: dict[str, str],
) -> None:
    upstream.get().mock(return_value=streamed(status=status, headers=counters))

    with pytest.raises(error):
        watchmode.lookup_title_id(FILM)


def test_without_a_key_nobody_is_asked(upstream: respx.MockRouter, http: HttpClient) -> None:
    service = WatchmodeService(http=http, base_url=WATCHMODE, api_key="", region="TR")

    with pytest.raises(UpstreamNotConfigured):
        service.lookup_title_id(FILM)
    with pytest.raises(UpstreamNotConfigured):
        service.get_streaming_sources(1)

    assert not upstream.calls


# All of them

METHODS: dict[str, Callable[[HttpClient], Any]] = {
    **{
        f"imdbapi.{name}": lambda http, name=name: getattr(
            IMDbService(http=http, base_url=IMDB), name
        )(FILM)
        for name in ("search", *SECTIONS)
    },
    "kinocheck.get_trailer": lambda http: KinoCheckService(
        http=http, base_url=KINO, api_key="k", language="en"
    ).get_trailer(FILM),
    "watchmode.lookup_title_id": lambda http: WatchmodeService(
        http=http, base_url=WATCHMODE, api_key="k", region="TR"
    ).lookup_title_id(FILM),
    "watchmode.get_streaming_sources": lambda http: WatchmodeService(
        http=http, base_url=WATCHMODE, api_key="k", region="TR"
    ).get_streaming_sources(1),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("answer", "error", "calls"),
    [
        (httpx.ReadTimeout("slow"), UpstreamTimeout, 2),
        (httpx.ConnectError("refused"), UpstreamUnavailable, 2),
        ({"status": 500}, UpstreamUnavailable, 2),
        ({"status": 503, "headers": {"Retry-After": "7"}}, UpstreamUnavailable, 1),
        ({"status": 429}, UpstreamRateLimited, 1),
        ({"status": 401}, UpstreamRejected, 1),
        ({"status": 402}, UpstreamQuotaExhausted, 1),
        ({"status": 403}, UpstreamRejected, 1),
        ({"status": 302, "headers": {"Location": "https://evil.test/"}}, UpstreamBadAnswer, 1),
        ({"content": b"<html>proxy</html>"}, UpstreamBadAnswer, 1),
        ({"content": b""}, UpstreamBadAnswer, 1),
        ({"status": 204, "content": b""}, UpstreamBadAnswer, 1),
        ({"content": b"[NaN]"}, UpstreamBadAnswer, 1),
        ({"value": "text"}, UpstreamBadAnswer, 1),
        ({"value": 5}, UpstreamBadAnswer, 1),
        ({"value": True}, UpstreamBadAnswer, 1),
    ],
    ids=str,
)
def test_an_odd_answer_has_the_same_meaning_everywhere(
    upstream: respx.MockRouter,
    http: HttpClient,
    method: str,
    answer: Any,
    error: type[UpstreamError],
    calls: int,
) -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return streamed(**answer)

    upstream.get().mock(side_effect=respond)

    with pytest.raises(error) as caught:
        METHODS[method](http)

    assert type(caught.value) is error
    assert caught.value.source == method.partition(".")[0]
    assert len(upstream.calls) == calls


@pytest.mark.parametrize("method", METHODS)
def test_a_refusal_that_nobody_expects_is_not_taken_for_not_found(
    upstream: respx.MockRouter, http: HttpClient, method: str, log: LogText
) -> None:
    upstream.get().mock(side_effect=lambda request: streamed(status=409))

    with pytest.raises(UpstreamBadAnswer) as caught:
        METHODS[method](http)

    assert caught.value.reason == "http_4xx"
    assert {line["level"] for line in log.of("upstream answer")} == {"ERROR"}


@pytest.mark.parametrize("status", [404, 410, 451])
@pytest.mark.parametrize("method", [name for name in METHODS if name != "kinocheck.get_trailer"])
def test_a_title_that_is_not_there_is_not_found(
    upstream: respx.MockRouter, http: HttpClient, method: str, status: int
) -> None:
    upstream.get().mock(return_value=streamed(status=status))

    with pytest.raises(UpstreamNotFound):
        METHODS[method](http)


@pytest.mark.parametrize("method", [name for name in METHODS if "get_streaming" not in name])
def test_a_list_in_place_of_an_object_is_refused(
    upstream: respx.MockRouter, http: HttpClient, method: str
) -> None:
    upstream.get().mock(return_value=streamed([]))

    with pytest.raises(UpstreamBadAnswer):
        METHODS[method](http)


def test_an_answer_that_cannot_be_used_is_logged_with_its_reason(
    upstream: respx.MockRouter, imdb: IMDbService, log: LogText
) -> None:
    upstream.get().mock(return_value=streamed(content=f"<html>{CANARY}".encode()))

    with pytest.raises(UpstreamBadAnswer):
        imdb.get_metadata(FILM)

    (line,) = log.of("upstream answer")
    assert (line["source"], line["outcome"]) == ("imdbapi", "bad_json")
    assert CANARY not in str(log)


@pytest.mark.parametrize("service", [IMDbService, KinoCheckService, WatchmodeService])
def test_what_a_service_offers_is_documented(service: type[UpstreamService]) -> None:
    methods = [value for name, value in vars(service).items() if not name.startswith("_")]

    assert all(method.__doc__ for method in methods if callable(method))
