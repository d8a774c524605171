"""What the OpenAPI document says of the film surface; the examples are cut from real answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema

from core.openapi import (
    IMDB_ID,
    SEARCH_TEXT,
    TOO_FAST,
    WRONG_METHOD,
    error,
    example,
    rate_limit_headers,
    response_header,
)
from films.serializers import (
    FilmDetailSerializer,
    FilmStreamingSerializer,
    FilmTrailerSerializer,
    SearchSerializer,
)

_EXAMPLES = json.loads((Path(__file__).parent / "examples.json").read_text())

F = TypeVar("F", bound=Callable[..., Any])

_TAGS = ["Films"]
_IMDB_ID = OpenApiParameter(
    "imdb_id",
    IMDB_ID,
    OpenApiParameter.PATH,
    description="IMDb's id of the title: `tt` and digits.",
    examples=[OpenApiExample("Inception", "tt1375666")],
)
_QUERY = OpenApiParameter(
    "q",
    SEARCH_TEXT,
    required=True,
    description="What to look for; neither blank nor with control characters.",
    examples=[OpenApiExample("Inception", "inception")],
)
_IF_NONE_MATCH = OpenApiParameter(
    "If-None-Match",
    str,
    OpenApiParameter.HEADER,
    description="The `ETag` of the copy that the client has; 304 where it is still the newest.",
)
_CACHING = [
    response_header(
        "ETag", "The version of the answer, other than that of its gzip.", on=[200, 304]
    ),
    response_header("Age", "Seconds since the sources were asked.", on=[200, 304], kind=int),
    response_header(
        "Cache-Status",
        "Whether our cache had it (RFC 9211): `Filmosphere; hit; ttl=…`.",
        on=[200, 304],
    ),
    response_header("Vary", "`Accept-Encoding`: there is a gzip of it, too.", on=[200, 304]),
]
_UNCHANGED = {304: OpenApiResponse(description="The copy with the `If-None-Match` is the newest.")}
_NO_ID = error(400, "Not an IMDb id.", "An IMDb id is 'tt' followed by digits, such as tt1375666.")
_NO_TITLE = error(404, "IMDb says that there is no such title.", "There is no title with this id.")
_TOO_MANY_MISSES = error(
    429,
    f"{TOO_FAST} Only films that are not in the cache count.",
    "Too many films at once that are not in the cache: come back a little later.",
)
_UNUSABLE = error(
    502,
    "IMDb answered something unusable, and nothing is stored.",
    "The source imdbapi answered something unusable.",
)
_UNAVAILABLE = error(
    503,
    "IMDb cannot be asked right now, and nothing is stored: `Retry-After` tells when to come back.",
    "The source imdbapi cannot be asked right now (unavailable).",
)
_FILM_ERRORS = _NO_ID | _NO_TITLE | WRONG_METHOD | _TOO_MANY_MISSES | _UNUSABLE | _UNAVAILABLE


def _answer(shape: type, description: str, **examples: str) -> dict[int, OpenApiResponse]:
    shown = [
        example(key.replace("_", " ").capitalize(), _EXAMPLES[key], summary)
        for key, summary in examples.items()
    ]
    return {200: OpenApiResponse(shape, description, shown)}


search_films = extend_schema(
    operation_id="searchFilms",
    tags=_TAGS,
    summary="Find films and series by title",
    description="Up to 20 titles, best match first. That nothing matches is an empty list.",
    parameters=[_QUERY, *rate_limit_headers(200, 400, 429, 502, 503)],
    responses={
        **_answer(SearchSerializer, "The titles that match.", search="Cut after two titles"),
        **error(400, "`q` is missing or unfit.", "The query parameter 'q' is missing."),
        **WRONG_METHOD,
        **error(429, TOO_FAST, "Too many requests: try again in 42 s."),
        **error(
            502,
            "IMDb answered something unusable.",
            "The source imdbapi answered something unusable.",
        ),
        **_UNAVAILABLE,
    },
)


def _film_operation(
    name: str, summary: str, description: str, answer: dict[int, OpenApiResponse]
) -> Callable[[F], F]:
    return extend_schema(
        operation_id=name,
        tags=_TAGS,
        summary=summary,
        description=description,
        parameters=[
            _IMDB_ID,
            _IF_NONE_MATCH,
            *_CACHING,
            *rate_limit_headers(200, 404, 429, 502, 503),
        ],
        responses=answer | _UNCHANGED | _FILM_ERRORS,
    )


get_film = _film_operation(
    "getFilm",
    "Everything about a film",
    "One payload from three sources. It is kept for a day and shown at once within it; a source "
    "that fails leaves a warning, not an error.",
    _answer(
        FilmDetailSerializer,
        "All there is; look at `warnings` for what there is not.",
        film="All sections filled; long lists are cut here",
        film_with_warnings="Two sources failed; sections are cut here",
    ),
)
get_film_trailer = _film_operation(
    "getFilmTrailer",
    "The trailer of a film",
    "From the same stored payload as the film.",
    _answer(
        FilmTrailerSerializer,
        "The trailer, null where there is none.",
        trailer="With a trailer",
        no_trailer="Without one",
    ),
)
get_film_streaming = _film_operation(
    "getFilmStreaming",
    "Where a film can be streamed",
    "From the same stored payload as the film.",
    _answer(
        FilmStreamingSerializer,
        "The offers in the region, `[]` where there are none.",
        streaming="Cut after two offers",
        no_streaming="No offers",
    ),
)
