"""Each method of the three services: what it asks, what it returns, and every odd answer."""

import json
import ssl
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
import respx

from core.errors import (
    InvalidInput,
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
from core.services.circuit_breaker import CircuitBreaker, Plan
from core.services.http_client import HttpClient
from core.services.imdb_service import IMDbService
from core.services.kinocheck_service import KinoCheckService
from core.services.upstream import UpstreamService
from core.services.watchmode_service import WatchmodeService
from core.tests.clock import WallClock
from core.tests.support import CANARY, LogText

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
def http() -> HttpClient:
    return HttpClient(timeout=5, attempts=2, ssl_context=SSL_CONTEXT, sleep=lambda _: None)


@pytest.fixture
def imdb(http: HttpClient) -> IMDbService:
    return IMDbService(http=http, base_url=IMDB)


@pytest.fixture
def kino(http: HttpClient) -> KinoCheckService:
    return KinoCheckService(http=http, base_url=KINO, api_key=CANARY, languages=["en"])


@pytest.fixture
def watchmode(http: HttpClient) -> WatchmodeService:
    return WatchmodeService(http=http, base_url=WATCHMODE, api_key=CANARY, regions=["TR"])


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
def test_a_section_is_requested_once_and_returned_unchanged(
    upstream: respx.MockRouter, imdb: IMDbService, method: str
) -> None:
    path, answer, query = SECTIONS[method]
    upstream.get(f"{IMDB}/titles/{FILM}{path}").mock(return_value=streamed(answer))

    assert getattr(imdb, method)(FILM) == answer
    assert asked(upstream) == [f"{IMDB}/titles/{FILM}{path}{query}"]


@pytest.mark.parametrize("method", [name for name in SECTIONS if name != "get_metadata"])
@pytest.mark.parametrize("answer", [{}, None])
def test_a_section_without_rows_is_empty(
    upstream: respx.MockRouter, imdb: IMDbService, method: str, answer: Any
) -> None:
    rows = SECTIONS[method][0].removeprefix("/")
    sent = {rows: answer} if answer is None else answer
    upstream.get().mock(return_value=streamed(sent))

    assert getattr(imdb, method)(FILM) == {}


@pytest.mark.parametrize("method", [name for name in SECTIONS if name != "get_metadata"])
@pytest.mark.parametrize("rows", ["x", 5, {}, [1], [None], ["row"], True])
def test_rows_of_another_shape_are_unusable(
    upstream: respx.MockRouter, imdb: IMDbService, method: str, rows: Any
) -> None:
    upstream.get().mock(return_value=streamed({SECTIONS[method][0].removeprefix("/"): rows}))

    with pytest.raises(UpstreamBadAnswer) as caught:
        getattr(imdb, method)(FILM)

    assert caught.value.reason == "bad_shape"


@pytest.mark.parametrize("count", ["many", None, 1.5, True, [1]])
def test_an_invalid_count_is_removed(
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
def test_a_field_of_another_type_is_removed_from_a_title(
    upstream: respx.MockRouter, imdb: IMDbService, field: str, value: Any
) -> None:
    upstream.get().mock(return_value=streamed({**TITLE, field: value}))

    assert imdb.get_metadata(FILM) == {name: TITLE[name] for name in TITLE if name != field}


@pytest.mark.parametrize("url", ["javascript:alert(1)", 5, "https://a.example/" + "x" * 2000])
def test_a_poster_without_a_web_url_loses_it(
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
        {"id": FILM, "primaryTitle": ["Toy Story"], "originalTitle": " "},
        {"id": 114709, "primaryTitle": "Toy Story"},
        {"primaryTitle": "Toy Story"},
    ],
)
def test_a_title_without_name_or_id_is_unusable(
    upstream: respx.MockRouter, imdb: IMDbService, title: Any
) -> None:
    upstream.get().mock(return_value=streamed(title))

    with pytest.raises(UpstreamBadAnswer) as caught:
        imdb.get_metadata(FILM)

    assert caught.value.reason == "bad_shape"


def test_the_metadata_of_another_title_is_unusable(
    upstream: respx.MockRouter, imdb: IMDbService
) -> None:
    upstream.get().mock(return_value=streamed({"id": "tt0000001", "primaryTitle": "Another film"}))

    with pytest.raises(UpstreamBadAnswer) as caught:
        imdb.get_metadata(FILM)

    assert caught.value.reason == "other_title"


@pytest.mark.parametrize("sent", ["tt137", "tt0000137", "tt000000137"])
@pytest.mark.parametrize("asked_for", ["tt137", "tt0000137", "tt00000137"])
def test_ids_are_sent_and_returned_in_canonical_form(
    upstream: respx.MockRouter, imdb: IMDbService, asked_for: str, sent: str
) -> None:
    upstream.get().mock(return_value=streamed({**TITLE, "id": sent}))

    assert imdb.get_metadata(asked_for) == {**TITLE, "id": "tt0000137"}
    assert asked(upstream) == [f"{IMDB}/titles/tt0000137"]


@pytest.mark.parametrize("name", [{}, {"primaryTitle": ""}, {"primaryTitle": " "}])
def test_a_title_that_has_only_its_original_title_uses_it(
    upstream: respx.MockRouter, imdb: IMDbService, name: dict[str, str]
) -> None:
    sent = {"id": FILM, **name, "originalTitle": "Oyuncak Hikâyesi"}
    upstream.get(f"{IMDB}/titles/{FILM}").mock(return_value=streamed(sent))
    upstream.get(f"{IMDB}/search/titles").mock(return_value=streamed({"titles": [sent]}))

    title = {"id": FILM, "primaryTitle": sent["originalTitle"], "originalTitle": "Oyuncak Hikâyesi"}
    assert imdb.get_metadata(FILM) == title
    assert imdb.search("oyuncak") == [title]


def test_a_found_title_without_any_name_has_none(
    upstream: respx.MockRouter, imdb: IMDbService
) -> None:
    hit = {"id": FILM, "primaryTitle": "", "originalTitle": " "}
    upstream.get().mock(return_value=streamed({"titles": [hit]}))

    assert imdb.search("toy") == [{"id": FILM, "originalTitle": " "}]


def test_a_search_sends_the_text_and_returns_titles(
    upstream: respx.MockRouter, imdb: IMDbService
) -> None:
    upstream.get(f"{IMDB}/search/titles").mock(return_value=streamed({"titles": [TITLE]}))

    assert imdb.search("k\u0131\u015f & uyku") == [TITLE]
    (request,) = [call.request for call in upstream.calls]
    assert dict(request.url.params) == {"query": "k\u0131\u015f & uyku", "limit": "50"}


@pytest.mark.parametrize("answer", [{}, {"titles": []}, {"titles": None}])
def test_a_search_without_results_is_empty(
    upstream: respx.MockRouter, imdb: IMDbService, answer: Any
) -> None:
    upstream.get().mock(return_value=streamed(answer))

    assert imdb.search("nothing like it") == []


def test_a_search_result_without_an_id_is_removed(
    upstream: respx.MockRouter, imdb: IMDbService
) -> None:
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


def test_more_search_results_than_requested_are_cut(
    upstream: respx.MockRouter, imdb: IMDbService
) -> None:
    hits = [{**TITLE, "id": f"tt{number:07}"} for number in range(9000)]
    upstream.get().mock(return_value=streamed({"titles": hits}))

    assert imdb.search("toy") == hits[:50]


def test_search_results_with_the_same_id_collapse_into_the_first(
    upstream: respx.MockRouter, imdb: IMDbService
) -> None:
    second = {**TITLE, "id": "tt137", "primaryTitle": "Another"}
    hits = [TITLE, second, {**TITLE, "plot": "x"}, {**second, "id": "tt0000137", "plot": "y"}]
    upstream.get().mock(return_value=streamed({"titles": hits}))

    assert imdb.search("toy") == [TITLE, {**second, "id": "tt0000137"}]


@pytest.mark.parametrize(
    ("method", "rows", "row"),
    [
        ("get_credits", "credits", {"category": "actor"}),
        ("get_images", "images", {"type": "poster"}),
        ("get_videos", "videos", {"id": "vi1"}),
        ("get_release_dates", "releaseDates", {"attributes": ["premiere"]}),
    ],
)
def test_rows_beyond_a_page_are_cut_and_the_count_stays(
    upstream: respx.MockRouter, imdb: IMDbService, method: str, rows: str, row: Any
) -> None:
    sent = {rows: [row] * 9000, "totalCount": 9000}
    upstream.get().mock(return_value=streamed(sent))

    assert getattr(imdb, method)(FILM) == {rows: [row] * 50, "totalCount": 9000}


def test_an_integer_beyond_64_bits_is_removed_at_any_depth(
    upstream: respx.MockRouter, imdb: IMDbService
) -> None:
    sent = {**TITLE, "rating": {"voteCount": 10**30, "new": 2**63}, "new": [-(10**40), 5]}
    upstream.get().mock(return_value=streamed({**sent, "runtimeSeconds": 10**30}))

    assert imdb.get_metadata(FILM) == {**TITLE, "rating": {}, "new": [5]}


@pytest.mark.parametrize("method", SECTIONS)
def test_an_answer_with_nothing_but_a_number_beyond_64_bits_is_no_empty_list(
    upstream: respx.MockRouter, imdb: IMDbService, method: str
) -> None:
    upstream.get().mock(return_value=streamed({"id": 10**30, "totalCount": 3}))

    with pytest.raises(UpstreamBadAnswer):
        getattr(imdb, method)(FILM)


# Pages


@pytest.mark.parametrize("method", ["get_credits", "get_images", "get_videos", "get_release_dates"])
def test_a_further_page_is_requested_with_its_token(
    upstream: respx.MockRouter, imdb: IMDbService, method: str
) -> None:
    path, answer, _ = SECTIONS[method]
    upstream.get().mock(return_value=streamed(answer))

    assert getattr(imdb, method)(FILM, page_token="a+b/c=&d") == answer
    (request,) = [call.request for call in upstream.calls]
    assert request.url.path == f"/titles/{FILM}{path}"
    assert dict(request.url.params) == {"pageSize": "50", "pageToken": "a+b/c=&d"}


def test_a_refused_page_token_is_invalid_input(
    upstream: respx.MockRouter, imdb: IMDbService, log: LogText
) -> None:
    upstream.get().mock(return_value=streamed({"code": 3, "message": "x"}, status=400))

    with pytest.raises(InvalidInput, match="page_token"):
        imdb.get_credits(FILM, "x")

    assert log.of("upstream answer") == []


def test_a_400_without_a_page_token_is_a_bad_answer(
    upstream: respx.MockRouter, imdb: IMDbService
) -> None:
    upstream.get().mock(return_value=streamed({"code": 3, "message": "x"}, status=400))

    with pytest.raises(UpstreamBadAnswer):
        imdb.get_credits(FILM)


# Batches


def test_a_batch_is_one_call_and_returns_titles_by_canonical_id(
    upstream: respx.MockRouter, imdb: IMDbService
) -> None:
    other = {"id": "tt137", "primaryTitle": "Another"}
    upstream.get(f"{IMDB}/titles:batchGet").mock(return_value=streamed({"titles": [other, TITLE]}))

    assert imdb.get_metadata_batch([FILM, "tt00137"]) == {
        FILM: TITLE,
        "tt0000137": {**other, "id": "tt0000137"},
    }
    assert asked(upstream) == [f"{IMDB}/titles:batchGet?titleIds={FILM}&titleIds=tt0000137"]


@pytest.mark.parametrize(
    "unusable",
    [
        {"id": FILM},
        {"id": FILM, "primaryTitle": 5},
        {"id": FILM, "primaryTitle": " "},
        {"id": "tt0000099", "primaryTitle": "Not asked for"},
        {"id": 5, "primaryTitle": "x"},
        {"primaryTitle": "x"},
        "x",
        None,
    ],
)
def test_a_batch_leaves_out_unusable_titles(
    upstream: respx.MockRouter, imdb: IMDbService, unusable: Any
) -> None:
    other = {"id": "tt0000137", "primaryTitle": "Another"}
    upstream.get().mock(return_value=streamed({"titles": [unusable, other]}))

    assert imdb.get_metadata_batch([FILM, "tt0000137"]) == {"tt0000137": other}


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 400, "value": {"code": 3, "message": "x"}},
        {"status": 404, "value": {"code": 5, "message": "x"}},
        {"value": {"code": 5, "message": "x"}},
        {"value": {}},
        {"value": {"titles": []}},
        {"value": {"titles": None}},
    ],
)
def test_a_batch_of_unknown_titles_is_empty(
    upstream: respx.MockRouter, imdb: IMDbService, answer: dict[str, Any], log: LogText
) -> None:
    upstream.get().mock(return_value=streamed(**answer))

    assert imdb.get_metadata_batch([FILM]) == {}
    assert log.of("upstream answer") == []


