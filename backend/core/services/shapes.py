"""What IMDbAPI.dev, KinoCheck and Watchmode send, in their own field names.

`sanitize` removes from an answer what does not have its shape. The OpenAPI document is generated
from the same shapes.

IMDbAPI.dev leaves out every field with a zero value (false, 0, an empty text or list) and never
sends null; KinoCheck and Watchmode send null for unknown values. So every field may be missing,
except the `Required` ones, and unknown fields may be present.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from pydantic.json_schema import WithJsonSchema
from typing_extensions import Required, TypedDict

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=dict[str, Any] | list[dict[str, Any]])

MAX_URL_LENGTH = 2000
# How many removed fields a log line names.
_NAMED_FIELDS = 5

# No white space, control characters or credentials; a backslash would count as a slash in browsers.
_WEB_URL = re.compile(
    r"""https?://
    (?: \[[0-9a-f:.]+\] | [^\s\x00-\x1f\x7f-\x9f\\/?\#@:\[\]]+ )  # host
    (?: :[0-9]{0,5} )?
    (?: [/?\#] [^\s\x00-\x1f\x7f-\x9f]* )?""",
    re.IGNORECASE | re.VERBOSE,
)
# Schemes that run code in, or show a page of their own on, the page with the link. Browsers ignore
# white space and control characters within them.
_SCRIPT = re.compile(r"(?:javascript|data|vbscript):", re.IGNORECASE)
_IGNORED = re.compile(r"[\x00-\x20]+")


def is_web_url(value: object) -> bool:
    """Whether `value` is a URL that a client can open as a page or an image.

    That is text of at most `MAX_URL_LENGTH` characters with the scheme http or https and a host,
    without credentials, white space or control characters.
    """
    return (
        isinstance(value, str)
        and len(value) <= MAX_URL_LENGTH
        and _WEB_URL.fullmatch(value) is not None
    )


def image_url_of(title: Mapping[str, Any]) -> str | None:
    """Return the web URL of a title's `primaryImage`, None if it has none."""
    image = title.get("primaryImage")
    url = image.get("url") if isinstance(image, dict) else None
    return url if is_web_url(url) else None


def sanitize(value: T, shape: Any, *, source: str) -> T:
    """Return `value` after removing from it, in place, what `shape` does not allow.

    `shape` is one of the classes below, or a list of one. A field of another type becomes null if
    it may be null, else it is removed; so are URLs that are not http(s), and links that run code.
    Rows of another type are removed. Unknown fields stay, and missing ones are not added. If
    anything was removed, one log line names the `source` and the fields.
    """
    invalid = _invalid_places(value, shape)
    if not invalid:
        return value
    names = dict.fromkeys(".".join(map(str, place)) for place in invalid[:_NAMED_FIELDS])
    logger.warning(
        "invalid fields removed",
        extra={"source": source, "outcome": "bad_shape", "fields": ", ".join(names)},
    )
    for container, key in _resolve(value, invalid):
        container[key] = None
    # What may be null is valid now.
    _remove(_resolve(value, _invalid_places(value, shape)))
    return value


def has_shape(value: Any, shape: Any) -> bool:
    """Whether `sanitize` would remove nothing; `shape` may also be None beside one of its own."""
    return not _invalid_places(value, shape)


_Place: TypeAlias = tuple[int | str, ...]


def _invalid_places(value: Any, shape: Any) -> list[_Place]:
    try:
        _adapter(shape).validate_python(value, strict=True)
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_context=False, include_input=False)
        return [error["loc"] for error in errors if error["type"] != "missing"]
    return []


@cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


def _resolve(value: Any, places: Iterable[_Place]) -> list[tuple[Any, int | str]]:
    """Return the object or list that holds each place, and its key there."""
    found = []
    for *path, key in places:
        container = value
        for step in path:
            container = container[step]
        found.append((container, key))
    return found


def _remove(places: list[tuple[Any, int | str]]) -> None:
    rows: dict[int, tuple[list[Any], set[int | str]]] = {}
    for container, key in places:
        if isinstance(container, dict):
            del container[key]
        else:
            rows.setdefault(id(container), (container, set()))[1].add(key)
    # One by one would take time that grows with the square of their number.
    for items, removed in rows.values():
        items[:] = [item for number, item in enumerate(items) if number not in removed]


def _web_url(value: str) -> str:
    if not is_web_url(value):
        raise ValueError("not a web URL")
    return value


def _link(value: str) -> str:
    if len(value) > MAX_URL_LENGTH or _SCRIPT.match(_IGNORED.sub("", value)):
        raise ValueError("not a safe link")
    return value


# A URL as `is_web_url` accepts it.
WebUrl = Annotated[str, AfterValidator(_web_url)]
# A URL of any scheme that an app may know, or a sentence instead of one.
Link = Annotated[str, AfterValidator(_link)]
# Clients read whole numbers into 32 bits, unless the document names another format.
Int32 = Annotated[
    int,
    Field(ge=-(2**31), lt=2**31),
    WithJsonSchema({"type": "integer", "format": "int32"}),
]
Int64 = Annotated[
    int,
    Field(ge=-(2**63), lt=2**63),
    WithJsonSchema({"type": "integer", "format": "int64"}),
]
Number = Annotated[float, WithJsonSchema({"type": "number", "format": "double"})]


def _doc(text: str) -> Any:
    """Return the description of a field in the OpenAPI document."""
    return Field(description=text)


# --- IMDbAPI.dev ------------------------------------------------------------------------------

_TITLE_ID = "`tt` and at least seven digits."
_PRIMARY_TITLE = "The name under which the title is best known."
_NEXT_PAGE = "Present if the source has more rows than the up to 50 in the answer."


class _Page(TypedDict, total=False):
    totalCount: Annotated[Int32, _doc("How many rows the source has.")]
    nextPageToken: Annotated[str, _doc(_NEXT_PAGE)]


class Image(TypedDict, total=False):
    """A picture."""

    url: Annotated[WebUrl, _doc("The address of the picture in full size.")]
    width: Annotated[Int32, _doc("In pixels.")]
    height: Annotated[Int32, _doc("In pixels.")]
    type: Annotated[str, _doc("Such as `poster`, `still_frame` or `event`.")]


class Person(TypedDict, total=False):
    """A person, with the name that is credited."""

    id: Annotated[str, _doc("`nm` and digits.")]
    displayName: Annotated[str, _doc("The name to show.")]
    alternativeNames: Annotated[list[str], _doc("Other names of the same person.")]
    primaryImage: Annotated[Image, _doc("A portrait.")]
    primaryProfessions: Annotated[
        list[str], _doc("In lower case: `actor`, `producer`, `writer`, …")
    ]


class Rating(TypedDict, total=False):
    """The rating by the users of IMDb."""

    aggregateRating: Annotated[Number, _doc("From 1 to 10.")]
    voteCount: Annotated[Int32, _doc("How many users voted.")]


class Metacritic(TypedDict, total=False):
    """The rating by critics."""

    url: Annotated[WebUrl, _doc("The page of the title on Metacritic.")]
    score: Annotated[Int32, _doc("From 0 to 100.")]
    reviewCount: Annotated[Int32, _doc("How many reviews the score is made of.")]


class Country(TypedDict, total=False):
    """A country."""

    code: Annotated[str, _doc("ISO 3166-1 alpha-2.")]
    name: Annotated[str, _doc("In English.")]


class Language(TypedDict, total=False):
    """A language."""

    code: Annotated[str, _doc("ISO 639-3.")]
    name: Annotated[str, _doc("In English.")]


class Interest(TypedDict, total=False):
    """A theme of a title, finer than a genre."""

    id: Annotated[str, _doc("`in` and digits.")]
    name: Annotated[str, _doc("In English.")]
    isSubgenre: Annotated[bool, _doc("Whether the theme is part of a genre; missing means false.")]


class Title(TypedDict, total=False):
    """A film, a series or anything else that IMDb lists."""

    id: Annotated[str, _doc(_TITLE_ID)]
    type: Annotated[
        str,
        _doc(
            "`movie`, `tvSeries`, `tvMiniSeries`, `tvMovie`, `tvSpecial`, `tvEpisode`, `short`, "
            "`tvShort`, `video` or `videoGame`; others may follow."
        ),
    ]
    isAdult: Annotated[bool, _doc("Whether the title is for adults only; missing means false.")]
    primaryTitle: Annotated[str, _doc(_PRIMARY_TITLE)]
    originalTitle: Annotated[str, _doc("The name in the country of origin.")]
    primaryImage: Annotated[Image, _doc("The poster.")]
    startYear: Annotated[Int32, _doc("The year of release, of a series that of the first episode.")]
    endYear: Annotated[Int32, _doc("The year of the last episode of a series that has ended.")]
    runtimeSeconds: Annotated[Int32, _doc("The running time in seconds.")]
    genres: Annotated[list[str], _doc("In English.")]
    rating: Annotated[Rating, _doc("Missing if too few users voted.")]
    metacritic: Annotated[Metacritic, _doc("Missing if there are too few reviews.")]
    plot: Annotated[str, _doc("A summary.")]
    directors: Annotated[list[Person], _doc("The best known directors; all are in the credits.")]
    writers: Annotated[list[Person], _doc("The best known writers; all are in the credits.")]
    stars: Annotated[list[Person], _doc("The best known cast; all are in the credits.")]
    originCountries: Annotated[list[Country], _doc("The countries of production.")]
    spokenLanguages: Annotated[list[Language], _doc("The languages of the dialogue.")]
    interests: Annotated[list[Interest], _doc("Themes.")]


class IMDbMetadata(Title, total=False):
    """The title itself."""

    # mypy allows no field to become required.
    id: Required[Annotated[str, _doc(_TITLE_ID)]]  # type: ignore[misc]
    primaryTitle: Required[Annotated[str, _doc(_PRIMARY_TITLE)]]  # type: ignore[misc]


class Credit(TypedDict, total=False):
    """What a person did; one person may have several rows."""

    name: Annotated[Person, _doc("The person.")]
    category: Annotated[str, _doc("`actor`, `actress`, `director`, `writer`, …")]
    characters: Annotated[list[str], _doc("The characters that were played; missing for the crew.")]
    episodeCount: Annotated[Int32, _doc("In how many episodes of a series.")]
    title: Annotated[Title, _doc("The title, in answers about a person.")]


class Credits(_Page, total=False):
    """Cast and crew, the first 50 rows."""

    credits: Annotated[list[Credit], _doc("Up to 50 rows; missing if there are none.")]


class Images(_Page, total=False):
    """Pictures, the first 50."""

    images: Annotated[list[Image], _doc("Up to 50 rows; missing if there are none.")]


class Video(TypedDict, total=False):
    """A video on IMDb. Its page is `https://www.imdb.com/video/{id}/`; there is no file to play."""

    id: Annotated[str, _doc("`vi` and digits.")]
    type: Annotated[str, _doc("Such as `trailer` or `clip`.")]
    name: Annotated[str, _doc("The name to show.")]
    primaryImage: Annotated[Image, _doc("A still of the video.")]
    description: Annotated[str, _doc("What the video shows.")]
    width: Annotated[Int32, _doc("In pixels.")]
    height: Annotated[Int32, _doc("In pixels.")]
    runtimeSeconds: Annotated[Int32, _doc("The running time in seconds.")]


class Videos(_Page, total=False):
    """Videos, the first 50."""

    videos: Annotated[list[Video], _doc("Up to 50 rows; missing if there are none.")]


class SeverityVotes(TypedDict, total=False):
    """How many users chose a severity."""

    severityLevel: Annotated[str, _doc("`none`, `mild`, `moderate` or `severe`.")]
    voteCount: Annotated[Int32, _doc("How many users chose it.")]


class ParentsGuideReview(TypedDict, total=False):
    """What a user of IMDb wrote about a kind of content."""

    text: Annotated[str, _doc("What the user wrote.")]
    isSpoiler: Annotated[bool, _doc("Whether the text gives the plot away; missing means false.")]


class ParentsGuideCategory(TypedDict, total=False):
    """The votes on one kind of content; there is no verdict beside them."""

    category: Annotated[
        str,
        _doc(
            "`SEXUAL_CONTENT`, `VIOLENCE`, `PROFANITY`, `ALCOHOL_DRUGS` or "
            "`FRIGHTENING_INTENSE_SCENES`; others may follow."
        ),
    ]
    severityBreakdowns: Annotated[
        list[SeverityVotes], _doc("The votes, one row for each severity.")
    ]
    reviews: Annotated[list[ParentsGuideReview], _doc("What users wrote about it.")]


class ParentsGuide(TypedDict, total=False):
    """What parents may want to know."""

    parentsGuide: Annotated[
        list[ParentsGuideCategory],
        _doc("A row for each kind of content; missing if there are none."),
    ]


class Certificate(TypedDict, total=False):
    """An age rating in a country, which may have several."""

    rating: Annotated[str, _doc("The rating in the words of the country's board, such as `PG-13`.")]
    country: Annotated[Country, _doc("The country in which it applies.")]
    attributes: Annotated[
        list[str], _doc("What sets rows of one country apart, such as `re-rating`.")
    ]


class Certificates(TypedDict, total=False):
    """Age ratings."""

    certificates: Annotated[
        list[Certificate], _doc("A row for each rating; missing if there are none.")
    ]
    totalCount: Annotated[Int32, _doc("How many rows the source has.")]


class PartialDate(TypedDict, total=False):
    """A date of which possibly only the year, or year and month, are known."""

    year: Annotated[Int32, _doc("Such as 2010.")]
    month: Annotated[Int32, _doc("From 1 to 12.")]
    day: Annotated[Int32, _doc("From 1 to 31.")]


class ReleaseDate(TypedDict, total=False):
    """A release in a country, which may have several rows."""

    country: Annotated[Country, _doc("The country of the release.")]
    releaseDate: Annotated[PartialDate, _doc("The date of the release.")]
    attributes: Annotated[
        list[str], _doc("What sets rows of one country apart: `premiere`, `limited`, …")
    ]


class ReleaseDates(TypedDict, total=False):
    """Releases, the first 50 rows, in no particular order."""

    releaseDates: Annotated[list[ReleaseDate], _doc("Up to 50 rows; missing if there are none.")]
    nextPageToken: Annotated[str, _doc(_NEXT_PAGE)]


# --- KinoCheck --------------------------------------------------------------------------------

_YOUTUBE_ID = "The id of the video on YouTube, 11 characters."


class TrailerPart(TypedDict, total=False):
    """A trailer with the chosen `fields` only."""

    id: Annotated[str, _doc("KinoCheck's id of the video.")]
    youtube_video_id: Annotated[str, _doc(_YOUTUBE_ID)]
    youtube_channel_id: Annotated[str | None, _doc("The id of the channel on YouTube.")]
    youtube_thumbnail: Annotated[WebUrl | None, _doc("A still of the video on YouTube.")]
    title: Annotated[str | None, _doc("The name to show, in `language`.")]
    url: Annotated[WebUrl | None, _doc("The page of the video on KinoCheck.")]
    thumbnail: Annotated[WebUrl | None, _doc("A still of the video on KinoCheck.")]
    language: Annotated[str | None, _doc("`en` or `de`.")]
    categories: Annotated[list[str], _doc("`Trailer`, `Teaser`, `Clip`, …")]
    genres: Annotated[list[str], _doc("In `language`.")]
    published: Annotated[str | None, _doc("When the video was published, ISO 8601 with an offset.")]
    views: Annotated[Int64, _doc("How often the video was watched; missing if it is not known.")]


class Trailer(TrailerPart, total=False):
    """A video that KinoCheck lists for a title."""

    # mypy allows no field to become required.
    youtube_video_id: Required[Annotated[str, _doc(_YOUTUBE_ID)]]  # type: ignore[misc]


# --- Watchmode --------------------------------------------------------------------------------


class StreamingSource(TypedDict, total=False):
    """An offer: a service has a row for each type, format and price.

    `web_url` is a URL or null. The other links are for apps; where the plan does not include them,
    they are a sentence instead.
    """

    source_id: Annotated[Int32, _doc("Watchmode's id of the service.")]
    name: Annotated[str, _doc("The name of the service.")]
    type: Annotated[
        str, _doc("`sub` (subscription), `rent`, `buy`, `free` or `tve` (with a cable contract).")
    ]
    region: Annotated[str, _doc("ISO 3166-1 alpha-2.")]
    ios_url: Annotated[Link | None, _doc("The link for the service's iOS app.")]
    android_url: Annotated[Link | None, _doc("The link for the service's Android app.")]
    web_url: Annotated[WebUrl | None, _doc("The page of the title at the service.")]
    tvos_url: Annotated[Link | None, _doc("The link for the service's app on Apple TV.")]
    android_tv_url: Annotated[Link | None, _doc("The link for the service's app on Android TV.")]
    roku_url: Annotated[Link | None, _doc("The link for the service's app on Roku.")]
    format: Annotated[str | None, _doc("`SD`, `HD` or `4K`.")]
    price: Annotated[
        Number | None, _doc("In the currency of the region; null for `sub` and `free`.")
    ]
    seasons: Annotated[Int32 | None, _doc("How many seasons are offered; null for films.")]
    episodes: Annotated[Int32 | None, _doc("How many episodes are offered; null for films.")]
