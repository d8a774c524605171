"""Views of a film that clients can choose: fields, image sizes, offers by service, a country."""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from core.errors import InvalidInput
from films.payload import KEYS, SECTION_NAMES, STREAMING, Part, to_json

# Sections that are objects, so that keys of them can be chosen.
_OBJECTS = frozenset(SECTION_NAMES) - {"streaming"}
_LONGEST_FIELDS = 1_000

# --- Fields

# The chosen keys of each section or other key, None for all of it.
Selection = Mapping[str, frozenset[str] | None]


def parse_fields(text: str) -> Selection:
    """Return the selection in `fields`, such as `title,metadata.rating,streaming`.

    Raises `InvalidInput` for an empty list, a name that is none of the twelve keys, and a dot after
    something that is no object or more than one level deep.
    """
    names = [name.strip() for name in text.split(",")]
    if len(text) > _LONGEST_FIELDS or not all(names):
        raise InvalidInput(f"'fields' is a comma-separated list of {', '.join(KEYS)}.")
    chosen: dict[str, frozenset[str] | None] = {}
    for name in names:
        key, dot, part = name.partition(".")
        if key not in KEYS:
            raise InvalidInput(f"'fields' has a name that is none of {', '.join(KEYS)}.")
        if not dot:
            chosen[key] = None
            continue
        if key not in _OBJECTS or not part or "." in part:
            raise InvalidInput(
                "'fields' goes one level deep, into sections that are objects, such as "
                "metadata.rating."
            )
        last = chosen.get(key, frozenset())
        chosen[key] = None if last is None else last | {part}
    return {key: chosen[key] for key in KEYS if key in chosen}


def warned_sections(selection: Selection) -> Collection[str]:
    """Return the sections whose warnings are in the body with the chosen fields."""
    return SECTION_NAMES if "warnings" in selection else selection.keys()


def select(film: Mapping[str, Any], selection: Selection) -> bytes:
    """Return the body with the chosen fields, in the order of the whole film.

    `imdb_id` and the warnings of the chosen sections are always there; a chosen key that the
    section lacks is left out.
    """
    values = {"imdb_id": film["imdb_id"], "warnings": film["warnings"]}
    if "warnings" not in selection:
        values["warnings"] = [each for each in film["warnings"] if each["section"] in selection]
    for key, parts in selection.items():
        value = film[key]
        if parts is not None and value is not None:
            value = {part: value[part] for part in parts if part in value}
        values.setdefault(key, value)
    return b"{%b}" % b",".join(
        b'"%b":%b' % (key.encode(), to_json(values[key])) for key in KEYS if key in values
    )


def cut(film: bytes, parts: Mapping[str, Part], selection: Selection) -> bytes:
    """Return what `select` returns, cut out of the stored bytes of a film.

    Only sections of which some keys are chosen are parsed, and warnings if there are any.
    """
    first, last = SECTION_NAMES[0], SECTION_NAMES[-1]
    head = film[1 : parts[first].start - len(f',"{first}":')]
    warnings = film[parts[last].end + 1 : -1]
    # An id has no quotes.
    imdb_id, _, title = head.partition(b",")
    chunks = [imdb_id]
    for key, chosen in selection.items():
        if key == "title":
            chunks.append(title)
        elif key in parts:
            value = film[parts[key].start : parts[key].end]
            if chosen is not None and value != b"null":
                values = json.loads(value)
                value = to_json({part: values[part] for part in chosen if part in values})
            chunks.append(b'"%b":%b' % (key.encode(), value))
    if "warnings" not in selection and warnings != b'"warnings":[]':
        values = json.loads(b"{%b}" % warnings)["warnings"]
        chosen_ones = [each for each in values if each["section"] in selection]
        warnings = b'"warnings":%b' % to_json(chosen_ones)
    return b"{%b}" % b",".join([*chunks, warnings])


# --- Images

_IMAGE_WIDTHS = range(50, 2001)
# IMDb's image server scales a picture whose name has a width.
_IMAGE = re.compile(
    rb'("https?://(?:m\.media-amazon\.com|ia\.media-imdb\.com)/images/[^"]*?\._V1_)[^"/]*\.jpg"'
)


def parse_image_width(text: str | None) -> int | None:
    """Return the width in pixels, a whole number from 50 to 2000, None for none.

    Raises `InvalidInput`.
    """
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{2,4}", text, re.ASCII) or int(text) not in _IMAGE_WIDTHS:
        raise InvalidInput("'image_width' is a whole number from 50 to 2000.")
    return int(text)


def with_image_width(body: bytes, width: int) -> bytes:
    """Return a JSON body in which the addresses of IMDb's images ask for a width."""
    return _IMAGE.sub(rb'\g<1>UX%d_.jpg"' % width, body)


# --- Offers

