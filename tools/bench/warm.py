"""Stored answers against their limits, and against what people would build instead."""

from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from tools.bench.limits import FILM, FILM_ID, Bench
from tools.bench.load import Target, rates_alternated, say, say_compared, wrk
from tools.bench.open_loop import Generator
from tools.harness.sandbox import Sandbox
from tools.harness.server import Server, get

SECTION = f"{FILM}/trailer"
SEARCH = "/api/search?q=the"
MOVIE = f"/api/v1/search/id/?id={FILM_ID}"
MOVIES = "/api/v1/search/?query=the"
FIELDS = f"{FILM}?fields=metadata,trailer"
# From 10 % of the rate that the service reaches in a closed loop, to all of it.
OFFERED = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


def warm(bench: Bench, names: Collection[str] | None = None) -> dict[str, Any]:
    """Compare kinds of stored answers with their limits."""
    with ExitStack() as stack:
        hot = stack.enter_context(bench.service())
        row = stack.enter_context(bench.service(HOT_SECONDS="0"))
        film, section, search, movie, movies = (
            hot.get(path) for path in (FILM, SECTION, SEARCH, MOVIE, MOVIES)
        )
        start = stack.enter_context
        bare_film = start(bench.wsgi(film.body))
        bare_304 = start(bench.wsgi(b"", "bare_wsgi:not_modified"))
        bare_section = start(bench.wsgi(section.body))
        bare_row = start(bench.granian("bare_row:application", DATABASE_URL=bench.database))
        bare_django = start(bench.wsgi(film.body, "bare_django:application"))
        bare_search = start(bench.wsgi(search.body, "bare_drf:application"))
        bare_movie = start(bench.wsgi(movie.body, "bare_drf:application"))
        bare_movies = start(bench.wsgi(movies.body, "bare_drf:application"))
        known = (f"If-None-Match: {film.headers['ETag']}",)
        gzip = ("Accept-Encoding: gzip",)
        compared = {
            # First, because they are kept for a minute only. After that, eight readers at once are
            # more than may wait for OMDb in a server with eight threads.
            "movies": (Target(hot, MOVIES), Target(bare_movies, MOVIES)),
            "search": (Target(hot, SEARCH), Target(bare_search, SEARCH)),
            "movie": (Target(hot, MOVIE), Target(bare_movie, MOVIE)),
            "hit": (Target(hot, FILM), Target(bare_film, FILM)),
            "hit_django": (Target(hot, FILM), Target(bare_django, FILM)),
            "hit_gzip": (Target(hot, FILM, gzip), Target(hot, FILM)),
            "not_modified": (Target(hot, FILM, known), Target(bare_film, FILM)),
            "not_modified_bare": (Target(hot, FILM, known), Target(bare_304, FILM)),
            "row": (Target(row, FILM), Target(bare_row, FILM)),
            "row_gzip": (Target(row, FILM, gzip), Target(bare_row, FILM, gzip)),
            "section": (Target(hot, SECTION), Target(bare_section, SECTION)),
            "section_row": (Target(row, SECTION), Target(bare_row, FILM)),
            "fields": (Target(row, FIELDS), Target(row, FILM)),
        }
        found: dict[str, Any] = {}
        for name, (figure, limit) in compared.items():
            if names is None or name in names:
                found[name] = rates_alternated(
                    figure, limit, pairs=bench.pairs, seconds=bench.seconds
                )
                say_compared(name, found[name])
        for name, service in (("batch", row), ("batch_memory", hot)):
            if names is None or name in names:
                found[name] = _batch(bench, service)
                say_compared(name, found[name])
        return {**found, "body_bytes": len(film.body), "section_bytes": len(section.body)}


def _batch(bench: Bench, service: Server) -> dict[str, Any]:
    """Compare the time of one request for twenty films with that of twenty requests."""
    ids = films_with_all_sections(bench.sandbox, 20)
    paths = [f"/api/films/{imdb_id}" for imdb_id in ids]
    for path in paths:
        assert service.get(path).status == 200
    listed = bench.folder / "twenty"
    listed.write_text("\n".join(paths))
    batch = Target(service, f"/api/films?ids={','.join(ids)}")
    single = Target(service, paths=listed)

    found = rates_alternated(batch, single, pairs=bench.pairs, seconds=bench.seconds, connections=1)
    # Of rates, one request to one, the time of one request to that of twenty.
    return {
        "figure": 1000 / found["figure"],
        "limit": 20 * 1000 / found["limit"],
        "value": 1 / (20 * found["value"]),
        "pairs": [1 / (20 * ratio) for ratio in found["pairs"]],
        "cpu_value": 1 / (20 * found["cpu_value"]),
        "unit": "ms",
    }


def films_with_all_sections(sandbox: Sandbox, number: int) -> list[str]:
    """Return the ids of films that take ten calls: the copies in the sandbox."""
    return [f"tt{5_000_000 + position}" for position in range(number)]


def latency(bench: Bench) -> dict[str, Any]:
    """Measure latency against offered load, in an open loop."""
    curves: dict[str, list[dict[str, float]]] = {}
    with bench.service() as hot:
        tag = hot.get(FILM).headers["ETag"]
        targets = {
            "film": Target(hot, FILM),
            "304": Target(hot, FILM, (f"If-None-Match: {tag}",)),
            "section": Target(hot, SECTION),
            "search": Target(hot, SEARCH),
            "Cinemix": Target(hot, MOVIE),
        }
        for name, target in targets.items():
            assert get(target.url).status == 200
            most = wrk(target, seconds=bench.seconds).rate
            generator = Generator(target)
            points = [generator.offer(most * part, seconds=bench.seconds) for part in OFFERED]
            curves[name] = [asdict(point) for point in points]
            for point in points:
                say(f"{name}: offered, p50, p99", [point.offered, point.p50, point.p99], "ms")
        generator = Generator(targets["film"])
        most = wrk(targets["film"], seconds=bench.seconds).rate
        half = [generator.offer(most / 2, seconds=bench.seconds) for _ in range(bench.pairs)]
    in_the_middle = sorted(half, key=lambda point: point.p99 / point.p50)[len(half) // 2]
    return {
        "curves": curves,
        "half": {
            "figure": in_the_middle.p99,
            "limit": in_the_middle.p50,
            "value": in_the_middle.p99 / in_the_middle.p50,
            "unit": "ms",
            "offered": in_the_middle.offered,
            "busy": in_the_middle.busy,
        },
    }
