"""The film surface."""

import gzip
import json
from collections.abc import Callable, Mapping
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from core.cache_outcome import note_outcome
from core.errors import InvalidInput, Overloaded
from core.imdb_id import parse_imdb_id
from films import presentation
from films.fast_search import MAX_AGE, SearchRequest
from films.http_caching import FilmAnswer, film_response
from films.payload import FilmPayload
from films.services.fan_out import Page, SectionPages
from films.services.film_aggregator import FilmAggregatorService, Reader, reading_as
from films.services.film_cache import FilmCacheService, Hit
from films.services.film_search import FilmSearchService
from web.api import ErrorResponse, JSONView, PlainRequestView, not_wired
from web.exception_handler import error_response
from web.negotiation import accepts_gzip
from web.parameters import query_parameter
from web.prefer import preferred_wait
from web.throttling import AddressThrottle, ThrottledView

_SEARCH_HEADERS = {"Cache-Control": f"public, max-age={MAX_AGE}"}
_MOST_FILMS = 20
# For how long a cache may keep that a film of a batch does not exist.
_MISSING_SECONDS = 300


class SearchThrottle(AddressThrottle):
    """Counts searches that are not answered from the cache."""

    scope = "search"


class MissThrottle(AddressThrottle):
    """Counts films that have to be fetched."""

    scope = "miss"


class UnknownIdThrottle(AddressThrottle):
    """Counts titles that have to be fetched and that nothing vouches for."""

    scope = "unknown"


class LimitedView(ThrottledView, PlainRequestView):
    """A view whose misses are counted per caller."""

    def count(self, throttle: AddressThrottle) -> None:
        """Count a miss; raises `Overloaded` if the caller has no more of them."""
        self.counted_by(throttle)
        if not throttle.allow_request(self.request, self):
            raise Overloaded.for_caller(throttle.wait() or 1)


class SearchView(LimitedView):
    """`GET /api/search`."""

    get_search: Callable[[], FilmSearchService] = staticmethod(not_wired)

    def get(self, request: HttpRequest) -> HttpResponse:
        """Find films and series by title."""
        wanted = SearchRequest.of(request)
        search = self.get_search()
        results = search.cached(wanted.text, wanted.filter)
        if results is None:
            results = search.search(wanted.text, wanted.filter, count_miss=self._count_miss)
        return HttpResponse(
            wanted.body(results), content_type="application/json", headers=_SEARCH_HEADERS
        )

    def _count_miss(self, is_vouched_for: bool) -> None:  # noqa: FBT001  (a fact, not a switch)
        if not is_vouched_for:
            self.count(UnknownIdThrottle())
        self.count(SearchThrottle())


class _FetchingView(LimitedView):
    """What the views that may fetch films have in common."""

    get_aggregator: Callable[[], FilmAggregatorService] = staticmethod(not_wired)
    get_cache: Callable[[], FilmCacheService] = staticmethod(not_wired)
    longest_wait = 0.0

    def reader(self, request: HttpRequest) -> Reader:
        """Return how this request may fetch films."""
        wait = preferred_wait(request.headers.get("Prefer"), longest=self.longest_wait)
        return Reader(wait=wait, count_miss=self._count_miss)

    def fetch(self, imdb_id: str, reader: Reader) -> FilmPayload:
        """Return the film, stored or fetched."""
        with reading_as(reader):
            payload = self.get_aggregator().fetch_and_cache(imdb_id)
        film = FilmPayload.of(payload, timezone.now())
        note_outcome(film.cache_outcome)
        return film

    def _count_miss(self, is_vouched_for: bool) -> None:  # noqa: FBT001  (a fact, not a switch)
        if not is_vouched_for:
            self.count(UnknownIdThrottle())
        self.count(MissThrottle())


class FilmView(_FetchingView):
    """`GET /api/films/{imdb_id}`."""

    def get(self, request: HttpRequest, imdb_id: str) -> HttpResponse:
        """Everything about a film."""
        fields = query_parameter(request, "fields")
        selection = None if fields is None else presentation.parse_fields(fields)
        width = _image_width(request)
        reader = self.reader(request)
        film = self.fetch(parse_imdb_id(imdb_id), reader)
        answer = FilmAnswer.of(film, selection, ttl=self.get_cache().ttl)
        if width is not None:
            answer = answer.with_body(presentation.with_image_width(answer.body.plain, width))
        return film_response(request, answer, wait=reader.wait)