@pytest.mark.parametrize("titles", ["x", 5, {}, True])
def test_a_batch_of_another_shape_is_unusable(
    upstream: respx.MockRouter, imdb: IMDbService, titles: Any
) -> None:
    upstream.get().mock(return_value=streamed({"titles": titles or 7}))

    with pytest.raises(UpstreamBadAnswer):
        imdb.get_metadata_batch([FILM])


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


def test_the_trailer_is_the_one_that_the_editors_picked(
    upstream: respx.MockRouter, kino: KinoCheckService
) -> None:
    upstream.get(f"{KINO}/movies").mock(return_value=streamed(KINO_FILM))

    assert kino.get_trailer(FILM) == TRAILER
    assert asked(upstream) == [
        f"{KINO}/movies?imdb_id={FILM}&language=en",
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

    KinoCheckService(http=http, base_url=KINO, api_key="", languages=["de"]).get_trailer(FILM)

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
def test_a_title_that_is_no_film_is_requested_as_a_series(
    upstream: respx.MockRouter, kino: KinoCheckService, unknown: dict[str, Any]
) -> None:
    upstream.get(f"{KINO}/movies").mock(return_value=streamed(**unknown))
    upstream.get(f"{KINO}/shows").mock(return_value=streamed(KINO_FILM))

    assert kino.get_trailer(FILM) == TRAILER


def test_an_unknown_title_has_no_trailer(
    upstream: respx.MockRouter, kino: KinoCheckService
) -> None:
    upstream.get().mock(side_effect=lambda request: streamed(status=404))

    assert kino.get_trailer(FILM) is None
    assert len(upstream.calls) == 2


@pytest.mark.parametrize("trailer", [None, {}, TRAILER | {"youtube_video_id": "no video"}])
def test_the_trailer_of_a_series_is_found_although_a_film_of_the_same_id_has_none(
    upstream: respx.MockRouter, kino: KinoCheckService, trailer: Any
) -> None:
    upstream.get(f"{KINO}/movies").mock(
        return_value=streamed(KINO_FILM | {"trailer": trailer, "videos": []})
    )
    upstream.get(f"{KINO}/shows").mock(return_value=streamed(KINO_FILM))

    assert kino.get_trailer(FILM) == TRAILER


def test_a_failure_among_series_is_raised(
    upstream: respx.MockRouter, kino: KinoCheckService
) -> None:
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
        KINO_FILM | {"trailer": "https://youtube.test/"},
        KINO_FILM | {"trailer": []},
    ],
)
def test_an_answer_of_another_shape_is_unusable(
    upstream: respx.MockRouter, kino: KinoCheckService, film: Any
) -> None:
    upstream.get().mock(return_value=streamed(film))

    with pytest.raises(UpstreamBadAnswer) as caught:
        kino.get_trailer(FILM)

    assert caught.value.reason == "bad_shape"


