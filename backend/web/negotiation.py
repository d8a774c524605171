"""What clients accept: the media type and the coding of responses.

A module of its own: REST framework imports it while its views are still being defined.
"""

import re
from collections.abc import Iterable

from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

# RFC 9110, 12.4.2.
_WEIGHT = re.compile(r"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", re.ASCII)


def accepts_gzip(header: str) -> bool:
    """Whether this `Accept-Encoding` allows gzip (RFC 9110, 12.5.3).

    A coding with a malformed weight is not accepted; the plain form is always allowed.
    """
    accepted = {}
    for item in header.lower().split(","):
        coding, semicolon, parameter = item.partition(";")
        weight = _WEIGHT.fullmatch(parameter.strip(" \t") if semicolon else "q=1")
        accepted[coding.strip(" \t")] = weight is not None and float(weight[1]) > 0
    # The names in the order in which they decide; x-gzip is the old name of gzip.
    for name in ("gzip", "x-gzip", "*"):
        if name in accepted:
            return accepted[name]
    return False


class JSONAlways(BaseContentNegotiation):
    """Selects JSON for every `Accept` header: there is nothing else to choose from."""

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser | None:
        """Return the only parser."""
        return next(iter(parsers))

    def select_renderer(
        self,
        request: Request,
        renderers: Iterable[BaseRenderer],
        format_suffix: str | None = None,
    ) -> tuple[BaseRenderer, str]:
        """Return the only renderer and its media type."""
        renderer = next(iter(renderers))
        return renderer, renderer.media_type or "application/json"