OFFER_TYPES = ("sub", "free", "tve", "rent", "buy")
_FORMATS = ("SD", "HD", "4K")
_APP_LINK = re.compile(r"[a-z][a-z0-9+.-]*:(?://)?[^\s]+", re.ASCII | re.IGNORECASE)


def grouped_offers(rows: Iterable[Mapping[str, Any]], regions: Sequence[str]) -> dict[str, Any]:
    """Return the offers by region and type: one entry per service, with formats and prices."""
    grouped: dict[str, dict[str, dict[Any, dict[str, Any]]]] = {
        region: {kind: {} for kind in OFFER_TYPES} for region in regions
    }
    for row in rows:
        services = grouped.get(str(row.get("region")), {}).get(str(row.get("type")))
        if services is None or row.get("source_id") is None:
            continue
        entry = services.setdefault(
            row["source_id"],
            {
                "source_id": row["source_id"],
                "name": row.get("name"),
                "web_url": None,
                "ios_url": None,
                "android_url": None,
                "formats": [],
                "prices": [],
            },
        )
        entry["web_url"] = entry["web_url"] or row.get("web_url")
        for name in ("ios_url", "android_url"):
            entry[name] = entry[name] or _link(row.get(name))
        offered, price = row.get("format"), row.get("price")
        if offered and offered not in entry["formats"]:
            entry["formats"].append(offered)
        if price is not None:
            currency = _currency(str(row["region"]))
            entry["prices"].append({"format": offered, "price": price, "currency": currency})
    for kinds in grouped.values():
        for services in kinds.values():
            for entry in services.values():
                entry["formats"].sort(key=_format_order)
                entry["prices"].sort(key=lambda each: _format_order(each["format"]))
    return {
        region: {kind: list(services.values()) for kind, services in kinds.items()}
        for region, kinds in grouped.items()
    }


def missing_regions(regions: Sequence[str]) -> dict[str, str]:
    """Return the warning that the offers of some regions are not fetched yet."""
    names = ", ".join(regions)
    return {
        "section": STREAMING.name,
        "source": STREAMING.source,
        "code": "deadline",
        "message": f"The offers of {names} follow with the next refresh of the film.",
    }


def _format_order(name: str | None) -> tuple[int, str]:
    return (_FORMATS.index(name) if name in _FORMATS else len(_FORMATS), name or "")


def _link(value: Any) -> str | None:
    # For free plans Watchmode sends a sentence instead of a link.
    return value if isinstance(value, str) and _APP_LINK.fullmatch(value) else None


def _currency(region: str) -> str | None:
    """Return the legal tender of a region (CLDR), as an ISO 4217 code."""
    # Imported late, because loading the locale data takes long and few processes need it.
    from babel.numbers import get_territory_currencies  # noqa: PLC0415

    currencies: list[str] = get_territory_currencies(region)
    return currencies[0] if currencies else None


# --- The row of one country

_COUNTRY = re.compile(r"[A-Z]{2}", re.ASCII)
_NOT_IN_CINEMAS = re.compile(
    r"premi[eè]re|festival|internet|\btv\b|dvd|blu-?ray|re-?release|limited", re.IGNORECASE
)
_RE_RELEASE = re.compile(r"re-?release", re.IGNORECASE)


def parse_country(text: str) -> str:
    """Return an ISO 3166-1 alpha-2 code; raises `InvalidInput` for anything else."""
    if not _COUNTRY.fullmatch(text):
        raise InvalidInput("'country' is two capital letters, such as TR.")
    return text


def preferred_certificate(section: Mapping[str, Any], country: str) -> dict[str, Any] | None:
    """Return the first certificate of the country without attributes, else its first one."""
    rows = _rows_of(section.get("certificates"), country)
    return next((row for row in rows if not row.get("attributes")), rows[0] if rows else None)


def preferred_release(section: Mapping[str, Any], country: str) -> dict[str, Any] | None:
    """Return the row with the date on which the film came to the cinemas of the country.

    The earliest release with a day whose attributes name no premiere, festival, internet, TV, DVD,
    Blu-ray, re-release or limited release; else the earliest one with a day that is no re-release;
    else the earliest one. Only the rows of the section are considered: not those of further pages.
    """
    rows = _rows_of(section.get("releaseDates"), country)
    rows.sort(key=_date)
    for excluded in (_NOT_IN_CINEMAS, _RE_RELEASE):
        for row in rows:
            named = any(excluded.search(str(text)) for text in row.get("attributes") or [])
            if row.get("releaseDate", {}).get("day") and not named:
                return row
    return rows[0] if rows else None


def _rows_of(rows: Any, country: str) -> list[dict[str, Any]]:
    return [row for row in rows or [] if row.get("country", {}).get("code") == country]


def _date(row: Mapping[str, Any]) -> tuple[int, int, int]:
    date = row.get("releaseDate", {})
    # A date that is only partly known comes after the known ones of its year or month.
    return date.get("year") or 9999, date.get("month") or 13, date.get("day") or 32
