"""Compute what the service needs for a number of films and readers: `make capacity`.

A small simulation: readers choose films by Zipf's law, films expire, sections live longer, and the
sources have rates and quotas. Options replace the numbers of the default scenario; `--help` lists
them. `--plots FOLDER` also draws the figures of docs/operations/scaling.md, which needs
requirements/plots.txt. `tools.capacity_check` compares the predictions with a service that runs.
"""

import argparse
import heapq
import math
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple

from films.payload import METADATA, SECTION_NAMES, SECTIONS, STREAMING, TRAILER

HOUR, DAY = 3600.0, 86400.0
MONTH_DAYS = 30
MONTH = MONTH_DAYS * DAY
IMDB = tuple(section.name for section in SECTIONS if section.source == METADATA.source)

# What the service does, in its own constants: `films.services.background`, `.refresh`, `.bulk`.
_LAST_PART = 0.2
_READS_IN_USE = 3
_RESERVE = 0.1
_WATCHMODE_ID_SECONDS = 30 * DAY
_QUEUE_PATIENCE, _FETCH_DEADLINE = 5.0, 15.0

# On PostgreSQL, with default settings: connections for clients, and those of one server process.
_CLIENT_CONNECTIONS = 97
_POOL = 8


@dataclass(frozen=True)
class Scenario:
    """What is asked of the service, and what it may ask of others."""

    films: int = field(default=5_000, metadata={"help": "titles that readers choose from"})
    zipf: float = field(default=1.0, metadata={"help": "exponent of Zipf's law"})
    requests: float = field(default=0.2, metadata={"help": "requests for films per second"})
    days: float = field(default=60.0, metadata={"help": "days to simulate, from an empty database"})
    warm_up: float = field(default=30.0, metadata={"help": "days at the start that do not count"})
    ttl: float = field(default=24.0, metadata={"help": "CACHE_TTL_HOURS"})
    section_ttl: str = field(default="", metadata={"help": "SECTION_TTL_HOURS"})
    imdb_rate: str = field(default="8/5", metadata={"help": "IMDBAPI_RATE; empty for no limit"})
    kino: int = field(default=1000, metadata={"help": "KinoCheck calls a day; 0 for no limit"})
    watchmode: int = field(
        default=2500, metadata={"help": "Watchmode credits a month; 0 for no limit"}
    )
    id_map: int = field(default=0, metadata={"help": "1: Watchmode's id map is imported"})
    film_kb: float = field(default=100.0, metadata={"help": "KB of a film in the database"})
    answer_kb: float = field(default=20.0, metadata={"help": "KB of an answer, compressed"})
    hot_seconds: float = field(default=1.0, metadata={"help": "HOT_SECONDS"})
    hit_ms: float = field(default=0.07, metadata={"help": "processor time of a hit from memory"})
    row_ms: float = field(default=0.35, metadata={"help": "the same of a hit that reads a row"})
    miss_ms: float = field(default=13.0, metadata={"help": "the same of a film that is fetched"})
    database_ms: float = field(default=0.2, metadata={"help": "PostgreSQL's part of reading a row"})
    seed: int = field(default=1, metadata={"help": "of the random numbers"})

    @property
    def lifetimes(self) -> dict[str, float]:
        """Seconds for which a section is kept; sections without an entry live as the film does."""
        pairs = (item.split("=") for item in self.section_ttl.split(",") if item)
        return {name.strip(): float(hours) * HOUR for name, hours in pairs}

    @property
    def rate(self) -> tuple[int, float] | None:
        """The calls to IMDbAPI.dev that are allowed in so many seconds."""
        calls, _, seconds = self.imdb_rate.partition("/")
        return (int(calls), float(seconds)) if calls else None

    def renewal_calls(self, names: Sequence[str]) -> float:
        """Return how many calls the sections `names` of a film cost on average per renewal."""
        ttl, lifetimes = self.ttl * HOUR, self.lifetimes
        return sum(1 / math.ceil(max(lifetimes.get(name, ttl) / ttl, 1)) for name in names)

    def read_rates(self) -> list[float]:
        """Return the requests per second for each film, the most popular first."""
        weights = [rank**-self.zipf for rank in range(1, self.films + 1)]
        per_weight = self.requests / sum(weights)
        return [weight * per_weight for weight in weights]


