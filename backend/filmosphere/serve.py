"""Start the service: `python -m filmosphere.serve`, as `make run` and the image do."""

import argparse
import gc
import os
import signal


def main() -> None:
    """Serve until a signal asks to stop."""
    # The first process of a container ignores SIGTERM unless it has a handler, so it gets one
    # before the imports, which take half a second. There is nothing to clean up yet.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    # What is imported stays. Looking for garbage among it takes a fifth of the time of the start.
    # `service.load_application` ends this.
    gc.disable()
    parser = argparse.ArgumentParser(prog="python -m filmosphere.serve")
    parser.add_argument("--migrate", action="store_true", help="apply migrations first")
    arguments = parser.parse_args()
    from filmosphere import service  # noqa: PLC0415  (after the handler is set)

    service.run(migrates=arguments.migrate)


if __name__ == "__main__":
    main()
