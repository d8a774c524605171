"""The ten calls of a film, for programs that fetch it, and how their answers become one payload."""

import os
from collections.abc import Mapping
from typing import Any

SANDBOX = os.environ.get("SANDBOX", "")
KINO = {"X-Api-Key": "sandbox-kinocheck-key"}
WATCHMODE = {"X-API-Key": "sandbox-watchmode-key"}
# The calls to IMDbAPI.dev, by section.
IMDB = {
    "metadata": "",
    "credits": "/credits?pageSize=50",
    "images": "/images?pageSize=50",
    "videos": "/videos?pageSize=50",
    "parents_guide": "/parentsGuide",
    "certificates": "/certificates",
    "release_dates": "/releaseDates?pageSize=50",
}


def imdb_url(imdb_id: str, section: str) -> str:
    """Return the address of a section."""
    return f"{SANDBOX}/imdbapi/titles/{imdb_id}{IMDB[section]}"


def trailer_url(imdb_id: str) -> str:
    """Return the address of the trailer."""
    return f"{SANDBOX}/kinocheck/movies?imdb_id={imdb_id}&language=en"


def title_url(imdb_id: str) -> str:
    """Return the address at which Watchmode's id of the film is found."""
    return f"{SANDBOX}/watchmode/v1/search/?search_field=imdb_id&search_value={imdb_id}"


def offers_url(found: Mapping[str, Any]) -> str:
    """Return the address of the offers, from the answer of `title_url`."""
    return f"{SANDBOX}/watchmode/v1/title/{found['title_results'][0]['id']}/sources/?regions=TR"


def merge(imdb_id: str, sections: Mapping[str, Any], trailer: Any, offers: Any) -> dict[str, Any]:
    """Return the payload of a film."""
    title = sections["metadata"]["primaryTitle"]
    return {
        "imdb_id": imdb_id,
        "title": title,
        **sections,
        "trailer": trailer.get("trailer"),
        "streaming": offers,
        "warnings": [],
    }
