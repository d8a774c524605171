"""The shapes of the film surface, as the OpenAPI document shows them.

Nothing is pushed through them: payloads are answered as they are stored. What comes from the
sources was held against `core.source_shapes` before.
"""

from typing import Any

from rest_framework import serializers

from core import source_shapes as raw

WARNING_CODES = [
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


class SearchResultSerializer(serializers.Serializer[dict[str, Any]]):
    """A title that matches."""

    imdb_id = serializers.CharField(help_text="The id under which `getFilm` knows the title.")
    title = serializers.CharField(allow_null=True)
    year = serializers.IntegerField(allow_null=True)
    image = serializers.URLField(allow_null=True)
    type = serializers.CharField(allow_null=True, help_text="As in `IMDbMetadata`.")


class SearchSerializer(serializers.Serializer[dict[str, Any]]):
    """The titles that match a query, best first."""

    query = serializers.CharField(help_text="The query as it was sent.")
    results = SearchResultSerializer(many=True)


class WarningSerializer(serializers.Serializer[dict[str, Any]]):
    """Why a section is empty, or older than the rest."""

    section = serializers.CharField(help_text="The key of the payload that it is about.")
    source = serializers.CharField(  # type: ignore[assignment]  # the base class has one too
        help_text="`imdbapi`, `kinocheck` or `watchmode`."
    )
    code = serializers.ChoiceField(choices=WARNING_CODES)
    message = serializers.CharField(help_text="A sentence for people; may change.")


class FilmDetailSerializer(serializers.Serializer[dict[str, Any]]):
    """Everything that a client needs to show a film: always these twelve keys.

    The sections hold what the sources sent. One that has a warning is empty (`{}`, null for the
    trailer, `[]` for streaming) or, with the code `stale`, an older copy; one that is empty without
    a warning is empty at the source.
    """

    imdb_id = serializers.CharField()
    title = serializers.CharField(help_text="IMDb's `primaryTitle`.")
    metadata = raw.IMDbMetadataSerializer()
    credits = raw.CreditsSerializer()
    images = raw.ImagesSerializer()
    videos = raw.VideosSerializer()
    parents_guide = raw.ParentsGuideSerializer()
    certificates = raw.CertificatesSerializer()
    release_dates = raw.ReleaseDatesSerializer()
    trailer = raw.TrailerSerializer(allow_null=True)
    streaming = raw.StreamingSourceSerializer(many=True)
    warnings = WarningSerializer(many=True)


class FilmTrailerSerializer(serializers.Serializer[dict[str, Any]]):
    """The trailer of a film, null where it has none."""

    imdb_id = serializers.CharField()
    trailer = raw.TrailerSerializer(allow_null=True)


class FilmStreamingSerializer(serializers.Serializer[dict[str, Any]]):
    """Where a film can be streamed."""

    imdb_id = serializers.CharField()
    streaming = raw.StreamingSourceSerializer(many=True)
