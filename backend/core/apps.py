"""Makes `core` an app of Django."""

from django.apps import AppConfig


class CoreConfig(AppConfig):
    """The outside world: the HTTP client, the upstream services, errors and logs."""

    name = "core"
