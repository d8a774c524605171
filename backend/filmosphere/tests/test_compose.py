"""What docker-compose.yml says of the containers."""

import os
import shutil
import subprocess

import pytest
import yaml

from tools.harness.databases import eventually
from tools.harness.server import PROJECT, free_port

FILE = PROJECT / "docker-compose.yml"
SERVICES = yaml.safe_load(FILE.read_text())["services"]


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_each_container_has_limits_of_memory_and_processes(service):
    assert {"mem_limit", "pids_limit"} <= service.keys()


def test_the_service_alone_is_published():
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["web"]


def test_the_service_can_write_nowhere_and_has_no_capabilities():
    web = SERVICES["web"]

    assert (web["read_only"], web["cap_drop"]) == (True, ["ALL"])
    assert web["security_opt"] == ["no-new-privileges:true"]
    assert not {"tmpfs", "volumes"} & web.keys()


def test_the_password_of_the_database_is_that_of_the_example_unless_another_is_given():
    password = SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"]

    assert password == "${POSTGRES_PASSWORD:-filmopass}"
    example = (PROJECT / ".env.example").read_text()
    assert "\nDATABASE_URL=postgres://filmouser:filmopass@postgres:5432/filmosphere\n" in example


def start_redis(**environment):
    """Run what the Redis container runs, on another port."""
    shell, option, script = SERVICES["redis"]["command"]
    script = script.replace("$$", "$").replace("redis-server -", f"redis-server - --port {PORT}")
    return subprocess.Popen(
        [shell, option, script],
        env={"PATH": os.environ["PATH"], **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


PORT = free_port()
needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server")


@needs_redis
def test_redis_does_not_start_without_a_password():
    process = start_redis()

    output, _ = process.communicate(timeout=10)

    assert process.returncode != 0
    assert "set REDIS_PASSWORD in .env" in output


@needs_redis
def test_redis_asks_for_the_password_and_stops_on_sigterm():
    def ping(**environment):
        return subprocess.run(
            ["redis-cli", "-p", str(PORT), "ping"],
            env={"PATH": os.environ["PATH"], **environment},
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip()

    process = start_redis(REDISCLI_AUTH="a secret")
    try:
        eventually(lambda: ping(REDISCLI_AUTH="a secret") == "PONG")
        assert ping().startswith("NOAUTH")
    finally:
        process.terminate()
        process.communicate(timeout=10)
    assert process.returncode == 0


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="no docker-compose")
def test_compose_accepts_the_file_with_the_example_of_the_settings(tmp_path):
    shutil.copy(FILE, tmp_path)
    shutil.copy(PROJECT / ".env.example", tmp_path / ".env")

    done = subprocess.run(
        ["docker-compose", "config"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "POSTGRES_PASSWORD": "other"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    services = yaml.safe_load(done.stdout)["services"]
    assert services["postgres"]["environment"]["POSTGRES_PASSWORD"] == "other"
