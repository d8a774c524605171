"""What the service reads from its environment, and what it refuses to start with."""

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given
from hypothesis import strategies as st

from core.tests.support import CANARY
from filmosphere.environment import Environment, Setting
from filmosphere.settings_table import SETTINGS
from tools.settings_documents import env_example, settings_page

BACKEND = Path(__file__).resolve().parents[2]
SETTINGS_FILE = BACKEND / "filmosphere" / "settings.py"
EXAMPLE = BACKEND.parent / ".env.example"
GOOD = {
    "DJANGO_SECRET_KEY": "a-key-for-this-test-only-0123456789-abcdefghijklmnop",
    "DJANGO_ALLOWED_HOSTS": "films.example",
    "IMDBAPI_BASE": "https://imdb.example",
}
ACTIVE = """\
DJANGO_SECRET_KEY=replace_with_secure_key
DJANGO_DEBUG=True
DATABASE_URL=postgres://filmouser:filmopass@postgres:5432/filmosphere
IMDBAPI_BASE=https://api.imdbapi.dev
KINO_BASE=https://api.kinocheck.de
KINO_API_KEY=your_key_here
WATCHMODE_BASE=https://api.watchmode.com/v1
WATCHMODE_API_KEY=your_watchmode_key
CACHE_TTL_HOURS=24
HTTP_TIMEOUT=10
HTTP_RETRIES=3
"""
NAMES = [setting.name for setting in SETTINGS]
Load = Callable[..., dict[str, Any]]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Load:
    """Reads the settings as a process with only these variables would."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)

    def load(env_file: str = "", /, **variables: str) -> dict[str, Any]:
        (tmp_path / ".env").write_text(env_file)
        for name, value in {"ENV_FILE": str(tmp_path / ".env"), **variables}.items():
            monkeypatch.setenv(name, value)
        return runpy.run_path(str(SETTINGS_FILE))

    return load


MALFORMED = [
    *[
        (name, value)
        for name in ("IMDBAPI_BASE", "KINO_BASE", "WATCHMODE_BASE")
        for value in (
            "",
            CANARY,
            "ftp://films.example",
            "//films.example",
            "https://",
            "https://films.example:port",
            "https://films.example:0",
            "https://films.example:99999",
            "https://films.example/?apikey=x",
            "https://films.example/#x",
            "https://user:word@films.example",
            "https://films example",
            "https://f\u0131lms.example",
            "https://[::1",
        )
    ],
    *[
        (name, value)
        for name in ("KINO_API_KEY", "WATCHMODE_API_KEY")
        for value in (f"{CANARY} and more", f"{CANARY}\u00e9", f"{CANARY}\nX-Evil: 1", "a\x7fb")
    ],
    *[
        (name, value)
        for name in ("HTTP_RETRIES", "PORT", "WORKERS", "BLOCKING_THREADS", "IMDBAPI_CONCURRENCY")
        for value in ("", "0", "-1", "1.5", "ten", "1e3", "0x10", "\uff11", "9" * 30, "1 000", "+1")
    ],
    *[
        (name, value)
        for name in ("HTTP_TIMEOUT", "FETCH_DEADLINE", "CACHE_TTL_HOURS")
        for value in ("", "0", "-1", "ten", "nan", "inf", "1e3", "1,5", "9" * 9, "10s", "\u0663")
    ],
    *[("DJANGO_DEBUG", value) for value in ("", "maybe", "2", "truee", "None")],
    *[("SEARCH_THROTTLE_RATE", value) for value in ("60", "0/min", "60/", "60/week", "-1/s", "/s")],
    *[
        ("WATCHMODE_REGION", value)
        for value in ("", "tr", "TUR", "T", "T1", "TR,US", "\u00c4\u00d6")
    ],
    *[("KINO_LANGUAGE", value) for value in ("", "tr", "english")],
    *[("LOG_LEVEL", value) for value in ("", "LOUD", "10")],
    *[("LOG_FORMAT", value) for value in ("", "xml")],
    *[("NUM_PROXIES", value) for value in ("", "-1", "17", "x")],
    *[
        ("DATABASE_URL", value)
        for value in (
            "",
            CANARY,
            f"mysql://user:{CANARY}@db/name",
            f"postgres://user:{CANARY}@db:port/name",
            f"postgres://user:{CANARY}@db:5432",
            f"postgres://user:{CANARY}@db:5432/",
            f"postgres://user:{CANARY}@[::1/name",
            f"://user:{CANARY}@db/name",
            f"sqlite://{CANARY}/films.sqlite3",
            f"postgres://user:{CANARY}@one:5432,two:5433,three/name",
            "postgres",
            "https://films.example/",
        )
    ],
    *[
        ("REDIS_URL", value)
        for value in (
            CANARY,
            f"http://:{CANARY}@redis:6379/0",
            f"redis://:{CANARY}@redis:port/0",
            f"redis://:{CANARY}@redis:0/0",
            f"redis://:{CANARY}@redis:6379/name",
            f"redis://:{CANARY}@:6379/0",
            "unix://",
            f"redis+sentinel://:{CANARY}@redis:26379",
        )
    ],
    *[
        ("DATABASE_REPLICA_URL", value)
        for value in (
            CANARY,
            f"mysql://user:{CANARY}@db/name",
            f"postgres://user:{CANARY}@db:port/name",
            f"postgres://user:{CANARY}@db:5432",
            f"sqlite:///{CANARY}/films.sqlite3",
            # Neither does SQLite, the database without DATABASE_URL, have replicas.
            f"postgres://user:{CANARY}@db:5432/name",
        )
    ],
]


@pytest.mark.parametrize(("name", "value"), MALFORMED)
def test_a_malformed_value_is_refused_by_the_name_of_its_setting(
    load: Load, name: str, value: str
) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        load(**GOOD | {name: value})

    message = str(caught.value)
    assert message.startswith(f"{name} ")
    assert "\n" not in message
    assert CANARY not in message


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
@given(text=st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])))
def test_no_text_makes_a_setting_fail_in_another_way(setting: Setting, text: str) -> None:
    for value in (text, f"postgres://{text}", f"https://{text}"):
        try:
            Environment({setting.name: value}, SETTINGS).read(setting.name)
        except ImproperlyConfigured as exc:
            # Some texts are accepted, so `pytest.raises` would fail.
            assert str(exc).startswith(f"{setting.name} ")  # noqa: PT017


@pytest.mark.parametrize(
    "key", ["", "short", "replace_with_secure_key", "x" * 60, "django-insecure-" + "0123456789" * 5]
)
def test_a_missing_or_weak_key_is_refused_outside_debug(load: Load, key: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"^DJANGO_SECRET_KEY ") as caught:
        load(**GOOD | {"DJANGO_SECRET_KEY": key})

    assert not key or key not in str(caught.value)


def test_a_weak_key_will_do_in_debug(load: Load) -> None:
    loaded = load(**GOOD | {"DJANGO_SECRET_KEY": "weak", "DJANGO_DEBUG": "True"})

    assert loaded["DEBUG"] is True


def test_a_missing_key_will_not_do_in_debug_either(load: Load) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"^DJANGO_SECRET_KEY is missing"):
        load(IMDBAPI_BASE="https://imdb.example", DJANGO_DEBUG="True")


@pytest.mark.parametrize(
    "host",
    [
        "*",
        "*.films.example",
        "https://films.example",
        "films.example:8000",
        "[::1]:8000",
        "films.example/",
        "films example",
        "user@films.example",
    ],
)
def test_a_host_that_is_no_host_name_is_refused_outside_debug(load: Load, host: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"^DJANGO_ALLOWED_HOSTS must list names"):
        load(**GOOD | {"DJANGO_ALLOWED_HOSTS": f"films.example,{host}"})


@pytest.mark.parametrize("host", ["films.example", ".films.example", "10.1.2.3", "[::1]", "web"])
def test_names_and_addresses_are_hosts(load: Load, host: str) -> None:
    assert load(**GOOD | {"DJANGO_ALLOWED_HOSTS": host})["ALLOWED_HOSTS"] == [host]


def test_any_host_will_do_in_debug(load: Load) -> None:
    assert load(**GOOD | {"DJANGO_ALLOWED_HOSTS": "*", "DJANGO_DEBUG": "True"})["ALLOWED_HOSTS"]


@pytest.mark.parametrize("hosts", ["", " ", ",", " , "])
def test_empty_hosts_are_refused_outside_debug(load: Load, hosts: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"^DJANGO_ALLOWED_HOSTS is empty"):
        load(**GOOD | {"DJANGO_ALLOWED_HOSTS": hosts})


def test_debug_is_off_unless_asked_for(load: Load) -> None:
    assert load(**GOOD)["DEBUG"] is False


def test_values_are_read(load: Load) -> None:
    loaded = load(
        **GOOD,
        IMDBAPI_CONCURRENCY="5",
        CACHE_TTL_HOURS="0.5",
        HTTP_TIMEOUT=" 2.5 ",
        KINO_BASE="https://kino.example/",
        KINO_LANGUAGE="DE",
        WATCHMODE_REGION="US",
        SEARCH_THROTTLE_RATE="",
        DATABASE_URL="postgres://me:p%40ss@db:5433/films",
    )

    assert loaded["IMDBAPI_CONCURRENCY"] == 5
    assert loaded["CACHE_TTL"].total_seconds() == 1800
    assert loaded["HTTP_TIMEOUT"] == 2.5
    assert loaded["KINO_BASE"] == "https://kino.example"
    assert loaded["KINO_LANGUAGE"] == "de"
    assert loaded["WATCHMODE_REGION"] == "US"
    assert loaded["SEARCH_THROTTLE_RATE"] is None
    database = loaded["DATABASES"]["default"]
    assert [database[part] for part in ("USER", "PASSWORD", "HOST", "PORT", "NAME")] == [
        "me",
        "p@ss",
        "db",
        5433,
        "films",
    ]


def test_what_the_address_of_the_database_asks_for_holds(load: Load) -> None:
    loaded = load(**GOOD, DATABASE_URL="postgres://me@db/films?sslmode=require&connect_timeout=7")

    options = loaded["DATABASES"]["default"]["OPTIONS"]
    assert (options["sslmode"], options["connect_timeout"]) == ("require", 7)


@pytest.mark.parametrize("threads", [3, 4, 8, 32, 512])
def test_fetches_of_both_surfaces_leave_a_thread_for_hits(load: Load, threads: int) -> None:
    loaded = load(**GOOD, BLOCKING_THREADS=str(threads), OMDB_CONCURRENCY="32")

    films, movies = loaded["COLD_CONCURRENCY"], loaded["MOVIE_COLD_CONCURRENCY"]
    assert films >= 1
    assert movies >= 1
    assert films + movies < threads


@pytest.mark.parametrize(
    "numbers",
    [{"BLOCKING_THREADS": "2"}, {"COLD_CONCURRENCY": "31"}, {"COLD_CONCURRENCY": "32"}],
)
def test_fetches_that_could_take_all_threads_stop_the_start(
    load: Load, numbers: dict[str, str]
) -> None:
    with pytest.raises(ImproperlyConfigured, match=next(iter(numbers))):
        load(**GOOD, **numbers)


def test_a_folder_that_cannot_be_written_stops_the_start(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "mkdir", refuse)
    # The tests may run as a user whom no permission stops.
    monkeypatch.setattr(os, "access", lambda path, mode: False)

    with pytest.raises(ImproperlyConfigured, match="folder 'var'"):
        load(**GOOD)
    assert load(**GOOD, DATABASE_URL="sqlite:////tmp/films.sqlite3")


def test_no_cursor_outlives_its_statement(load: Load) -> None:
    loaded = load(
        **GOOD,
        DATABASE_URL="postgres://me@db/films",
        DATABASE_REPLICA_URL="postgres://me@replica/films",
    )

    databases = loaded["DATABASES"].values()
    assert [each["DISABLE_SERVER_SIDE_CURSORS"] for each in databases] == [True, True]


def test_a_replica_has_connections_like_those_of_the_primary_but_less_patience(
    load: Load,
) -> None:
    loaded = load(
        **GOOD,
        DATABASE_URL="postgres://me@db/films",
        DATABASE_REPLICA_URL="postgres://me@replica/films?sslmode=require",
        DB_CONNECTIONS="3",
    )

    replica, serving = loaded["DATABASES"]["replica"], loaded["SERVING_DATABASES"]
    assert (replica["ENGINE"], replica["HOST"]) == ("core.postgresql", "replica")
    assert replica["OPTIONS"] == {
        **loaded["DATABASES"]["default"]["OPTIONS"],
        "sslmode": "require",
    }
    assert serving["replica"]["SESSION"] == serving["default"]["SESSION"]
    assert serving["replica"]["POOL"] == {"size": 3, "limit": 1.0, "patience": 0.5}
    assert serving["default"]["POOL"] == {"size": 3, "limit": 1.5, "patience": 1.0}


@pytest.mark.parametrize(
    ("query", "age"), [("", 60), ("?conn_max_age=0", 0), ("?conn_max_age=600", 600)]
)
def test_the_address_of_the_database_decides_how_old_connections_get(
    load: Load, query: str, age: int
) -> None:
    loaded = load(**GOOD, DATABASE_URL=f"postgres://me@db/films{query}")

    assert loaded["DATABASES"]["default"]["CONN_MAX_AGE"] == age


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("postgres://me:p%40ss@%2Fvar%2Frun%2FPostgreSQL/films", "/var/run/PostgreSQL", ""),
        ("postgres://me@%2fvar%2frun:5433/films?sslmode=disable", "/var/run", 5433),
        ("postgres://%2Ftmp%2Fa%20b/films", "/tmp/a b", ""),
        ("postgres://me:%2Fsecret@db/films", "db", ""),
        ("postgres://me@one:5432,two:5433/films", "one,two", "5432,5433"),
    ],
)
def test_the_database_may_be_at_a_socket_or_several_hosts(
    load: Load, address: str, host: str, port: object
) -> None:
    database = load(**GOOD, DATABASE_URL=address)["DATABASES"]["default"]

    assert (database["HOST"], database["PORT"], database["NAME"]) == (host, port, "films")


@pytest.mark.parametrize(
    ("text", "seconds"), [("0.016666666666666666", 60), ("0.5", 1800), ("24.000000001", 86_400)]
)
def test_hours_may_have_many_decimals(load: Load, text: str, seconds: int) -> None:
    loaded = load(**GOOD, CACHE_TTL_HOURS=text)

    assert round(loaded["CACHE_TTL"].total_seconds()) == seconds


def test_a_lifetime_of_nothing_is_refused(load: Load) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"^CACHE_TTL_HOURS "):
        load(**GOOD, CACHE_TTL_HOURS="0.00000000001")


@pytest.mark.parametrize("placeholder", ["your_key_here", "your_watchmode_key", "", " "])
def test_a_placeholder_counts_as_no_key(load: Load, placeholder: str) -> None:
    loaded = load(KINO_API_KEY=placeholder, WATCHMODE_API_KEY=placeholder, **GOOD)

    assert (loaded["KINO_API_KEY"], loaded["WATCHMODE_API_KEY"]) == ("", "")


# The file


def test_the_environment_wins_over_the_file(load: Load) -> None:
    loaded = load("HTTP_RETRIES=7\nHTTP_TIMEOUT=7\n", HTTP_RETRIES="2", **GOOD)

    assert (loaded["HTTP_RETRIES"], loaded["HTTP_TIMEOUT"]) == (2, 7)


def test_reading_the_file_leaves_the_environment_alone(load: Load) -> None:
    load("HTTP_RETRIES=7\n", **GOOD)

    assert "HTTP_RETRIES" not in os.environ


def test_a_file_may_have_comments_quotes_exports_and_a_byte_order_mark(load: Load) -> None:
    loaded = load(
        "\ufeff# first\n\n  # second\nexport HTTP_RETRIES=7\nKINO_API_KEY='a#b'\r\n \n", **GOOD
    )

    assert (loaded["HTTP_RETRIES"], loaded["KINO_API_KEY"]) == (7, "a#b")


@pytest.mark.parametrize("line", [f"KINO_API_KEY = {CANARY}", CANARY, f"KINO-API-KEY={CANARY}"])
def test_a_line_that_is_no_setting_is_refused_by_its_number(
    load: Load, line: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"^\.env, line 2, ") as caught:
        load(f"# comment\n{line}\n", **GOOD)

    assert CANARY not in str(caught.value) + caplog.text + "".join(capfd.readouterr())


def test_a_file_that_is_no_text_is_refused(load: Load, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(ImproperlyConfigured, match=r"^binary cannot be read"):
        Environment.load(tmp_path / "binary", SETTINGS)


def test_a_default_file_that_does_not_exist_is_not_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ENV_FILE")

    assert Environment.load(tmp_path / ".env", SETTINGS).warnings == []


def test_a_named_file_that_does_not_exist_is_reported(load: Load, tmp_path: Path) -> None:
    loaded = load(ENV_FILE=str(tmp_path / "none"), **GOOD)

    assert loaded["ENVIRONMENT_WARNINGS"] == ["ENV_FILE names a file that does not exist"]


def test_names_in_the_file_that_nothing_reads_are_reported_without_their_values(load: Load) -> None:
    loaded = load(f"HTTP_TIMOUT={CANARY}\nHTTP_TIMEOUT=3\nPOSTGRES_PASSWORD=x\n", **GOOD)

    assert loaded["ENVIRONMENT_WARNINGS"] == [".env: there is no setting HTTP_TIMOUT"]


def test_a_file_without_mistakes_is_not_reported(load: Load) -> None:
    assert load(EXAMPLE.read_text())["ENVIRONMENT_WARNINGS"] == []


# The sandbox


def test_with_nothing_given_the_sources_are_the_sandbox(load: Load) -> None:
    loaded = load(PORT="9000")

    assert loaded["SANDBOX"] is True
    assert loaded["IMDBAPI_BASE"] == "http://127.0.0.1:9001/imdbapi"
    assert loaded["KINO_BASE"] == "http://127.0.0.1:9001/kinocheck"
    assert loaded["WATCHMODE_BASE"] == "http://127.0.0.1:9001/watchmode/v1"
    assert loaded["KINO_API_KEY"]
    assert loaded["WATCHMODE_API_KEY"]
    assert len(loaded["SECRET_KEY"]) >= 50
    assert loaded["HOST"] == "127.0.0.1"
    assert set(loaded["ALLOWED_HOSTS"]) == {"localhost", "127.0.0.1", "[::1]"}
    assert loaded["DATABASES"]["default"]["ENGINE"].endswith("sqlite3")


def test_each_run_makes_a_key_of_its_own(load: Load) -> None:
    assert load()["SECRET_KEY"] != load()["SECRET_KEY"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IMDBAPI_BASE", "https://imdb.example"),
        ("KINO_BASE", "https://kino.example"),
        ("KINO_API_KEY", "abc"),
        ("KINO_API_KEY", ""),
        ("WATCHMODE_BASE", "https://watch.example"),
        ("WATCHMODE_API_KEY", "your_watchmode_key"),
        ("WATCHMODE_API_KEY", ""),
    ],
)
@pytest.mark.parametrize("in_file", [False, True])
def test_one_word_about_a_source_and_all_are_real(
    load: Load, name: str, value: str, *, in_file: bool
) -> None:
    base = {name: text for name, text in GOOD.items() if name != "IMDBAPI_BASE"}

    loaded = load(f"{name}={value}", **base) if in_file else load(**base, **{name: value})

    assert loaded["SANDBOX"] is False
    bases = [loaded[name] for name in ("IMDBAPI_BASE", "KINO_BASE", "WATCHMODE_BASE")]
    assert not [base for base in bases if "127.0.0.1" in base]
    assert "sandbox" not in loaded["KINO_API_KEY"] + loaded["WATCHMODE_API_KEY"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "films.example"])
def test_the_sandbox_is_served_on_loopback_only(load: Load, host: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"^HOST must be loopback"):
        load(HOST=host)


def test_an_ipv6_address_may_have_brackets(load: Load) -> None:
    assert load(HOST="[::1]")["HOST"] == "::1"


def test_real_sources_are_served_anywhere(load: Load) -> None:
    assert load(**GOOD, HOST="0.0.0.0")["HOST"] == "0.0.0.0"


# The start


def check(**variables: str) -> subprocess.CompletedProcess[str]:
    """Run `manage.py check` with these variables only."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=BACKEND,
        env={"ENV_FILE": os.devnull, **kept, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_good_settings_start() -> None:
    done = check(**GOOD)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DJANGO_SECRET_KEY", ""),
        ("DJANGO_SECRET_KEY", CANARY),
        ("DJANGO_ALLOWED_HOSTS", ""),
        ("HTTP_TIMEOUT", CANARY),
        ("KINO_API_KEY", f"{CANARY} x"),
        ("DATABASE_URL", f"://user:{CANARY}@db/name"),
    ],
)
def test_the_start_ends_with_one_clear_line(name: str, value: str) -> None:
    done = check(**GOOD | {name: value})

    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(rf"filmosphere: {name} .+\n", done.stderr)
    assert CANARY not in done.stderr


