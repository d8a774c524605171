"""Settings of the service, read from the environment and `.env`.

`filmosphere.settings_table` defines them; here are only the rules between several of them.
"""

import os
import re
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import drf_spectacular_sidecar
from django.core.exceptions import ImproperlyConfigured
from django.core.management.utils import get_random_secret_key

from core import replica
from filmosphere.environment import Environment, is_installed
from filmosphere.settings_table import SETTINGS

BASE_DIR = Path(__file__).resolve().parent.parent
PROJECT_DIR = BASE_DIR.parent

env = Environment.load(Path(os.environ.get("ENV_FILE", PROJECT_DIR / ".env")), SETTINGS)

# Reported at the start: what was given and has no effect.
ENVIRONMENT_WARNINGS = env.warnings

# --- Film sources -----------------------------------------------------------------------------

UPSTREAM_SETTINGS = (
    "IMDBAPI_BASE",
    "KINO_BASE",
    "KINO_API_KEY",
    "WATCHMODE_BASE",
    "WATCHMODE_API_KEY",
    "OMDB_BASE_URL",
    "OMDB_API_KEY",
)

# If no setting of a source is given, all of them are the sandbox. If one is given, all are real, so
# that a service never mixes made-up and real data.
SANDBOX = not any(env.given(name) for name in UPSTREAM_SETTINGS)
PORT = env.read("PORT")
SANDBOX_PORT = env.read("SANDBOX_PORT", str(PORT % 65_535 + 1))
OPS_PORT = env.read("OPS_PORT")
if OPS_PORT == PORT or (SANDBOX and OPS_PORT == SANDBOX_PORT):
    raise ImproperlyConfigured("OPS_PORT must be another port than PORT and SANDBOX_PORT")


def _in_sandbox(name: str, default: str) -> Any:
    """Read a setting that has another default in the sandbox."""
    return env.read(name, default if SANDBOX else None)


_sandbox_url = f"http://127.0.0.1:{SANDBOX_PORT}"
IMDBAPI_BASE = _in_sandbox("IMDBAPI_BASE", f"{_sandbox_url}/imdbapi")
KINO_BASE = _in_sandbox("KINO_BASE", f"{_sandbox_url}/kinocheck")
KINO_API_KEY = _in_sandbox("KINO_API_KEY", "sandbox-kinocheck-key")
KINO_LANGUAGE = env.read("KINO_LANGUAGE")
KINO_LANGUAGES = env.read("KINO_LANGUAGES", KINO_LANGUAGE)
WATCHMODE_BASE = _in_sandbox("WATCHMODE_BASE", f"{_sandbox_url}/watchmode/v1")
WATCHMODE_API_KEY = _in_sandbox("WATCHMODE_API_KEY", "sandbox-watchmode-key")
WATCHMODE_REGION = env.read("WATCHMODE_REGION")
# The first one is that of the payload.
WATCHMODE_REGIONS = tuple(
    dict.fromkeys([WATCHMODE_REGION, *env.read("WATCHMODE_REGIONS", WATCHMODE_REGION)])
)
OMDB_BASE_URL = _in_sandbox("OMDB_BASE_URL", f"{_sandbox_url}/omdb/")
OMDB_API_KEY = _in_sandbox("OMDB_API_KEY", "5a4db0c5")
OMDB_DAILY_LIMIT = env.read("OMDB_DAILY_LIMIT")

HTTP_TIMEOUT = env.read("HTTP_TIMEOUT")
HTTP_RETRIES = env.read("HTTP_RETRIES")
FETCH_DEADLINE = env.read("FETCH_DEADLINE")
QUEUE_PATIENCE = env.read("QUEUE_PATIENCE")
# IMDbAPI.dev refuses bursts; the sandbox does not.
IMDBAPI_RATE: tuple[int, float] | None = _in_sandbox("IMDBAPI_RATE", "")
KINO_DAILY_LIMIT = env.read("KINO_DAILY_LIMIT")
IMDBAPI_CONCURRENCY = env.read("IMDBAPI_CONCURRENCY")
KINO_CONCURRENCY = env.read("KINO_CONCURRENCY")
WATCHMODE_CONCURRENCY = env.read("WATCHMODE_CONCURRENCY")
OMDB_CONCURRENCY = env.read("OMDB_CONCURRENCY")

