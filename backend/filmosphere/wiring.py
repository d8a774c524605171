"""From settings to objects: the one place that knows both.

Each object is made when it is first asked for and lives as long as the process, so that a server
that forks its workers shares no socket between them.
"""

from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from threading import BoundedSemaphore
from typing import Any

import httpx
from django.conf import settings
from django.core.cache import caches
from django.utils import timezone
from django.utils.crypto import salted_hmac

from cinemix.daily_share import DailyShare
from cinemix.fast_path import FastMovies
from cinemix.known_answers import KnownAnswers
from cinemix.movie_cache import MovieCache
from cinemix.movies import MovieService
from cinemix.rate_limiter import RateLimiter
from core.replica import ALIAS, Replica
from core.services.circuit_breaker import CircuitBreaker
from core.services.coordinator import Coordinator
from core.services.housekeeping import Housekeeper, RegularChore
from core.services.http_client import HttpClient
from core.services.imdb_service import IMDbService
from core.services.kinocheck_service import KinoCheckService
from core.services.limits import Quota, Rate, UpstreamLimits, plan_of
from core.services.omdb_service import OmdbService
from core.services.source import Source
from core.services.upstream import UpstreamService
from core.services.usage import forget_old_usage, store_tally
from core.services.watchmode_service import WatchmodeService
from films.fast_path import FastPath
from films.fast_search import FastSearch
from films.payload import SECTIONS, RetryPolicy
from films.services.background import BackgroundRefresher
from films.services.bulk import BulkRefresher
from films.services.fan_out import FanOut, SectionPages
from films.services.film_aggregator import FilmAggregatorService
from films.services.film_cache import FilmCacheService
from films.services.film_search import FilmSearchService
from films.services.leases import FetchLeases
from films.services.pruning import FilmPruner
from films.services.reads import FilmReads
from films.services.refresh import FilmRefresher, RefreshPolicy
from web.fast_path import Application, FindAnswer, KeptAnswers

FILM_SOURCES = (IMDbService.source, KinoCheckService.source, WatchmodeService.source)
ALL_SOURCES = (*FILM_SOURCES, OmdbService.source)

# Watchmode's free plan (https://api.watchmode.com/terms) and OMDb's license (CC BY-NC 4.0,
# https://www.omdbapi.com/legal.htm) ask for it.
_ATTRIBUTIONS = {
    WatchmodeService.source: {
        "text": "Streaming data powered by Watchmode.com",
        "url": "https://www.watchmode.com/",
    },
    OmdbService.source: {
        "text": "Movie data from the OMDb API (CC BY-NC 4.0)",
        "url": "https://www.omdbapi.com/",
    },
}

# Long enough to outlive some missed renewals, short enough to wait for after a crash.
LEASE_TIME = timedelta(seconds=4)


@cache
def http_client() -> HttpClient:
    """Return the process's only HTTP client."""
    return HttpClient(
        timeout=settings.HTTP_TIMEOUT,
        attempts=settings.HTTP_RETRIES,
        ssl_context=httpx.create_ssl_context(trust_env=False),
        secrets=(settings.KINO_API_KEY, settings.WATCHMODE_API_KEY, settings.OMDB_API_KEY),
    )


@cache
def upstream_limits() -> UpstreamLimits:
    """Return the limits that all processes share."""
    rate = settings.IMDBAPI_RATE
    # The key has few digits: without our secret its hash could be reversed.
    account = salted_hmac("omdb", settings.OMDB_API_KEY, algorithm="sha256").hexdigest()[:32]
    return UpstreamLimits(
        rates={IMDbService.source: Rate(*rate, spare=1)} if rate else {},
        quotas={
            KinoCheckService.source: Quota("%Y-%m-%d", settings.KINO_DAILY_LIMIT),
            WatchmodeService.source: Quota("%Y-%m", None),
            OmdbService.source: Quota("%Y-%m-%d", settings.OMDB_DAILY_LIMIT, account),
        },
    )


@cache
def coordinator() -> Coordinator:
    """Return the sources of this process with the thread that keeps them in step with others."""
    limits = upstream_limits()
    # Calls are granted in this order. Watchmode's two calls are the longest chain of a film.
    concurrency = {
        IMDbService.source: settings.IMDBAPI_CONCURRENCY,
        WatchmodeService.source: settings.WATCHMODE_CONCURRENCY,
        KinoCheckService.source: settings.KINO_CONCURRENCY,
        OmdbService.source: settings.OMDB_CONCURRENCY,
    }
    made = [
        Source(
            name,
            concurrency=threads,
            breaker=CircuitBreaker(name, shared=True),
            call_seconds=settings.FETCH_DEADLINE,
            rate=limits.rates.get(name),
            quota=limits.quotas.get(name),
        )
        for name, threads in concurrency.items()
    ]
    return Coordinator(sources=made, limits=limits, renew_leases=fetch_leases().renew_kept)


