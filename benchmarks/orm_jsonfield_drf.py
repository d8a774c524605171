"""Films as a `JSONField`, read with the ORM and rendered by Django REST framework."""

import os

import django
import environ
from django.conf import settings
from django.urls import path

settings.configure(
    ROOT_URLCONF=os.environ.get("URLS", __name__),
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="x" * 50,
    MIDDLEWARE=[],
    DATABASES={
        "default": {**environ.Env.db_url_config(os.environ["DATABASE_URL"]), "CONN_MAX_AGE": None}
    },
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": [],
        "UNAUTHENTICATED_USER": None,
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    },
)
django.setup()

from django.core.wsgi import get_wsgi_application
from django.db import models
from django.shortcuts import get_object_or_404
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView


class Film(models.Model):
    """A film, in the table of the service."""

    imdb_id = models.CharField(max_length=20, primary_key=True)
    full_json = models.JSONField()

    class Meta:
        app_label = "benchmarks"
        managed = False
        db_table = "films_film"

    def __str__(self) -> str:
        return self.imdb_id


class FilmView(APIView):
    """`GET /api/films/{imdb_id}`."""

    def get(self, request: Request, imdb_id: str) -> Response:
        """Return a stored film."""
        return Response(get_object_or_404(Film, imdb_id=imdb_id).full_json)


urlpatterns = [path("api/films/<str:imdb_id>", FilmView.as_view())]
application = get_wsgi_application()
