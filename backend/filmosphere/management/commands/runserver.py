"""Django's development server, except where the service already runs."""

import http.client
import re
from typing import Any

from django.core.management.commands import runserver

_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Command(runserver.Command):
    """Start Django's development server, unless the service answers at that address."""

    def handle(self, *args: Any, **options: Any) -> None:
        """Ask the address; do what Django's command does if the service does not answer there."""
        # Other forms are errors, which Django's command explains.
        match = re.fullmatch(
            r"(?:\[?([^]]*?)\]?:)?([0-9]+)", options["addrport"] or self.default_port
        )
        host, port = (match[1] or self.default_addr, int(match[2])) if match else ("", 0)
        if match and _service_answers(_EVERY_ADDRESS.get(host, host), port):
            self.stdout.write(
                f"The production server already answers on port {port},"
                " so there is no development server to start."
            )
            return
        super().handle(*args, **options)


def _service_answers(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", "/healthz")
        response = connection.getresponse()
    except (OSError, http.client.HTTPException, ValueError, OverflowError):
        return False
    else:
        # The header distinguishes the service from other programs that have such a path.
        return response.status == 200 and "X-Correlation-ID" in response.headers
    finally:
        connection.close()
