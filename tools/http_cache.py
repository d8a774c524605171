"""Test the service behind a real HTTP cache: `make http-cache`.

nginx (Debian's nginx-light) runs with `deploy/nginx.conf` in front of two server processes that
share a database. The response headers decide what it caches and for how long.
"""

import gzip
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tools.harness.proxy import NGINX, nginx_in_front
from tools.harness.sandbox import running
from tools.harness.server import (
    Answer,
    Server,
    database,
    get,
    on_sandbox,
    server,
)

FILM = "/api/films/tt1375666"
PATHS = (FILM, f"{FILM}/trailer", f"{FILM}/streaming")
CODINGS = ("gzip", "identity")
# Short enough to wait until it ends, long enough for the requests within it.
TTL_SECONDS = 8


def main() -> None:
    if NGINX is None:
        missing = "nginx is not installed: apt-get install nginx-light"
        sys.exit(missing if os.environ.get("CI") == "true" else print(f"skipped: {missing}"))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sandbox = stack.enter_context(running())
        url = stack.enter_context(database(folder))
        service = stack.enter_context(ExitStack())
        settings = on_sandbox(
            sandbox.url,
            DATABASE_URL=url,
            CACHE_TTL_HOURS=f"{TTL_SECONDS / 3600:.6f}",
            HOT_SECONDS="0",
        )
        first, second = (service.enter_context(server(folder, **settings)) for _ in range(2))
        with nginx_in_front(folder, [first.url, second.url]) as front:
            tags = tags_are_equal(first, second)
            hits(front, tags)
            conditional_requests(front, tags)
            errors_are_not_cached(front)
            ids_of_requests(front)
            revalidated(front, tags, first, second)
            service.close()
            stale_while_the_service_is_down(front, tags)


def tags_are_equal(first: Server, second: Server) -> dict[tuple[str, str], str]:
    """Return the ETag of each path in each content coding."""
    cold = tags_of(first)
    assert tags_of(first) == tags_of(second) == cold
    assert cold[FILM, "gzip"] != cold[FILM, "identity"]
    time.sleep(TTL_SECONDS)
    again = first.get(FILM, Accept_Encoding="identity")
    assert "fwd=miss" in again.headers["Cache-Status"], again.headers["Cache-Status"]
    assert tags_of(second) == cold
    report("ETags are equal for cold, warm and refetched films, and in both processes")
    return cold


def tags_of(service: Server) -> dict[tuple[str, str], str]:
    return {
        (path, coding): service.get(path, Accept_Encoding=coding).headers["ETag"]
        for path in PATHS
        for coding in CODINGS
    }


def hits(front: str, tags: dict[tuple[str, str], str]) -> None:
    bodies = {}
    for (path, coding), tag in tags.items():
        missed, hit = (get(front + path, Accept_Encoding=coding) for _ in range(2))
        assert (cache_status(missed), cache_status(hit)) == ("MISS", "HIT"), (
            path,
            coding,
            cache_status(missed),
            cache_status(hit),
        )
        assert missed.headers["ETag"] == hit.headers["ETag"] == tag
        assert missed.body == hit.body
        # A small section is not worth compressing.
        packed = hit.headers["Content-Encoding"] == "gzip"
        assert packed is tag.endswith('-gzip"')
        assert not (packed and coding == "identity")
        bodies[path, coding] = gzip.decompress(hit.body) if packed else hit.body
    assert all(bodies[path, "gzip"] == bodies[path, "identity"] for path in PATHS)
    report("the second request is a HIT; gzip and identity clients get their own variant")


def conditional_requests(front: str, tags: dict[tuple[str, str], str]) -> None:
    for (path, coding), tag in tags.items():
        answer = get(front + path, Accept_Encoding=coding, If_None_Match=tag)
        assert (answer.status, cache_status(answer), answer.body) == (304, "HIT", b"")
    report("conditional requests get 304 from the cache")


def errors_are_not_cached(front: str) -> None:
    for path in ("/api/films/tt0", "/api/films/tt9876543", "/api/search", "/nowhere"):
        for _ in range(2):
            answer = get(front + path)
            assert (answer.status >= 400, cache_status(answer)) == (True, "MISS"), (path, answer)
    report("errors are not cached")


def revalidated(front: str, tags: dict[tuple[str, str], str], *servers: Server) -> None:
    time.sleep(TTL_SECONDS + 1)
    before = sum(server.output.count('"status": 304') for server in servers)
    for (path, coding), tag in tags.items():
        answer = get(front + path, Accept_Encoding=coding)
        actual = answer.status, cache_status(answer), answer.headers["ETag"]
        assert actual == (200, "REVALIDATED", tag), (path, coding, actual)
        again = get(front + path, Accept_Encoding=coding)
        assert cache_status(again) == "HIT", (path, coding, cache_status(again))
    after = sum(server.output.count('"status": 304') for server in servers)
    assert after - before == len(tags), (before, after)
    report("after max-age the cache revalidates the copy with 304 before it serves it again")


def ids_of_requests(front: str) -> None:
    for given in ("one-id", "another-id"):
        answer = get(front + FILM, X_Correlation_ID=given)
        assert (cache_status(answer), answer.headers["X-Correlation-ID"]) == ("HIT", given)
    report("a cached response has the id of its own request")


def stale_while_the_service_is_down(front: str, tags: dict[tuple[str, str], str]) -> None:
    time.sleep(TTL_SECONDS + 1)
    for (path, coding), tag in tags.items():
        for _ in range(2):
            answer = get(front + path, Accept_Encoding=coding)
            assert (answer.status, answer.headers["ETag"]) == (200, tag), (path, coding)
            assert cache_status(answer) == "STALE", (path, coding)
    answer = get(f"{front}/api/films/tt0133093")
    assert (answer.status, answer.json["reason"]) == (503, "unavailable")
    assert answer.headers["Retry-After"]
    report("while the service is down, cached responses are served, and 503 as JSON for others")


def cache_status(answer: Answer) -> str | None:
    """Return the cache status of nginx."""
    return answer.headers["X-Cache"]


def report(what: str) -> None:
    print(f"ok  {what}", flush=True)


if __name__ == "__main__":
    main()
