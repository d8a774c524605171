"""`orm_jsonfield_drf`, which fetches a film that is not stored with one call after another."""

import os
import ssl
import threading
import uuid
from datetime import datetime, timezone
from typing import Any

os.environ["URLS"] = __name__

import httpx
import upstream
from django.db import connection
from django.urls import path
from orm_jsonfield_drf import APIView, Film, Request, Response, application
from psycopg2.extras import Json

__all__ = ["application"]
_TLS = ssl.create_default_context()
_thread = threading.local()
_STORE = """
INSERT INTO films_film (id, imdb_id, title, full_json, cached_at, created_at, updated_at)
VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (imdb_id) DO NOTHING
"""


def _get(url: str, headers: dict[str, str] | None = None) -> Any:
    if not hasattr(_thread, "client"):
        _thread.client = httpx.Client(verify=_TLS, trust_env=False)
    return _thread.client.get(url, headers=headers).raise_for_status().json()


def fetch(imdb_id: str) -> dict[str, Any]:
    """Fetch a film."""
    sections = {section: _get(upstream.imdb_url(imdb_id, section)) for section in upstream.IMDB}
    trailer = _get(upstream.trailer_url(imdb_id), upstream.KINO)
    found = _get(upstream.title_url(imdb_id), upstream.WATCHMODE)
    offers = _get(upstream.offers_url(found), upstream.WATCHMODE)
    return upstream.merge(imdb_id, sections, trailer, offers)


class FilmView(APIView):
    """`GET /api/films/{imdb_id}`."""

    def get(self, request: Request, imdb_id: str) -> Response:
        """Return a film, stored or fetched."""
        film = Film.objects.filter(imdb_id=imdb_id).first()
        if film is not None:
            return Response(film.full_json)
        payload = fetch(imdb_id)
        now = datetime.now(tz=timezone.utc)
        # The table of the service has more columns than the model.
        with connection.cursor() as cursor:
            row = [str(uuid.uuid4()), imdb_id, payload["title"], Json(payload), now, now, now]
            cursor.execute(_STORE, row)
        return Response(payload)


urlpatterns = [path("api/films/<str:imdb_id>", FilmView.as_view())]
