"""Movies and searches that are cached, answered before Django builds a request."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ValidationError

from cinemix.dtos import MovieResults
from cinemix.known_answers import SEARCH_SECONDS, KnownAnswers, search_question
from cinemix.movie_cache import MovieCache
from cinemix.rate_limiter import Decision, RateLimiter
from core.errors import InvalidInput
from core.imdb_id import parse_imdb_id
from core.services.omdb_service import OmdbService
from core.services.usage import tally
from core.utils.logging import film_id
from core.utils.stored_json import json_or
from web.client_address import client_address
from web.fast_path import KeptAnswer, PlainRequest
from web.parameters import HasMeta, query_parameter
from web.search_text import parse_search_text
from web.throttling import rate_limit_headers

# The key of the WSGI environment with the decision on this request, if it was made already.
DECISION = "cinemix.decision"
# OMDb returns ten results per page and at most 100 pages.
LAST_PAGE = 100


def movie_id_of(request: HasMeta) -> str:
    """Return the canonical id in the parameter `id`; raises `InvalidInput`."""
    return parse_imdb_id(query_parameter(request, "id") or "")


def search_of(request: HasMeta) -> tuple[str, int]:
    """Return the parameters `query` and `page`; raises `InvalidInput`."""
    query = parse_search_text(query_parameter(request, "query"), "query")
    page = query_parameter(request, "page")
    if page is None:
        return query, 1
    if not re.fullmatch(r"[0-9]{1,3}", page, re.ASCII) or not 1 <= int(page) <= LAST_PAGE:
        raise InvalidInput(f"'page' must be a whole number from 1 to {LAST_PAGE}.")
    return query, int(page)


def envelope(data: BaseModel) -> bytes:
    """Return the answer with `data`."""
    return b'{"status":"success","message":"ok","data":%b}' % data.model_dump_json().encode()


class FastMovies:
    """Answers from the caches of Cinemix, with one round trip to Redis."""

    def __init__(self, *, cache: MovieCache, answers: KnownAnswers, limiter: RateLimiter) -> None:
        self._cache = cache
        self._answers = answers
        self._limiter = limiter

    def find_movie(self, request: PlainRequest) -> KeptAnswer | None:
        """Return the details of a title; None if they are not cached, or the client is refused."""
        imdb_id = movie_id_of(request)
        film_id.set(imdb_id)
        decision = self._check(request, self._cache.names(imdb_id))
        if not decision.admitted:
            return None
        cached = (
            self._cache.parsed(imdb_id, *map(_decoded, decision.values))
            if decision.values
            else self._cache.find(imdb_id)
        )
        if cached is None:
            return None
        self._cache.count_hit()
        return self._answer(envelope(cached.movie), cached.seconds_left, decision)

    def find_search(self, request: PlainRequest) -> KeptAnswer | None:
        """Return a page of titles; None if it is not cached, or the client is refused."""
        question = search_question(*search_of(request))
        decision = self._check(request, [self._answers.results_name(question)])
        if not decision.admitted:
            return None
        if decision.values:
            body = _page(decision.values[0])
        else:
            results = self._answers.find_results(question)
            body = envelope(results) if results else None
        if body is None:
            return None
        tally.cache_hit((OmdbService.source,))
        return self._answer(body, SEARCH_SECONDS, decision)

    def _check(self, request: PlainRequest, names: Sequence[str]) -> Decision:
        """Count the request, once and for all."""
        decision = self._limiter.check(client_address(request), names=names)
        request.META[DECISION] = decision
        return decision

    def _answer(self, body: bytes, max_age: int, decision: Decision) -> KeptAnswer:
        headers = rate_limit_headers(
            limit=self._limiter.limit, remaining=decision.remaining, reset=decision.reset
        )
        return KeptAnswer(body, max_age, headers)


def _decoded(value: bytes | None) -> Any:
    """Return a value of the cache in Redis; None if it is unreadable, which the view reports."""
    return None if value is None else json_or(value, None)


# To check the rows of a page takes a third of the answer. An entry takes up to 20 KB.
@lru_cache(maxsize=250)
def _page(value: bytes | None) -> bytes | None:
    """Return the answer with a page that is kept in Redis, None if it is unreadable."""
    try:
        return None if value is None else envelope(MovieResults.model_validate_json(value))
    except ValidationError:
        return None
