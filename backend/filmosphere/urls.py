"""The root of all paths: they are on one page, in `api.urls`."""

from django.urls import include, path

urlpatterns = [path("", include("api.urls"))]
