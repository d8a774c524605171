"""The generator of the OpenAPI document."""

from collections.abc import Callable
from functools import cache
from typing import Any

from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.utils import extend_schema_view
from rest_framework.views import APIView

import cinemix.openapi
import films.openapi
import web.openapi
from films.views import SectionView

_OPERATIONS: dict[Any, Callable[..., Any]] = {
    **films.openapi.OPERATIONS,
    **cinemix.openapi.OPERATIONS,
    **web.openapi.OPERATIONS,
}


class DocumentGenerator(SchemaGenerator):
    """Attaches the descriptions to the views.

    The views do not have them from the start, because a server needs neither descriptions nor
    generator until the document is requested.
    """

    def create_view(self, callback: Any, method: str, request: Any = None) -> Any:
        """Return an instance of the view of an endpoint."""
        _describe(callback.cls)
        return super().create_view(callback, method, request)  # type: ignore[no-untyped-call]


@cache
def _describe(view: type[APIView]) -> None:
    if issubclass(view, SectionView):
        operation = films.openapi.get_section(view.section)
    else:
        operation = _OPERATIONS[view]
    extend_schema_view(get=operation)(view)
