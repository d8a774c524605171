"""From settings to objects: the one place that knows both.

Each object is made when it is first asked for and lives as long as the process, so a server that
forks its workers shares no socket between them.
"""

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import cache
from threading import BoundedSemaphore

import httpx
from django.conf import settings
from django.http import HttpRequest, HttpResponse

from cinemix.movie_cache import cache_movie, get_movie, peek_movie
from cinemix.movies import MovieService
from cinemix.quota import OmdbQuota
from cinemix.rate_limiter import RateLimiter
from core.budgets import Pace, Quota, UpstreamBudgets
from core.services.bulkhead import Bulkhead
from core.services.gate import Gate, GatePolicy
from core.services.http_client import HttpClient
from core.services.imdb_service import IMDbService
from core.services.kinocheck_service import KinoCheckService
from core.services.omdb_service import OmdbService
from core.services.watchmode_service import WatchmodeService
from core.upstream_checks import Check, budgeted
from films.hot_films import Application, HotFilms
from films.middleware import CachedFilmMiddleware
from films.services.fan_out import FanOut
from films.services.fetch_register import FetchRegister
from films.services.film_aggregator import FilmAggregatorService
from films.services.film_batch import BatchPolicy, FilmBatch
from films.services.film_cache import FilmCacheService
from films.services.film_fetcher import FilmFetcher, MemoryPolicy
from films.services.film_search import FilmSearchService
from films.services.upkeep import Upkeep

FILM_SOURCES = (IMDbService.source, KinoCheckService.source, WatchmodeService.source)

# Long enough to outlive some missed heartbeats, short enough to wait for after a crash.
LEASE_TIME = timedelta(seconds=4)
# How long a job in the background may stand in line for a paced source.
UPKEEP_SECONDS = 60.0


@cache
def http_client() -> HttpClient:
    """Return the process's only HTTP client."""
    return HttpClient(
        timeout=settings.HTTP_TIMEOUT,
        attempts=settings.HTTP_RETRIES,
        ssl_context=httpx.create_ssl_context(trust_env=False),
    )


@cache
def gate(source: str) -> Gate:
    """Return what this process knows about a source that all processes share."""
    return Gate(source, shared=True)


@cache
def budgets() -> UpstreamBudgets:
    """Return what all processes together may ask of the film sources."""
    return _budgets({source: gate(source) for source in FILM_SOURCES})


def _budgets(gates: Mapping[str, Gate]) -> UpstreamBudgets:
    rate = settings.IMDBAPI_RATE
    return UpstreamBudgets(
        gates=gates,
        paces={IMDbService.source: Pace(*rate, spare=1)} if rate else {},
        quotas={
            KinoCheckService.source: Quota("%Y-%m-%d", settings.KINO_DAILY_LIMIT),
            WatchmodeService.source: Quota("%Y-%m", None),
        },
        probe_seconds=GatePolicy().pause,
    )


def upstreams() -> dict[str, str]:
    """Return how each film source stands."""
    return budgets().overview()


@cache
def bulkhead(source: str) -> Bulkhead:
    """Return the threads for a source, shared by all who ask it."""
    concurrency = {
        IMDbService.source: settings.IMDBAPI_CONCURRENCY,
        KinoCheckService.source: settings.KINO_CONCURRENCY,
        WatchmodeService.source: settings.WATCHMODE_CONCURRENCY,
    }
    return Bulkhead(source, concurrency=concurrency[source])


@cache
def imdb_service() -> IMDbService:
    """Return the service for IMDbAPI.dev."""
    return _imdb(gate(IMDbService.source))


def _imdb(gate: Gate) -> IMDbService:
    return IMDbService(http=http_client(), base_url=settings.IMDBAPI_BASE, gate=gate)


def _kinocheck(gate: Gate) -> KinoCheckService:
    return KinoCheckService(
        http=http_client(),
        base_url=settings.KINO_BASE,
        api_key=settings.KINO_API_KEY,
        language=settings.KINO_LANGUAGE,
        gate=gate,
    )


def _watchmode(gate: Gate) -> WatchmodeService:
    return WatchmodeService(
        http=http_client(),
        base_url=settings.WATCHMODE_BASE,
        api_key=settings.WATCHMODE_API_KEY,
        region=settings.WATCHMODE_REGION,
        gate=gate,
    )


def _omdb() -> OmdbService:
    return OmdbService(
        http=http_client(), base_url=settings.OMDB_BASE_URL, api_key=settings.OMDB_API_KEY
    )


