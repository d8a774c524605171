"""The shapes of the film surface, as the OpenAPI document shows them."""

from typing import Any

from rest_framework import serializers


class SearchResultSerializer(serializers.Serializer[dict[str, Any]]):
    """A title that matches."""

    imdb_id = serializers.CharField()
    title = serializers.CharField(allow_null=True)
    year = serializers.IntegerField(allow_null=True)
    image = serializers.URLField(allow_null=True)
    type = serializers.CharField(allow_null=True)


class SearchSerializer(serializers.Serializer[dict[str, Any]]):
    """The titles that match a query, best first."""

    query = serializers.CharField()
    results = SearchResultSerializer(many=True)


class WarningSerializer(serializers.Serializer[dict[str, Any]]):
    """Why a section is empty, or older than the rest."""

    section = serializers.CharField()
    source = serializers.CharField()  # type: ignore[assignment]  # the base class has one too
    code = serializers.ChoiceField(
        choices=[
            "timeout",
            "unavailable",
            "rate_limited",
            "quota_exhausted",
            "not_configured",
            "rejected",
            "region_not_covered",
            "bad_response",
            "stale",
            "deadline",
        ]
    )
    message = serializers.CharField()


class FilmSerializer(serializers.Serializer[dict[str, Any]]):
    """Everything that a client needs to show a film."""

    imdb_id = serializers.CharField()
    title = serializers.CharField()
    metadata = serializers.DictField()
    credits = serializers.DictField()
    images = serializers.DictField()
    videos = serializers.DictField()
    parents_guide = serializers.DictField()
    certificates = serializers.DictField()
    release_dates = serializers.DictField()
    trailer = serializers.DictField(allow_null=True)
    streaming = serializers.ListField(child=serializers.DictField())
    warnings = WarningSerializer(many=True)


class TrailerSerializer(serializers.Serializer[dict[str, Any]]):
    """The trailer of a film, null where it has none."""

    imdb_id = serializers.CharField()
    trailer = serializers.DictField(allow_null=True)


class StreamingSerializer(serializers.Serializer[dict[str, Any]]):
    """Where a film can be streamed."""

    imdb_id = serializers.CharField()
    streaming = serializers.ListField(child=serializers.DictField())
