"""A Redis that is configured has to be there when a server starts, and only then."""

import json
import pty
import subprocess
import sys

import pytest

from core.tests.redis_doubles import odd_redis
from filmosphere.tests.house import BACKEND, bare_environment, free_port

WAYS = {
    "serve": ["-m", "filmosphere.serve"],
    "wsgi": ["-c", "import filmosphere.wsgi"],
    "asgi": ["-c", "import filmosphere.asgi"],
    "runserver": ["manage.py", "runserver"],
    "runserver without reloader": ["manage.py", "runserver", "--noreload"],
}


def start(arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=BACKEND,
        env=bare_environment(LOG_FORMAT="json", **environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("way", WAYS)
def test_no_server_starts_without_the_redis_that_it_was_told_of(way):
    secret = "canary-of-the-url"
    url = f"redis://user:{secret}@127.0.0.1:{free_port()}/0"

    ended = start(WAYS[way], REDIS_URL=url)

    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert ended.returncode != 0
    assert [(line["level"], line["outcome"]) for line in lines] == [("ERROR", "redis_unreachable")]
    assert "REDIS_URL" in lines[0]["message"]
    assert secret not in ended.stdout + ended.stderr


def test_a_redis_that_wants_another_password_is_not_reached():
    with odd_redis() as redis:
        redis.answer = b"-WRONGPASS invalid username-password pair\r\n"

        ended = start(WAYS["wsgi"], REDIS_URL=redis.url, REDIS_PASSWORD="canary-password")

    assert ended.returncode != 0
    assert "AuthenticationError" in ended.stderr
    assert "canary-password" not in ended.stderr


def test_other_commands_need_no_redis(tmp_path):
    ended = start(
        ["manage.py", "migrate", "--verbosity", "0"],
        REDIS_URL=f"redis://127.0.0.1:{free_port()}",
        DATABASE_URL=f"sqlite:///{tmp_path / 'films.sqlite3'}",
    )

    assert ended.returncode == 0, ended.stderr


def test_a_worker_that_is_replaced_while_redis_is_away_starts_all_the_same():
    ended = start(
        WAYS["wsgi"],
        REDIS_URL=f"redis://127.0.0.1:{free_port()}",
        FILMOSPHERE_REDIS_WAS_THERE="yes",
    )

    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("REDIS_URL", "http://localhost"),
        ("REDIS_URL", "redis://"),
        ("REDIS_URL", "redis://host:x"),
        ("REDIS_URL", "redis://host/zero"),
        ("REDIS_DB", "x"),
        ("BUCKET_SIZE", "7"),
        ("BUCKET_SIZE", "40"),
        ("BUCKET_SIZE", "0"),
        ("WINDOW_SIZE", "-60"),
        ("MAX_THRESHOLD", "0"),
        ("OMDB_DAILY_LIMIT", "0"),
        ("OMDB_BASE_URL", "ftp://omdb"),
        ("CACHE_TTL", "0"),
    ],
)
def test_a_setting_that_cannot_be_meant_stops_the_start(setting, value):
    ended = start(["manage.py", "check"], **{setting: value})

    assert ended.returncode == 1
    assert ended.stderr.startswith(f"filmosphere: {setting} ")
    assert len(ended.stderr.splitlines()) == 1


def test_the_log_is_for_people_at_a_terminal_and_json_otherwise():
    code = "import filmosphere.settings as s; print(s.LOG_FORMAT)"
    _, terminal = pty.openpty()

    formats = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=BACKEND,
            env=bare_environment(),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            check=True,
        ).stdout.strip()
        for stderr in (terminal, subprocess.PIPE)
    ]

    assert formats == ["console", "json"]
