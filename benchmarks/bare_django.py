"""A Django view that returns the bytes of the file that `BODY` names, without middleware."""

import os
from pathlib import Path

import django
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import re_path

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x" * 50, MIDDLEWARE=[])
django.setup()

from django.core.wsgi import get_wsgi_application

_BODY = Path(os.environ["BODY"]).read_bytes()


def view(request: HttpRequest) -> HttpResponse:
    """Return the body."""
    return HttpResponse(_BODY, content_type="application/json")


urlpatterns = [re_path("", view)]
application = get_wsgi_application()