@pytest.mark.parametrize("found", ["tt0000001", "x", 5, ""])
def test_the_trailer_of_another_title_is_unusable(
    upstream: respx.MockRouter, kino: KinoCheckService, found: Any
) -> None:
    upstream.get().mock(return_value=streamed(KINO_FILM | {"imdb_id": found}))

    with pytest.raises(UpstreamBadAnswer) as caught:
        kino.get_trailer(FILM)

    assert caught.value.reason == "other_title"


@pytest.mark.parametrize("found", ["tt114709", "tt00000114709", None])
def test_another_spelling_of_the_id_is_the_same_title(
    upstream: respx.MockRouter, kino: KinoCheckService, found: str | None
) -> None:
    upstream.get().mock(return_value=streamed(KINO_FILM | {"imdb_id": found}))

    assert kino.get_trailer(FILM) == TRAILER


VIDEO = "O1M_iqSBEpA"


@pytest.mark.parametrize(
    "sent",
    [
        VIDEO,
        f"https://www.youtube.com/watch?v={VIDEO}",
        f"https://youtube.com/watch?feature=share&v={VIDEO}&t=5s",
        f"http://m.youtube.com/watch?v={VIDEO}#x",
        f"https://youtu.be/{VIDEO}?si=x",
        f"youtu.be/{VIDEO}",
        f"//www.youtube.com/embed/{VIDEO}",
        f"https://www.youtube-nocookie.com/embed/{VIDEO}?rel=0",
        f"https://www.youtube.com/v/{VIDEO}",
        f"https://www.youtube.com/shorts/{VIDEO}/",
        f"HTTPS://WWW.YOUTUBE.COM/live/{VIDEO}",
    ],
)
def test_the_url_of_a_video_becomes_its_id(
    upstream: respx.MockRouter, kino: KinoCheckService, sent: str
) -> None:
    trailer = TRAILER | {"youtube_video_id": sent}
    upstream.get().mock(return_value=streamed(KINO_FILM | {"trailer": trailer}))

    assert kino.get_trailer(FILM) == TRAILER


