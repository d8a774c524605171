"""Run the four stand-ins on one loopback port: `python -m sandbox`."""

import argparse
import asyncio
import ipaddress
import os
import signal
import sys
from collections.abc import Sequence

from sandbox import catalogue
from sandbox.server import Connection, Sandbox

PARENT_POLL = 0.2


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sandbox", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address")
    parser.add_argument("--port", type=int, default=8001, help="0 picks a free port")
    parser.add_argument(
        "--titles", type=int, default=0, help="add copies of films until there are so many titles"
    )
    parser.add_argument(
        "--exit-with-parent", action="store_true", help="stop when the parent process ends"
    )
    args = parser.parse_args(argv)
    if not 0 <= args.port <= 65535:
        parser.error("--port must be between 0 and 65535")
    if args.titles > 2_000_000:
        parser.error("--titles must be at most 2000000")
    return args


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def serve(host: str, port: int, *, titles: int, exit_with_parent: bool) -> int:
    """Serve until SIGTERM, SIGINT or the optional end of the parent; return the exit status."""
    loop, stop, parent = asyncio.get_running_loop(), asyncio.Event(), os.getppid()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    sandbox = Sandbox(catalogue.load(titles=titles))
    try:
        server = await loop.create_server(lambda: Connection(sandbox), host, port, backlog=1024)
    except OSError as exc:
        print(f"sandbox: cannot listen on {host}:{port}: {exc.strerror}", file=sys.stderr)
        return 1
    bound = server.sockets[0].getsockname()[1]
    name = f"[{host}]" if ":" in host else host
    print(f"sandbox listening on http://{name}:{bound}", flush=True)
    watch = asyncio.create_task(_stop_with(parent, stop)) if exit_with_parent else None
    await stop.wait()
    if watch:
        watch.cancel()
    server.close()
    sandbox.close_connections()
    return 0


async def _stop_with(parent: int, stop: asyncio.Event) -> None:
    while os.getppid() == parent:  # noqa: ASYNC110  (no event reports it)
        await asyncio.sleep(PARENT_POLL)
    stop.set()


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    host = "127.0.0.1" if args.host == "localhost" else args.host
    if not is_loopback(host):
        print(f"sandbox: {args.host} is not a loopback address", file=sys.stderr)
        return 2
    return asyncio.run(
        serve(host, args.port, titles=args.titles, exit_with_parent=args.exit_with_parent)
    )


if __name__ == "__main__":
    sys.exit(main())
