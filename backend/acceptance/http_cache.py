"""Put a real HTTP cache in front of the service and see that it can keep films: `make http-cache`.

nginx, as Debian's nginx-light has it, in front of two server processes that share a database. It
is told nothing about films: what it keeps, for how long, and what it shows while the service is
down, it takes from the headers of the answers.
"""

import gzip
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "filmosphere.settings_test")

import django

django.setup()

from core.tests.sandbox import running
from filmosphere.tests.house import (
    Answer,
    Server,
    database,
    free_port,
    get,
    on_sandbox,
    server,
)

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
FILM = "/api/films/tt1375666"
PATHS = (FILM, f"{FILM}/trailer", f"{FILM}/streaming")
CODINGS = ("gzip", "identity")
# Short enough to wait for its end, long enough for what is to happen within it.
TTL_SECONDS = 8

CONFIGURATION = """
daemon off;
# One process, which may write where we may.
master_process off;
pid {folder}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    proxy_cache_path {folder}/cache keys_zone=films:1m;
    upstream service {{ {servers} }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://service;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_cache films;
            proxy_cache_revalidate on;
            add_header X-Cache $upstream_cache_status always;
            add_header X-Service-Status $upstream_status always;
        }}
    }}
}}
"""


def main() -> None:
    if NGINX is None:
        missing = "nginx is not there: apt-get install nginx-light"
        sys.exit(missing if os.environ.get("CI") == "true" else print(f"skipped: {missing}"))
    folder = Path(tempfile.mkdtemp())
    with running() as sandbox, database(folder) as url, ExitStack() as service:
        settings = on_sandbox(
            sandbox.url,
            DATABASE_URL=url,
            CACHE_TTL_HOURS=f"{TTL_SECONDS / 3600:.6f}",
            HOT_SECONDS="0",
        )
        first, second = (service.enter_context(server(folder, **settings)) for _ in range(2))
        with cache_in_front(folder, first, second) as front:
            tags = tags_agree(first, second)
            hits(front, tags)
            unchanged(front, tags)
            errors_are_not_kept(front)
            revalidated(front, tags)
            service.close()
            stale_while_the_service_is_down(front, tags)


def tags_agree(first: Server, second: Server) -> dict[tuple[str, str], str]:
    """Return the tag of each path in each coding."""
    cold = tags_of(first)
    assert tags_of(first) == tags_of(second) == cold
    for path in PATHS[1:]:
        assert cold[path, "gzip"] == cold[path, "identity"], "sections have no gzip of their own"
    assert cold[FILM, "gzip"] != cold[FILM, "identity"]
    time.sleep(TTL_SECONDS)
    again = first.get(FILM, Accept_Encoding="identity")
    assert "fwd=miss" in again.headers["Cache-Status"], again.headers["Cache-Status"]
    assert tags_of(second) == cold
    shown("tags agree between cold, warm, fetched again, and two processes")
    return cold


def tags_of(house: Server) -> dict[tuple[str, str], str]:
    return {
        (path, coding): house.get(path, Accept_Encoding=coding).headers["ETag"]
        for path in PATHS
        for coding in CODINGS
    }


def hits(front: str, tags: dict[tuple[str, str], str]) -> None:
    bodies = {}
    for (path, coding), tag in tags.items():
        missed, hit = (get(front + path, Accept_Encoding=coding) for _ in range(2))
        assert (kept(missed), kept(hit)) == ("MISS", "HIT"), (path, coding, kept(missed), kept(hit))
        assert missed.headers["ETag"] == hit.headers["ETag"] == tag
        assert missed.body == hit.body
        packed = hit.headers["Content-Encoding"] == "gzip"
        assert packed is (path == FILM and coding == "gzip")
        bodies[path, coding] = gzip.decompress(hit.body) if packed else hit.body
    assert all(bodies[path, "gzip"] == bodies[path, "identity"] for path in PATHS)
    shown("the second request is a HIT; gzip and identity clients each get their own")


def unchanged(front: str, tags: dict[tuple[str, str], str]) -> None:
    for (path, coding), tag in tags.items():
        answer = get(front + path, Accept_Encoding=coding, If_None_Match=tag)
        assert (answer.status, kept(answer), answer.body) == (304, "HIT", b"")
    shown("clients that have a copy get 304 from the cache")


def errors_are_not_kept(front: str) -> None:
    for path in ("/api/films/tt0", "/api/films/tt9876543", "/api/search", "/nowhere"):
        for _ in range(2):
            answer = get(front + path)
            assert (answer.status >= 400, kept(answer)) == (True, "MISS"), (path, answer)
    shown("errors are not kept")


def revalidated(front: str, tags: dict[tuple[str, str], str]) -> None:
    time.sleep(TTL_SECONDS + 1)
    for (path, coding), tag in tags.items():
        answer = get(front + path, Accept_Encoding=coding)
        told = answer.status, kept(answer), answer.headers["X-Service-Status"]
        assert told == (200, "REVALIDATED", "304"), (path, coding, told)
        assert answer.headers["ETag"] == tag
        assert kept(get(front + path, Accept_Encoding=coding)) == "HIT"
    shown("after max-age the service is asked, which says 304; then it is a HIT again")


def stale_while_the_service_is_down(front: str, tags: dict[tuple[str, str], str]) -> None:
    time.sleep(TTL_SECONDS + 1)
    for (path, coding), tag in tags.items():
        answer = get(front + path, Accept_Encoding=coding)
        assert (answer.status, kept(answer)) == (200, "STALE"), (path, coding, kept(answer))
        assert answer.headers["ETag"] == tag
    assert get(f"{front}/api/films/tt0133093").status == 502
    shown("stale-if-error: while the service is down, the copy is shown")


def kept(answer: Answer) -> str | None:
    """Return what nginx did with its cache."""
    return answer.headers["X-Cache"]


def shown(what: str) -> None:
    print(f"ok  {what}", flush=True)


@contextmanager
def cache_in_front(folder: Path, *houses: Server) -> Iterator[str]:
    """Run nginx before the servers; gives its URL."""
    port = free_port()
    servers = " ".join(f"server {house.url.removeprefix('http://')};" for house in houses)
    configuration = folder / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, servers=servers, port=port))
    log = folder / "nginx.log"
    process = subprocess.Popen([str(NGINX), "-e", str(log), "-p", str(folder), "-c", configuration])
    front = f"http://127.0.0.1:{port}"
    try:
        for _ in range(100):
            assert process.poll() is None, log.read_text()
            try:
                get(f"{front}/healthz")
                break
            except OSError:
                time.sleep(0.05)
        yield front
    finally:
        process.terminate()
        process.wait(timeout=10)


if __name__ == "__main__":
    main()
