"""From settings to objects: the one place that knows both.

Each object is made when it is first asked for and lives as long as the process, so a server that
forks its workers shares no socket between them.
"""

from functools import cache

import httpx
from django.conf import settings

from cinemix.movie_cache import cache_movie, get_movie
from cinemix.movies import MovieService
from cinemix.quota import OmdbQuota
from cinemix.rate_limiter import RateLimiter
from core.services.bulkhead import Bulkhead
from core.services.http_client import HttpClient
from core.services.imdb_service import IMDbService
from core.services.kinocheck_service import KinoCheckService
from core.services.omdb_service import OmdbService
from core.services.watchmode_service import WatchmodeService
from films.services.film_aggregator import FilmAggregatorService
from films.services.film_cache import FilmCacheService
from films.services.film_search import FilmSearchService


@cache
def http_client() -> HttpClient:
    """Return the process's only HTTP client."""
    return HttpClient(
        timeout=settings.HTTP_TIMEOUT,
        attempts=settings.HTTP_RETRIES,
        ssl_context=httpx.create_ssl_context(trust_env=False),
    )


@cache
def imdb_bulkhead() -> Bulkhead:
    """Return the threads for IMDbAPI.dev, shared by search and film detail."""
    return Bulkhead(IMDbService.source, concurrency=settings.IMDBAPI_CONCURRENCY)


@cache
def imdb_service() -> IMDbService:
    """Return the service for IMDbAPI.dev."""
    return IMDbService(http=http_client(), base_url=settings.IMDBAPI_BASE)


@cache
def film_search() -> FilmSearchService:
    """Return the search."""
    return FilmSearchService(
        imdb=imdb_service(),
        bulkhead=imdb_bulkhead(),
        deadline_seconds=settings.FETCH_DEADLINE,
    )


@cache
def film_aggregator() -> FilmAggregatorService:
    """Return the aggregator with its three sources and the cache."""
    http = http_client()
    return FilmAggregatorService(
        imdb=imdb_service(),
        kinocheck=KinoCheckService(
            http=http,
            base_url=settings.KINO_BASE,
            api_key=settings.KINO_API_KEY,
            language=settings.KINO_LANGUAGE,
        ),
        watchmode=WatchmodeService(
            http=http,
            base_url=settings.WATCHMODE_BASE,
            api_key=settings.WATCHMODE_API_KEY,
            region=settings.WATCHMODE_REGION,
        ),
        cache=FilmCacheService(ttl=settings.CACHE_TTL, watchmode_id_ttl=settings.WATCHMODE_ID_TTL),
        bulkheads={
            "imdbapi": imdb_bulkhead(),
            "kinocheck": Bulkhead("kinocheck", concurrency=settings.KINO_CONCURRENCY),
            "watchmode": Bulkhead("watchmode", concurrency=settings.WATCHMODE_CONCURRENCY),
        },
        deadline_seconds=settings.FETCH_DEADLINE,
    )


@cache
def movies() -> MovieService:
    """Return the movies of Cinemix."""
    omdb = OmdbService(
        http=http_client(), base_url=settings.OMDB_BASE_URL, api_key=settings.OMDB_API_KEY
    )
    return MovieService(
        omdb=omdb,
        bulkhead=Bulkhead(omdb.source, concurrency=settings.OMDB_CONCURRENCY),
        quota=OmdbQuota(api_key=settings.OMDB_API_KEY, limit=settings.OMDB_DAILY_LIMIT),
        get_movie=get_movie,
        cache_movie=cache_movie,
        deadline_seconds=settings.FETCH_DEADLINE,
    )


@cache
def rate_limiter() -> RateLimiter:
    """Return the limiter that guards Cinemix."""
    return RateLimiter()