@dataclass
class Result:
    """What came of a scenario after its warm-up; counts of requests are expectations."""

    hits: float = 0.0
    misses: float = 0.0
    over_rate: float = 0.0
    fetches: int = 0
    age_seconds: float = 0.0
    fresh_seconds: float = 0.0
    calls: dict[str, int] = field(
        default_factory=lambda: {"imdbapi": 0, "kinocheck": 0, "watchmode": 0}
    )
    without_trailer: int = 0
    without_offers: int = 0
    rows: int = 0
    seconds: float = 0.0

    @property
    def requests(self) -> float:
        """All requests."""
        return self.hits + self.misses + self.over_rate


class _Bucket:
    """The rate limit of a source: when the next calls may be made."""

    def __init__(self, rate: tuple[int, float] | None) -> None:
        self._burst, seconds = rate or (0, 0.0)
        self._interval = seconds / self._burst if rate else 0.0
        self._free_at = -math.inf

    def take(self, now: float, calls: int) -> float | None:
        """Take the tokens of calls; return the seconds until the last call is made.

        None, and nothing is taken, if that is after a request's deadline.
        """
        start = max(self._free_at, now - self._burst * self._interval)
        end = start + calls * self._interval
        if end > now + _FETCH_DEADLINE:
            return None
        self._free_at = end
        return max(0.0, end - now)


