"""Build the image and walk through it as an operator does: `make image-test`.

The steps of the Dockerfile run over a base image of Debian's own packages, so that no image
registry is needed. Podman then runs the result with a read-only file system, as the user of the
image and without capabilities, against a PostgreSQL server and a sandbox of the test's own. All
images and containers are in a temporary folder.
"""

import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tools.harness.databases import eventually, has_postgres_programs, private_postgres
from tools.harness.sandbox import running
from tools.harness.server import PROJECT, free_port, get, on_sandbox

Podman = partial[str]
PROGRAMS = ("podman", "runc", "mmdebstrap")
BASE, IMAGE = "localhost/python-of-debian", "localhost/filmosphere"
REVISION = "1a2b3c4"
# Of the file system of the host, so that pip trusts what the host trusts.
CERTIFICATES = "/etc/ssl/certs"

# Where the official image has its Python and pip.
DOCKERFILE_OF_BASE = f"""
FROM scratch
ADD debian.tar /
RUN python3 -m venv /usr/local
ENV PIP_CERT={CERTIFICATES}/ca-certificates.crt
"""


class CommandError(Exception):
    """A program ended with another status than 0."""


def main() -> None:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing or not has_postgres_programs or os.getuid() != 0:
        print(f"skipped: needs {', '.join(PROGRAMS)}, the programs of PostgreSQL, and root")
        return
    with storage() as podman, running() as sandbox, private_postgres() as postgres:
        build(podman)
        holds_the_service_and_nothing_else(podman)
        port = str(free_port())
        settings = on_sandbox(
            sandbox.url,
            DATABASE_URL=postgres.url,
            DJANGO_ALLOWED_HOSTS="films.example",
            PORT=port,
            OMDB_BASE_URL=f"{sandbox.url}/omdb",
            OMDB_API_KEY="5a4db0c5",
            DRAIN_SECONDS="0",
        )
        refuses_to_start_without_sources(podman)
        run(podman, settings, "--rm", IMAGE, "python", "manage.py", "migrate", "--verbosity", "0")
        report("manage.py migrate")
        name = "served"
        run(podman, settings, "--detach", "--name", name, IMAGE)
        serves(podman, name, f"http://127.0.0.1:{port}")
        stops(podman, name)


@contextmanager
def storage() -> Iterator[Podman]:
    """Yield what runs Podman with images and containers in a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="filmosphere-image-"))
    # Its own one fails where cgroups of version 1 and 2 are mixed.
    runtime = ("--runtime", "runc", "--cgroup-manager", "cgroupfs")
    podman = partial(
        call, "podman", *runtime, "--root", str(folder / "images"), "--runroot", str(folder / "run")
    )
    try:
        yield podman
    finally:
        podman("rm", "--force", "--all", "--time", "0")
        podman("rmi", "--force", "--all")
        shutil.rmtree(folder)


def build(podman: Podman) -> None:
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as context:
        call(
            *("mmdebstrap", "--quiet", "--variant=minbase"),
            "--include=python3,python3-venv,ca-certificates",
            *(f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in ("doc", "man", "locale")),
            *("bookworm", f"{context}/debian.tar"),
        )
        Path(context, "Dockerfile").write_text(DOCKERFILE_OF_BASE)
        podman("build", "--isolation", "chroot", "--tag", BASE, context)
    report(f"a base image of Debian's packages, in {time.monotonic() - started:.0f} s")
    started = time.monotonic()
    podman(
        *("build", "--isolation", "chroot", "--network", "host", "--format", "docker"),
        *("--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro", "--from", BASE),
        *("--build-arg", f"REVISION={REVISION}", "--tag", IMAGE, str(PROJECT)),
    )
    report(f"the image, in {time.monotonic() - started:.0f} s")


def holds_the_service_and_nothing_else(podman: Podman) -> None:
    tracked = call("git", "-C", str(PROJECT), "ls-files", "backend").splitlines()
    development = (
        "/tests/",
        "/conftest.py",
        "backend/conftest.py",
        "/sandbox/",
        "settings_test.py",
    )
    service = {name for name in tracked if not any(part in name for part in development)}
    found = podman("run", "--rm", *sealed(), IMAGE, "find", "/app", "-type", "f").split()

    held = {name.removeprefix("/app/") for name in found if not name.endswith(".pyc")}
    expected = service | {"docs/API.md", "healthcheck"}
    assert held == expected, held ^ expected
    for module in ("pip", "pytest", "sandbox", "tools"):
        code = f"from importlib.util import find_spec; print(find_spec({module!r}))"
        assert podman("run", "--rm", *sealed(), IMAGE, "python", "-c", code).strip() == "None", (
            module
        )
    report(f"holds the {len(held)} files of the service; no tests, tools, sandbox or pip")


def refuses_to_start_without_sources(podman: Podman) -> None:
    command = (*podman.args, "run", "--rm", *sealed(), IMAGE)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    reason = "set IMDBAPI_BASE and the others to serve real films"
    assert (ended.returncode, reason in ended.stderr) == (1, True), ended.stderr
    report("refuses to start where no source is named")


def serves(podman: Podman, name: str, url: str) -> None:
    started = time.monotonic()
    eventually(lambda: is_healthy(podman, name), seconds=30)
    report(
        f"the health check of the image passes {time.monotonic() - started:.1f} s after the start"
    )
    for path in ("/readyz", "/api/films/tt1375666", "/api/v1/search/id/?id=tt1375666"):
        assert get(url + path, Host="films.example").status == 200, path
    assert f'revision="{REVISION}"' in get(f"{url}/metrics", Host="films.example").body.decode()
    command, status = (
        podman("exec", name, "cat", f"/proc/1/{each}") for each in ("cmdline", "status")
    )
    assert command.split("\0")[1:3] == ["-m", "filmosphere.serve"], command
    lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert (lines["Uid"].split()[0], int(lines["CapBnd"], 16)) == ("10001", 0), status
    for folder in ("/tmp", "/app/var", "/app/backend"):
        assert podman("exec", name, "sh", "-c", f"! touch {folder}/x 2>&1").strip(), folder
    report("serves both surfaces, read-only, as an ordinary user without capabilities")


def is_healthy(podman: Podman, name: str) -> bool:
    try:
        podman("healthcheck", "run", name)
    except CommandError:
        return False
    return True


def stops(podman: Podman, name: str) -> None:
    started = time.monotonic()
    podman("stop", "--time", "20", name)
    seconds = time.monotonic() - started
    state = podman("inspect", "--format", "{{.State.ExitCode}}", name).strip()
    assert state == "0", state
    report(f"SIGTERM ends it with status 0 after {seconds:.1f} s")


def sealed() -> tuple[str, ...]:
    """Return the options under which every container runs."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return (
        *("--network", "host", "--read-only", "--read-only-tmpfs=false"),
        *("--cap-drop", "all", "--security-opt", "no-new-privileges"),
        # Podman's own limits may be above those of this process.
        *("--ulimit", f"nofile={files}:{files}", "--ulimit", "nproc=1000:1000"),
    )


def run(podman: Podman, settings: dict[str, str], *arguments: str) -> None:
    environment = [f"--env={name}={value}" for name, value in settings.items()]
    podman("run", *sealed(), *environment, *arguments)


def call(*command: str) -> str:
    """Return what a program printed on standard output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandError(f"{' '.join(command)}: status {done.returncode}\n{done.stderr[-4000:]}")
    return done.stdout


def report(what: str) -> None:
    print(f"ok  {what}", flush=True)


if __name__ == "__main__":
    main()
