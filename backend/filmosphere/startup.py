"""What every way of starting the project does first."""

import os
import sys

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured


def load_settings_or_exit() -> None:
    """Load the settings; a setting that is missing or malformed ends the process.

    Exits with status 1 and one line on standard error that names the setting.
    """
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "filmosphere.settings")
    try:
        settings.SECRET_KEY  # noqa: B018  (any attribute makes Django import the module)
    except ImproperlyConfigured as exc:
        sys.exit(f"filmosphere: {exc}")
