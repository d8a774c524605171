"""IMDb title ids, by which all surfaces and sources name a title."""

import re

from core.errors import InvalidInput

# As long as the column that holds it.
MAX_LENGTH = 20

_IMDB_ID = re.compile(r"tt0*([0-9]+)", re.ASCII)


def canonical_imdb_id(value: object) -> str | None:
    """Return the canonical form of an id, None if `value` is not an IMDb title id.

    An id is `tt` followed by ASCII digits, at most 20 characters. In the canonical form the number
    has no leading zeros beyond seven digits: `tt137` and `tt00000137` are `tt0000137`.
    """
    if not isinstance(value, str) or len(value) > MAX_LENGTH:
        return None
    found = _IMDB_ID.fullmatch(value)
    return f"tt{found[1]:0>7}" if found else None


def parse_imdb_id(text: str) -> str:
    """Return the canonical form of an id that a caller sent.

    Raises `InvalidInput` for anything else, also for `TT`, white space and a final newline.
    """
    imdb_id = canonical_imdb_id(text)
    if imdb_id is None:
        raise InvalidInput("An IMDb id is 'tt' followed by digits, such as tt1375666.")
    return imdb_id
