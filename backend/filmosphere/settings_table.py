"""Every setting of the service: the source of `.env.example` and of `docs/settings.md`.

Defaults are written here, except for those that depend on other settings: they are in `settings`.
`make settings` writes the two documents.
"""

from filmosphere.environment import (
    Setting,
    base_url,
    boolean,
    calls_in_seconds,
    choice,
    choices,
    database,
    hours,
    integer,
    items,
    key,
    matching,
    number,
    optional,
    origins,
    postgres,
    redis_url,
    regions,
    section_hours,
)
from films.payload import SECTION_NAMES

_RATE = optional(
    matching(
        r"[1-9][0-9]*/(s|sec|second|m|min|minute|h|hour|d|day)",
        "a number per unit of time such as 60/min, or empty for no limit",
    )
)
_CONCURRENCY = integer(1, 256)
_PORT = integer(1, 65_535)

GROUPS: dict[str, tuple[Setting, ...]] = {
    "Django and the database": (
        Setting(
            "DJANGO_SECRET_KEY",
            str.strip,
            "",
            "At least 50 random characters, unless in debug.",
            example="replace_with_secure_key",
            default_in_words="made for each run with the sandbox, else required",
        ),
        Setting(
            "DJANGO_DEBUG",
            boolean,
            "False",
            "`True` only on your own machine.",
            example="True",
        ),
        Setting(
            "DJANGO_ALLOWED_HOSTS",
            items,
            "",
            "Hosts under which clients reach the service, comma-separated, without scheme and port;"
            " `.films.example` includes subdomains.",
            default_in_words="localhost with the sandbox, else required unless in debug",
        ),
        Setting(
            "DATABASE_URL",
            database,
            "",
            "PostgreSQL as `postgres://user:password@host:5432/name`, or SQLite as `sqlite:///path`."
            " Parameters of libpq and `conn_max_age` may follow after a question mark. Commas"
            " separate several hosts, as in"
            " `postgres://user@db1:5432,db2:5432/name?target_session_attrs=read-write`.",
            example="postgres://filmouser:filmopass@postgres:5432/filmosphere",
            default_in_words="SQLite in `var/` with the sandbox or in debug, else required",
        ),
        Setting(
            "DATABASE_REPLICA_URL",
            optional(postgres),
            "",
            "A streaming replica of the PostgreSQL of `DATABASE_URL`, from which stored films are"
            " read while it is at most `HOT_SECONDS` + 5 seconds behind, or the primary fails.",
        ),
        Setting(
            "DB_CONNECTIONS",
            integer(1, 512),
            "8",
            "Connections of each server process to PostgreSQL, and as many to the replica. A"
            " request waits up to `QUERY_TIMEOUT_MS` for a free one.",
        ),
        Setting(
            "QUERY_TIMEOUT_MS",
            integer(0, 60_000),
            "1000",
            "Milliseconds after which a query of a request, or its wait for a lock, is ended;"
            " `0` for never. Management commands have no limit.",
        ),
    ),
    "Film sources": (
        Setting(
            "IMDBAPI_BASE",
            base_url,
            "https://api.imdbapi.dev",
            "Address of IMDbAPI.dev. `api.imdbapi.dev` stopped resolving in mid-2026;"
            " `https://api.tiffara.com` serves the same contract.",
            example="https://api.imdbapi.dev",
        ),
        Setting(
            "KINO_BASE",
            base_url,
            "https://api.kinocheck.de",
            "Address of KinoCheck.",
            example="https://api.kinocheck.de",
        ),
        Setting(
            "KINO_API_KEY",
            key,
            "",
            "Your key for KinoCheck, which answers without one too.",
            example="your_key_here",
        ),
        Setting(
            "WATCHMODE_BASE",
            base_url,
            "https://api.watchmode.com/v1",
            "Address of Watchmode.",
            example="https://api.watchmode.com/v1",
        ),
        Setting(
            "WATCHMODE_API_KEY",
            key,
            "",
            "Your key for Watchmode; without one there are no streaming offers.",
            example="your_watchmode_key",
        ),
        Setting(
            "OMDB_BASE_URL",
            base_url,
            "https://www.omdbapi.com/",
            "Address of OMDb, the source of `/api/v1`.",
        ),
        Setting("OMDB_API_KEY", key, "", "Your key for OMDb; without one `/api/v1` answers 503."),
        Setting(
            "OMDB_DAILY_LIMIT",
            integer(1),
            "1000",
            "Calls that your OMDb key allows in a UTC day.",
        ),
        Setting(
            "KINO_DAILY_LIMIT",
            integer(),
            "1000",
            "Calls that KinoCheck allows in a day; `0` if your key has no limit.",
        ),
        Setting(
            "KINO_LANGUAGE",
            choice("en", "de"),
            "en",
            "Language of trailers: `en` or `de`, the only ones of KinoCheck.",
        ),
        Setting(
            "KINO_LANGUAGES",
            choices("en", "de"),
            "en",
            "Languages of trailers in the order in which they are tried.",
            default_in_words="`KINO_LANGUAGE`",
        ),
        Setting(
            "WATCHMODE_REGION",
            matching("[A-Z]{2}", "two capital letters"),
            "TR",
            "Region whose streaming offers are shown, as an ISO 3166-1 alpha-2 code.",
        ),
        Setting(
            "WATCHMODE_REGIONS",
            regions,
            "TR",
            "Regions whose offers are fetched together and shown with `view=grouped`;"
            " `WATCHMODE_REGION` is always one of them.",
            default_in_words="`WATCHMODE_REGION`",
        ),
        Setting(
            "IMDBAPI_RATE",
            optional(calls_in_seconds),
            "8/5",
            "Calls in seconds to IMDbAPI.dev by all processes together; empty for no limit.",
            default_in_words="`8/5`, no limit with the sandbox",
        ),
        Setting(
            "IMDBAPI_CONCURRENCY",
            _CONCURRENCY,
            "3",
            "Calls of a server process to IMDbAPI.dev at the same time; it refuses bursts.",
        ),
        Setting(
            "KINO_CONCURRENCY",
            _CONCURRENCY,
            "8",
            "Calls of a server process to KinoCheck at the same time.",
        ),
        Setting(
            "WATCHMODE_CONCURRENCY",
            _CONCURRENCY,
            "8",
            "Calls of a server process to Watchmode at the same time.",
        ),
        Setting(
            "OMDB_CONCURRENCY",
            _CONCURRENCY,
            "8",
            "Calls of a server process to OMDb at the same time.",
        ),
        Setting(
            "HTTP_TIMEOUT",
            number(0.001, 600),
            "10",
            "Seconds that one attempt to call a source may take.",
            example="10",
        ),
        Setting(
            "HTTP_RETRIES",
            integer(1, 10),
            "3",
            "Attempts to call a source, the first one included.",
            example="3",
        ),
        Setting(
            "FETCH_DEADLINE",
            number(0.001, 600),
            "15",
            "Seconds that a request for a film that is not stored may take, all attempts included.",
        ),
        Setting(
            "QUEUE_PATIENCE",
            number(0.001, 600),
            "5",
            "Seconds for which a request waits in the queue of a rate-limited source; what is"
            " missing then is fetched in the background.",
        ),
    ),
    "What is kept, and for how long": (
        Setting(
            "CACHE_TTL_HOURS",
            hours,
            "24",
            "Hours for which a stored film is answered without calls to the sources.",
            example="24",
        ),
        Setting(
            "SECTION_TTL_HOURS",
            section_hours(SECTION_NAMES),
            "",
            "Hours for which single sections are kept when their film is refreshed, such as"
            " `streaming=168,images=720`.",
        ),
        Setting(
            "STREAMING_MAX_AGE_DAYS",
            integer(0, 3650),
            "30",
            "Days after which streaming offers are removed, as Watchmode's terms require; `0` for"
            " never.",
        ),
        Setting(
            "PARTIAL_RETRY_SECONDS",
            number(0.001, 86_400),
            "300",
            "Seconds after which a section that failed is first fetched again, in the background.",
        ),
        Setting(
            "HOT_SECONDS",
            number(0, 10),
            "1",
            "Seconds for which a process answers from memory before it reads the film's row again."
            " Later the copy is the answer only while the database fails. `0` keeps no film.",
        ),
        Setting(
            "CACHE_TTL",
            integer(1),
            "3600",
            "Seconds for which movies of `/api/v1` are kept, in Redis or in process memory.",
        ),
        Setting(
            "REDIS_URL",
            redis_url,
            "",
            "Redis for what processes share beside the database, such as"
            " `redis://localhost:6379/0`, or `redis+sentinel://one:26379,two:26379/name/0` for the"
            " master that sentinels know by a name; without one each process keeps its own.",
        ),
        Setting(
            "REDIS_PASSWORD",
            optional(str.strip),
            "",
            "Password for Redis; takes precedence over that of `REDIS_URL`.",
        ),
        Setting(
            "REDIS_DB",
            optional(integer()),
            "0",
            "Number of the Redis database; takes precedence over that of `REDIS_URL`.",
            default_in_words="that of `REDIS_URL`",
        ),
    ),
    "Limits for callers": (
        Setting(
            "SEARCH_THROTTLE_RATE",
            _RATE,
            "60/min",
            "Searches per client address that are not answered from the cache, as `60/min` (or `s`,"
            " `hour`, `day`); empty for no limit.",
        ),
        Setting(
            "FILM_MISS_THROTTLE_RATE",
            _RATE,
            "60/min",
            "Films per client address that are not stored; empty for no limit.",
        ),
        Setting(
            "UNKNOWN_ID_THROTTLE_RATE",
            _RATE,
            "20/min",
            "Titles per client address that are not stored and not known to exist; empty for no"
            " limit.",
            default_in_words="`20/min`, no limit with the sandbox",
        ),
        Setting(
            "COLD_CONCURRENCY",
            integer(1, 510),
            "24",
            "Requests of a server process that may fetch films at the same time; at least 2 fewer"
            " than `BLOCKING_THREADS`, so that stored films do not wait for films that are not.",
            default_in_words="3/4 of `BLOCKING_THREADS`",
        ),
        Setting(
            "MAX_THRESHOLD",
            integer(1),
            "10",
            "Requests to `/api/v1` per client address in any `WINDOW_SIZE` seconds.",
        ),
        Setting("WINDOW_SIZE", integer(1), "60", "Seconds of that window."),
        Setting(
            "BUCKET_SIZE",
            integer(1),
            "10",
            "Seconds of the buckets in which it is counted; divides the window, and is at most half"
            " of it.",
        ),
        Setting(
            "NUM_PROXIES",
            integer(0, 16),
            "0",
            "Proxies in front that append to `X-Forwarded-For`; `0` takes the address of the"
            " connection. The first one must drop header names with underscores, as nginx does:"
            " servers read `X_Forwarded_For` as the same header.",
        ),
        Setting(
            "CORS_ALLOWED_ORIGINS",
            origins,
            "",
            "Origins whose pages may call the service from a browser, such as"
            " `https://app.example`.",
        ),
    ),
    "Server": (
        Setting(
            "HOST",
            matching(r"\S+", "an address or a name to listen on; 0.0.0.0 means all addresses"),
            "127.0.0.1",
            "Address or name to listen on; the image listens on `0.0.0.0`.",
        ),
        Setting("PORT", _PORT, "8000", "Port to listen on."),
        Setting(
            "SANDBOX_PORT",
            _PORT,
            "8001",
            "Port of the sandbox, which is the source if no setting of a source is given.",
            default_in_words="`PORT` + 1",
        ),
        Setting(
            "OPS_PORT",
            optional(_PORT),
            "",
            "Port for `/healthz`, `/readyz` and `/metrics`, for any `Host` and also while all"
            " request threads are busy; `/metrics` is then 404 at `PORT`. Empty for none.",
        ),
        Setting("WORKERS", integer(1, 64), "1", "Server processes."),
        Setting("BLOCKING_THREADS", integer(3, 512), "32", "Request threads of a server process."),
        Setting(
            "KEEP_ALIVE_SECONDS",
            number(0.1, 3600),
            "30",
            "Seconds that a connection may take to send the headers of its next request before it"
            " is closed. A proxy in front must keep idle connections for a shorter time.",
        ),
        Setting(
            "DRAIN_SECONDS",
            number(0, 60),
            "2",
            "Seconds between SIGTERM, after which `/readyz` answers 503, and the stop; `0` for"
            " none.",
        ),
    ),
    "Logs and metrics": (
        Setting(
            "LOG_LEVEL",
            choice("DEBUG", "INFO", "WARNING", "ERROR"),
            "INFO",
            "`DEBUG`, `INFO`, `WARNING` or `ERROR`.",
        ),
        Setting(
            "LOG_FORMAT",
            choice("json", "console"),
            "json",
            "`json` or `console`.",
            default_in_words="`console` if standard error is a terminal, else `json`",
        ),
        Setting(
            "APP_REVISION",
            matching(r"[A-Za-z0-9._+-]{1,64}", "up to 64 of A-Z a-z 0-9 . _ + -"),
            "unknown",
            "Revision of the code that runs, for `filmosphere_build_info`.",
        ),
    ),
    "Traces": (
        Setting(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            optional(base_url),
            "",
            "Address of an OpenTelemetry collector (OTLP over HTTP) such as"
            " `http://localhost:4318`; empty for no traces. Needs `requirements/otel.txt`.",
        ),
    ),
}

SETTINGS: tuple[Setting, ...] = tuple(setting for group in GROUPS.values() for setting in group)