@pytest.mark.parametrize(
    "sent",
    [
        None,
        5,
        "",
        {},
        "O1M_iqSBEp",
        "O1M_iqSBEpAA",
        "O1M_iqSBEp!",
        "O1M_iqSBEp\n",
        " O1M_iqSBEpA",
        "O1M_iqSBEpK",
        f"https://vimeo.com/{VIDEO}",
        f"https://youtube.com.example/watch?v={VIDEO}",
        f"https://evilyoutube.com/watch?v={VIDEO}",
        f"https://www.youtube.com/watch?x={VIDEO}",
        f"https://www.youtube.com/watch?v={VIDEO}A",
        f"https://www.youtube.com/watch?v={VIDEO[:-1]}",
        f"https://www.youtube.com/channel/{VIDEO}",
    ],
)
def test_a_trailer_without_the_id_of_a_video_is_no_trailer(
    upstream: respx.MockRouter, kino: KinoCheckService, sent: Any
) -> None:
    trailer = TRAILER | {"youtube_video_id": sent}
    upstream.get().mock(return_value=streamed(KINO_FILM | {"trailer": trailer}))

    assert kino.get_trailer(FILM) is None


def test_the_next_language_is_requested_only_without_a_trailer(
    upstream: respx.MockRouter, http: HttpClient
) -> None:
    service = KinoCheckService(http=http, base_url=KINO, api_key="", languages=["de", "en"])
    upstream.get(f"{KINO}/movies", params__contains={"language": "de"}).mock(
        return_value=streamed(KINO_FILM | {"trailer": None})
    )
    upstream.get(f"{KINO}/movies", params__contains={"language": "en"}).mock(
        return_value=streamed(KINO_FILM)
    )
    upstream.get(f"{KINO}/shows").mock(side_effect=lambda request: streamed(status=404))

    assert service.get_trailer(FILM) == TRAILER
    assert [call.request.url.path for call in upstream.calls] == ["/movies", "/shows", "/movies"]