# --- What is kept, and for how long -----------------------------------------------------------

CACHE_TTL = env.read("CACHE_TTL_HOURS")
# The lifetimes of sections that are kept longer than their film.
SECTION_TTL = env.read("SECTION_TTL_HOURS")
STREAMING_MAX_AGE = timedelta(days=env.read("STREAMING_MAX_AGE_DAYS"))
HOT_SECONDS = env.read("HOT_SECONDS")
PARTIAL_RETRY = timedelta(seconds=env.read("PARTIAL_RETRY_SECONDS"))

# --- Limits for callers -----------------------------------------------------------------------

SEARCH_THROTTLE_RATE = env.read("SEARCH_THROTTLE_RATE")
FILM_MISS_THROTTLE_RATE = env.read("FILM_MISS_THROTTLE_RATE")
UNKNOWN_ID_THROTTLE_RATE = _in_sandbox("UNKNOWN_ID_THROTTLE_RATE", "")
NUM_PROXIES = env.read("NUM_PROXIES")

WINDOW_SIZE = env.read("WINDOW_SIZE")
BUCKET_SIZE = env.read("BUCKET_SIZE")
MAX_THRESHOLD = env.read("MAX_THRESHOLD")
if WINDOW_SIZE % BUCKET_SIZE or BUCKET_SIZE * 2 > WINDOW_SIZE:
    raise ImproperlyConfigured("BUCKET_SIZE must divide WINDOW_SIZE and be at most half of it")

# --- Django -----------------------------------------------------------------------------------

DEBUG = env.read("DJANGO_DEBUG")
SECRET_KEY_IS_GIVEN = bool(env.read("DJANGO_SECRET_KEY"))
SECRET_KEY = env.read("DJANGO_SECRET_KEY") or (get_random_secret_key() if SANDBOX else "")
ALLOWED_HOSTS = _in_sandbox("DJANGO_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
if not SECRET_KEY:
    raise ImproperlyConfigured("DJANGO_SECRET_KEY is missing")
if not DEBUG:
    if len(SECRET_KEY) < 50 or len(set(SECRET_KEY)) < 5 or "django-insecure" in SECRET_KEY:
        raise ImproperlyConfigured(
            "DJANGO_SECRET_KEY is too weak: at least 50 random characters are needed "
            "(or DJANGO_DEBUG=True on your own machine)"
        )
    if not ALLOWED_HOSTS:
        raise ImproperlyConfigured(
            "DJANGO_ALLOWED_HOSTS is empty: name the hosts under which clients reach the service"
        )
    if not all(
        re.fullmatch(r"\.?[a-zA-Z0-9.-]+|\[[0-9a-fA-F:.]+\]", host) for host in ALLOWED_HOSTS
    ):
        raise ImproperlyConfigured(
            "DJANGO_ALLOWED_HOSTS must list names such as films.example, without scheme, port and *"
        )

# IPv6 addresses may have the brackets that they have in URLs.
HOST = env.read("HOST").removeprefix("[").removesuffix("]")
if SANDBOX and HOST not in {"127.0.0.1", "localhost", "::1"}:
    raise ImproperlyConfigured(
        "HOST must be loopback while the film sources are the sandbox: "
        "set IMDBAPI_BASE and the others to serve real films"
    )
WORKERS = env.read("WORKERS")
BLOCKING_THREADS = env.read("BLOCKING_THREADS")
KEEP_ALIVE_SECONDS = env.read("KEEP_ALIVE_SECONDS")
DRAIN_SECONDS = env.read("DRAIN_SECONDS")
# Of the other threads, one is for Cinemix, and one stays free for hits, which wait for nothing.
COLD_CONCURRENCY = env.read(
    "COLD_CONCURRENCY", str(min(BLOCKING_THREADS * 3 // 4, BLOCKING_THREADS - 2))
)
if BLOCKING_THREADS - COLD_CONCURRENCY < 2:
    raise ImproperlyConfigured("COLD_CONCURRENCY must be at least 2 less than BLOCKING_THREADS")
# The same for Cinemix, whose requests must not delay films.
MOVIE_COLD_CONCURRENCY = min(OMDB_CONCURRENCY, BLOCKING_THREADS - 1 - COLD_CONCURRENCY)

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.sites",
    "allauth",
    # Without its middleware: no account page is routed, and no request has a session.
    "filmosphere.accounts.AccountsConfig",
    "allauth.socialaccount",
    "corsheaders",
    "rest_framework",
    "drf_spectacular",
    "core",
    "films",
    "cinemix",
    # Its management commands.
    "filmosphere",
]

MIDDLEWARE = [
    "web.request_context.RequestContextMiddleware",
    "web.cors.CrossOriginMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

# Unexpected exceptions reach the first middleware, which answers with JSON: Django's own page is
# HTML.
DEBUG_PROPAGATE_EXCEPTIONS = True

ROOT_URLCONF = "filmosphere.urls"
WSGI_APPLICATION = "filmosphere.wsgi.application"
ASGI_APPLICATION = "filmosphere.asgi.application"
# Both forms of each path are routed; a redirect would cost a client a round trip.
APPEND_SLASH = False

# The page of /api/docs.
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "web" / "templates"],
        "APP_DIRS": True,
    }
]

