"""The calls of cold films with httpx and nothing else: no merging, no storing, no limits.

Reads JSON from standard input: `films`, each a list of chains of `[url, headers]`, of which each
call follows the one before; how many films are `in_flight`; and for how many `seconds`. One client
per thread, one SSLContext for all. Prints JSON: the seconds of each film, and the CPU per film.
"""

import itertools
import json
import ssl
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

_CHAINS = 9


def main() -> None:
    """Make the calls."""
    given = json.load(sys.stdin)
    in_flight, films = given["in_flight"], itertools.cycle(given["films"])
    tls, thread = ssl.create_default_context(), threading.local()

    def run(chain: list[tuple[str, dict[str, str]]]) -> None:
        if not hasattr(thread, "client"):
            thread.client = httpx.Client(verify=tls, trust_env=False)
        for url, headers in chain:
            thread.client.get(url, headers=headers).raise_for_status()

    with ThreadPoolExecutor(in_flight * _CHAINS) as calls, ThreadPoolExecutor(in_flight) as readers:

        def read(_: int, *, until: float) -> list[float]:
            times = []
            while not times or time.monotonic() < until:
                started = time.monotonic()
                list(calls.map(run, next(films)))
                times.append(time.monotonic() - started)
            return times

        # Connections are opened before the measurement, as those of the service are.
        list(readers.map(lambda number: read(number, until=time.monotonic() + 1), range(in_flight)))
        cpu, ends = time.process_time(), time.monotonic() + given["seconds"]
        done = readers.map(lambda number: read(number, until=ends), range(in_flight))
        times = [seconds for reader in done for seconds in reader]
        cpu = time.process_time() - cpu
    print(json.dumps({"times": times, "cpu": cpu / len(times)}))


if __name__ == "__main__":
    main()
