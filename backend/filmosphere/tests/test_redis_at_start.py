"""A Redis that is configured has to be there when a server starts, and only then."""

import json
import pty
import shutil
import socket
import subprocess
import sys
from contextlib import suppress

import pytest

from core.tests.redis_doubles import odd_redis
from tools.harness.databases import eventually
from tools.harness.server import BACKEND, bare_environment, free_port, run_python

WAYS = {
    "serve": ["-m", "filmosphere.serve"],
    "wsgi": ["-c", "import filmosphere.wsgi"],
    "asgi": ["-c", "import filmosphere.asgi"],
    "runserver": ["manage.py", "runserver"],
    "runserver without reloader": ["manage.py", "runserver", "--noreload"],
}


def start(arguments, **environment):
    return run_python(*arguments, LOG_FORMAT="json", **environment)


@pytest.mark.parametrize("way", WAYS)
def test_no_server_starts_without_the_configured_redis(way):
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


@pytest.mark.skipif(not shutil.which("redis-server"), reason="Redis is not installed here")
@pytest.mark.parametrize(
    ("arguments", "mode"),
    [(["--cluster-enabled", "yes"], "cluster"), (["--sentinel"], "sentinel")],
)
def test_a_node_of_a_cluster_and_a_sentinel_are_refused(tmp_path, arguments, mode):
    # A node of a cluster listens on a second port, 10,000 higher.
    port = next(port for port in iter(free_port, None) if port < 50_000)
    (tmp_path / "redis.conf").write_text("")
    process = subprocess.Popen(
        ["redis-server", tmp_path / "redis.conf", "--port", str(port), *arguments],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: is_listening(port))

        ended = start(WAYS["wsgi"], REDIS_URL=f"redis://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait()

    line = json.loads(ended.stderr)
    assert (ended.returncode, line["outcome"], line["mode"]) == (3, "redis_unsupported", mode)


def is_listening(port):
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True


def test_other_commands_need_no_redis(tmp_path):
    ended = start(
        ["manage.py", "migrate", "--verbosity", "0"],
        REDIS_URL=f"redis://127.0.0.1:{free_port()}",
        DATABASE_URL=f"sqlite:///{tmp_path / 'films.sqlite3'}",
    )

    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("REDIS_URL", "http://localhost"),
        ("REDIS_URL", "redis://"),
        ("REDIS_URL", "redis://host:x"),
        ("REDIS_URL", "redis://host/zero"),
        ("REDIS_URL", "redis+sentinel://host:26379"),
        ("REDIS_URL", "redis+sentinel://host:x/films"),
        ("REDIS_URL", "redis+sentinel://host,/films"),
        ("REDIS_URL", "redis+sentinel://host/films/zero"),
        ("REDIS_URL", "redis+cluster://host"),
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