SITE_ID = 1
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

# --- Database and cache -----------------------------------------------------------------------

DATABASE_IS_GIVEN = env.given("DATABASE_URL")
DATABASES: dict[str, dict[str, Any]] = {
    "default": env.read("DATABASE_URL", f"sqlite:///{PROJECT_DIR / 'var' / 'filmosphere.sqlite3'}")
}
_database = DATABASES["default"]
_replica = env.read("DATABASE_REPLICA_URL")
if _replica:
    if not str(_database["ENGINE"]).endswith("postgresql"):
        raise ImproperlyConfigured("DATABASE_REPLICA_URL needs a PostgreSQL in DATABASE_URL")
    DATABASES[replica.ALIAS] = _replica
for _each in DATABASES.values():
    _each.setdefault("CONN_MAX_AGE", 60)
    _each["CONN_HEALTH_CHECKS"] = True
QUERY_TIMEOUT_MS = env.read("QUERY_TIMEOUT_MS")
DB_CONNECTIONS = env.read("DB_CONNECTIONS")
# What processes that answer requests add to each of DATABASES; management commands have connections
# without limits.
SERVING_DATABASES: dict[str, dict[str, Any]] = {}
if str(_database["ENGINE"]).endswith("sqlite3"):
    # Readers do not wait for the writer, and a writer that has to wait does so instead of failing.
    _database["OPTIONS"] = {
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
        "transaction_mode": "IMMEDIATE",
        "timeout": 5,
    }
    _folder = PROJECT_DIR / "var"
    with suppress(OSError):
        _folder.mkdir(exist_ok=True)
    if not DATABASE_IS_GIVEN and not os.access(_folder, os.W_OK):
        raise ImproperlyConfigured(
            "DATABASE_URL is missing, and the folder 'var', where films would be kept, cannot be "
            "written"
        )
else:
    for _each in DATABASES.values():
        _each["ENGINE"] = "core.postgresql"
        # A cursor that outlives its statement is lost behind a pooler.
        _each["DISABLE_SERVER_SIDE_CURSORS"] = True
        # Parameters of the address such as sslmode=require take precedence.
        _each["OPTIONS"] = {
            "connect_timeout": 2,
            # A server that disappeared without closing its connections, as in a failover, is given
            # up after 3 s.
            "tcp_user_timeout": 3000,
            "application_name": "filmosphere",
        } | _each.get("OPTIONS", {})
    _pool = {"size": DB_CONNECTIONS, "limit": None, "patience": 1.0}
    _session: dict[str, object] = {}
    if QUERY_TIMEOUT_MS:
        _pool |= {
            # The limit of the server comes first: it does not cost the connection.
            "limit": QUERY_TIMEOUT_MS / 1000 + 0.5,
            "patience": QUERY_TIMEOUT_MS / 1000,
        }
        _session = {
            "statement_timeout": QUERY_TIMEOUT_MS,
            "lock_timeout": QUERY_TIMEOUT_MS,
            # Ends the transaction of a process that was paused in the middle of it.
            "idle_in_transaction_session_timeout": 5 * QUERY_TIMEOUT_MS,
            # Films that were stored just before a crash of the database are fetched again.
            "synchronous_commit": "off",
        }
    SERVING_DATABASES["default"] = {"POOL": _pool, "SESSION": _session}
    if _replica:
        # A request that the replica fails still has to ask the primary.
        _pool_of_replica = _pool | {"limit": 1.0, "patience": 0.5}
        SERVING_DATABASES[replica.ALIAS] = {"POOL": _pool_of_replica, "SESSION": _session}

DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = env.read("REDIS_URL")
# If given, they override those of the URL.
REDIS_PASSWORD = env.read("REDIS_PASSWORD")
REDIS_DB = env.read("REDIS_DB", "")
if REDIS_URL:
    _cache: dict[str, object] = {
        "BACKEND": "core.redis.ResilientRedisCache",
        "LOCATION": REDIS_URL,
        "OPTIONS": {"PASSWORD": REDIS_PASSWORD, "DB": REDIS_DB, "MAX_ENTRIES": 10_000},
    }
else:
    _cache = {
        "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
        # With the default of 300 entries, callers past the 300th would remove limits of others.
        "OPTIONS": {"MAX_ENTRIES": 10_000},
    }
CACHES: dict[str, dict[str, object]] = {
    "default": _cache,
    # The movies of Cinemix.
    "movies": {
        "LOCATION": "movies",
        **_cache,
        "KEY_PREFIX": "movie_",
        "KEY_FUNCTION": "core.optional_redis.prefixed_key",
        "TIMEOUT": env.read("CACHE_TTL"),
    },
}

# --- REST framework ---------------------------------------------------------------------------

REST_FRAMEWORK = {
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.AllowAny"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "web.negotiation.JSONAlways",
    "DEFAULT_METADATA_CLASS": None,
    "DEFAULT_SCHEMA_CLASS": "web.openapi.ServiceSchema",
    "EXCEPTION_HANDLER": "web.exception_handler.error_response",
    "NUM_PROXIES": NUM_PROXIES,
    # By the scope of each throttle; None means no limit.
    "DEFAULT_THROTTLE_RATES": {
        "search": SEARCH_THROTTLE_RATE,
        "miss": FILM_MISS_THROTTLE_RATE,
        "unknown": UNKNOWN_ID_THROTTLE_RATE,
    },
    "UNAUTHENTICATED_USER": None,
    # `?format=` is an unknown parameter like any other.
    "URL_FORMAT_OVERRIDE": None,
}

SPECTACULAR_SETTINGS = {
    "TITLE": "Filmosphere API",
    # Not in `externalDocs`: that requires an absolute address, which the service does not know.
    "DESCRIPTION": (
        "One request gives everything that a client needs to show a film. "
        "The [API guide](/api/guide) has examples, and explains warnings, caching and limits."
    ),
    "VERSION": "1.0.0",
    "CONTACT": {"name": "The maintainers of Filmosphere"},
    "LICENSE": {"name": "MIT", "url": "https://opensource.org/license/mit"},
    "OAS_VERSION": "3.1.0",
    "SERVERS": [{"url": "/", "description": "The server that this document comes from."}],
    "TAGS": [
        {"name": "Films", "description": "Films merged from IMDb, KinoCheck and Watchmode."},
        {"name": "Cinemix", "description": "Movies from OMDb; few requests a minute are granted."},
        {"name": "Service", "description": "For those who run it."},
    ],
    "DEFAULT_GENERATOR_CLASS": "api.openapi.DocumentGenerator",
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "web.openapi.share_headers",
        "web.openapi.without_titles",
        "web.openapi.open_to_all",
    ],
    # Films, Cinemix, the service; within each the order of the URL patterns.
    "SORT_OPERATIONS": lambda operation: (
        not operation[0].startswith("/api/"),
        operation[0].startswith("/api/v1/"),
    ),
    # Path parameters come first, then query parameters, then headers.
    "SORT_OPERATION_PARAMETERS": lambda parameter: (
        ("path", "query", "header").index(parameter["in"]),
        parameter["name"],
    ),
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {
        "deepLinking": True,
        "filter": True,
        "tryItOutEnabled": True,
        # The list of schemas is there, but collapsed.
        "defaultModelsExpandDepth": 0,
        # Without the null it would show this document to a validator on the internet.
        "validatorUrl": None,
    },
}

# --- The files of /api/docs --------------------------------------------------------------------