def serve(**variables: str) -> subprocess.CompletedProcess[str]:
    """Load the application as a server does."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-c", "import filmosphere.wsgi"],
        cwd=BACKEND,
        env={"ENV_FILE": os.devnull, **kept, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_server_outside_debug_needs_a_database(tmp_path: Path) -> None:
    refused = serve(**GOOD)

    assert refused.returncode == 1
    assert re.fullmatch(r"filmosphere: DATABASE_URL is missing.+\n", refused.stderr)
    assert serve(**GOOD, DJANGO_DEBUG="True").returncode == 0
    assert serve(**GOOD, DATABASE_URL=f"sqlite:///{tmp_path / 'films.sqlite3'}").returncode == 0


def test_what_has_no_effect_is_reported_at_the_start(tmp_path: Path) -> None:
    done = check(**GOOD, ENV_FILE=str(tmp_path / "none"))

    assert (done.returncode, done.stderr) == (
        0,
        "filmosphere: warning: ENV_FILE names a file that does not exist\n",
    )


# The example


def test_the_example_has_exactly_the_mandated_lines_active() -> None:
    lines = EXAMPLE.read_text().splitlines()

    assert [line for line in lines if line and not line.startswith("#")] == ACTIVE.splitlines()


def test_the_documents_are_generated_from_the_table() -> None:
    """`make settings` writes both."""
    assert EXAMPLE.read_text() == env_example()
    assert (BACKEND.parent / "docs" / "settings.md").read_text() == settings_page()


def test_every_setting_of_the_table_is_read_once() -> None:
    text = SETTINGS_FILE.read_text()
    read = re.findall(r'(?:env\.read|_in_sandbox)\(\s*"([A-Z_]+)"', text)

    assert set(read) == set(NAMES)
    assert [name for name in NAMES if read.count(name) > 1] == ["DJANGO_SECRET_KEY"]


def test_a_name_appears_once_in_the_table() -> None:
    assert len(NAMES) == len(set(NAMES))


def test_the_example_starts_as_it_is(load: Load) -> None:
    loaded = load(EXAMPLE.read_text())

    assert loaded["SANDBOX"] is False
    assert (loaded["KINO_API_KEY"], loaded["WATCHMODE_API_KEY"]) == ("", "")


def test_what_is_commented_out_in_the_example_is_the_default(load: Load) -> None:
    shown = re.findall(r"^# ([A-Z][A-Z_]+=.*)$", EXAMPLE.read_text(), re.MULTILINE)
    assert len(shown) > 10

    as_it_is = load(EXAMPLE.read_text())
    spelled_out = load(EXAMPLE.read_text() + "\n".join(shown))

    plain = (str, int, float, bool, list, dict, type(None))
    # None means that REDIS_URL decides. The other one holds functions.
    others = {"REDIS_DB", "SPECTACULAR_SETTINGS"}
    for name, value in as_it_is.items():
        if name.isupper() and isinstance(value, plain) and name not in others:
            assert spelled_out[name] == value, name
