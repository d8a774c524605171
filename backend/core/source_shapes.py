"""What the sources send, in their own names: the insides of a film payload.

The OpenAPI document shows these shapes, and `core.services.conformity` sees to it that answers
have them.

IMDbAPI.dev leaves out every field with a zero value (false, 0, an empty text or list) and sends no
null; KinoCheck and Watchmode send null for what they do not know.
"""

from typing import Any

from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers


class SourceShape(serializers.Serializer[dict[str, Any]]):
    """Names and types, for whatever of it a source sends.

    Any field may be missing but the `certain` ones, which the service checks, and fields that
    nobody knows yet may be there.
    """

    certain: tuple[str, ...] = ()


class SourceShapeExtension(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """Tells the OpenAPI document of what may be missing and what may be there."""

    target_class = SourceShape
    match_subclasses = True

    def map_serializer(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        """Return the schema of the shape."""
        schema: dict[str, Any] = auto_schema._map_serializer(  # noqa: SLF001  (as its manual says)
            self.target, direction, bypass_extensions=True
        )
        schema.pop("required", None)
        if self.target.certain:
            schema["required"] = list(self.target.certain)
        return schema | {"additionalProperties": True}


@extend_schema_field({"oneOf": [{"type": "integer", "nullable": True}, {"type": "string"}]})
class CountField(serializers.Field[Any, Any, Any, Any]):
    """A number, or the same in digits, or null."""


class AddressField(serializers.CharField):
    """An address that begins with `http://` or `https://`."""


class LinkField(serializers.CharField):
    """An address that an app may know by a scheme of its own, or words instead of one."""


def texts(help_text: str = "") -> serializers.ListField:
    """Return a list of texts."""
    return serializers.ListField(child=serializers.CharField(), help_text=help_text)


class _PageSerializer(SourceShape):
    totalCount = serializers.IntegerField(help_text="How many rows the source has.")
    nextPageToken = serializers.CharField(
        help_text="There where the source has more rows than the up to 50 shown."
    )


# --- IMDbAPI.dev ------------------------------------------------------------------------------


class ImageSerializer(SourceShape):
    """A picture; the address is that of the full size."""

    url = AddressField()
    width = serializers.IntegerField()
    height = serializers.IntegerField()
    type = serializers.CharField(help_text="Such as `poster`, `still_frame`, `event`.")


class PersonSerializer(SourceShape):
    """Somebody, by the name on the screen."""

    id = serializers.CharField(help_text="`nm` and digits.")
    displayName = serializers.CharField()
    alternativeNames = texts()
    primaryImage = ImageSerializer()
    primaryProfessions = texts("Lower case: `actor`, `producer`, `writer`, …")


class RatingSerializer(SourceShape):
    """What the users of IMDb think."""

    aggregateRating = serializers.FloatField(help_text="1 to 10.")
    voteCount = serializers.IntegerField()


class MetacriticSerializer(SourceShape):
    """What the critics think."""

    url = AddressField()
    score = serializers.IntegerField(help_text="0 to 100.")
    reviewCount = serializers.IntegerField()


class CountrySerializer(SourceShape):
    """A country."""

    code = serializers.CharField(help_text="ISO 3166-1 alpha-2.")
    name = serializers.CharField()


class LanguageSerializer(SourceShape):
    """A language."""

    code = serializers.CharField(help_text="ISO 639-3.")
    name = serializers.CharField()


class InterestSerializer(SourceShape):
    """What a title is about, finer than a genre."""

    id = serializers.CharField(help_text="`in` and digits.")
    name = serializers.CharField()
    isSubgenre = serializers.BooleanField()


class TitleSerializer(SourceShape):
    """A film, a series or anything else that IMDb lists."""

    id = serializers.CharField(help_text="`tt` and digits.")
    type = serializers.CharField(
        help_text=(
            "`movie`, `tvSeries`, `tvMiniSeries`, `tvMovie`, `tvSpecial`, `tvEpisode`, `short`, "
            "`tvShort`, `video` or `videoGame`; others may come."
        )
    )
    isAdult = serializers.BooleanField()
    primaryTitle = serializers.CharField()
    originalTitle = serializers.CharField()
    primaryImage = ImageSerializer()
    startYear = serializers.IntegerField()
    endYear = serializers.IntegerField(help_text="Of series that have ended.")
    runtimeSeconds = serializers.IntegerField()
    genres = texts()
    rating = RatingSerializer()
    metacritic = MetacriticSerializer()
    plot = serializers.CharField()
    directors = PersonSerializer(many=True)
    writers = PersonSerializer(many=True)
    stars = PersonSerializer(many=True)
    originCountries = CountrySerializer(many=True)
    spokenLanguages = LanguageSerializer(many=True)
    interests = InterestSerializer(many=True)


class IMDbMetadataSerializer(TitleSerializer):
    """The title itself."""

    certain = ("id", "primaryTitle")


class CreditSerializer(SourceShape):
    """What somebody did; one person may have several of these."""

    name = PersonSerializer()
    category = serializers.CharField(help_text="`actor`, `actress`, `director`, `writer`, …")
    characters = texts("Who was played; not there for the crew.")
    episodeCount = serializers.IntegerField()
    title = TitleSerializer()


class CreditsSerializer(_PageSerializer):
    """Cast and crew, the first 50 rows."""

    credits = CreditSerializer(many=True)


class ImagesSerializer(_PageSerializer):
    """Pictures, the first 50."""

    images = ImageSerializer(many=True)


class VideoSerializer(SourceShape):
    """A video on IMDb: its page is `https://www.imdb.com/video/{id}/`, there is no file to play."""

    id = serializers.CharField(help_text="`vi` and digits.")
    type = serializers.CharField(help_text="Such as `trailer`, `clip`.")
    name = serializers.CharField()
    primaryImage = ImageSerializer()
    description = serializers.CharField()
    width = serializers.IntegerField()
    height = serializers.IntegerField()
    runtimeSeconds = serializers.IntegerField()


class VideosSerializer(_PageSerializer):
    """Videos, the first 50."""

    videos = VideoSerializer(many=True)


class SeverityVotesSerializer(SourceShape):
    """How many found a category this severe."""

    severityLevel = serializers.CharField(help_text="`none`, `mild`, `moderate` or `severe`.")
    voteCount = serializers.IntegerField()


class ParentsGuideReviewSerializer(SourceShape):
    """What a user of IMDb says."""

    text = serializers.CharField()
    isSpoiler = serializers.BooleanField()


class ParentsGuideCategorySerializer(SourceShape):
    """The votes on one kind of content; there is no verdict beside them."""

    category = serializers.CharField(
        help_text=(
            "`SEXUAL_CONTENT`, `VIOLENCE`, `PROFANITY`, `ALCOHOL_DRUGS` or "
            "`FRIGHTENING_INTENSE_SCENES`; others may come."
        )
    )
    severityBreakdowns = SeverityVotesSerializer(many=True)
    reviews = ParentsGuideReviewSerializer(many=True)


class ParentsGuideSerializer(SourceShape):
    """What parents may want to know."""

    parentsGuide = ParentsGuideCategorySerializer(many=True)


class CertificateSerializer(SourceShape):
    """An age rating in a country, which may have several."""

    rating = serializers.CharField()
    country = CountrySerializer()
    attributes = texts()


class CertificatesSerializer(SourceShape):
    """Age ratings."""

    certificates = CertificateSerializer(many=True)
    totalCount = serializers.IntegerField(help_text="How many rows the source has.")


class PartialDateSerializer(SourceShape):
    """A date of which only the year, or year and month, may be known."""

    year = serializers.IntegerField()
    month = serializers.IntegerField()
    day = serializers.IntegerField()


class ReleaseDateSerializer(SourceShape):
    """When it came out in a country, which may have several rows."""

    country = CountrySerializer()
    releaseDate = PartialDateSerializer()
    attributes = texts("What sets rows of one country apart: `premiere`, `limited`, …")


class ReleaseDatesSerializer(SourceShape):
    """When it came out, the first 50 rows, in no particular order."""

    releaseDates = ReleaseDateSerializer(many=True)
    nextPageToken = serializers.CharField(
        help_text="There where the source has more rows than the up to 50 shown."
    )


# --- KinoCheck --------------------------------------------------------------------------------


class TrailerSerializer(SourceShape):
    """The trailer that KinoCheck's editors picked."""

    certain = ("youtube_video_id",)

    id = serializers.CharField()
    youtube_video_id = serializers.CharField(help_text="What to play on YouTube.")
    youtube_channel_id = serializers.CharField(allow_null=True)
    youtube_thumbnail = AddressField(allow_null=True)
    title = serializers.CharField(allow_null=True)
    url = AddressField(allow_null=True)
    thumbnail = AddressField(allow_null=True)
    language = serializers.CharField(allow_null=True, help_text="`en` or `de`.")
    categories = texts("`Trailer`, `Teaser`, `Clip`, …")
    genres = texts()
    published = serializers.CharField(allow_null=True, help_text="ISO 8601 with an offset.")
    views = CountField()


# --- Watchmode --------------------------------------------------------------------------------


class StreamingSourceSerializer(SourceShape):
    """An offer: a service has a row for each type, format and price.

    `web_url` is an address or null. The others are links of apps, or a sentence where the plan has
    none of them.
    """

    source_id = serializers.IntegerField(help_text="Of the service.")
    name = serializers.CharField(help_text="Of the service.")
    type = serializers.CharField(
        help_text="`sub`, `rent`, `buy`, `free` or `tve` (with a cable contract)."
    )
    region = serializers.CharField(help_text="ISO 3166-1 alpha-2.")
    ios_url = LinkField(allow_null=True)
    android_url = LinkField(allow_null=True)
    web_url = AddressField(allow_null=True)
    tvos_url = LinkField(allow_null=True)
    android_tv_url = LinkField(allow_null=True)
    roku_url = LinkField(allow_null=True)
    format = serializers.CharField(allow_null=True, help_text="`SD`, `HD` or `4K`.")
    price = serializers.FloatField(
        allow_null=True, help_text="In the region's currency; null for `sub` and `free`."
    )
    seasons = serializers.IntegerField(allow_null=True, help_text="Null for films.")
    episodes = serializers.IntegerField(allow_null=True, help_text="Null for films.")
