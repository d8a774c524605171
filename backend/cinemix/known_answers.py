"""Answers of OMDb other than movies, kept in Django's default cache to save calls.

Unknown titles are kept for an hour, searches and errors about the input for a minute. Values that
cannot be read are treated as absent.
"""

import hashlib
import time

from django.core.cache.backends.base import BaseCache
from pydantic import ValidationError

from cinemix.dtos import MovieResults
from core.errors import (
    InvalidInput,
    ServiceError,
    UpstreamError,
    UpstreamNotFound,
    error_for_code,
)

SEARCH_SECONDS = 60
TITLE_SECONDS = 3600
TOTAL_SECONDS = 3600

# Reasons that concern one title and do not change soon.
_LASTING_REASONS = frozenset({"other_id", "no_data_yet"})


class KnownAnswers:
    """Recent answers of OMDb to questions such as `title tt1375666`."""

    def __init__(self, cache: BaseCache) -> None:
        self._cache = cache

    def keep_error(self, question: str, error: ServiceError) -> None:
        """Keep `error` if another call would return the same."""
        key = _key("error", question)
        if isinstance(error, InvalidInput):
            self._cache.set(key, {"invalid_input": str(error)}, SEARCH_SECONDS)
        elif isinstance(error, UpstreamNotFound) or (
            isinstance(error, UpstreamError) and error.reason in _LASTING_REASONS
        ):
            value = {
                "source": error.source,
                "code": error.code,
                "reason": error.reason,
                "until": time.time() + TITLE_SECONDS,
            }
            self._cache.set(key, value, TITLE_SECONDS)

    def find_error(self, question: str) -> ServiceError | None:
        """Return the error kept for `question`, None if there is none."""
        match self._cache.get(_key("error", question)):
            case {"invalid_input": str(message)}:
                return InvalidInput(message)
            case {
                "source": str(source),
                "code": str(code),
                "reason": str(reason),
                "until": float() as until,
            }:
                left = min(max(1.0, until - time.time()), TITLE_SECONDS)
                return error_for_code(code)(source, reason, retry_after=left)
        return None

    def keep_results(self, question: str, results: MovieResults) -> None:
        """Keep one page of a search."""
        self._cache.set(_key("search", question), results.model_dump(), SEARCH_SECONDS)

    def find_results(self, question: str) -> MovieResults | None:
        """Return the page kept for `question`, None if there is none."""
        value = self._cache.get(_key("search", question))
        if value is None:
            return None
        try:
            return MovieResults.model_validate(value)
        except ValidationError:
            return None

    def results_name(self, question: str) -> str:
        """Return the name in Redis of the page kept for `question`."""
        return self._cache.make_key(_key("search", question))

    def keep_total(self, query: str, total: str) -> None:
        """Keep the number of matches of `query`."""
        self._cache.set(_key("total", query), total, TOTAL_SECONDS)

    def find_total(self, query: str) -> str | None:
        """Return the number of matches kept for `query`, None if there is none."""
        total = self._cache.get(_key("total", query))
        return total if isinstance(total, str) and total.isdecimal() else None


def search_question(query: str, page: int) -> str:
    """Return the question for one page of a search."""
    return f"search {page} {query}"


def _key(kind: str, text: str) -> str:
    # A hash, because cache keys must be short and plain.
    return f"omdb_{kind}_{hashlib.sha256(text.encode()).hexdigest()}"
