"""The short way to a film that is in the cache."""

import re
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from core.exception_handler import DATABASE_FAULTS, database_unavailable
from films.http_caching import accepts_gzip, film_response
from films.services.film_aggregator import FilmAggregatorService


class CachedFilmMiddleware:
    """Answers for fresh films before sessions, accounts and views have cost anything.

    `path` matches the paths of films, its first group their ids. All else, misses too, goes on.
    """

    def __init__(
        self,
        get_response: Callable[[HttpRequest], HttpResponse],
        *,
        path: re.Pattern[str],
        get_aggregator: Callable[[], FilmAggregatorService],
    ) -> None:
        self._get_response = get_response
        self._path = path
        self._get_aggregator = get_aggregator

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer for a hit, else ask the next one."""
        match = self._path.fullmatch(request.path_info) if request.method in _SAFE else None
        return (match and self._hit(request, match[1])) or self._get_response(request)

    def _hit(self, request: HttpRequest, imdb_id: str) -> HttpResponse | None:
        try:
            answer = self._get_aggregator().hit(imdb_id, gzipped=accepts_gzip(request.META))
        except DATABASE_FAULTS as exc:
            # The view would wait for the same database once more.
            return database_unavailable(exc)
        if answer is None:
            return None
        # What the metrics call the route, which nobody resolves here.
        request.answered_by = "films/cached"  # type: ignore[attr-defined]
        return film_response(request, answer)


_SAFE = frozenset({"GET", "HEAD"})