class SectionView(_FetchingView):
    """`GET /api/films/{imdb_id}/{section}`."""

    section = ""
    get_pages: Callable[[], SectionPages] = staticmethod(not_wired)

    def get(self, request: HttpRequest, imdb_id: str) -> HttpResponse:
        """One section of a film."""
        imdb_id = parse_imdb_id(imdb_id)
        width = _image_width(request)
        token = query_parameter(request, "page_token")
        wait = None
        if token is not None:
            page = self._page(imdb_id, token)
            answer = FilmAnswer.of_page(imdb_id, self.section, page, ttl=self.get_cache().ttl)
        else:
            reader = self.reader(request)
            wait = reader.wait
            film = self.fetch(imdb_id, reader)
            answer = FilmAnswer.of_section(
                film, self.section, ttl=self.get_cache().ttl, beside=self.beside(request, film)
            )
        if width is not None:
            answer = answer.with_body(presentation.with_image_width(answer.body.plain, width))
        return film_response(request, answer, wait=wait)

    def _page(self, imdb_id: str, token: str) -> Page:
        pages = self.get_pages()
        page = pages.cached(imdb_id, self.section, token)
        if page is None:
            self._count_miss(self.get_aggregator().vouches_for(imdb_id))
            page = pages.fetch(imdb_id, self.section, token)
        return page

    def beside(self, request: HttpRequest, film: FilmPayload) -> dict[str, Any]:
        """Return further keys of the answer, beside the section."""
        return {}


class _CountryView(SectionView):
    """A section with rows by country; `preferred` returns the row to show in one of them."""

    preferred: Callable[[Mapping[str, Any], str], dict[str, Any] | None]

    def beside(self, request: HttpRequest, film: FilmPayload) -> dict[str, Any]:
        """Return the row of one country, with `?country=`."""
        country = query_parameter(request, "country")
        if country is None:
            return {}
        code = presentation.parse_country(country)
        return {"preferred": self.preferred(film[self.section], code)}


class CertificatesView(_CountryView):
    """`GET /api/films/{imdb_id}/certificates`."""

    section = "certificates"
    preferred = staticmethod(presentation.preferred_certificate)


class ReleaseDatesView(_CountryView):
    """`GET /api/films/{imdb_id}/release_dates`."""

    section = "release_dates"
    preferred = staticmethod(presentation.preferred_release)


class TrailerView(SectionView):
    """`GET /api/films/{imdb_id}/trailer`."""

    section = "trailer"

    def beside(self, request: HttpRequest, film: FilmPayload) -> dict[str, Any]:
        """Return the other videos, with `?alternatives=true`."""
        wanted = query_parameter(request, "alternatives")
        if wanted not in {None, "true", "false"}:
            raise InvalidInput("'alternatives' is true or false.")
        if wanted != "true":
            return {}
        return {"alternatives": film.extras.get("trailer") or []}


class StreamingView(SectionView):
    """`GET /api/films/{imdb_id}/streaming`."""

    section = "streaming"
    regions: tuple[str, ...] = ()

    def get(self, request: HttpRequest, imdb_id: str) -> HttpResponse:
        """Where a film can be streamed: the rows of the source, or grouped by service."""
        view = query_parameter(request, "view")
        if view is None:
            return super().get(request, imdb_id)
        if view != "grouped":
            raise InvalidInput("'view' is grouped.")
        imdb_id = parse_imdb_id(imdb_id)
        regions = self._wanted_regions(query_parameter(request, "region"))
        reader = self.reader(request)
        film = self.fetch(imdb_id, reader)
        answer = FilmAnswer.of_section(film, self.section, ttl=self.get_cache().ttl)
        extra = film.extras.get(self.section) or {}
        not_covered = [each for each in regions if each in extra.get("not_covered", ())]
        shown = [region for region in regions if region not in not_covered]
        rows = extra.get("offers", film[self.section])
        warnings = [each for each in film["warnings"] if each["section"] == self.section]
        fetched = extra.get("regions", self.regions[:1])
        missing = [region for region in shown if region not in fetched]
        if missing and (extra or not warnings):
            # They were configured after the offers were fetched.
            warnings.append(presentation.missing_regions(missing))
            answer = answer.with_warning("deadline", retry_at=answer.fresh_until)
        grouped = {
            "imdb_id": imdb_id,
            "regions": presentation.grouped_offers(rows, shown),
            "not_covered": not_covered,
            "warnings": warnings,
        }
        body = json.dumps(grouped, ensure_ascii=False, separators=(",", ":")).encode()
        return film_response(request, answer.with_body(body), wait=reader.wait)

    def _wanted_regions(self, text: str | None) -> list[str]:
        if text is None:
            return [self.regions[0]]
        wanted = list(dict.fromkeys(part.strip() for part in text.split(",")))
        if not set(wanted) <= set(self.regions):
            raise InvalidInput(f"'region' is a comma-separated list of {', '.join(self.regions)}.")
        return wanted


