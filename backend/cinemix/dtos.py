"""The Cinemix data transfer objects: parsed from OMDb, cached, and returned to clients."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import WithJsonSchema
from typing_extensions import Self

from core.imdb_id import canonical_imdb_id
from core.services.shapes import MAX_URL_LENGTH, is_web_url


def _known(value: Any) -> str | None:
    """Return a value of OMDb as text, None if it is unknown or no text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or value.strip().upper() in {"", "N/A"}:
        return None
    return value


def is_untitled(answer: Mapping[str, Any]) -> bool:
    """Return whether OMDb has the id but no title for it: `"N/A"` or blank."""
    title = answer.get("Title")
    return isinstance(title, str) and _known(title) is None


ImdbId = Annotated[str, Field(pattern=r"^tt[0-9]{7,18}$")]
WebUrl = Annotated[
    str,
    Field(pattern=r"^(?i:https?)://", max_length=MAX_URL_LENGTH),
    WithJsonSchema({"type": "string", "format": "uri"}),
]


class _Movie(BaseModel):
    model_config = ConfigDict(
        frozen=True, strict=True, validate_by_name=True, validate_by_alias=True
    )

    @classmethod
    def from_omdb(cls, answer: Mapping[str, Any]) -> Self:
        """Parse an OMDb title. `"N/A"` and absent fields become null, the id canonical.

        Raises `ValidationError` if the id or the title is missing or invalid.
        """
        names = [str(field.validation_alias) for field in cls.model_fields.values()]
        values: dict[str, str | None] = {name: _known(answer.get(name)) for name in names}
        values["imdbID"] = canonical_imdb_id(answer.get("imdbID"))
        if not is_web_url(values["Poster"]):
            values["Poster"] = None
        return cls.model_validate(values, by_alias=True, by_name=False)


_YEAR = "A year. For a series a range with an en dash, without an end while it is running."
_ID = "`tt` and at least seven digits."
_TYPE = "`movie`, `series`, `episode` or `game`."


class MovieResult(_Movie):
    """A matching title."""

    id: ImdbId = Field(validation_alias="imdbID", description=_ID)
    title: str = Field(validation_alias="Title", description="The name of the title.")
    year: str | None = Field(validation_alias="Year", description=_YEAR)
    type: str | None = Field(validation_alias="Type", description=_TYPE)
    poster: WebUrl | None = Field(validation_alias="Poster", description="The URL of an image.")


class MovieDetails(_Movie):
    """The details of a title. Unknown values are null."""

    id: ImdbId = Field(validation_alias="imdbID", description=_ID)
    title: str = Field(validation_alias="Title", description="The name of the title.")
    year: str | None = Field(validation_alias="Year", description=_YEAR)
    type: str | None = Field(validation_alias="Type", description=_TYPE)
    runtime: str | None = Field(validation_alias="Runtime", description="Such as `148 min`.")
    genre: str | None = Field(validation_alias="Genre", description="Separated by commas.")
    director: str | None = Field(
        validation_alias="Director", description="Names, separated by commas."
    )
    writer: str | None = Field(validation_alias="Writer", description="Names, separated by commas.")
    actors: str | None = Field(validation_alias="Actors", description="Names, separated by commas.")
    plot: str | None = Field(validation_alias="Plot", description="A summary.")
    country: str | None = Field(validation_alias="Country", description="Separated by commas.")
    poster: WebUrl | None = Field(validation_alias="Poster", description="The URL of an image.")
    imdb_rating: str | None = Field(validation_alias="imdbRating", description="From 1.0 to 10.0.")
    total_seasons: str | None = Field(
        validation_alias="totalSeasons", description="Of a series; null for other types."
    )


class MovieResults(BaseModel):
    """One page of matching titles."""

    model_config = ConfigDict(frozen=True)

    search_results: list[MovieResult] = Field(description="Up to ten; empty if nothing matches.")
    total_results: str = Field(description="The number of matches on all pages.")


class _Answer(BaseModel):
    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    status: Literal["success"] = Field(default="success", description="Always `success`.")
    message: Literal["ok"] = Field(default="ok", description="Always `ok`.")


class MovieResultsAnswer(_Answer):
    """The matching titles."""

    data: MovieResults = Field(description="The page that was asked for.")


class MovieAnswer(_Answer):
    """The details of a title."""

    data: MovieDetails = Field(description="All that is known.")
