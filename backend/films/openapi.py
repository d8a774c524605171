"""The film endpoints in the OpenAPI document; the examples are shortened real answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from drf_spectacular.utils import (
    OpenApiExample,
    OpenApiParameter,
    OpenApiResponse,
    extend_schema,
)

from films.serializers import (
    FilmCertificates,
    FilmCredits,
    FilmDetail,
    FilmImages,
    FilmMetadata,
    FilmParentsGuide,
    FilmReleaseDates,
    Films,
    FilmStreamingOrOffers,
    FilmTrailer,
    FilmVideos,
    Search,
    Sources,
)
from films.views import FilmsView, FilmView, SearchView, SourcesView
from web.openapi import (
    IMDB_ID,
    SEARCH_TEXT,
    TOO_FAST,
    WRONG_METHOD,
    error,
    example,
    ok,
    rate_limit_headers,
    response_header,
)

_EXAMPLES = json.loads((Path(__file__).parent / "examples.json").read_text())

F = TypeVar("F", bound=Callable[..., Any])

_TAGS = ["Films"]
_IMDB_ID = OpenApiParameter(
    "imdb_id",
    IMDB_ID,
    OpenApiParameter.PATH,
    description=(
        "IMDb's id of the title: `tt` and digits. Leading zeros beyond seven digits are ignored."
    ),
    examples=[OpenApiExample("Inception", "tt1375666")],
)
_QUERY = OpenApiParameter(
    "q",
    SEARCH_TEXT,
    required=True,
    description="The text to search for. It is not blank and has no control characters.",
    examples=[OpenApiExample("Inception", "inception")],
)
_IF_NONE_MATCH = OpenApiParameter(
    "If-None-Match",
    str,
    OpenApiParameter.HEADER,
    description="The `ETag` of the copy that the client has; 304 if it is still current.",
)
_PREFER = OpenApiParameter(
    "Prefer",
    str,
    OpenApiParameter.HEADER,
    description=(
        "`wait=N` (RFC 7240): answer after N seconds with what there is by then; `metadata` is "
        "always waited for. N is a whole number from 0 to 15, the default of `FETCH_DEADLINE`; "
        "anything else is ignored. Sections that are still missing have a `deadline` warning and "
        "follow in the background. Such as `wait=1`."
    ),
)
_FIELDS = OpenApiParameter(
    "fields",
    str,
    description=(
        "Only these keys, comma-separated, one level deep with a dot. `imdb_id` and the warnings "
        "of the chosen sections are always there. A film then has the shape `FilmPart`. "
        "Such as `title,metadata.rating,streaming`."
    ),
)
_IMAGE_WIDTH = OpenApiParameter(
    "image_width",
    {"type": "integer", "minimum": 50, "maximum": 2000},
    description="Pixels: the addresses of IMDb's images name a picture of this width.",
)
_CACHING = [
    response_header("Preference-Applied", "The `wait=N` that was applied.", on=[200, 304]),
    response_header(
        "ETag", "The version of the answer; its gzip form has another one.", on=[200, 304]
    ),
    response_header("Last-Modified", "When the film was fetched.", on=[200, 304]),
    response_header(
        "Cache-Status",
        "Whether the answer was stored already (RFC 9211): `Filmosphere; hit; ttl=…`.",
        on=[200, 304],
    ),
    response_header(
        "Vary", "`Accept-Encoding`: the answer is available as gzip too.", on=[200, 304]
    ),
]
_UNCHANGED = {304: OpenApiResponse(description="The copy that `If-None-Match` names is current.")}
_NO_ID = error(400, "Not an IMDb id.", "An IMDb id is 'tt' followed by digits, such as tt1375666.")
_NO_TITLE = error(404, "IMDb says that there is no such title.", "There is no title with this id.")
_TOO_MANY_MISSES = error(
    429,
    f"{TOO_FAST} Only films that are not in the cache count.",
    "Too many requests: try again in 42 s.",
)
_UNUSABLE = error(
    502,
    "IMDb answered something unusable, and nothing is stored.",
    "The source imdbapi answered something unusable.",
)
_UNAVAILABLE = error(
    503,
    "IMDb cannot be asked right now, and nothing is stored. `Retry-After` says when to retry.",
    "The source imdbapi cannot be asked right now (unavailable).",
)
_FILM_ERRORS = _NO_ID | _NO_TITLE | WRONG_METHOD | _TOO_MANY_MISSES | _UNUSABLE | _UNAVAILABLE


def _answer(shape: type, description: str, **examples: str) -> dict[int, OpenApiResponse]:
    shown = (
        example(key.replace("_", " ").capitalize(), _EXAMPLES[key], summary)
        for key, summary in examples.items()
    )
    return ok(shape, description, *shown)


search_films = extend_schema(
    operation_id="searchFilms",
    tags=_TAGS,
    summary="Find films and series by title",
    description=(
        "Titles, best match first: those that equal the query, then the order of IMDb. `q` may be "
        "an IMDb id or the address of a title on IMDb. If nothing matches, `results` is empty."
    ),
    parameters=[
        _QUERY,
        OpenApiParameter(
            "type",
            str,
            description=(
                "Only these types, comma-separated: `movie`, `series`, `episode`, `short`, `game`, "
                "`special`, `video`, or IMDb's own such as `tvMiniSeries`. Such as `movie,series`."
            ),
        ),
        OpenApiParameter(
            "year",
            {"type": "string", "pattern": "^[0-9]{4}(-[0-9]{4})?$"},
            description="A year or a range (`2008-2012`); the run of a series has to overlap it.",
        ),
        OpenApiParameter(
            "limit",
            {"type": "integer", "minimum": 1, "maximum": 50, "default": 20},
            description="How many titles at most.",
        ),
        _IMAGE_WIDTH,
        *rate_limit_headers(200, 400, 429, 502, 503),
    ],
    responses={
        **_answer(Search, "The matching titles.", search="Shortened to two titles"),
        **error(400, "`q` is missing or invalid.", "The query parameter 'q' is missing."),
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
    name: str,
    summary: str,
    description: str,
    answer: dict[int, OpenApiResponse],
    *parameters: OpenApiParameter,
) -> Callable[[F], F]:
    return extend_schema(
        operation_id=name,
        tags=_TAGS,
        summary=summary,
        description=description,
        parameters=[
            _IMDB_ID,
            *parameters,
            _IF_NONE_MATCH,
            _PREFER,
            *_CACHING,
            *rate_limit_headers(200, 404, 429, 502, 503),
        ],
        responses=answer | _UNCHANGED | _FILM_ERRORS,
    )


get_film = _film_operation(
    "getFilm",
    "Everything about a film",
    "One payload from three sources. It is stored for a day, and later requests are answered from "
    "storage. A source that fails causes a warning, not an error.",
    _answer(
        FilmDetail,
        "The film; `warnings` lists the sections that are missing or old.",
        film="All sections; long lists are shortened here",
        film_with_warnings="Two sources failed; sections are shortened here",
    ),
    _FIELDS,
    _IMAGE_WIDTH,
)
get_films = extend_schema(
    operation_id="getFilms",
    tags=_TAGS,
    summary="Several films in one request",
    description=(
        "Stored films come at once, expired ones too. The others are fetched together; those whose "
        "metadata has not come within `Prefer: wait`, or 5 seconds, have the status 202 and are "
        "there soon."
    ),
    parameters=[
        OpenApiParameter(
            "ids",
            {"type": "string", "pattern": "^tt[0-9]{1,18}(,tt[0-9]{1,18}){0,19}$"},
            required=True,
            description="1 to 20 IMDb ids, comma-separated.",
            examples=[OpenApiExample("Two films", "tt1375666,tt0111161")],
        ),
        _FIELDS,
        _IMAGE_WIDTH,
        _PREFER,
        response_header("Preference-Applied", "The `wait=N` that was applied.", on=[200]),
        response_header("Vary", "What the answer depends on.", on=[200]),
        *rate_limit_headers(200, 429),
    ],
    responses={
        **_answer(Films, "A result for each id.", films="One stored, one unknown"),
        **error(
            400,
            "`ids` is missing, malformed or too long, or `fields` is not valid.",
            "'ids' is a comma-separated list of 1 to 20 IMDb ids.",
        ),
        **WRONG_METHOD,
        **_UNAVAILABLE,
    },
)

_PAGE_TOKEN = OpenApiParameter(
    "page_token",
    str,
    description=(
        "The `nextPageToken` of the page before: answers the next page. `Prefer` is ignored then."
    ),
)
_COUNTRY = OpenApiParameter(
    "country",
    {"type": "string", "pattern": "^[A-Z]{2}$"},
    description="ISO 3166-1 alpha-2, such as `TR`: adds `preferred`, the row to show there.",
)
_PARAMETERS: dict[str, list[OpenApiParameter]] = {
    "credits": [_PAGE_TOKEN, _IMAGE_WIDTH],
    "images": [_PAGE_TOKEN, _IMAGE_WIDTH],
    "videos": [_PAGE_TOKEN],
    "release_dates": [_PAGE_TOKEN, _COUNTRY],
    "certificates": [_COUNTRY],
    "trailer": [
        OpenApiParameter(
            "alternatives",
            {"type": "string", "enum": ["true", "false"]},
            description="`true` adds `alternatives`, the other videos of KinoCheck.",
        )
    ],
    "streaming": [
        OpenApiParameter(
            "view",
            {"type": "string", "enum": ["grouped"]},
            description="`grouped`: one entry per service instead of the rows of the source.",
        ),
        OpenApiParameter(
            "region",
            str,
            description="With `view=grouped`: some of the configured regions, such as `TR,DE`.",
        ),
    ],
}
_SECTION_ANSWERS: dict[str, tuple[type, str, str, dict[str, str]]] = {
    "metadata": (FilmMetadata, "Metadata", "Name, year, rating, plot, people.", {}),
    "credits": (FilmCredits, "Credits", "Cast and crew.", {}),
    "images": (FilmImages, "Images", "Pictures.", {}),
    "videos": (FilmVideos, "Videos", "Videos on IMDb.", {}),
    "parents_guide": (FilmParentsGuide, "ParentsGuide", "Votes on the content.", {}),
    "certificates": (FilmCertificates, "Certificates", "Age ratings.", {}),
    "release_dates": (FilmReleaseDates, "ReleaseDates", "Releases.", {}),
    "trailer": (
        FilmTrailer,
        "Trailer",
        "The trailer, null if there is none.",
        {"trailer": "With a trailer", "no_trailer": "Without one"},
    ),
    "streaming": (
        FilmStreamingOrOffers,
        "Streaming",
        "The offers in the region, `[]` if there are none.",
        {"streaming": "Shortened to two offers", "no_streaming": "No offers"},
    ),
}


def get_section(name: str) -> Callable[[F], F]:
    """Return the description of the endpoint of a section."""
    shape, title, description, examples = _SECTION_ANSWERS[name]
    return _film_operation(
        f"getFilm{title}",
        f"{name.replace('_', ' ').capitalize()} of a film",
        "From the same stored payload as the film.",
        _answer(shape, description, **examples),
        *_PARAMETERS.get(name, []),
    )


get_sources = extend_schema(
    operation_id="getSources",
    tags=_TAGS,
    summary="Where the data come from",
    description=(
        "Each source with its state, what it covers, the attribution that its terms ask for, and "
        "the quota that is left."
    ),
    responses={
        **_answer(Sources, "All sources.", sources="As in the sandbox; one of them is shown"),
        **WRONG_METHOD,
        **error(503, "The database cannot be used.", "The database cannot be reached right now."),
    },
)

OPERATIONS = {
    SearchView: search_films,
    FilmView: get_film,
    FilmsView: get_films,
    SourcesView: get_sources,
}
