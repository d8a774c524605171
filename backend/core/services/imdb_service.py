"""IMDbAPI.dev: titles, and everything about them that IMDb has.

The contract is the service's own Swagger document, "IMDbAPI" 2.7 (https://api.imdbapi.dev/docs);
https://api.tiffara.com serves the same one. Fields with a zero value are left out of its answers,
empty lists too, and nothing is ever null.
"""

from typing import Any

from core import source_shapes as shapes
from core.errors import UpstreamError, UpstreamNotFound, UpstreamRateLimited
from core.imdb_id import is_imdb_id
from core.services.conformity import conforming
from core.services.upstream import UpstreamService, path_segment
from core.services.upstream_status import SettingNames, UpstreamStatus

# The largest page there is; without it a page has 20 rows.
_LARGEST_PAGE = {"pageSize": "50"}
_SEARCH_RESULTS = "20"
# "Inception": whoever serves this API knows it.
_WELL_KNOWN = "tt1375666"


class IMDbService(UpstreamService):
    """Reads IMDbAPI.dev, which wants no key.

    Each `get_` method returns the answer as it came, but for what does not fit its shape in
    `core.source_shapes`, which is left out. `UpstreamNotFound` from `get_metadata` means that the
    title does not exist; from another method, that this title has no such part.
    """

    source = "imdbapi"
    setting_names = SettingNames("IMDBAPI_BASE")
    if_unreachable = "IMDBAPI_BASE=https://api.tiffara.com serves the same contract"

    def search(self, query: str) -> list[dict[str, Any]]:
        """Return up to 20 titles that match, best first; `[]` where none does.

        Each has an `id` that is an IMDb id and, where known, `type`, `primaryTitle`,
        `originalTitle`, `primaryImage` (`{url, width, height}`), `startYear`, `endYear`, `rating`.
        Source: `GET /search/titles`.
        """
        answer = self._ask("/search/titles", {"query": query, "limit": _SEARCH_RESULTS})
        titles: list[dict[str, Any]] = conforming(
            self._rows_of(answer, "titles"), shapes.TitleSerializer, source=self.source
        )
        found = [title for title in titles if is_imdb_id(title.get("id"))]
        return found[: int(_SEARCH_RESULTS)]

    def get_metadata(self, imdb_id: str) -> dict[str, Any]:
        """Return the title itself: at least `id` (the one asked for) and `primaryTitle`.

        Source: `GET /titles/{titleId}`.
        """
        title = self._section(imdb_id, "", shapes.IMDbMetadataSerializer)
        name = title.get("primaryTitle")
        if title.get("id") != imdb_id or not isinstance(name, str) or not name.strip():
            raise self._unusable("bad_shape")
        return title

    def get_credits(self, imdb_id: str) -> dict[str, Any]:
        """Return `{credits, totalCount, nextPageToken}`, the first 50 rows.

        Source: `GET /titles/{titleId}/credits`.
        """
        return self._section(
            imdb_id, "/credits", shapes.CreditsSerializer, rows="credits", params=_LARGEST_PAGE
        )

    def get_images(self, imdb_id: str) -> dict[str, Any]:
        """Return `{images, totalCount, nextPageToken}`, the first 50 rows.

        Source: `GET /titles/{titleId}/images`.
        """
        return self._section(
            imdb_id, "/images", shapes.ImagesSerializer, rows="images", params=_LARGEST_PAGE
        )

    def get_videos(self, imdb_id: str) -> dict[str, Any]:
        """Return `{videos, totalCount, nextPageToken}`, the first 50 rows.

        Source: `GET /titles/{titleId}/videos`.
        """
        return self._section(
            imdb_id, "/videos", shapes.VideosSerializer, rows="videos", params=_LARGEST_PAGE
        )

    def get_parents_guide(self, imdb_id: str) -> dict[str, Any]:
        """Return `{parentsGuide}`, a row per category with the votes on its severity.

        Source: `GET /titles/{titleId}/parentsGuide`.
        """
        return self._section(
            imdb_id, "/parentsGuide", shapes.ParentsGuideSerializer, rows="parentsGuide"
        )

    def get_certificates(self, imdb_id: str) -> dict[str, Any]:
        """Return `{certificates, totalCount}`, the age ratings by country.

        Source: `GET /titles/{titleId}/certificates`.
        """
        return self._section(
            imdb_id, "/certificates", shapes.CertificatesSerializer, rows="certificates"
        )

    def get_release_dates(self, imdb_id: str) -> dict[str, Any]:
        """Return `{releaseDates, nextPageToken}`, the first 50 rows; dates may be partial.

        Source: `GET /titles/{titleId}/releaseDates`.
        """
        return self._section(
            imdb_id,
            "/releaseDates",
            shapes.ReleaseDatesSerializer,
            rows="releaseDates",
            params=_LARGEST_PAGE,
        )

    def _look(self) -> UpstreamStatus:
        """Ask for one title: the search is said to fail now and then while titles do not.

        Source: `GET /titles/{titleId}`.
        """
        self.get_metadata(_WELL_KNOWN)
        return UpstreamStatus(self.source, cost="1 call")

    def _section(
        self,
        imdb_id: str,
        part: str,
        shape: type[shapes.SourceShape],
        *,
        rows: str | None = None,
        params: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        answer = self._ask(f"/titles/{path_segment(imdb_id)}{part}", params)
        if rows:
            self._rows_of(answer, rows, beside=("totalCount", "nextPageToken"))
        fit: dict[str, Any] = conforming(answer, shape, source=self.source)
        return fit

    def _ask(self, path: str, params: dict[str, str] | None) -> dict[str, Any]:
        answer = self._object(self._get(path, params=params))
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