class _Quota:
    """The calls that a source allows in a period; the last tenth is for films that are stored."""

    def __init__(self, limit: int, period: float) -> None:
        self._limit, self._period = limit, period
        self._current, self._used = -1, 0

    def take(self, now: float, calls: int, *, is_new: bool) -> bool:
        if int(now // self._period) != self._current:
            self._current, self._used = int(now // self._period), 0
        limit = self._limit * (1 - _RESERVE) if is_new else self._limit
        if self._limit and self._used + calls > limit:
            return False
        self._used += calls
        return True


class _Event(NamedTuple):
    """A fetch of a film that is due, for a reader or in the background."""

    at: float
    film: int
    is_reader: bool


class _Film:
    """A stored film: when its sections were fetched, and how often it was read late in its life."""

    __slots__ = ("cached_at", "fetched_at", "late_reads", "number_at", "refresh_age")

    def __init__(self, refresh_age: float) -> None:
        self.cached_at = self.number_at = -math.inf
        self.fetched_at: dict[str, float] = {}
        self.late_reads = 0
        self.refresh_age = refresh_age


class Simulation:
    """Films that are fetched by readers and by the background; only fetches are events.

    Between two fetches of a film all its requests are hits, whose number is known on average.
    """

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._random = random.Random(scenario.seed)
        self._ttl = scenario.ttl * HOUR
        self._lifetimes = scenario.lifetimes
        self._start, self._end = scenario.warm_up * DAY, scenario.days * DAY
        self._rates = scenario.read_rates()
        self._films: dict[int, _Film] = {}
        self._imdb = _Bucket(scenario.rate)
        self._kino = _Quota(scenario.kino, DAY)
        self._watchmode = _Quota(scenario.watchmode, MONTH)
        self._result = Result(seconds=self._end - self._start)

    def run(self) -> Result:
        """Simulate from an empty database to the end."""
        events: list[_Event] = []
        for number, rate in enumerate(self._rates):
            self._push(events, _Event(self._random.expovariate(rate), number, is_reader=True))
        while events:
            self._push(events, self._handle(heapq.heappop(events)))
        for number, film in self._films.items():
            self._count_hits(film, self._end, self._rates[number])
        self._result.rows = len(self._films)
        return self._result

    def _push(self, events: list[_Event], event: _Event) -> None:
        if event.at < self._end:
            heapq.heappush(events, event)

    def _handle(self, event: _Event) -> _Event:
        """Fetch a film if the rate allows it; return its next event."""
        film, rate = self._films.get(event.film), self._rates[event.film]
        wanted = self._wanted(film, event.at)
        delay = self._imdb.take(event.at, sum(name in IMDB for name in wanted))
        if delay is None:
            if event.is_reader and event.at >= self._start:
                self._result.over_rate += 1
            # The next request tries again.
            again = event.at + self._random.expovariate(rate)
            is_expired = film is None or again >= film.cached_at + self._ttl
            return _Event(again, event.film, is_reader=event.is_reader or is_expired)
        is_new = film is None
        if film is None:
            film = self._films[event.film] = _Film(1 - _LAST_PART * self._random.random())
        expires_at, done_at = film.cached_at + self._ttl, event.at + delay
        self._count_hits(film, done_at, rate)
        if done_at > self._end:
            # It does not end in time to count.
            return _Event(done_at, event.film, is_reader=True)
        if event.at >= self._start:
            self._result.fetches += 1
            # Who asks between expiry and the end of the fetch waits too, and not for ever.
            waiting = event.is_reader + rate * (done_at - max(event.at, min(expires_at, done_at)))
            if delay <= _QUEUE_PATIENCE:
                self._result.misses += waiting
            else:
                self._result.over_rate += waiting
        self._call(film, event.at, wanted, is_new=is_new)
        film.cached_at = done_at
        return self._next_fetch(film, event.film, rate)

    def _wanted(self, film: _Film | None, now: float) -> Sequence[str]:
        """Return the sections whose lifetime is over."""
        if film is None:
            return SECTION_NAMES
        return [
            name
            for name in SECTION_NAMES
            if now - film.fetched_at.get(name, -math.inf) >= self._lifetimes.get(name, 0.0)
        ]

    def _call(self, film: _Film, now: float, wanted: Sequence[str], *, is_new: bool) -> None:
        """Make the calls for `wanted`, as far as quotas allow them."""
        result, counts = self._result, now >= self._start
        fetched = [name for name in wanted if name in IMDB]
        calls = {"imdbapi": len(fetched)}
        if TRAILER.name in wanted:
            if self._kino.take(now, 1, is_new=is_new):
                calls["kinocheck"] = 1
                fetched.append(TRAILER.name)
            else:
                result.without_trailer += counts
        if STREAMING.name in wanted:
            has_number = self._scenario.id_map or now - film.number_at < _WATCHMODE_ID_SECONDS
            needed = 1 if has_number else 2
            if self._watchmode.take(now, needed, is_new=is_new):
                calls["watchmode"] = needed
                fetched.append(STREAMING.name)
                film.number_at = film.number_at if has_number else now
            else:
                result.without_offers += counts
        film.fetched_at.update(dict.fromkeys(fetched, now))
        if counts:
            for source, number in calls.items():
                result.calls[source] += number

    def _next_fetch(self, film: _Film, number: int, rate: float) -> _Event:
        """Return the late read at which the film is refreshed, or the first read after its time."""
        expires_at = film.cached_at + self._ttl
        read_at = film.cached_at + film.refresh_age * self._ttl
        while True:
            read_at += self._random.expovariate(rate)
            if read_at >= expires_at:
                return _Event(read_at, number, is_reader=True)
            film.late_reads += 1
            if film.late_reads >= _READS_IN_USE:
                return _Event(read_at, number, is_reader=False)

    def _count_hits(self, film: _Film, until: float, rate: float) -> None:
        start = max(film.cached_at, self._start)
        end = min(until, film.cached_at + self._ttl)
        if end > start:
            self._result.fresh_seconds += end - start
            self._result.hits += rate * (end - start)
            younger, older = start - film.cached_at, end - film.cached_at
            self._result.age_seconds += rate * (older**2 - younger**2) / 2


def simulate(scenario: Scenario) -> Result:
    """Return what comes of a scenario."""
    return Simulation(scenario).run()


def held_in_memory(rates: Sequence[float], seconds: float) -> float:
    """Return the part of all requests that find an answer kept for `seconds` by one cache."""
    return sum(rate * rate * seconds / (1 + rate * seconds) for rate in rates) / sum(rates)


def films_kept_fresh(scenario: Scenario) -> dict[str, float]:
    """Return for each source how many films its limit can keep fresh all the time."""
    renewals_a_day = DAY / (scenario.ttl * HOUR)
    limits = {
        "imdbapi": (scenario.rate[0] / scenario.rate[1] * DAY if scenario.rate else 0, IMDB),
        "kinocheck": (scenario.kino, (TRAILER.name,)),
        "watchmode": (scenario.watchmode / MONTH_DAYS, (STREAMING.name,)),
    }
    return {
        source: calls / (scenario.renewal_calls(names) * renewals_a_day) if calls else math.inf
        for source, (calls, names) in limits.items()
    }


@dataclass(frozen=True)
class Load:
    """What a number of requests per second costs, once the films in use are stored.

    Without simulation: each film is fetched at the first request after its time to live, as far as
    the rate of IMDbAPI.dev allows it.
    """

    hit_ratio: float
    in_memory: float
    row_reads: float
    cores: float


def load_of(scenario: Scenario, requests: float) -> Load:
    """Return what `requests` per second cost."""
    rates = replace(scenario, requests=requests).read_rates()
    hit_ratio = held_in_memory(rates, scenario.ttl * HOUR)
    in_memory = hit_ratio * held_in_memory(rates, scenario.hot_seconds)
    fetches = requests * (1 - hit_ratio)
    if scenario.rate:
        calls, seconds = scenario.rate
        fetches = min(fetches, calls / seconds / scenario.renewal_calls(IMDB))
    row_reads = requests * (1 - in_memory)
    milliseconds = (
        requests * in_memory * scenario.hit_ms
        + row_reads * scenario.row_ms
        + fetches * scenario.miss_ms
    )
    return Load(hit_ratio, in_memory, row_reads, milliseconds / 1000)


def requests_until(scenario: Scenario, is_enough: Callable[[Load], bool]) -> float:
    """Return the largest number of requests per second for which `is_enough`, to 1 %.

    It is infinite beyond a million.
    """
    low, high = 0.0, 1e6
    if is_enough(load_of(scenario, high)):
        return math.inf
    while high - low > max(low, 1.0) / 100:
        middle = (low + high) / 2
        low, high = (middle, high) if is_enough(load_of(scenario, middle)) else (low, middle)
    return low


def report(scenario: Scenario) -> str:
    """Return the scenario and what it needs, as text."""
    result = simulate(scenario)
    days, per_fetch = result.seconds / DAY, 100 / max(result.fetches, 1)
    limits = {
        "imdbapi": f"of {scenario.rate[0] / scenario.rate[1] * DAY:,.0f}" if scenario.rate else "",
        "kinocheck": f"of {scenario.kino:,}" if scenario.kino else "",
        "watchmode": f"of {scenario.watchmode / MONTH_DAYS:,.1f}" if scenario.watchmode else "",
    }
    replica = requests_until(scenario, lambda load: load.row_reads * scenario.database_ms < 1000)
    processes = _CLIENT_CONNECTIONS // _POOL
    pooler = requests_until(scenario, lambda load: load.cores < processes)
    one_core = requests_until(scenario, lambda load: load.cores < 1)
    cdn = held_in_memory(scenario.read_rates(), scenario.ttl * HOUR)
    cdn_gb = cdn * scenario.requests * DAY * scenario.answer_kb / 1e6
    lines = [
        f"{scenario.films:,} films, Zipf {scenario.zipf:g}, {scenario.requests:g} requests/s",
        f"CACHE_TTL_HOURS={scenario.ttl:g}, SECTION_TTL_HOURS={scenario.section_ttl or 'empty'}",
        "",
        "requests",
        f"  hits                              {result.hits / result.requests:8.1%}",
        f"  fetched while the reader waits    {result.misses / result.requests:8.1%}",
        f"  beyond the rate of IMDbAPI.dev    {result.over_rate / result.requests:8.1%}",
        f"  mean age of a hit                 {result.age_seconds / result.hits / HOUR:8.1f} h",
        "",
        "films",
        f"  fresh at a time, on average     {result.fresh_seconds / result.seconds:10,.0f}",
        *(
            f"  {source + ' can keep fresh':<32}{number:10,.0f}"
            for source, number in films_kept_fresh(scenario).items()
            if number != math.inf
        ),
        f"  {f'stored after {scenario.days:g} days':<32}{result.rows:10,}",
        f"  in the database                 {result.rows * scenario.film_kb / 1e6:10,.1f} GB",
        "",
        "calls a day",
        *(
            f"  {source:<32}{calls / days:10,.1f} {limits[source]}".rstrip()
            for source, calls in result.calls.items()
        ),
        f"  fetches without a trailer         {result.without_trailer * per_fetch:7.1f}%",
        f"  fetches without offers            {result.without_offers * per_fetch:7.1f}%",
        "",
        "requests/s      hits  from memory  rows read/s   cores",
        *(
            f"{requests:10,g}  {load.hit_ratio:8.1%}  {load.in_memory:11.1%}"
            f"  {load.row_reads:11,.1f}  {load.cores:6.2f}"
            for requests in sorted({scenario.requests, 10.0, 100.0, 1000.0, 10_000.0})
            for load in (load_of(scenario, requests),)
        ),
        "",
        "what pays",
        f"  a second core     {_from(one_core)}",
        f"  a replica         {_from(replica)} (one core of PostgreSQL)",
        (f"  a pooler          {_from(pooler)} ({processes} processes, {_POOL} connections each)"),
        f"  a CDN takes {cdn:.0%} of {scenario.requests:g} requests/s, {cdn_gb:,.1f} GB a day",
    ]
    return "\n".join(lines)


def _from(requests: float) -> str:
    return "never" if requests == math.inf else f"from {requests:9,.0f} requests/s"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the report of the scenario that the arguments describe."""
    parser = argparse.ArgumentParser(
        prog="tools.capacity", description="Compute what a number of films and readers needs."
    )
    for each in fields(Scenario):
        parser.add_argument(
            f"--{each.name.replace('_', '-')}",
            type=type(each.default),
            default=each.default,
            metavar="N" if not isinstance(each.default, str) else "TEXT",
            help=f"{each.metadata['help']} (default: {each.default or 'empty'})",
        )
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw the figures there")
    given = vars(parser.parse_args(arguments))
    folder = given.pop("plots")
    scenario = Scenario(**given)
    if problem := _problem(scenario):
        parser.error(problem)
    print(report(scenario))
    if folder:
        from tools.capacity_plots import draw  # noqa: PLC0415  (needs an extra)

        draw(scenario, folder)


def _problem(scenario: Scenario) -> str | None:
    numbers = ("films", "requests", "days", "ttl")
    if any(getattr(scenario, name) <= 0 for name in numbers):
        return f"{', '.join(numbers)} must be greater than 0"
    if not 0 <= scenario.warm_up < scenario.days:
        return "warm-up must be less than days"
    try:
        unknown = scenario.lifetimes.keys() - set(SECTION_NAMES)
        _ = scenario.rate
    except ValueError:
        return "section-ttl is written as streaming=168,images=720, imdb-rate as 8/5"
    return f"no such section: {', '.join(sorted(unknown))}" if unknown else None


if __name__ == "__main__":
    main(sys.argv[1:])
