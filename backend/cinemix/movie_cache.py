"""Cached movie details, in Django's cache `movies`.

The settings give that cache its lifetime (`CACHE_TTL`) and its keys: in Redis a movie is the JSON
of its DTO under `movie_<imdb_id>`. A second key holds the time of expiry, because Django's caches
do not report the remaining lifetime of a value.
"""

import logging
import time
from typing import Any, NamedTuple

from django.core.cache import caches
from django.core.cache.backends.base import BaseCache
from pydantic import BaseModel, ValidationError

from cinemix.dtos import MovieDetails
from core import metrics
from core.imdb_id import canonical_imdb_id
from core.services.omdb_service import OmdbService
from core.services.usage import tally

logger = logging.getLogger(__name__)

_HITS, _MISSES = metrics.MOVIE_CACHE.labels("hit"), metrics.MOVIE_CACHE.labels("miss")


def get_movie(movie_id: str) -> MovieDetails | None:
    """Return the movie cached under `movie_id`, None if there is none. Hits and misses are logged.

    A value that is not the JSON of a movie with this id is a miss.
    """
    cached = MovieCache(caches["movies"]).look_up(movie_id)
    return cached.movie if cached else None


def cache_movie(movie_id: str, movie_obj: BaseModel) -> None:
    """Cache the movie under `movie_id` for `CACHE_TTL` seconds, in place of an earlier value."""
    MovieCache(caches["movies"]).store(movie_id, movie_obj)


class CachedMovie(NamedTuple):
    """A movie, and the seconds that it stays in the cache."""

    movie: MovieDetails
    seconds_left: int


class MovieCache:
    """The movies in one of Django's caches."""

    def __init__(self, cache: BaseCache) -> None:
        self._cache = cache
        # The settings have a number; Django allows None for values that never expire.
        self.lifetime = int(cache.default_timeout or 0)

    def look_up(self, movie_id: str) -> CachedMovie | None:
        """Return the movie with its remaining lifetime, None if there is none.

        Hits and misses are logged and counted.
        """
        cached = self.find(movie_id)
        if cached:
            self.count_hit()
        else:
            _MISSES.inc()
            logger.warning("movie cache miss")
        return cached

    def count_hit(self) -> None:
        """Log and count that a movie was in the cache."""
        _HITS.inc()
        tally.cache_hit((OmdbService.source,))
        logger.info("movie cache hit")

    def find(self, movie_id: str) -> CachedMovie | None:
        """Return what `look_up` returns, without logging and counting."""
        keys = movie_id, _expiry_key(movie_id)
        values = self._cache.get_many(keys)
        return self.parsed(movie_id, *(values.get(key) for key in keys))

    def names(self, movie_id: str) -> list[str]:
        """Return the names in Redis of the movie and of its time of expiry."""
        return [self._cache.make_key(key) for key in (movie_id, _expiry_key(movie_id))]

    def parsed(self, movie_id: str, value: Any, expires_at: Any) -> CachedMovie | None:
        """Return the movie in a value of the cache with its lifetime, None if there is none."""
        if value is None:
            return None
        try:
            movie = MovieDetails.model_validate(value, by_name=True, by_alias=False)
        except ValidationError:
            logger.warning("unreadable movie in the cache", extra={"outcome": "bad_value"})
            return None
        if movie.id != movie_id and movie.id != canonical_imdb_id(movie_id):
            return None
        left = expires_at - time.time() if isinstance(expires_at, float) else 0.0
        return CachedMovie(movie, int(min(max(0.0, left), self.lifetime)))

    def store(self, movie_id: str, movie: BaseModel) -> None:
        """Store the movie in place of an earlier value."""
        values = {
            movie_id: movie.model_dump(mode="json"),
            _expiry_key(movie_id): time.time() + self.lifetime,
        }
        self._cache.set_many(values)


def _expiry_key(movie_id: str) -> str:
    return f"{movie_id}_expires_at"
