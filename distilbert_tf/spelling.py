"""What somebody may have meant who wrote a name that there is not."""

import difflib
from collections.abc import Iterable


def find_similar(name: str, known: Iterable[str], cutoff: float = 0.75) -> str | None:
    """Returns the known name that is most like another one, apart from capitals and blanks.

    Args:
        name: The other one.
        known: Names; of two that are alike, the first counts.
        cutoff: How similar it must be, from 0 to 1.

    Returns:
        A name, or None if none is similar.
    """
    by_key = {one.strip().casefold(): one for one in reversed(list(known))}
    found = difflib.get_close_matches(name.strip().casefold(), by_key, 1, cutoff)
    return by_key[found[0]] if found else None


def suggest(name: str, known: Iterable[str]) -> str:
    """Returns a part of a message: which known name was perhaps meant, or nothing."""
    similar = find_similar(name, known)
    return f" (did you mean {similar!r}?)" if similar else ""
