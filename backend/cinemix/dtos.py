"""The shapes of Cinemix: what is read from OMDb, kept in the cache, and answered."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.json_schema import WithJsonSchema
from typing_extensions import Self


def _known(value: Any) -> str | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or value.strip().upper() in {"", "N/A"}:
        return None
    return value


def _http_url(value: str | None) -> str | None:
    try:
        return value if value and urlsplit(value).scheme in {"http", "https"} else None
    except ValueError:
        return None


def _imdb_id(value: str) -> str:
    if not re.fullmatch(r"tt[0-9]{1,18}", value, re.ASCII):
        raise ValueError("not an IMDb id")
    return value


def _one_of(*values: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "enum": list(values)})


# OpenAPI 3.0 has its own way to say these things; pydantic speaks the one of 3.1.
_nullable = WithJsonSchema({"type": "string", "nullable": True})

ImdbId = Annotated[str, AfterValidator(_imdb_id)]
Text = Annotated[str, BeforeValidator(_known)]
TextOrNull = Annotated[str | None, BeforeValidator(_known), _nullable]
UrlOrNull = Annotated[
    str | None,
    BeforeValidator(_known),
    AfterValidator(_http_url),
    WithJsonSchema({"type": "string", "format": "uri", "nullable": True}),
]


class _Movie(BaseModel):
    model_config = ConfigDict(frozen=True, validate_by_name=True, validate_by_alias=True)

    @classmethod
    def from_omdb(cls, answer: Mapping[str, Any]) -> Self:
        """Return the movie in an answer of OMDb, where `"N/A"` and what is absent are null.

        Raises `ValidationError` where id or title are not to be had.
        """
        names = [str(field.validation_alias) for field in cls.model_fields.values()]
        known = {name: answer.get(name) for name in names}
        return cls.model_validate(known, by_alias=True, by_name=False)


_YEAR = "A year; for series a range with an en dash, open while they run."


class MovieResult(_Movie):
    """A title that matches."""

    id: ImdbId = Field(validation_alias="imdbID")
    title: Text = Field(validation_alias="Title")
    year: TextOrNull = Field(validation_alias="Year", description=_YEAR)
    type: TextOrNull = Field(validation_alias="Type", description="movie, series, episode or game.")
    poster: UrlOrNull = Field(validation_alias="Poster")


class MovieDetails(_Movie):
    """What is known of a title; null where nothing is."""

    id: ImdbId = Field(validation_alias="imdbID")
    title: Text = Field(validation_alias="Title")
    year: TextOrNull = Field(validation_alias="Year", description=_YEAR)
    type: TextOrNull = Field(validation_alias="Type", description="movie, series, episode or game.")
    runtime: TextOrNull = Field(validation_alias="Runtime")
    genre: TextOrNull = Field(validation_alias="Genre")
    director: TextOrNull = Field(validation_alias="Director")
    writer: TextOrNull = Field(validation_alias="Writer")
    actors: TextOrNull = Field(validation_alias="Actors")
    plot: TextOrNull = Field(validation_alias="Plot")
    country: TextOrNull = Field(validation_alias="Country")
    poster: UrlOrNull = Field(validation_alias="Poster")
    imdb_rating: TextOrNull = Field(validation_alias="imdbRating")
    total_seasons: TextOrNull = Field(validation_alias="totalSeasons")


class MovieResults(BaseModel):
    """One page of the titles that match."""

    model_config = ConfigDict(frozen=True)

    search_results: list[MovieResult]
    total_results: str = Field(description="How many there are on all pages together.")


class _Answer(BaseModel):
    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    status: Annotated[Literal["success"], _one_of("success")] = "success"
    message: Annotated[Literal["ok"], _one_of("ok")] = "ok"


class MovieResultsAnswer(_Answer):
    """The titles that match."""

    data: MovieResults


class MovieAnswer(_Answer):
    """The details of a title."""

    data: MovieDetails