def sources() -> Mapping[str, Source]:
    """Return the sources of this process by name."""
    return coordinator().sources


def source_states() -> dict[str, str]:
    """Return for each film source `ok`, or the code for which it is not called right now."""
    limits = upstream_limits()
    return {name: limits.code_or_ok(row) for name, row in limits.read(FILM_SOURCES).items()}


def source_infos() -> list[dict[str, Any]]:
    """Return what clients may know of each source (`films.serializers.SourceInfo`)."""
    limits = upstream_limits()
    rows = limits.read(ALL_SOURCES)
    plan = plan_of(rows[WatchmodeService.source])
    covers = {
        KinoCheckService.source: list(settings.KINO_LANGUAGES),
        WatchmodeService.source: [
            region for region in regions() if plan is None or region in plan.regions
        ],
    }
    return [
        {
            "name": name,
            "provides": [section.name for section in SECTIONS if section.source == name],
            "state": limits.code_or_ok(row),
            "covers": covers.get(name, []),
            "attribution": _ATTRIBUTIONS.get(name),
            "quota": limits.quota_info(name, row),
        }
        for name, row in rows.items()
    ]


def _imdb(breaker: CircuitBreaker) -> IMDbService:
    return IMDbService(http=http_client(), base_url=settings.IMDBAPI_BASE, breaker=breaker)


def _kinocheck(breaker: CircuitBreaker) -> KinoCheckService:
    return KinoCheckService(
        http=http_client(),
        base_url=settings.KINO_BASE,
        api_key=settings.KINO_API_KEY,
        languages=settings.KINO_LANGUAGES,
        breaker=breaker,
    )


def _watchmode(breaker: CircuitBreaker) -> WatchmodeService:
    return WatchmodeService(
        http=http_client(),
        base_url=settings.WATCHMODE_BASE,
        api_key=settings.WATCHMODE_API_KEY,
        regions=settings.WATCHMODE_REGIONS,
        breaker=breaker,
    )


def _omdb(breaker: CircuitBreaker) -> OmdbService:
    return OmdbService(
        http=http_client(),
        base_url=settings.OMDB_BASE_URL,
        api_key=settings.OMDB_API_KEY,
        breaker=breaker,
    )


@cache
def imdb_service() -> IMDbService:
    """Return the service for IMDbAPI.dev."""
    return _imdb(sources()[IMDbService.source].breaker)


@cache
def miss_slots() -> BoundedSemaphore:
    """Return the slots for requests of the film surface that wait for a source."""
    return BoundedSemaphore(settings.COLD_CONCURRENCY)


@cache
def movie_miss_slots() -> BoundedSemaphore:
    """Return the slots for requests of Cinemix that wait for OMDb."""
    return BoundedSemaphore(settings.MOVIE_COLD_CONCURRENCY)


@cache
def film_cache() -> FilmCacheService:
    """Return the stored films."""
    return FilmCacheService(
        ttl=settings.CACHE_TTL,
        offers_max_age=settings.STREAMING_MAX_AGE or None,
        sections_outlive_film=bool(settings.SECTION_TTL),
        replica=replica(),
    )


@cache
def replica() -> Replica | None:
    """Return the replica of the database, if there is one."""
    if ALIAS not in settings.DATABASES:
        return None
    # A film in memory is up to HOT_SECONDS old as well.
    return Replica(longest_lag=settings.HOT_SECONDS + 5)


@cache
def fetch_leases() -> FetchLeases:
    """Return the leases of fetches."""
    return FetchLeases(lease_time=LEASE_TIME)


@cache
def film_reads() -> FilmReads:
    """Return the reads of this process."""
    return FilmReads()


@cache
def film_pruner() -> FilmPruner:
    """Return what deletes stored films."""
    return FilmPruner()


@cache
def housekeeper() -> Housekeeper:
    """Return what keeps the tables of the service small."""

    def forget_made_up_ids() -> int:
        before = timezone.now() - timedelta(days=1)
        return fetch_leases().forget_unstored(before, stored=film_cache().stored_ids())

    return Housekeeper(
        own={"note_reads": film_reads().store, "store_usage": store_tally},
        shared=[
            RegularChore("forget_made_up_ids", timedelta(hours=1), forget_made_up_ids),
            RegularChore("forget_old_usage", timedelta(days=1), forget_old_usage),
            RegularChore("remove_old_offers", timedelta(days=1), film_cache().remove_old_offers),
        ],
    )


@cache
def film_search() -> FilmSearchService:
    """Return the search."""
    return FilmSearchService(
        imdb=imdb_service(),
        source=sources()[IMDbService.source],
        leases=fetch_leases(),
        stored_film=film_cache().get_cached,
        vouches_for=film_aggregator().vouches_for,
        fetch_title=film_refresher().fetch_title,
        miss_slots=miss_slots(),
        deadline_seconds=settings.FETCH_DEADLINE,
    )


