"""Query parameters as callers sent them."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import parse_qsl

from core.errors import InvalidInput


class HasMeta(Protocol):
    """A request of Django or REST framework, or what stands in for one."""

    @property
    def META(self) -> Mapping[str, Any]:  # noqa: N802  (Django's name)
        """The WSGI environment."""


def query_parameter(request: HasMeta, name: str) -> str | None:
    """Return the last value of the parameter, None if it is missing.

    Raises `InvalidInput` if that value is not UTF-8, which Django would replace by U+FFFD. Other
    parameters are not looked at.
    """
    pairs = _pairs(request.META.get("QUERY_STRING", ""))
    values = [value for key, value in pairs if key == name]
    if not values:
        return None
    try:
        return bytes(values[-1], "latin-1").decode()
    except UnicodeError:
        raise InvalidInput(f"'{name}' is not valid UTF-8.") from None


# A view reads several parameters, one after the other.
@lru_cache(maxsize=64)
def _pairs(query: str) -> list[tuple[str, str]]:
    # WSGI passes bytes as Latin-1 (PEP 3333); decoding percents as Latin-1 keeps them apart.
    return parse_qsl(query, keep_blank_values=True, encoding="latin-1")
