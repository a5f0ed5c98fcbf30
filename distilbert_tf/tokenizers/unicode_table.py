"""What BERT's text clean-up does to every Unicode code point, as a small stored table.

Hugging Face's clean-up is compiled into the `tokenizers` library with Unicode tables of its own,
older than Python's and different from TensorFlow's. So `unicode_table.npz` is not derived from the
standard: `tests/make_unicode_table.py` asks the library about each code point.

For each of the four choices of (lowercase, strip_accents), one entry says what becomes of a code
point. It packs three fields into an int32, `kind << KIND_SHIFT | has_mark << MARK_SHIFT | value`,
where value is `output - code point + OFFSET_BIAS`, or for `Kind.EXPANDS` a row of `expansions`.
Entries are stored in pages of 64 code points; equal pages are stored once.

Shapes: G pages (17,408), U distinct pages, X expansions, M marks that survive the stripping of
accents.
"""

import enum
import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FILE = Path(__file__).with_name("unicode_table.npz")
OPTION_PAIRS = ((False, False), (False, True), (True, False), (True, True))

PAGE_SHIFT = 6
PAGE_SIZE = 1 << PAGE_SHIFT
MARK_SHIFT = 22
KIND_SHIFT = 23
OFFSET_BIAS = 1 << 21  # offsets lie within +-0x10FFFF
VALUE_MASK = (1 << MARK_SHIFT) - 1
EXPANSION_WIDTH = 3  # no code point becomes more than three
NO_OUTPUT = -1


class Kind(enum.IntEnum):
    """What becomes of one code point."""

    LETTER = 0  # one code point that is part of a word
    SPACE = 1
    ISOLATED = 2  # one code point that is a word of its own: punctuation
    CHINESE = 3  # isolated if `tokenize_chinese_chars`, else a letter
    DELETED = 4  # removed, and its neighbours meet
    DELETED_STARTER = 5  # removed, but combining marks are not reordered across it
    EXPANDS = 6  # two or three letters


class UnicodeTable(NamedTuple):
    """The table for one choice of (lowercase, strip_accents)."""

    pages: NDArray[np.int32]  # (G,) offset of each page in `entries`
    entries: NDArray[np.int32]  # (U * PAGE_SIZE,)
    expansions: NDArray[np.int32]  # (X, EXPANSION_WIDTH), NO_OUTPUT where shorter
    marks: NDArray[np.int32]  # (M,) ascending
    mark_ranks: NDArray[np.int32]  # (M,) order of their combining classes, 1 or more

    def entries_of(self, code_points: NDArray[np.int32]) -> NDArray[np.int32]:
        """Looks up the packed entries of code points: (N,) to (N,)."""
        return self.entries[self.pages[code_points >> PAGE_SHIFT] + code_points % PAGE_SIZE]


def load_unicode_table(lowercase: bool, strip_accents: bool) -> UnicodeTable:
    """Reads the stored table for one choice of options.

    Args:
        lowercase: Whether text is lowercased.
        strip_accents: Whether text is decomposed and its non-spacing marks dropped.

    Returns:
        The table. Its arrays are shared: copy before changing one.
    """
    stored = _read_arrays()
    option = OPTION_PAIRS.index((lowercase, strip_accents))
    return UnicodeTable(
        pages=stored["pages"][option].astype(np.int32) << PAGE_SHIFT,
        entries=stored["entries"].reshape(-1),
        expansions=stored["expansions"],
        marks=stored["marks"],
        mark_ranks=stored["mark_ranks"],
    )


@functools.cache
def _read_arrays() -> dict[str, NDArray]:
    with np.load(FILE) as file:
        return dict(file)