def test_a_trailer_in_the_first_language_is_one_call(
    upstream: respx.MockRouter, http: HttpClient
) -> None:
    service = KinoCheckService(http=http, base_url=KINO, api_key="", languages=["de", "en"])
    upstream.get().mock(return_value=streamed(KINO_FILM))

    assert service.get_trailer(FILM) == TRAILER
    assert asked(upstream) == [f"{KINO}/movies?imdb_id={FILM}&language=de"]


def test_an_unknown_title_is_not_requested_in_a_further_language(
    upstream: respx.MockRouter, http: HttpClient
) -> None:
    service = KinoCheckService(http=http, base_url=KINO, api_key="", languages=["de", "en"])
    upstream.get().mock(side_effect=lambda request: streamed(status=404))

    assert service.get_trailer(FILM) is None
    assert len(upstream.calls) == 2


def video(number: int, category: str, published: Any) -> dict[str, Any]:
    return {
        "youtube_video_id": f"{number:011}",
        "categories": [category],
        "published": published,
    }


def test_alternatives_are_ordered_and_not_repeated(
    upstream: respx.MockRouter, kino: KinoCheckService
) -> None:
    first = video(1, "Trailer", "2020-01-02T00:30:00+02:00")
    second = video(2, "Trailer", "2020-01-01T23:00:00+00:00")
    teaser = video(3, "Teaser", "2021-01-01T00:00:00Z")
    clip = video(4, "Clip", "2022-01-01T00:00:00+01:00")
    undated = video(5, "Featurette", None)
    videos = [undated, clip, first, TRAILER, teaser, second, dict(first), {"title": "x"}, 7]
    upstream.get().mock(return_value=streamed(KINO_FILM | {"videos": videos}))

    found = kino.get_title_videos(FILM)

    assert found.trailer == TRAILER
    assert found.alternatives == [second, first, teaser, clip, undated]
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("videos", [None, "x", {}, []])
def test_a_title_may_have_no_alternatives(
    upstream: respx.MockRouter, kino: KinoCheckService, videos: Any
) -> None:
    upstream.get().mock(return_value=streamed(KINO_FILM | {"videos": videos}))

    assert kino.get_title_videos(FILM).alternatives == []


def test_a_title_without_a_trailer_may_have_alternatives(
    upstream: respx.MockRouter, kino: KinoCheckService
) -> None:
    clip = video(4, "Clip", "2022-01-01T00:00:00+01:00")
    upstream.get(f"{KINO}/movies").mock(
        return_value=streamed(KINO_FILM | {"trailer": None, "videos": [clip]})
    )
    upstream.get(f"{KINO}/shows").mock(side_effect=lambda request: streamed(status=404))

    found = kino.get_title_videos(FILM)

    assert (found.trailer, found.alternatives) == (None, [clip])


def test_the_number_of_alternatives_is_bounded(
    upstream: respx.MockRouter, kino: KinoCheckService
) -> None:
    videos = [video(number, "Clip", None) for number in range(9000)]
    upstream.get().mock(return_value=streamed(KINO_FILM | {"videos": videos}))

    assert len(kino.get_title_videos(FILM).alternatives) == 50


