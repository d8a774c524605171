"""The shapes of the film surface, as the OpenAPI document shows them.

No answer is serialized through them: payloads are sent as they are stored. What came from the
sources was checked against `core.services.shapes` before it was stored.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, RootModel
from pydantic.json_schema import WithJsonSchema
from typing_extensions import Required, TypeAliasType, TypedDict

from core.services import shapes

# What each warning code means; the list is open.
WARNING_CODES = {
    "timeout": "the source did not answer in time",
    "unavailable": "the source could not be reached, or failed",
    "rate_limited": "the source asked us to slow down",
    "quota_exhausted": "the calls that the source grants us are used up",
    "not_configured": "no key for the source is set",
    "rejected": "the source rejected our key",
    "region_not_covered": "our plan with the source does not include the region",
    "bad_response": "the source answered something unusable",
    "stale": "an older copy is shown",
    "deadline": "the time for the request ran out before the source answered",
    "expired": "offers were removed because the source limits how long they may be kept",
}

WarningCode = TypeAliasType(
    "WarningCode",
    Annotated[
        str,
        Field(
            description="One of these; others may follow. "
            + "; ".join(f"`{code}`: {meaning}" for code, meaning in WARNING_CODES.items())
            + "."
        ),
    ],
)


_Uri = Annotated[str, WithJsonSchema({"type": "string", "format": "uri"})]


class _Answer(BaseModel):
    # They are needed for the OpenAPI document only.
    model_config = ConfigDict(defer_build=True)


class SearchResult(_Answer):
    """A title that matches."""

    imdb_id: str = Field(description="The id under which `getFilm` knows the title.")
    title: str | None = Field(description="The name to show.")
    year: int | None = Field(description="The year of release.")
    image: _Uri | None = Field(description="The poster.")
    type: str | None = Field(description="As in `IMDbMetadata`.")


class Search(_Answer):
    """The titles that match a query, best first."""

    query: str = Field(description="The query as it was sent.")
    results: list[SearchResult] = Field(description="Empty if nothing matches.")


class Warning(_Answer):  # noqa: A001  # the name in the OpenAPI document
    """Why a section is empty, or older than the rest."""

    section: str = Field(description="The key of the payload that it is about.")
    source: str = Field(description="`imdbapi`, `kinocheck` or `watchmode`.")
    code: WarningCode = Field(description="Why, for programs.")
    message: str = Field(description="A sentence for people; may change.")


_TRAILER = Field(description="The trailer, null if there is none.")
_STREAMING = Field(description="The offers in the region, `[]` if there are none.")


class FilmDetail(_Answer):
    """Everything that a client needs to show a film: always these twelve keys.

    The sections hold what the sources sent. A section with a warning is empty (`{}`, null for the
    trailer, `[]` for streaming) or, with the code `stale`, an older copy. A section that is empty
    without a warning is empty at the source.
    """

    imdb_id: str = Field(description="IMDb's id of the title.")
    title: str = Field(description="IMDb's `primaryTitle`.")
    metadata: shapes.IMDbMetadata = Field(description="Name, year, rating, plot, people.")
    credits: shapes.Credits = Field(description="Cast and crew.")
    images: shapes.Images = Field(description="Pictures.")
    videos: shapes.Videos = Field(description="Videos on IMDb.")
    parents_guide: shapes.ParentsGuide = Field(description="Votes on the content.")
    certificates: shapes.Certificates = Field(description="Age ratings by country.")
    release_dates: shapes.ReleaseDates = Field(description="Releases by country.")
    trailer: shapes.Trailer | None = _TRAILER
    streaming: list[shapes.StreamingSource] = _STREAMING
    warnings: list[Warning] = Field(description="`[]` if all sections are complete and current.")


_IMDB_ID = Field(description="IMDb's id of the title.")


class FilmMetadata(_Answer):
    """Name, year, rating, plot and people of a film."""

    imdb_id: str = _IMDB_ID
    metadata: shapes.IMDbMetadata = Field(description="The title.")


class FilmCredits(_Answer):
    """Cast and crew of a film."""

    imdb_id: str = _IMDB_ID
    credits: shapes.Credits = Field(description="Up to 50 rows.")


class FilmImages(_Answer):
    """Pictures of a film."""

    imdb_id: str = _IMDB_ID
    images: shapes.Images = Field(description="Up to 50 rows.")


class FilmVideos(_Answer):
    """Videos of a film on IMDb."""

    imdb_id: str = _IMDB_ID
    videos: shapes.Videos = Field(description="Up to 50 rows.")


class FilmParentsGuide(_Answer):
    """Votes on the content of a film."""

    imdb_id: str = _IMDB_ID
    parents_guide: shapes.ParentsGuide = Field(description="A row per category.")


class FilmCertificates(_Answer):
    """Age ratings of a film."""

    model_config = ConfigDict(defer_build=True, json_schema_serialization_defaults_required=False)

    imdb_id: str = _IMDB_ID
    certificates: shapes.Certificates = Field(description="All countries.")
    preferred: shapes.Certificate | None = Field(
        default=None, description="With `country`: the row to show there, null if there is none."
    )


class FilmReleaseDates(_Answer):
    """Releases of a film."""

    model_config = ConfigDict(defer_build=True, json_schema_serialization_defaults_required=False)

    imdb_id: str = _IMDB_ID
    release_dates: shapes.ReleaseDates = Field(description="Up to 50 rows, all countries.")
    preferred: shapes.ReleaseDate | None = Field(
        default=None,
        description=(
            "With `country`: the row to show there, null if none of these rows is of the country. "
            "If there is a `nextPageToken`, it may have rows on further pages."
        ),
    )


class FilmTrailer(_Answer):
    """The trailer of a film."""

    model_config = ConfigDict(defer_build=True, json_schema_serialization_defaults_required=False)

    imdb_id: str = _IMDB_ID
    trailer: shapes.Trailer | None = _TRAILER
    alternatives: list[shapes.Trailer] = Field(
        default=[], description="With `alternatives=true`: the other videos, trailers first."
    )


class FilmStreaming(_Answer):
    """Where a film can be streamed: the rows of the source."""

    imdb_id: str = _IMDB_ID
    streaming: list[shapes.StreamingSource] = _STREAMING


class Price(_Answer):
    """What a service asks for."""

    format: str | None = Field(description="`SD`, `HD` or `4K`.")
    price: float = Field(description="The amount.")
    currency: str | None = Field(description="ISO 4217 code of the region's currency.")


class OfferOfService(_Answer):
    """What one service offers in one way."""

    source_id: int = Field(description="Watchmode's id of the service.")
    name: str | None = Field(description="The name of the service.")
    web_url: _Uri | None = Field(description="The page of the title.")
    ios_url: str | None = Field(description="A link into the iOS app.")
    android_url: str | None = Field(description="A link into the Android app.")
    formats: list[str] = Field(description="`SD`, `HD`, `4K`; lowest first.")
    prices: list[Price] = Field(description="`[]` if it costs nothing beyond a subscription.")


class OffersOfRegion(_Answer):
    """The services of a region, by the way in which they offer the title."""

    sub: list[OfferOfService] = Field(description="With a subscription.")
    free: list[OfferOfService] = Field(description="Free of charge.")
    tve: list[OfferOfService] = Field(description="With a cable contract.")
    rent: list[OfferOfService] = Field(description="For rent.")
    buy: list[OfferOfService] = Field(description="For sale.")


class FilmOffers(_Answer):
    """Where a film can be streamed, one entry per service."""

    imdb_id: str = _IMDB_ID
    regions: dict[str, OffersOfRegion] = Field(description="By region, ISO 3166-1 alpha-2.")
    not_covered: list[str] = Field(description="Regions that our plan with the source leaves out.")
    warnings: list[Warning] = Field(
        description="Those of `streaming`, and `deadline` for regions that are not fetched yet."
    )


class FilmStreamingOrOffers(RootModel[FilmStreaming | FilmOffers]):
    """The rows of the source or, with `view=grouped`, one entry per service."""

    model_config = ConfigDict(defer_build=True)


class FilmPart(TypedDict, total=False):
    """A film with the chosen `fields` only; without a choice it has all keys of `FilmDetail`."""

    imdb_id: Required[Annotated[str, _IMDB_ID]]
    title: Annotated[str, Field(description="IMDb's `primaryTitle`.")]
    metadata: Annotated[shapes.Title, Field(description="Name, year, rating, plot, people.")]
    credits: Annotated[shapes.Credits, Field(description="Cast and crew.")]
    images: Annotated[shapes.Images, Field(description="Pictures.")]
    videos: Annotated[shapes.Videos, Field(description="Videos on IMDb.")]
    parents_guide: Annotated[shapes.ParentsGuide, Field(description="Votes on the content.")]
    certificates: Annotated[shapes.Certificates, Field(description="Age ratings by country.")]
    release_dates: Annotated[shapes.ReleaseDates, Field(description="Releases by country.")]
    trailer: Annotated[shapes.TrailerPart | None, Field(description="Null if there is none.")]
    streaming: Annotated[list[shapes.StreamingSource], _STREAMING]
    warnings: Required[Annotated[list[Warning], Field(description="Of the chosen sections.")]]


class FilmError(TypedDict):
    """Why a film of a batch is missing, in the shape of every error."""

    error_code: Annotated[str, Field(description="The HTTP status as text.")]
    message: Annotated[str, Field(description="A sentence for people; may change.")]
    reason: Annotated[str, Field(description="The cause for programs, as in `Error`.")]


class BatchItem(TypedDict, total=False):
    """One film of a batch: with `film`, with `error`, or with `retry_after` alone."""

    imdb_id: Required[Annotated[str, _IMDB_ID]]
    status: Required[
        Annotated[
            int,
            Field(
                description="200: `film` is there. 202: the film is being fetched. 404, 502, 503: "
                "as in the answer to a request for the film alone. 429: too many films at once."
            ),
        ]
    ]
    film: Annotated[FilmPart, Field(description="As `getFilm` answers, with `fields`.")]
    error: Annotated[FilmError, Field(description="Why there is no film.")]
    retry_after: Annotated[int, Field(description="Seconds until a retry makes sense.")]


class Films(_Answer):
    """Several films, in the order of `ids`."""

    films: list[BatchItem] = Field(description="One for each id.")


class Attribution(_Answer):
    """What the terms of a source ask to be shown."""

    text: str = Field(description="The text to show.")
    url: _Uri = Field(description="Where the text links to.")


class SourceQuota(_Answer):
    """The calls that a source grants."""

    limit: int = Field(description="Calls or credits in the period.")
    used: int = Field(description="How many of them are used.")
    resets_at: str = Field(description="When the next period begins, ISO 8601.")


class SourceInfo(_Answer):
    """A source."""

    name: str = Field(description="As in warnings; `omdb` is the source of Cinemix.")
    provides: list[str] = Field(description="The sections of a film that come from it.")
    state: str = Field(description="`ok`, or the code for which it is not called right now.")
    covers: list[str] = Field(description="Regions or languages, `[]` if that does not apply.")
    attribution: Attribution | None = Field(description="null if its terms ask for none.")
    quota: SourceQuota | None = Field(description="null if there is none, or it is not known.")


class Sources(_Answer):
    """All sources."""

    sources: list[SourceInfo] = Field(description="One for each source.")