@cache
def section_pages() -> SectionPages:
    """Return the further pages of long sections."""
    return SectionPages(
        imdb=imdb_service(),
        source=sources()[IMDbService.source],
        miss_slots=miss_slots(),
        keep_seconds=settings.CACHE_TTL.total_seconds(),
        deadline_seconds=settings.FETCH_DEADLINE,
    )


def regions() -> tuple[str, ...]:
    """Return the regions whose offers are fetched; the first one is that of the payload."""
    return tuple(settings.WATCHMODE_REGIONS)


@cache
def film_refresher() -> FilmRefresher:
    """Return the refresher with its three sources."""
    all_sources = sources()
    return FilmRefresher(
        cache=film_cache(),
        leases=fetch_leases(),
        fan_out=FanOut(
            imdb=imdb_service(),
            kinocheck=_kinocheck(all_sources[KinoCheckService.source].breaker),
            watchmode=_watchmode(all_sources[WatchmodeService.source].breaker),
            sources=[all_sources[name] for name in FILM_SOURCES],
            regions=regions(),
        ),
        policy=RefreshPolicy(
            sections=RetryPolicy(first=settings.PARTIAL_RETRY), lifetimes=settings.SECTION_TTL
        ),
    )


@cache
def background() -> BackgroundRefresher:
    """Return the background refresher of stored films."""
    return BackgroundRefresher(
        cache=film_cache(), leases=fetch_leases(), refresher=film_refresher()
    )


@cache
def bulk_refresher() -> BulkRefresher:
    """Return what the commands fetch many films with."""
    return BulkRefresher(
        cache=film_cache(),
        leases=fetch_leases(),
        refresher=film_refresher(),
        limits=upstream_limits(),
    )


@cache
def film_aggregator() -> FilmAggregatorService:
    """Return the aggregator."""
    return FilmAggregatorService(
        cache=film_cache(),
        leases=fetch_leases(),
        refresher=film_refresher(),
        background=background(),
        miss_slots=miss_slots(),
        deadline_seconds=settings.FETCH_DEADLINE,
        queue_patience=settings.QUEUE_PATIENCE,
        note_read=film_reads().note,
    )


def version() -> str:
    """Return the version of the API."""
    return str(settings.SPECTACULAR_SETTINGS["VERSION"])


def longest_wait() -> float:
    """Return the most seconds that a caller may ask the service to wait (`Prefer: wait`)."""
    return float(settings.FETCH_DEADLINE)


def fast_path(application: Application) -> FastPath:
    """Return the WSGI application with the fast paths in front: for films, and for what is kept."""
    fast_movies = FastMovies(cache=movie_cache(), answers=known_answers(), limiter=rate_limiter())
    find: dict[str, FindAnswer] = {
        "/api/search": FastSearch(film_search()).find,
        "/api/v1/search": fast_movies.find_search,
        "/api/v1/search/id": fast_movies.find_movie,
    }
    return FastPath(
        KeptAnswers(application, find=find),
        cache=film_cache(),
        background=background(),
        seconds=settings.HOT_SECONDS,
        longest_wait=longest_wait(),
        note_read=film_reads().note,
    )


@cache
def movie_cache() -> MovieCache:
    """Return the cached movies of Cinemix."""
    # A connection of its own, because Django gives each thread another, which takes time.
    return MovieCache(caches.create_connection("movies"))


@cache
def known_answers() -> KnownAnswers:
    """Return the other answers of OMDb that are kept."""
    return KnownAnswers(caches.create_connection("default"))


@cache
def movies() -> MovieService:
    """Return the movies of Cinemix."""
    source = sources()[OmdbService.source]
    limits = upstream_limits()
    return MovieService(
        omdb=_omdb(source.breaker),
        source=source,
        cache=movie_cache(),
        answers=known_answers(),
        share=DailyShare(calls_left=lambda: limits.status(source.name).left),
        miss_slots=movie_miss_slots(),
        deadline_seconds=settings.FETCH_DEADLINE,
    )


@cache
def rate_limiter() -> RateLimiter:
    """Return the limiter that guards Cinemix."""
    return RateLimiter()


def services_to_check() -> list[UpstreamService]:
    """Return a service for each source, with a circuit breaker of its own.

    What opened the breaker of the films, such as a rejected key, must not keep the check from
    finding out whether it is over.
    """
    return [
        _imdb(CircuitBreaker(IMDbService.source)),
        _kinocheck(CircuitBreaker(KinoCheckService.source)),
        _watchmode(CircuitBreaker(WatchmodeService.source)),
        _omdb(CircuitBreaker(OmdbService.source)),
    ]
