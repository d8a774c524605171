"""Cinemix as Django sees it."""

from django.apps import AppConfig


class CinemixConfig(AppConfig):
    """The second surface: movies from OMDb, kept for a while, for so many requests a minute."""

    name = "cinemix"