@pytest.mark.parametrize(
    ("sent", "views"),
    [
        (5, 5),
        ("1391790", 1391790),
        ("0", 0),
        ("1,391,790", 1391790),
        ("1.391.790", 1391790),
        ("1\u202f391\u202f790", 1391790),
        ("1'391", 1391),
        (12.0, 12),
        (None, None),
        ("many", None),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("1,391.790", None),
        ("1391,790", None),
        ("1,391,", None),
        (1.5, None),
        (1e300, None),
        ("١٢", None),
        ("9" * 19, None),
        ("9" * 5000, None),
        (True, None),
    ],
)
def test_the_views_of_a_trailer_are_an_integer_or_left_out(
    upstream: respx.MockRouter, kino: KinoCheckService, sent: Any, views: int | None
) -> None:
    film = {"id": "ly4", "imdb_id": None, "trailer": TRAILER | {"views": sent}}
    upstream.get().mock(return_value=streamed(film))

    trailer = kino.get_trailer(FILM)

    assert repr(trailer.pop("views", None)) == repr(views)
    assert trailer == {name: value for name, value in TRAILER.items() if name != "views"}


def test_a_rejected_key_with_status_200_is_rejected(
    upstream: respx.MockRouter, kino: KinoCheckService
) -> None:
    upstream.get().mock(return_value=streamed({"error": "Invalid API key"}))

    with pytest.raises(UpstreamRejected):
        kino.get_trailer(FILM)


# Watchmode


def test_the_watchmode_id_is_looked_up_by_imdb_id(
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
        {"title_results": [{"id": 1, "imdb_id": None}]},
        {"title_results": [{"id": 1}]},
        {"title_results": [{"id": 1, "imdb_id": 114709}]},
        {"title_results": [{"id": None, "imdb_id": FILM}]},
        {"title_results": [{"id": "1", "imdb_id": FILM}]},
        {"title_results": [{"id": True, "imdb_id": FILM}]},
        {"title_results": [{"imdb_id": FILM}]},
    ],
)
def test_an_unknown_title_has_no_watchmode_id(
    upstream: respx.MockRouter, watchmode: WatchmodeService, answer: Any
) -> None:
    upstream.get().mock(return_value=streamed(answer))

    assert watchmode.lookup_title_id(FILM) is None


@pytest.mark.parametrize("number", [0, -1, 2**63, 10**30])
def test_a_watchmode_id_that_no_column_can_hold_is_ignored(
    upstream: respx.MockRouter, watchmode: WatchmodeService, number: int
) -> None:
    hits = [{"id": number, "imdb_id": FILM}]
    upstream.get().mock(return_value=streamed({"title_results": hits}))

    assert watchmode.lookup_title_id(FILM) is None


@pytest.mark.parametrize("spelling", [FILM, "tt114709", "tt00000114709"])
def test_only_a_result_with_the_requested_id_counts(
    upstream: respx.MockRouter, watchmode: WatchmodeService, spelling: str
) -> None:
    hits = [
        {"id": 11, "imdb_id": None},
        {"id": 12},
        {"id": 13, "imdb_id": "tt0000001"},
        {"id": 22, "imdb_id": spelling},
    ]
    upstream.get().mock(return_value=streamed({"title_results": hits}))

    assert watchmode.lookup_title_id(FILM) == 22


def test_an_id_is_looked_up_in_canonical_form(
    upstream: respx.MockRouter, watchmode: WatchmodeService
) -> None:
    upstream.get().mock(return_value=streamed(HITS))

    assert watchmode.lookup_title_id("tt114709") == 1114888
    (request,) = [call.request for call in upstream.calls]
    assert request.url.params["search_value"] == FILM


def test_an_error_that_comes_with_status_200_is_not_an_unknown_title(
    upstream: respx.MockRouter, watchmode: WatchmodeService
) -> None:
    envelope = {"success": False, "statusCode": 401, "statusMessage": "no"}
    upstream.get().mock(return_value=streamed(envelope))

    with pytest.raises(UpstreamBadAnswer):
        watchmode.lookup_title_id(FILM)


def test_offers_are_requested_for_the_region_and_returned_unchanged(
    upstream: respx.MockRouter, watchmode: WatchmodeService
) -> None:
    upstream.get(f"{WATCHMODE}/title/345534/sources/").mock(return_value=streamed(OFFERS))

    assert watchmode.get_streaming_sources(345534) == OFFERS
    assert asked(upstream) == [f"{WATCHMODE}/title/345534/sources/?regions=TR"]


def test_offers_that_lack_the_only_region_belong_to_it(
    upstream: respx.MockRouter, watchmode: WatchmodeService
) -> None:
    rows = [{"source_id": 1, "name": "x"}, {"source_id": 2, "region": None}]
    upstream.get().mock(return_value=streamed(rows))

    assert watchmode.get_streaming_sources(345534) == [
        {"source_id": 1, "name": "x", "region": "TR"},
        {"source_id": 2, "region": "TR"},
    ]


