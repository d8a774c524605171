"""WSGI (PEP 3333) without Django: what is answered before Django builds a request."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from core.errors import ServiceError
from core.utils.logging import film_id
from web.cors import cors_headers
from web.request_context import accepted_id, in_request_context, is_allowed_host, log_request

logger = logging.getLogger(__name__)

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

NOT_MODIFIED = "304 Not Modified"


class PlainRequest(NamedTuple):
    """A request, as far as parameters and the address of the client are concerned."""

    META: Environ


class KeptAnswer(NamedTuple):
    """An answer in JSON that may be cached for `max_age` seconds, with further headers."""

    body: bytes
    max_age: int
    headers: Mapping[str, str] = {}


# Returns the answer to a request if it is kept. Raises `ServiceError` as the view would.
FindAnswer = Callable[[PlainRequest], KeptAnswer | None]


class KeptAnswers:
    """A WSGI application in front of Django's: it answers `GET` and `HEAD` with what is kept.

    `find` has a function for each path, which may end with a slash or not. Django gets what is not
    kept and all errors. Requests are counted under the routes of the views.
    """

    def __init__(self, application: Application, *, find: Mapping[str, FindAnswer]) -> None:
        self._application = application
        self._find = {**find, **{f"{path}/": function for path, function in find.items()}}

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer what is kept, or pass the request on."""
        path, started = environ["PATH_INFO"], time.monotonic()
        find = self._find.get(path)
        if (
            find is None
            or environ["REQUEST_METHOD"] not in {"GET", "HEAD"}
            or not is_allowed_host(environ)
        ):
            return self._application(environ, start_response)
        # Also for what Django logs if it gets the request.
        identifier = accepted_id(environ.get("HTTP_X_CORRELATION_ID", ""))
        environ["HTTP_X_CORRELATION_ID"] = identifier
        with in_request_context(identifier):
            try:
                answer = find(PlainRequest(environ))
            except ServiceError:
                answer = None
            film = film_id.get()
        if answer is None:
            return self._application(environ, start_response)
        headers = {
            "Content-Type": "application/json",
            "Cache-Control": f"public, max-age={answer.max_age}",
            "Vary": "Origin",
            "X-Content-Type-Options": "nosniff",
            **answer.headers,
        }
        return send(
            environ,
            start_response,
            "200 OK",
            headers.items(),
            answer.body,
            route=path[1:],
            film=film,
            cache="memory",
            started=started,
        )


def with_fallback(front: Application, behind: Application) -> Application:
    """Let `behind` answer the requests for which `front` raises: a bug, logged with its traceback.

    The server's own answer to it would not be JSON.
    """

    def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        try:
            return front(environ, start_response)
        except Exception:
            identifier = accepted_id(environ.get("HTTP_X_CORRELATION_ID", ""))
            environ["HTTP_X_CORRELATION_ID"] = identifier
            with in_request_context(identifier):
                logger.exception("unexpected error")
            return behind(environ, start_response)

    return answer


def send(
    environ: Environ,
    start_response: StartResponse,
    status: str,
    headers: Iterable[tuple[str, str]],
    body: bytes,
    *,
    route: str,
    film: str = "-",
    **logged: Any,
) -> Iterable[bytes]:
    """Send an answer and log the request under its `route`, with the fields `logged`."""
    identifier = accepted_id(environ.get("HTTP_X_CORRELATION_ID", ""))
    all_headers = [
        *headers,
        ("X-Correlation-ID", identifier),
        *cors_headers(environ.get("HTTP_ORIGIN")),
    ]
    if status != NOT_MODIFIED:
        all_headers.append(("Content-Length", str(len(body))))
    chunks = [body] if environ["REQUEST_METHOD"] == "GET" else []
    with in_request_context(identifier, film=film):
        start_response(status, all_headers)
        log_request(
            route,
            method=environ["REQUEST_METHOD"],
            path=environ["PATH_INFO"],
            status=int(status[:3]),
            size=sum(map(len, chunks)),
            **logged,
        )
    return chunks
