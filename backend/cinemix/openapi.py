"""OpenAPI descriptions of the Cinemix surface."""

import json
from pathlib import Path

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema

from cinemix.dtos import MovieAnswer, MovieResultsAnswer
from cinemix.fast_path import LAST_PAGE
from cinemix.views import MovieView, SearchView
from web.openapi import (
    IMDB_ID,
    SEARCH_TEXT,
    TOO_FAST,
    WRONG_METHOD,
    error,
    example,
    ok,
    rate_limit_headers,
)

_EXAMPLES = json.loads((Path(__file__).parent / "examples.json").read_text())

_TAGS = ["Cinemix"]
_LIMIT = rate_limit_headers(200, 400, 429, 502, 503)
_TOO_FAST = error(429, TOO_FAST, "Too many requests: try again in 42 s.")
_UNUSABLE = error(
    502, "OMDb returned an unusable answer.", "The source omdb answered something unusable."
)
_UNAVAILABLE = error(
    503,
    "OMDb is unavailable. `Retry-After` is the number of seconds to wait: until the next midnight "
    "in UTC if the calls of the day are used up.",
    "OMDb is unavailable at the moment; the request is valid.",
)

search_movies = extend_schema(
    operation_id="searchMovies",
    tags=_TAGS,
    summary="Find movies, series, episodes and games by title",
    description="Ten results per page. If nothing matches, the list is empty.",
    parameters=[
        OpenApiParameter(
            "query",
            SEARCH_TEXT,
            required=True,
            description="The search text. Blank text and control characters are invalid.",
            examples=[OpenApiExample("Matrix", "matrix")],
        ),
        OpenApiParameter(
            "page",
            {"type": "integer", "minimum": 1, "maximum": LAST_PAGE, "default": 1},
            description=f"The page number, from 1 to {LAST_PAGE}.",
        ),
        *_LIMIT,
    ],
    responses={
        **ok(
            MovieResultsAnswer,
            "The matching titles.",
            example("Movies", _EXAMPLES["movies"], "Some matches"),
            example("No movies", _EXAMPLES["no_movies"], "Nothing matches"),
        ),
        **error(
            400,
            "`query` or `page` is missing or invalid, or OMDb asks for a more specific text.",
            "The query parameter 'query' is missing.",
        ),
        **WRONG_METHOD,
        **_TOO_FAST,
        **_UNUSABLE,
        **_UNAVAILABLE,
    },
)

get_movie = extend_schema(
    operation_id="getMovie",
    tags=_TAGS,
    summary="The details of a title",
    description="Unknown values are null. The answer is cached; `max-age` is what is left of that.",
    parameters=[
        OpenApiParameter(
            "id",
            IMDB_ID,
            required=True,
            description="The IMDb id of the title: `tt` followed by digits.",
            examples=[OpenApiExample("Breaking Bad", "tt0903747")],
        ),
        *_LIMIT,
    ],
    responses={
        **ok(MovieAnswer, "The title.", example("Movie", _EXAMPLES["movie"], "A series")),
        **error(
            400,
            "`id` is missing or not an IMDb id.",
            "An IMDb id is 'tt' followed by digits, such as tt1375666.",
        ),
        **error(404, "OMDb has no such title.", "There is no title with this id."),
        **WRONG_METHOD,
        **_TOO_FAST,
        **_UNUSABLE,
        **_UNAVAILABLE,
    },
)

OPERATIONS = {SearchView: search_movies, MovieView: get_movie}