def test_offers_of_another_region_are_removed(
    upstream: respx.MockRouter, watchmode: WatchmodeService
) -> None:
    others = [{"source_id": 1, "region": region} for region in ("US", "tr", "", "TRX")]
    upstream.get().mock(return_value=streamed([*others, *OFFERS]))

    assert watchmode.get_streaming_sources(345534) == OFFERS


def test_several_regions_are_requested_in_one_call(
    upstream: respx.MockRouter, http: HttpClient
) -> None:
    service = WatchmodeService(http=http, base_url=WATCHMODE, api_key="k", regions=["TR", "DE"])
    german = {"source_id": 1, "region": "DE"}
    rows = [german, *OFFERS, {"source_id": 1, "region": "US"}, {"source_id": 1}]
    upstream.get().mock(return_value=streamed(rows))

    assert service.get_streaming_sources(345534) == [german, *OFFERS]
    assert asked(upstream) == [f"{WATCHMODE}/title/345534/sources/?regions=TR%2CDE"]
    assert service.not_covered == ()


def of_plan(*enabled: str) -> Callable[[httpx.Request], httpx.Response]:
    def respond(request: httpx.Request) -> httpx.Response:
        asked_for = request.url.params["regions"].split(",")
        if not set(asked_for) <= set(enabled):
            return streamed({"success": False}, status=400)
        return streamed([{"source_id": 1, "region": region} for region in asked_for])

    return respond


def test_after_a_refusal_only_regions_of_the_plan_are_requested(
    upstream: respx.MockRouter, http: HttpClient
) -> None:
    clock = WallClock()
    service = WatchmodeService(
        http=http, base_url=WATCHMODE, api_key="k", regions=["TR", "DE", "US"], now=clock
    )
    upstream.get(path__startswith="/v1/title/").mock(side_effect=of_plan("DE", "US"))
    upstream.get(f"{WATCHMODE}/regions/").mock(side_effect=regions("US", "DE"))

    for _ in range(2):
        rows = service.get_streaming_sources(1)
        assert [row["region"] for row in rows] == ["DE", "US"]
    within_a_week = asked(upstream)
    assert service.not_covered == ("TR",)
    clock.pass_by(7 * 86_400 + 1)
    assert service.not_covered == ()
    service.get_streaming_sources(1)

    def title(regions: str) -> str:
        return f"{WATCHMODE}/title/1/sources/?regions={regions}"

    all_regions, of_the_plan = title("TR%2CDE%2CUS"), title("DE%2CUS")
    plan = f"{WATCHMODE}/regions/"
    assert within_a_week == [all_regions, plan, of_the_plan, of_the_plan]
    assert asked(upstream)[4:] == [all_regions, plan, of_the_plan]


def test_a_known_plan_is_not_read_again_for_another_mistake(
    upstream: respx.MockRouter, http: HttpClient
) -> None:
    service = WatchmodeService(http=http, base_url=WATCHMODE, api_key="k", regions=["TR", "DE"])
    upstream.get(path__startswith="/v1/title/").mock(
        side_effect=lambda request: streamed(status=400)
    )
    upstream.get(f"{WATCHMODE}/regions/").mock(side_effect=regions("TR", "DE"))

    for _ in range(3):
        with pytest.raises(UpstreamBadAnswer):
            service.get_streaming_sources(1)

    assert asked(upstream).count(f"{WATCHMODE}/regions/") == 1


def test_a_title_without_offers_has_an_empty_list(
    upstream: respx.MockRouter, watchmode: WatchmodeService
) -> None:
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
def test_offers_of_another_shape_are_unusable(
    upstream: respx.MockRouter, watchmode: WatchmodeService, answer: Any
) -> None:
    upstream.get().mock(return_value=streamed(answer))

    with pytest.raises(UpstreamBadAnswer) as caught:
        watchmode.get_streaming_sources(345534)

    assert caught.value.reason == "bad_shape"


def regions(*enabled: str) -> Callable[[httpx.Request], httpx.Response]:
    rows = [{"country": name, "plan_enabled": name in enabled} for name in ("US", "TR", "DE")]
    return lambda request: streamed(rows)