STATIC_URL = "/static/"
# Served from the package that contains them, so nothing has to be collected.
STATICFILES_DIRS = [
    (
        "drf_spectacular_sidecar/swagger-ui-dist",
        Path(drf_spectacular_sidecar.__file__).parent
        / "static/drf_spectacular_sidecar/swagger-ui-dist",
    )
]
STATICFILES_FINDERS = ["django.contrib.staticfiles.finders.FileSystemFinder"]
WHITENOISE_USE_FINDERS = True
# In debug too: the files do not change while the process runs.
WHITENOISE_AUTOREFRESH = False

# --- Safety -----------------------------------------------------------------------------------

SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = not DEBUG
X_FRAME_OPTIONS = "DENY"
SILENCED_SYSTEM_CHECKS = [
    # No request is authenticated by a cookie, so there is nothing that CSRF could abuse.
    "security.W003",
    # TLS, the redirect to it and HSTS belong to the proxy that holds the certificate.
    "security.W004",
    "security.W008",
]

# --- Browsers on other origins ----------------------------------------------------------------

CORS_ALLOWED_ORIGINS = env.read("CORS_ALLOWED_ORIGINS")
# In the sandbox, pages on localhost may call the service.
CORS_ALLOWED_ORIGIN_REGEXES = (
    [r"http://(localhost|127\.0\.0\.1)(:[0-9]{1,5})?\Z"] if SANDBOX else []
)
CORS_ALLOW_METHODS = ("GET", "HEAD", "OPTIONS")
CORS_ALLOW_HEADERS = (
    "accept",
    "content-type",
    "if-none-match",
    "prefer",
    "traceparent",
    "x-correlation-id",
)
# A page can read no other response headers, apart from a few that are always readable.
CORS_EXPOSE_HEADERS = (
    "Cache-Status",
    "Deprecation",
    "ETag",
    "Last-Modified",
    "Preference-Applied",
    "Retry-After",
    "Sunset",
    "X-Correlation-ID",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
)

# --- Time and language ------------------------------------------------------------------------

LANGUAGE_CODE = "en-us"
USE_I18N = False
TIME_ZONE = "UTC"
USE_TZ = True

APP_REVISION = env.read("APP_REVISION")

# --- Traces -----------------------------------------------------------------------------------

OTEL_EXPORTER_OTLP_ENDPOINT = env.read("OTEL_EXPORTER_OTLP_ENDPOINT")
if OTEL_EXPORTER_OTLP_ENDPOINT and not is_installed("opentelemetry.exporter.otlp.proto.http"):
    raise ImproperlyConfigured(
        "OTEL_EXPORTER_OTLP_ENDPOINT is set but OpenTelemetry is not installed: "
        "pip install -r requirements/otel.txt"
    )

# --- Logs -------------------------------------------------------------------------------------

LOG_LEVEL = env.read("LOG_LEVEL")
# Readable lines on a terminal.
_readable = "console" if sys.stderr.isatty() else "json"
LOG_FORMAT = env.read("LOG_FORMAT", _readable)
# OpenTelemetry is imported only if traces are exported.
_trace_filter = {"trace": {"()": "core.spans.TraceFilter"}} if OTEL_EXPORTER_OTLP_ENDPOINT else {}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"context": {"()": "core.utils.logging.ContextFilter"}} | _trace_filter,
    "formatters": {
        "json": {"()": "core.utils.logging.JSONFormatter"},
        "console": {"()": "core.utils.logging.ConsoleFormatter"},
    },
    "handlers": {
        "stderr": {
            "class": "core.utils.logging.NonBlockingHandler",
            "formatter": LOG_FORMAT,
            "filters": ["context", *_trace_filter],
        },
    },
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        "django": {"handlers": [], "level": LOG_LEVEL, "propagate": True},
        # They print whole URLs, keys included.
        "httpx": {"level": "WARNING"},
        "httpcore": {"level": "WARNING"},
        # At DEBUG it prints each statement with its parameters, films included.
        "django.db.backends": {"level": "INFO"},
        # It logs a traceback for each unknown host; the access log has a line for each request.
        "django.security.DisallowedHost": {"handlers": [], "level": "CRITICAL", "propagate": False},
        # The access log has these too.
        "django.request": {"level": "CRITICAL"},
        "django.server": {"handlers": [], "level": LOG_LEVEL, "propagate": True},
    },
}
