"""IMDbAPI.dev: titles, and everything about them that IMDb has.

The contract is the Swagger document "IMDbAPI" 2.7 of the service (https://api.imdbapi.dev/docs);
https://api.tiffara.com serves the same one. Answers leave out fields with a zero value, also empty
lists, and never contain null.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from core.errors import InvalidInput, UpstreamError, UpstreamNotFound, UpstreamRateLimited
from core.imdb_id import canonical_imdb_id
from core.services import shapes
from core.services.http_client import QueryParams
from core.services.upstream import UpstreamService
from core.services.upstream_status import SettingNames, UpstreamStatus

# The longest list and the largest batch that the source allows in one answer.
PAGE_SIZE = 50
BATCH_SIZE = 5
# "Inception", a title that every host of this API has.
_WELL_KNOWN = "tt1375666"


class IMDbService(UpstreamService):
    """Reads IMDbAPI.dev, which needs no key.

    Each `get_` method returns the answer as it was sent, without the values that do not have the
    types in `core.services.shapes`. `UpstreamNotFound` from `get_metadata` means that the title
    does not exist; from another method, that this title has no such part.

    `page_token` is the `nextPageToken` of the page before; without one the first page is returned.
    A token that the source refuses raises `InvalidInput`.
    """

    source = "imdbapi"
    setting_names = SettingNames("IMDBAPI_BASE")
    if_unreachable = "IMDBAPI_BASE=https://api.tiffara.com serves the same contract"

    def search(self, query: str) -> list[dict[str, Any]]:
        """Return up to 50 titles that match, best first; `[]` if nothing matches.

        Each has an `id` in canonical form, which no other result has, and, if known, `type`,
        `primaryTitle`, `originalTitle`, `primaryImage` (`{url, width, height}`), `startYear`,
        `endYear` and `rating`. A title without `primaryTitle` has its `originalTitle` there.
        Source: `GET /search/titles`.
        """
        answer = self._ask("/search/titles", {"query": query, "limit": str(PAGE_SIZE)})
        titles = self._rows_of(answer, "titles")
        found: dict[str, dict[str, Any]] = {}
        for title in shapes.sanitize(titles, list[shapes.Title], source=self.source):
            if imdb_id := _normalize(title):
                found.setdefault(imdb_id, title)
        return list(found.values())[:PAGE_SIZE]

    def get_metadata(self, imdb_id: str) -> dict[str, Any]:
        """Return the title itself, with at least `id` (canonical) and `primaryTitle`.

        Raises `UpstreamBadAnswer` with the reason `other_title` if the answer has the id of another
        title. Source: `GET /titles/{titleId}`.
        """
        title = shapes.sanitize(
            self._ask(f"/titles/{_segment(imdb_id)}"), shapes.IMDbMetadata, source=self.source
        )
        found = _normalize(title)
        if found is None or "primaryTitle" not in title:
            raise self._unusable("bad_shape")
        if found != canonical_imdb_id(imdb_id):
            raise self._unusable("other_title")
        return title

    def get_metadata_batch(self, imdb_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the titles among `imdb_ids`, by canonical id, each as from `get_metadata`.

        At most `BATCH_SIZE` ids are allowed. A missing title may exist all the same: the source
        leaves out unknown ids or refuses the whole batch, and then the result is empty. Only
        `get_metadata` decides whether there is no such title.
        Source: `GET /titles:batchGet`.
        """
        asked = [canonical_imdb_id(imdb_id) or imdb_id for imdb_id in imdb_ids]
        refused = UpstreamNotFound(self.source, "batch_refused")
        try:
            answer = self._ask("/titles:batchGet", {"titleIds": asked}, if_bad_request=refused)
        except UpstreamNotFound:
            return {}
        titles = answer.get("titles") or []
        if not isinstance(titles, list):
            raise self._unusable("bad_shape")
        return {
            imdb_id: title
            for title in shapes.sanitize(titles, list[shapes.IMDbMetadata], source=self.source)
            if (imdb_id := _normalize(title)) in asked and imdb_id and "primaryTitle" in title
        }

    def get_credits(self, imdb_id: str, page_token: str | None = None) -> dict[str, Any]:
        """Return `{credits, totalCount, nextPageToken}`, up to 50 rows.

        Source: `GET /titles/{titleId}/credits`.
        """
        return self._page(imdb_id, "credits", shapes.Credits, page_token)

    def get_images(self, imdb_id: str, page_token: str | None = None) -> dict[str, Any]:
        """Return `{images, totalCount, nextPageToken}`, up to 50 rows.

        Source: `GET /titles/{titleId}/images`.
        """
        return self._page(imdb_id, "images", shapes.Images, page_token)

    def get_videos(self, imdb_id: str, page_token: str | None = None) -> dict[str, Any]:
        """Return `{videos, totalCount, nextPageToken}`, up to 50 rows.

        Source: `GET /titles/{titleId}/videos`.
        """
        return self._page(imdb_id, "videos", shapes.Videos, page_token)

    def get_parents_guide(self, imdb_id: str) -> dict[str, Any]:
        """Return `{parentsGuide}`, a row per category with the votes on its severity.

        Source: `GET /titles/{titleId}/parentsGuide`.
        """
        return self._section(imdb_id, "parentsGuide", shapes.ParentsGuide)

    def get_certificates(self, imdb_id: str) -> dict[str, Any]:
        """Return `{certificates, totalCount}`, the age ratings by country.

        Source: `GET /titles/{titleId}/certificates`.
        """
        return self._section(imdb_id, "certificates", shapes.Certificates)

    def get_release_dates(self, imdb_id: str, page_token: str | None = None) -> dict[str, Any]:
        """Return `{releaseDates, nextPageToken}`, up to 50 rows; dates may be partial.

        Source: `GET /titles/{titleId}/releaseDates`.
        """
        return self._page(imdb_id, "releaseDates", shapes.ReleaseDates, page_token)

    def _look(self) -> UpstreamStatus:
        """Ask for one title: the search is reported to fail now and then while titles do not.

        Source: `GET /titles/{titleId}`.
        """
        self.get_metadata(_WELL_KNOWN)
        return UpstreamStatus(self.source, cost="1 call")

    def _page(self, imdb_id: str, part: str, shape: Any, page_token: str | None) -> dict[str, Any]:
        params, refused = {"pageSize": str(PAGE_SIZE)}, None
        if page_token is not None:
            params["pageToken"] = page_token
            refused = InvalidInput("The source does not accept this 'page_token' for this list.")
        page = self._section(imdb_id, part, shape, params, if_bad_request=refused)
        del page.get(part, [])[PAGE_SIZE:]
        return page

    def _section(
        self,
        imdb_id: str,
        part: str,
        shape: Any,
        params: QueryParams | None = None,
        *,
        if_bad_request: Exception | None = None,
    ) -> dict[str, Any]:
        path = f"/titles/{_segment(imdb_id)}/{part}"
        answer = self._ask(path, params, if_bad_request=if_bad_request)
        self._rows_of(answer, part, beside=("totalCount", "nextPageToken"))
        return shapes.sanitize(answer, shape, source=self.source)

    def _ask(
        self,
        path: str,
        params: QueryParams | None = None,
        *,
        if_bad_request: Exception | None = None,
    ) -> dict[str, Any]:
        answer = self._object(self._get(path, params=params, if_bad_request=if_bad_request))
        # Empty lists are left out: without this an error would pass for a title without rows.
        if "code" in answer and "message" in answer:
            raise self._error_within_200(answer["code"])
        return answer

    def _error_within_200(self, grpc_code: Any) -> UpstreamError:
        if grpc_code == 5:
            return UpstreamNotFound(self.source, "not_found")
        if grpc_code == 8:
            return UpstreamRateLimited(self.source, "rate_limited")
        return self._unusable("bad_shape")


def _segment(imdb_id: str) -> str:
    """Return the id as a segment of a URL path."""
    return quote(canonical_imdb_id(imdb_id) or imdb_id, safe="")


def _normalize(title: dict[str, Any]) -> str | None:
    """Bring a title into canonical form, in place; returns its id, None if it has none.

    The id becomes canonical. A missing or blank `primaryTitle` becomes the `originalTitle`, or is
    removed if that is missing or blank too.
    """
    imdb_id = canonical_imdb_id(title.get("id"))
    if imdb_id is None:
        return None
    title["id"] = imdb_id
    if not title.get("primaryTitle", "").strip():
        title.pop("primaryTitle", None)
        if title.get("originalTitle", "").strip():
            title["primaryTitle"] = title["originalTitle"]
    return imdb_id
