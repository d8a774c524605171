"""What the OpenAPI document says of the Cinemix surface; the examples are real answers."""

import json
from pathlib import Path

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema

from cinemix.dtos import MovieAnswer, MovieResultsAnswer
from core.openapi import (
    IMDB_ID,
    SEARCH_TEXT,
    TOO_FAST,
    WRONG_METHOD,
    error,
    example,
    rate_limit_headers,
)

# OMDb gives ten to a page and no more pages.
LAST_PAGE = 100

_EXAMPLES = json.loads((Path(__file__).parent / "examples.json").read_text())

_TAGS = ["Cinemix"]
_LIMIT = rate_limit_headers(200, 400, 429, 502, 503)
_TOO_FAST = error(429, TOO_FAST, "Too many requests: try again in 42 s.")
_UNUSABLE = error(
    502, "OMDb answered something unusable.", "The source omdb answered something unusable."
)
_UNAVAILABLE = error(
    503,
    "OMDb cannot be asked right now: `Retry-After` tells when to come back, which is the next "
    "midnight in UTC once the calls of the day are used up.",
    "OMDb cannot be asked right now; nothing is wrong with the request.",
)

search_movies = extend_schema(
    operation_id="searchMovies",
    tags=_TAGS,
    summary="Find movies, series, episodes and games by title",
    description="Ten to a page. That nothing matches is an empty list.",
    parameters=[
        OpenApiParameter(
            "query",
            SEARCH_TEXT,
            required=True,
            description="What to look for; neither blank nor with control characters.",
            examples=[OpenApiExample("Matrix", "matrix")],
        ),
        OpenApiParameter(
            "page",
            {"type": "integer", "minimum": 1, "maximum": LAST_PAGE, "default": 1},
            description=f"Which page, from 1 to {LAST_PAGE}.",
        ),
        *_LIMIT,
    ],
    responses={
        200: OpenApiResponse(
            MovieResultsAnswer,
            "The titles that match.",
            [
                example("Movies", _EXAMPLES["movies"], "Some matches"),
                example("No movies", _EXAMPLES["no_movies"], "Nothing matches"),
            ],
        ),
        **error(
            400,
            "`query` or `page` is missing or unfit, or there are too many matches.",
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
    description="Kept for an hour. What OMDb does not know is null.",
    parameters=[
        OpenApiParameter(
            "id",
            IMDB_ID,
            required=True,
            description="IMDb's id of the title: `tt` and digits.",
            examples=[OpenApiExample("Breaking Bad", "tt0903747")],
        ),
        *_LIMIT,
    ],
    responses={
        200: OpenApiResponse(
            MovieAnswer, "The title.", [example("Movie", _EXAMPLES["movie"], "A series")]
        ),
        **error(
            400,
            "`id` is missing or not an IMDb id.",
            "An IMDb id is 'tt' followed by digits, such as tt1375666.",
        ),
        **error(404, "There is no such title.", "There is no title with this id."),
        **WRONG_METHOD,
        **_TOO_FAST,
        **_UNUSABLE,
        **_UNAVAILABLE,
    },
)
