"""What a film is made of: the nine sections of its payload, and how they are put together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from core.errors import UpstreamError, UpstreamNotFound

Outcome = Any | UpstreamError


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the payload, the source it comes from, and what it is when there is none."""

    name: str
    source: str
    empty: Callable[[], Any] = dict


METADATA = Section("metadata", "imdbapi")
TRAILER = Section("trailer", "kinocheck", lambda: None)
STREAMING = Section("streaming", "watchmode", list)

# In the order in which clients see them.
SECTIONS = (
    METADATA,
    Section("credits", "imdbapi"),
    Section("images", "imdbapi"),
    Section("videos", "imdbapi"),
    Section("parents_guide", "imdbapi"),
    Section("certificates", "imdbapi"),
    Section("release_dates", "imdbapi"),
    TRAILER,
    STREAMING,
)

# Nothing but another setting or another plan helps.
_BEYOND_REPAIR = frozenset({"not_configured", "region_not_covered"})

_SENTENCES = {
    "not_found": "The source says that there is no such title.",
    "timeout": "The source did not answer in time.",
    "unavailable": "The source could not be reached.",
    "rate_limited": "The source asked us to slow down.",
    "quota_exhausted": "The calls that the source grants us are used up for now.",
    "not_configured": "No key for the source is set.",
    "rejected": "The source refused our key.",
    "region_not_covered": "Our plan with the source does not cover the region.",
    "bad_response": "The source answered something unusable.",
    "deadline": "The time for this request ran out before the source answered.",
}


def merge(
    imdb_id: str, outcomes: Mapping[str, Outcome], last: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the payload of a film: its twelve keys, always all of them.

    `outcomes` has the answer or the `UpstreamError` of each section that was asked for, `last` the
    payload stored before. A section that was not asked for stays as it was. One that failed keeps
    its last good value with a `stale` warning; where there is none it is empty, with a warning
    that tells why. That a source has nothing is no failure.
    Raises the error of `metadata` where there is no last good one: without it there is no film.
    """
    last = last or {}
    values: dict[str, Any] = {}
    warnings: dict[str, dict[str, str]] = {
        warning["section"]: warning for warning in last.get("warnings", [])
    }
    for section in SECTIONS:
        name = section.name
        if name not in outcomes:
            values[name] = last.get(name, section.empty())
            continue
        outcome = outcomes[name]
        warnings.pop(name, None)
        if isinstance(outcome, UpstreamNotFound) and section is not METADATA:
            values[name] = section.empty()
        elif not isinstance(outcome, UpstreamError):
            values[name] = outcome
        elif has_good(last, section):
            values[name] = last[name]
            text = f"An older copy is shown. {_why(outcome)}"
            warnings[name] = _warning(section, "stale", text)
        elif section is METADATA:
            raise outcome
        else:
            values[name] = section.empty()
            warnings[name] = _warning(section, outcome.code, _why(outcome))
    return {
        "imdb_id": imdb_id,
        "title": values["metadata"]["primaryTitle"],
        **values,
        "warnings": [warnings[section.name] for section in SECTIONS if section.name in warnings],
    }


def has_good(payload: Mapping[str, Any], section: Section) -> bool:
    """Whether `payload` holds what the source once said of `section`, be it that it has nothing."""
    failed = {
        warning["section"] for warning in payload.get("warnings", []) if warning["code"] != "stale"
    }
    if section is METADATA and not payload.get("metadata"):
        return False
    return section.name in payload and section.name not in failed


def as_stale(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return a payload that is past its time: every section without a warning gets `stale`."""
    warned = {warning["section"]: warning for warning in payload.get("warnings", [])}
    warnings = [
        warned.get(section.name) or _warning(section, "stale", "An older copy is shown.")
        for section in SECTIONS
    ]
    # A jsonb column gives the keys back in an order of its own.
    values = {section.name: payload.get(section.name, section.empty()) for section in SECTIONS}
    return {
        "imdb_id": payload.get("imdb_id"),
        "title": payload.get("title"),
        **values,
        "warnings": warnings,
    }


def repairable(payload: Mapping[str, Any]) -> list[str]:
    """Return the names of the sections that another fetch may mend."""
    return [
        warning["section"]
        for warning in payload.get("warnings", [])
        if warning["code"] not in _BEYOND_REPAIR
    ]


def _why(error: UpstreamError) -> str:
    return _SENTENCES[error.code]


def _warning(section: Section, code: str, message: str) -> dict[str, str]:
    return {"section": section.name, "source": section.source, "code": code, "message": message}
