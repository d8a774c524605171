"""Searches whose titles are kept, answered before Django builds a request."""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from films import presentation
from films.services.film_search import FilmSearchService, SearchFilter, results_of
from web.fast_path import KeptAnswer, PlainRequest
from web.parameters import HasMeta, query_parameter
from web.search_text import parse_search_text

# For how many seconds an answer may be cached.
MAX_AGE = 60


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """The parameters of `GET /api/search`: `query` as it was sent, `text` what is looked for."""

    query: str
    text: str
    filter: SearchFilter
    image_width: int | None

    @classmethod
    def of(cls, request: HasMeta) -> "SearchRequest":
        """Return the parameters of a request; raises `InvalidInput`."""
        query = query_parameter(request, "q")
        text = parse_search_text(query, "q")
        wanted = SearchFilter.parse(
            *(query_parameter(request, name) for name in ("type", "year", "limit"))
        )
        width = presentation.parse_image_width(query_parameter(request, "image_width"))
        return cls(query or "", text, wanted, width)

    def body(self, results: list[dict[str, Any]]) -> bytes:
        """Return the answer with these results."""
        answer = {"query": self.query, "results": results}
        body = json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()
        if self.image_width is None:
            return body
        return presentation.with_image_width(body, self.image_width)


class FastSearch:
    """Answers searches from what is kept of them."""

    def __init__(self, search: FilmSearchService) -> None:
        self._search = search

    def find(self, request: PlainRequest) -> KeptAnswer | None:
        """Return the answer, None if it is not kept; raises `InvalidInput`."""
        wanted = SearchRequest.of(request)
        kept = self._search.kept(wanted.text)
        body = None if kept is None else _body(kept, wanted)
        if body is None:
            return None
        self._search.count_hit()
        return KeptAnswer(body, MAX_AGE)


# To choose, order and write the titles takes longer than the rest of the answer. It is done again
# as soon as other titles are kept. An entry takes up to 30 KB.
@lru_cache(maxsize=250)
def _body(kept: str, wanted: SearchRequest) -> bytes | None:
    results = results_of(kept, wanted.text, wanted.filter)
    return None if results is None else wanted.body(results)
