"""The identifier that every surface shares."""

import re

from core.errors import InvalidInput

# As long as the column that holds it.
MAX_LENGTH = 20

_IMDB_ID = re.compile(r"tt[0-9]+", re.ASCII)


def is_imdb_id(value: object) -> bool:
    """Whether `value` is a text that `parse_imdb_id` accepts."""
    return isinstance(value, str) and len(value) <= MAX_LENGTH and bool(_IMDB_ID.fullmatch(value))


def parse_imdb_id(text: str) -> str:
    """Return `text` where it is an IMDb title id: `tt` and ASCII digits, at most 20 characters.

    Raises `InvalidInput` for anything else, also for another case, blanks and a final newline.
    """
    if not is_imdb_id(text):
        raise InvalidInput("An IMDb id is 'tt' followed by digits, such as tt1375666.")
    return text
