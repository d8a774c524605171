"""Django application configuration of Cinemix."""

from django.apps import AppConfig


class CinemixConfig(AppConfig):
    """The `/api/v1` surface: movies from OMDb, cached and rate-limited."""

    name = "cinemix"
