"""Settings of the service, read from the environment and `.env`.

`.env.example` explains each one. The only place where a default is written.
"""

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import drf_spectacular_sidecar
from django.core.exceptions import ImproperlyConfigured
from django.core.management.utils import get_random_secret_key

from filmosphere.environment import Environment

BASE_DIR = Path(__file__).resolve().parent.parent
PROJECT_DIR = BASE_DIR.parent

env = Environment.load(Path(os.environ.get("ENV_FILE", PROJECT_DIR / ".env")))

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

# Nothing said about any source: all of them are the sandbox. One word about one of them and all
# are real, so that a service is never part fact and part fiction.
SANDBOX = not any(env.given(name) for name in UPSTREAM_SETTINGS)
PORT = env.integer("PORT", 8000, minimum=1, maximum=65_535)
SANDBOX_PORT = env.integer("SANDBOX_PORT", PORT % 65_535 + 1, minimum=1, maximum=65_535)
_sandbox_url = f"http://127.0.0.1:{SANDBOX_PORT}"


def _source(real: str, sandbox: str) -> str:
    return f"{_sandbox_url}{sandbox}" if SANDBOX else real


IMDBAPI_BASE = env.base_url("IMDBAPI_BASE", _source("https://api.imdbapi.dev", "/imdbapi"))
KINO_BASE = env.base_url("KINO_BASE", _source("https://api.kinocheck.de", "/kinocheck"))
KINO_API_KEY = env.key("KINO_API_KEY", "sandbox-kinocheck-key" if SANDBOX else "")
KINO_LANGUAGE = env.choice("KINO_LANGUAGE", "en", ("en", "de"))
WATCHMODE_BASE = env.base_url(
    "WATCHMODE_BASE", _source("https://api.watchmode.com/v1", "/watchmode/v1")
)
WATCHMODE_API_KEY = env.key("WATCHMODE_API_KEY", "sandbox-watchmode-key" if SANDBOX else "")
OMDB_BASE_URL = env.base_url("OMDB_BASE_URL", _source("https://www.omdbapi.com/", "/omdb/"))
OMDB_API_KEY = env.key("OMDB_API_KEY", "5a4db0c5" if SANDBOX else "")
OMDB_DAILY_LIMIT = env.integer("OMDB_DAILY_LIMIT", 1000, minimum=1)
WATCHMODE_REGION = env.pattern("WATCHMODE_REGION", "TR", "[A-Z]{2}", "two capital letters")

HTTP_TIMEOUT = env.seconds("HTTP_TIMEOUT", 10, maximum=600)
HTTP_RETRIES = env.integer("HTTP_RETRIES", 3, minimum=1, maximum=10)
FETCH_DEADLINE = env.seconds("FETCH_DEADLINE", 15, maximum=600)
# IMDbAPI.dev refuses bursts; its stand-in, as started, does not.
IMDBAPI_RATE = env.calls_in_seconds("IMDBAPI_RATE", "" if SANDBOX else "8/5")
KINO_DAILY_LIMIT = env.integer("KINO_DAILY_LIMIT", 1000)
IMDBAPI_CONCURRENCY = env.integer("IMDBAPI_CONCURRENCY", 3, minimum=1, maximum=256)
KINO_CONCURRENCY = env.integer("KINO_CONCURRENCY", 8, minimum=1, maximum=256)
WATCHMODE_CONCURRENCY = env.integer("WATCHMODE_CONCURRENCY", 8, minimum=1, maximum=256)
OMDB_CONCURRENCY = env.integer("OMDB_CONCURRENCY", 8, minimum=1, maximum=256)

# --- What is kept, and for how long -----------------------------------------------------------

CACHE_TTL = timedelta(hours=env.seconds("CACHE_TTL_HOURS", 24, maximum=24 * 365))
HOT_SECONDS = env.seconds_or_none("HOT_SECONDS", 1, maximum=10)
PARTIAL_RETRY = timedelta(seconds=env.seconds("PARTIAL_RETRY_SECONDS", 300))
# Of the movies that Cinemix keeps.
MOVIE_CACHE_TTL = timedelta(seconds=env.integer("CACHE_TTL", 3600, minimum=1))

# --- Limits for callers -----------------------------------------------------------------------

SEARCH_THROTTLE_RATE = env.rate("SEARCH_THROTTLE_RATE", "60/min")
FILM_MISS_THROTTLE_RATE = env.rate("FILM_MISS_THROTTLE_RATE", "60/min")
NUM_PROXIES = env.integer("NUM_PROXIES", 0, maximum=16)

