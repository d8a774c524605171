#!/usr/bin/env python
"""Django's command line for this project."""

import sys

from django.core.management import execute_from_command_line

from filmosphere.startup import load_settings_or_exit, reach_redis_or_exit


def main() -> None:
    """Run the management command named in `sys.argv`."""
    load_settings_or_exit()
    if sys.argv[1:2] == ["runserver"]:
        # Here, because its reloader would outlive an exit of the server it watches over.
        reach_redis_or_exit()
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