def test_a_region_outside_the_plan_is_not_covered_and_not_requested_again(
    upstream: respx.MockRouter, http: HttpClient
) -> None:
    clock = WallClock()
    service = WatchmodeService(
        http=http, base_url=WATCHMODE, api_key="k", regions=["TR"], now=clock
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
    within_a_week = len(upstream.calls)
    clock.pass_by(7 * 86_400 + 1)
    with pytest.raises(RegionNotCovered):
        service.get_streaming_sources(1)

    assert within_a_week == 2
    assert len(upstream.calls) == 4


def test_the_plan_that_another_process_read_is_not_read_again(http: HttpClient) -> None:
    clock, breaker = WallClock(), CircuitBreaker("watchmode")
    service = WatchmodeService(
        http=http,
        base_url=WATCHMODE,
        api_key="k",
        regions=["TR", "DE"],
        breaker=breaker,
        now=clock,
    )

    breaker.usage.adopt_plan(Plan(frozenset(["US", "DE"]), clock() - timedelta(days=6)))

    assert service.not_covered == ("TR",)


@pytest.mark.parametrize("age", [timedelta(days=7), timedelta(minutes=-1)])
def test_a_plan_that_is_old_or_from_the_future_does_not_count(
    http: HttpClient, age: timedelta
) -> None:
    clock, breaker = WallClock(), CircuitBreaker("watchmode")
    service = WatchmodeService(
        http=http, base_url=WATCHMODE, api_key="k", regions=["TR"], breaker=breaker, now=clock
    )

    breaker.usage.adopt_plan(Plan(frozenset(["US"]), clock() - age))

    assert service.not_covered == ()


def test_a_400_for_a_covered_region_is_a_bad_answer(
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
def test_a_plan_that_could_not_be_read_is_not_remembered(
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
def test_a_refusal_with_no_credits_left_means_the_quota(
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
def test_a_refusal_with_credits_left_has_the_meaning_of_its_status(
    upstream: respx.MockRouter,
    watchmode: WatchmodeService,
    status: int,
    error: type[UpstreamError],
    counters: dict[str, str],
) -> None:
    upstream.get().mock(return_value=streamed(status=status, headers=counters))

    with pytest.raises(error):
        watchmode.lookup_title_id(FILM)


def test_without_a_key_no_call_is_made(upstream: respx.MockRouter, http: HttpClient) -> None:
    service = WatchmodeService(http=http, base_url=WATCHMODE, api_key="", regions=["TR"])

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
    "imdbapi.get_metadata_batch": lambda http: IMDbService(
        http=http, base_url=IMDB
    ).get_metadata_batch([FILM]),
    "kinocheck.get_trailer": lambda http: KinoCheckService(
        http=http, base_url=KINO, api_key="k", languages=["en"]
    ).get_trailer(FILM),
    "watchmode.lookup_title_id": lambda http: WatchmodeService(
        http=http, base_url=WATCHMODE, api_key="k", regions=["TR"]
    ).lookup_title_id(FILM),
    "watchmode.get_streaming_sources": lambda http: WatchmodeService(
        http=http, base_url=WATCHMODE, api_key="k", regions=["TR"]
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
def test_an_odd_answer_has_the_same_meaning_for_all_methods(
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
def test_an_unexpected_4xx_is_not_taken_for_not_found(
    upstream: respx.MockRouter, http: HttpClient, method: str, log: LogText
) -> None:
    upstream.get().mock(side_effect=lambda request: streamed(status=409))

    with pytest.raises(UpstreamBadAnswer) as caught:
        METHODS[method](http)

    assert caught.value.reason == "http_4xx"
    assert {line["level"] for line in log.of("upstream answer")} == {"ERROR"}


@pytest.mark.parametrize("status", [404, 410, 451])
@pytest.mark.parametrize(
    "method",
    [
        name
        for name in METHODS
        if name not in {"kinocheck.get_trailer", "imdbapi.get_metadata_batch"}
    ],
)
def test_a_missing_title_is_not_found(
    upstream: respx.MockRouter, http: HttpClient, method: str, status: int
) -> None:
    upstream.get().mock(return_value=streamed(status=status))

    with pytest.raises(UpstreamNotFound):
        METHODS[method](http)


@pytest.mark.parametrize("method", [name for name in METHODS if "get_streaming" not in name])
def test_a_list_instead_of_an_object_is_unusable(
    upstream: respx.MockRouter, http: HttpClient, method: str
) -> None:
    upstream.get().mock(return_value=streamed([]))

    with pytest.raises(UpstreamBadAnswer):
        METHODS[method](http)


def test_an_unusable_answer_is_logged_with_its_reason(
    upstream: respx.MockRouter, imdb: IMDbService, log: LogText
) -> None:
    upstream.get().mock(return_value=streamed(content=f"<html>{CANARY}".encode()))

    with pytest.raises(UpstreamBadAnswer):
        imdb.get_metadata(FILM)

    (line,) = log.of("upstream answer")
    assert (line["source"], line["outcome"]) == ("imdbapi", "bad_json")
    assert CANARY not in str(log)


@pytest.mark.parametrize("service", [IMDbService, KinoCheckService, WatchmodeService])
def test_public_methods_are_documented(service: type[UpstreamService]) -> None:
    methods = [value for name, value in vars(service).items() if not name.startswith("_")]

    assert all(method.__doc__ for method in methods if callable(method))