WINDOW_SIZE = env.integer("WINDOW_SIZE", 60, minimum=1)
BUCKET_SIZE = env.integer("BUCKET_SIZE", 10, minimum=1)
MAX_THRESHOLD = env.integer("MAX_THRESHOLD", 10, minimum=1)
if WINDOW_SIZE % BUCKET_SIZE or BUCKET_SIZE * 2 > WINDOW_SIZE:
    raise ImproperlyConfigured("BUCKET_SIZE must divide WINDOW_SIZE and be at most half of it")

# --- Django -----------------------------------------------------------------------------------

DEBUG = env.boolean("DJANGO_DEBUG", default=False)
SECRET_KEY = env.text("DJANGO_SECRET_KEY") or (get_random_secret_key() if SANDBOX else "")
ALLOWED_HOSTS = env.items("DJANGO_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]" if SANDBOX else "")
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

HOST = env.text("HOST", "127.0.0.1")
if SANDBOX and HOST not in {"127.0.0.1", "localhost", "::1"}:
    raise ImproperlyConfigured(
        "HOST must be loopback while the film sources are the sandbox: "
        "set IMDBAPI_BASE and the others to serve real films"
    )
WORKERS = env.integer("WORKERS", 1, minimum=1, maximum=64)
BLOCKING_THREADS = env.integer("BLOCKING_THREADS", 32, minimum=2, maximum=512)
# Below the number of threads, so that films in the cache never wait for films that are not.
DRAIN_SECONDS = env.seconds_or_none("DRAIN_SECONDS", 2, maximum=60)
COLD_CONCURRENCY = env.integer(
    "COLD_CONCURRENCY", max(1, BLOCKING_THREADS * 3 // 4), minimum=1, maximum=BLOCKING_THREADS - 1
)

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.sites",
    "allauth",
    "allauth.account",
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
    "core.middleware.RequestContextMiddleware",
    "core.cors.CrossOriginMiddleware",
    # A hit goes no further: what follows is about pages, forms and accounts.
    "filmosphere.wiring.cached_film_middleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
]

# What a middleware did not foresee comes out at the first one, which answers for it in JSON:
# Django's own page for it is HTML.
DEBUG_PROPAGATE_EXCEPTIONS = True

ROOT_URLCONF = "filmosphere.urls"
WSGI_APPLICATION = "filmosphere.wsgi.application"
ASGI_APPLICATION = "filmosphere.asgi.application"
# Both forms of each path are routed; a redirect would cost a client a round trip.
APPEND_SLASH = False

# allauth's models and checks want an engine; no template of ours exists.
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
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

DATABASES: dict[str, dict[str, Any]] = {
    "default": env.database(
        "DATABASE_URL", f"sqlite:///{PROJECT_DIR / 'var' / 'filmosphere.sqlite3'}"
    )
}
_database = DATABASES["default"]
_database["CONN_MAX_AGE"] = 60
_database["CONN_HEALTH_CHECKS"] = True
QUERY_TIMEOUT_MS = env.integer("QUERY_TIMEOUT_MS", 1000, maximum=60_000)
# What the processes that answer requests add to these; management commands take their time.
SERVING_DATABASE_OPTIONS: dict[str, str] = {}
if str(_database["ENGINE"]).endswith("sqlite3"):
    # Readers do not wait for the writer, and a writer that has to wait does so instead of failing.
    _database["OPTIONS"] = {
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
        "transaction_mode": "IMMEDIATE",
        "timeout": 5,
    }
    (PROJECT_DIR / "var").mkdir(exist_ok=True)
else:
    _given = _database.get("OPTIONS")
    _given = _given if isinstance(_given, dict) else {}
    # What DATABASE_URL says after its question mark, such as sslmode=require, holds.
    _database["OPTIONS"] = {
        "connect_timeout": 2,
        # A server that vanished without a word, as in a failover, is given up after 3 s.
        "tcp_user_timeout": 3000,
        "application_name": "filmosphere",
    } | _given
    if QUERY_TIMEOUT_MS and "options" not in _given:
        # The last one frees what a process holds that was paused in the middle of a transaction.
        SERVING_DATABASE_OPTIONS["options"] = (
            f"-c statement_timeout={QUERY_TIMEOUT_MS} -c lock_timeout={QUERY_TIMEOUT_MS} "
            f"-c idle_in_transaction_session_timeout={5 * QUERY_TIMEOUT_MS} "
            # What a crash of the database loses with it, the last films stored, is fetched again.
            "-c synchronous_commit=off "
            # Django would ask for it in a query of its own on each new connection.
            "-c TimeZone=UTC"
        )

DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = env.redis_url("REDIS_URL")
# Where they are given they win over what the URL says.
REDIS_PASSWORD = env.text("REDIS_PASSWORD") or None
REDIS_DB = env.integer("REDIS_DB", 0) if env.text("REDIS_DB") else None
if REDIS_URL:
    CACHES: dict[str, dict[str, object]] = {
        "default": {"BACKEND": "core.cache.ForgivingRedisCache", "LOCATION": REDIS_URL}
    }
else:
    CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
            # By default it forgets a third of what it counts for callers past the 300th.
            "OPTIONS": {"MAX_ENTRIES": 10_000},
        }
    }

# --- REST framework ---------------------------------------------------------------------------

REST_FRAMEWORK = {
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.AllowAny"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "core.negotiation.JSONAlways",
    "DEFAULT_METADATA_CLASS": None,
    "DEFAULT_SCHEMA_CLASS": "core.openapi.ServiceSchema",
    "EXCEPTION_HANDLER": "core.exception_handler.error_response",
    "NUM_PROXIES": NUM_PROXIES,
    "UNAUTHENTICATED_USER": None,
    # `?format=` is an unknown parameter like any other.
    "URL_FORMAT_OVERRIDE": None,
}

SPECTACULAR_SETTINGS = {
    "TITLE": "Filmosphere API",
    "DESCRIPTION": "One request gives everything that a client needs to show a film.",
    "VERSION": "1.0.0",
    "OAS_VERSION": "3.0.3",
    "SERVERS": [{"url": "/", "description": "The server that this document comes from."}],
    "TAGS": [
        {"name": "Films", "description": "Films merged from IMDb, KinoCheck and Watchmode."},
        {"name": "Cinemix", "description": "Movies from OMDb; few requests a minute are granted."},
        {"name": "Service", "description": "For those who run it."},
    ],
    "ENUM_NAME_OVERRIDES": {"WarningCode": "films.serializers.WARNING_CODES"},
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "core.openapi.share_headers",
        "core.openapi.null_as_alternative",
    ],
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    # Without the null it would show this document to a validator on the internet.
    "SWAGGER_UI_SETTINGS": {"deepLinking": True, "tryItOutEnabled": True, "validatorUrl": None},
}

# --- The files of /api/docs --------------------------------------------------------------------

STATIC_URL = "/static/"
# Straight from the package that brings them, and nothing else: there is nothing to collect.
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
# TLS, the redirect to it and HSTS belong to the proxy that holds the certificate.
SILENCED_SYSTEM_CHECKS = ["security.W004", "security.W008"]

# --- Browsers on other origins ----------------------------------------------------------------

CORS_ALLOWED_ORIGINS = env.origins("CORS_ALLOWED_ORIGINS")
CORS_ALLOW_METHODS = ("GET", "HEAD", "OPTIONS")
CORS_ALLOW_HEADERS = ("accept", "content-type", "if-none-match", "x-correlation-id")
# Without this list a page can read none of them.
CORS_EXPOSE_HEADERS = (
    "Age",
    "Cache-Status",
    "ETag",
    "Retry-After",
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

# --- Logs -------------------------------------------------------------------------------------

LOG_LEVEL = env.choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR"))
# Readable lines where a person looks on.
_readable = "console" if sys.stderr.isatty() else "json"
LOG_FORMAT = env.choice("LOG_FORMAT", _readable, ("json", "console"))
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"context": {"()": "core.utils.logging.ContextFilter"}},
    "formatters": {
        "json": {"()": "core.utils.logging.JSONFormatter"},
        "console": {"()": "core.utils.logging.ConsoleFormatter"},
    },
    "handlers": {
        "stderr": {
            "class": "core.utils.logging.SheddingHandler",
            "formatter": LOG_FORMAT,
            "filters": ["context"],
        },
    },
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        "django": {"handlers": [], "level": LOG_LEVEL, "propagate": True},
        # They print whole URLs, keys included.
        "httpx": {"level": "WARNING"},
        "httpcore": {"level": "WARNING"},
        # One traceback for each stray Host header; the access log has the line that matters.
        "django.security.DisallowedHost": {"handlers": [], "level": "CRITICAL", "propagate": False},
        # The access log has these too.
        "django.request": {"level": "CRITICAL"},
        "django.server": {"handlers": [], "level": LOG_LEVEL, "propagate": True},
    },
}
