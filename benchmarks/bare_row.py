"""A WSGI application that reads a film's bytes with one query of psycopg2, and nothing else.

Each thread keeps its connection. The query has the conditions of the service's: the bytes belong to
the film's row, and the row is fresh.
"""

import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

import psycopg2

_QUERY = """
SELECT film.cached_at, made.version, made.{body}
FROM films_film film JOIN films_filmrendering made ON made.imdb_id = film.imdb_id
WHERE film.imdb_id = %s AND film.cached_at > now() - interval '1 day'
  AND made.rendered_for = film.updated_at
"""
_PLAIN, _GZIPPED = _QUERY.format(body="body"), _QUERY.format(body="gzipped")
_thread = threading.local()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Return the film whose id is the third part of the path."""
    if not hasattr(_thread, "cursor"):
        connection = psycopg2.connect(os.environ["DATABASE_URL"])
        connection.autocommit = True
        _thread.cursor = connection.cursor()
    is_gzipped = "gzip" in environ.get("HTTP_ACCEPT_ENCODING", "")
    imdb_id = environ["PATH_INFO"].rpartition("/")[2]
    _thread.cursor.execute(_GZIPPED if is_gzipped else _PLAIN, [imdb_id])
    row = _thread.cursor.fetchone()
    if row is None:
        start_response("404 Not Found", [("Content-Length", "0")])
        return []
    body = bytes(row[2])
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("ETag", f'"{row[1]}"'),
    ]
    if is_gzipped:
        headers.append(("Content-Encoding", "gzip"))
    start_response("200 OK", headers)
    return [body]
