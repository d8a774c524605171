"""What callers may search for."""

import unicodedata

from core.errors import InvalidInput

MAX_LENGTH = 200

# First and last code points of characters that show nothing: Default_Ignorable_Code_Point of the
# Unicode database, then annotation marks, the blank Braille pattern and the blank note head.
INVISIBLE = (
    (0x00AD, 0x00AD),
    (0x034F, 0x034F),
    (0x061C, 0x061C),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),
    (0x202A, 0x202E),
    (0x2060, 0x206F),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFF8),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
    (0xFFF9, 0xFFFB),
    (0x2800, 0x2800),
    (0x1D159, 0x1D159),
)
_INVISIBLE_CHARACTERS = frozenset(
    chr(code) for first, last in INVISIBLE for code in range(first, last + 1)
)


def parse_search_text(text: str | None, parameter: str) -> str:
    """Return `text` in NFC, without white space and invisible characters around it.

    Raises `InvalidInput`, naming the query `parameter`, if the text is missing, has control
    characters, has no visible character, or is longer than 200 characters after this.
    """
    if text is None:
        raise InvalidInput(f"The query parameter '{parameter}' is missing.")
    # Cc: control characters. Cs: halves of a surrogate pair, which UTF-8 cannot encode.
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in text):
        raise InvalidInput(f"'{parameter}' has control characters.")
    normalized = unicodedata.normalize("NFC", text)
    visible = [
        place
        for place, character in enumerate(normalized)
        if character not in _INVISIBLE_CHARACTERS and not character.isspace()
    ]
    if not visible:
        raise InvalidInput(f"'{parameter}' is blank.")
    trimmed = normalized[visible[0] : visible[-1] + 1]
    if len(trimmed) > MAX_LENGTH:
        raise InvalidInput(f"'{parameter}' is longer than {MAX_LENGTH} characters.")
    return trimmed