def _omdb_quota() -> OmdbQuota:
    return OmdbQuota(api_key=settings.OMDB_API_KEY, limit=settings.OMDB_DAILY_LIMIT)


@cache
def film_search() -> FilmSearchService:
    """Return the search."""
    return FilmSearchService(
        imdb=imdb_service(),
        bulkhead=bulkhead(IMDbService.source),
        budgets=budgets(),
        cold_slots=cold_slots(),
        release_connection=film_cache().release_connection,
        deadline_seconds=settings.FETCH_DEADLINE,
    )


@cache
def cold_slots() -> BoundedSemaphore:
    """Return the slots for requests that must wait for a source."""
    return BoundedSemaphore(settings.COLD_CONCURRENCY)


@cache
def film_cache() -> FilmCacheService:
    """Return the stored films."""
    return FilmCacheService(ttl=settings.CACHE_TTL)


@cache
def fetch_register() -> FetchRegister:
    """Return the register of fetches."""
    return FetchRegister(lease_time=LEASE_TIME)


@cache
def film_fetcher() -> FilmFetcher:
    """Return the fetcher with its three sources."""
    fan_out = FanOut(
        imdb=imdb_service(),
        kinocheck=_kinocheck(gate(KinoCheckService.source)),
        watchmode=_watchmode(gate(WatchmodeService.source)),
        bulkheads={source: bulkhead(source) for source in FILM_SOURCES},
        budgets=budgets(),
        release_connection=film_cache().release_connection,
    )
    return FilmFetcher(
        cache=film_cache(), register=fetch_register(), fan_out=fan_out, policy=MemoryPolicy()
    )


@cache
def upkeep() -> Upkeep:
    """Return the upkeep of stored films."""
    return Upkeep(
        cache=film_cache(),
        register=fetch_register(),
        fetcher=film_fetcher(),
        repair_after=settings.PARTIAL_RETRY,
        deadline_seconds=UPKEEP_SECONDS,
    )


@cache
def film_batch() -> FilmBatch:
    """Return what the commands fetch many films with."""
    return FilmBatch(
        cache=film_cache(),
        register=fetch_register(),
        fetcher=film_fetcher(),
        budgets=budgets(),
        policy=BatchPolicy(deadline=UPKEEP_SECONDS),
    )


@cache
def film_aggregator() -> FilmAggregatorService:
    """Return the aggregator."""
    return FilmAggregatorService(
        cache=film_cache(),
        register=fetch_register(),
        fetcher=film_fetcher(),
        upkeep=upkeep(),
        cold_slots=cold_slots(),
        deadline_seconds=settings.FETCH_DEADLINE,
    )


_FILM_PATH = re.compile(r"/api/films/(tt[0-9]{1,18})/?", re.ASCII)


def cached_film_middleware(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> CachedFilmMiddleware:
    """Return the middleware for `GET /api/films/{imdb_id}`."""
    return CachedFilmMiddleware(
        get_response,
        path=_FILM_PATH,
        get_aggregator=film_aggregator,
    )


def hot_films(application: Application) -> Application | HotFilms:
    """Return the WSGI application with a memory in front, where the settings want one."""
    if not settings.HOT_SECONDS:
        return application
    return HotFilms(application, path=_FILM_PATH, seconds=settings.HOT_SECONDS)


@cache
def movies() -> MovieService:
    """Return the movies of Cinemix."""
    omdb = _omdb()
    return MovieService(
        omdb=omdb,
        bulkhead=Bulkhead(omdb.source, concurrency=settings.OMDB_CONCURRENCY),
        quota=_omdb_quota(),
        cold_slots=cold_slots(),
        get_movie=get_movie,
        peek_movie=peek_movie,
        cache_movie=cache_movie,
        deadline_seconds=settings.FETCH_DEADLINE,
    )


@cache
def rate_limiter() -> RateLimiter:
    """Return the limiter that guards Cinemix."""
    return RateLimiter()


def upstream_checks() -> list[Check]:
    """Return a check for each source.

    They have gates of their own: what closed the source to films, such as a key that was refused,
    is not to keep anybody from looking whether it is over.
    """
    gates = {source: Gate(source) for source in FILM_SOURCES}
    counted = _budgets(gates)
    quota = _omdb_quota()
    return [
        budgeted(_imdb(gates[IMDbService.source]), counted),
        budgeted(_kinocheck(gates[KinoCheckService.source]), counted),
        budgeted(_watchmode(gates[WatchmodeService.source]), counted),
        Check(_omdb(), quota.spend if settings.OMDB_API_KEY else lambda: None, quota.standing),
    ]
