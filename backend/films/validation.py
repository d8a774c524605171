"""Whether stored data are what was written."""

from typing import Any

from core.services import shapes
from films.payload import KEYS, SECTION_NAMES

_SHAPES: dict[str, Any] = {
    "metadata": shapes.IMDbMetadata,
    "credits": shapes.Credits,
    "images": shapes.Images,
    "videos": shapes.Videos,
    "parents_guide": shapes.ParentsGuide,
    "certificates": shapes.Certificates,
    "release_dates": shapes.ReleaseDates,
    "trailer": shapes.Trailer | None,
    "streaming": list[shapes.StreamingSource],
}


def has_shape(section: str, value: Any) -> bool:
    """Whether a value may be one of this section, or a page of it."""
    return shapes.has_shape(value, _SHAPES[section])


def is_valid(imdb_id: str, value: Any) -> bool:
    """Whether a stored value is a payload of this film: its twelve keys and their shapes."""
    if not isinstance(value, dict) or set(value) != set(KEYS) or value["imdb_id"] != imdb_id:
        return False
    metadata, warnings = value["metadata"], value["warnings"]
    return (
        isinstance(value["title"], str)
        and all(has_shape(name, value[name]) for name in SECTION_NAMES)
        and metadata.get("id") == imdb_id
        and "primaryTitle" in metadata
        and isinstance(warnings, list)
        and all(_is_warning(warning) for warning in warnings)
    )


def _is_warning(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"section", "source", "code", "message"}
        and all(isinstance(text, str) for text in value.values())
        and value["section"] in SECTION_NAMES
    )
