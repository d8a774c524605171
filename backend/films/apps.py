"""The films app."""

from django.apps import AppConfig


class FilmsConfig(AppConfig):
    """What a film is, and the endpoints that show it."""

    name = "films"
