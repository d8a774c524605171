"""What callers may search for."""

import unicodedata

from core.errors import InvalidInput

MAX_LENGTH = 200


def parse_search_text(text: str | None, parameter: str) -> str:
    """Return `text` in NFC without surrounding blanks, as sources want it.

    Raises `InvalidInput`, naming the query `parameter`, where it is missing, blank (invisible
    characters count as blank), over 200 characters long, or has control characters.
    """
    if text is None:
        raise InvalidInput(f"The query parameter '{parameter}' is missing.")
    if len(text) > MAX_LENGTH:
        raise InvalidInput(f"'{parameter}' is longer than {MAX_LENGTH} characters.")
    # Cc: control characters. Cs: halves of a pair, which no encoder can send on.
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in text):
        raise InvalidInput(f"'{parameter}' has control characters.")
    if not any(_is_visible(character) for character in text):
        raise InvalidInput(f"'{parameter}' is blank.")
    return unicodedata.normalize("NFC", text).strip()


def _is_visible(character: str) -> bool:
    # Not all of C: what this Unicode version does not know yet may well be an emoji.
    return unicodedata.category(character) not in {"Zs", "Zl", "Zp", "Cf"}
