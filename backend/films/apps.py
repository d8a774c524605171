"""The films app."""

from django.apps import AppConfig


class FilmsConfig(AppConfig):
    """Films: how they are fetched and stored, and the endpoints that show them."""

    name = "films"