class FilmsView(_FetchingView):
    """`GET /api/films?ids=`."""

    def get(self, request: HttpRequest) -> HttpResponse:
        """Several films in one request."""
        ids = _ids(query_parameter(request, "ids"))
        fields = query_parameter(request, "fields")
        selection = None if fields is None else presentation.parse_fields(fields)
        width = _image_width(request)
        reader = self.reader(request)
        with reading_as(reader):
            films = self.get_aggregator().fetch_many(ids)
        items: list[bytes] = []
        lifetimes: list[float] = []
        for imdb_id in ids:
            film = films[imdb_id]
            if isinstance(film, Hit | FilmPayload):
                note_outcome(film.cache_outcome)
                answer = FilmAnswer.of(film, selection, ttl=self.get_cache().ttl)
                lifetimes.append(answer.seconds_left())
                items.append(_item(imdb_id, 200, b'"film":%b' % answer.body.plain))
            elif film is None:
                note_outcome("partial")
                lifetimes.append(0)
                items.append(_item(imdb_id, 202, b'"retry_after":5'))
            else:
                status, rest = self._failed(film)
                lifetimes.append(_MISSING_SECONDS if status == 404 else 0)
                items.append(_item(imdb_id, status, rest))
        body = b'{"films":[%b]}' % b",".join(items)
        if width is not None:
            body = presentation.with_image_width(body, width)
        seconds = int(min(lifetimes))
        headers = {
            "Cache-Control": f"public, max-age={seconds}" if seconds > 0 else "no-store",
            "Vary": "Accept-Encoding, Origin, Prefer",
        }
        if reader.wait is not None:
            headers["Preference-Applied"] = f"wait={reader.wait}"
        if accepts_gzip(request.META.get("HTTP_ACCEPT_ENCODING", "")):
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body, compresslevel=1)
        return HttpResponse(body, content_type="application/json", headers=headers)

    def _failed(self, error: Exception) -> tuple[int, bytes]:
        response = error_response(error, {"request": self.request})
        if not isinstance(response, ErrorResponse):
            raise error
        rest = b'"error":%b' % response.content
        if "Retry-After" in response:
            rest += b',"retry_after":%d' % int(response["Retry-After"])
        return response.status_code, rest


class SourcesView(JSONView):
    """`GET /api/sources`."""

    get_sources: Callable[[], list[dict[str, Any]]] = staticmethod(not_wired)

    def get(self, request: Request) -> Response:
        """Where the data come from."""
        return Response(
            {"sources": self.get_sources()}, headers={"Cache-Control": "public, max-age=300"}
        )


def _item(imdb_id: str, status: int, rest: bytes) -> bytes:
    return b'{"imdb_id":"%b","status":%d,%b}' % (imdb_id.encode(), status, rest)


def _ids(text: str | None) -> list[str]:
    if not text:
        raise InvalidInput(f"'ids' is a comma-separated list of 1 to {_MOST_FILMS} IMDb ids.")
    ids = list(dict.fromkeys(parse_imdb_id(part.strip()) for part in text.split(",")))
    if len(ids) > _MOST_FILMS:
        raise InvalidInput(f"'ids' has more than {_MOST_FILMS} IMDb ids.")
    return ids


def _image_width(request: HttpRequest) -> int | None:
    return presentation.parse_image_width(query_parameter(request, "image_width"))


SECTION_VIEWS: Mapping[str, type[SectionView]] = {
    "certificates": CertificatesView,
    "release_dates": ReleaseDatesView,
    "trailer": TrailerView,
    "streaming": StreamingView,
}
