"""A view of Django REST framework that returns the bytes of the file that `BODY` names."""

import os
from pathlib import Path

import django
from django.conf import settings
from django.http import HttpResponse
from django.urls import re_path

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="x" * 50,
    MIDDLEWARE=[],
    REST_FRAMEWORK={"DEFAULT_AUTHENTICATION_CLASSES": [], "UNAUTHENTICATED_USER": None},
)
django.setup()

from django.core.wsgi import get_wsgi_application
from rest_framework.request import Request
from rest_framework.views import APIView

_BODY = Path(os.environ["BODY"]).read_bytes()


class View(APIView):
    """A view without authentication, permissions and throttling."""

    def get(self, request: Request) -> HttpResponse:
        """Return the body."""
        return HttpResponse(_BODY, content_type="application/json")


urlpatterns = [re_path("", View.as_view())]
application = get_wsgi_application()
