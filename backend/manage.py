#!/usr/bin/env python
"""Django's command line for this project."""

import gc
import sys

from django.conf import settings
from django.core.management import execute_from_command_line

from filmosphere.startup import load_settings_or_exit, reach_redis_or_exit


def main() -> None:
    """Run the management command named in `sys.argv`."""
    # What is imported stays. With the usual threshold of 700 new objects, looking for garbage among
    # it takes a tenth of a second.
    gc.set_threshold(50_000)
    load_settings_or_exit()
    for warning in settings.ENVIRONMENT_WARNINGS:
        sys.stderr.write(f"filmosphere: warning: {warning}\n")
    if sys.argv[1:2] == ["runserver"]:
        # Here, because its reloader would outlive an exit of the server it watches over.
        reach_redis_or_exit()
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
