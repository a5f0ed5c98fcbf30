"""What BERT's text clean-up does to every Unicode code point, as a small stored table.

Hugging Face's clean-up is compiled into the `tokenizers` library with Unicode tables of its own,
older than Python's and different from TensorFlow's. So the table is not derived from the standard:
`python -m distilbert_tf.tokenizers.unicode_table` asks the library about each code point and writes
`unicode_table.npz`; with `--check` it compares instead and exits with 1 where they differ.

For each of the four choices of (lowercase, strip_accents), one entry says what becomes of a code
point. It packs three fields into an int32, `kind << KIND_SHIFT | has_mark << MARK_SHIFT | value`,
where value is `output - code point + OFFSET_BIAS`, or for `Kind.EXPANDS` a row of `expansions`.
Entries are stored by pages of 64 code points, equal pages once.

Shapes: O option pairs (4), G pages per option pair (17,408), U distinct pages, X expansions,
M marks that survive the stripping of accents.
"""

import argparse
import enum
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_CODE_POINTS = 0x110000
SURROGATES = range(0xD800, 0xE000)
PAGE_SHIFT = 6
PAGE_SIZE = 1 << PAGE_SHIFT
MARK_SHIFT = 22
KIND_SHIFT = 23
OFFSET_BIAS = 1 << 21  # offsets lie within +-0x10FFFF
VALUE_MASK = (1 << MARK_SHIFT) - 1
EXPANSION_WIDTH = 3  # no code point becomes more than three
NO_OUTPUT = -1
OPTION_PAIRS = ((False, False), (False, True), (True, False), (True, True))
FILE_NAME = "unicode_table.npz"

# Between probed code points: two letters that no clean-up changes and that cannot be mistaken for
# the output of a single code point.
SEPARATOR = "qz"
CHUNK_SIZE = 2048
LOW_MARK, HIGH_MARK = "\u0334", "\u0301"  # combining classes 1 and 230


class Kind(enum.IntEnum):
    """What becomes of one code point."""

    LETTER = 0  # one code point that is part of a word
    SPACE = 1
    ISOLATED = 2  # one code point that is a word of its own: punctuation
    CHINESE = 3  # isolated if `tokenize_chinese_chars`, else a letter
    DELETED = 4  # gone, and its neighbours meet
    DELETED_STARTER = 5  # gone, but combining marks are not reordered across it
    EXPANDS = 6  # two or three letters


class UnicodeTable(NamedTuple):
    """The table for one choice of (lowercase, strip_accents)."""

    pages: NDArray[np.int32]  # (G,) offset of each page in `entries`
    entries: NDArray[np.int32]  # (U * PAGE_SIZE,)
    expansions: NDArray[np.int32]  # (X, EXPANSION_WIDTH), NO_OUTPUT where shorter
    marks: NDArray[np.int32]  # (M,) ascending
    mark_ranks: NDArray[np.int32]  # (M,) order of their combining classes, 1 or more

    def entries_of(self, code_points: NDArray[np.int32]) -> NDArray[np.int32]:
        """Looks entries up.

        Args:
            code_points: (N,).

        Returns:
            (N,) packed entries.
        """
        return self.entries[self.pages[code_points >> PAGE_SHIFT] + code_points % PAGE_SIZE]


def load_unicode_table(lowercase: bool, strip_accents: bool) -> UnicodeTable:
    """Reads the stored table for one choice of options.

    Args:
        lowercase: Whether text is lowercased.
        strip_accents: Whether text is decomposed and its non-spacing marks dropped.

    Returns:
        The table. Its arrays are shared: copy before changing one.
    """
    stored = _stored_arrays()
    option = OPTION_PAIRS.index((lowercase, strip_accents))
    return UnicodeTable(
        pages=stored["pages"][option].astype(np.int32) << PAGE_SHIFT,
        entries=stored["entries"].reshape(-1),
        expansions=stored["expansions"],
        marks=stored["marks"],
        mark_ranks=stored["mark_ranks"],
    )


def stored_tokenizers_version() -> str:
    """Returns the version of `tokenizers` that the stored table was probed from."""
    return str(_stored_arrays()["tokenizers_version"])


def probe_unicode_table() -> dict[str, NDArray]:
    """Asks the installed `tokenizers` library what becomes of each code point.

    Returns:
        The arrays of `unicode_table.npz`: `pages` (O, G), `entries` (U, PAGE_SIZE),
        `expansions` (X, EXPANSION_WIDTH), `marks` (M,), `mark_ranks` (M,), `tokenizers_version`.
    """
    kinds = _probe_kinds()
    outputs = {pair: _probe_bert_outputs(*pair) for pair in OPTION_PAIRS}
    nonstarters = _probe_nonstarters()
    expansion_rows: dict[str, int] = {}
    tables = []
    for lowercase, strip_accents in OPTION_PAIRS:
        table = _make_entries(outputs[lowercase, strip_accents], kinds, expansion_rows)
        if strip_accents:
            _note_reordering(
                table, outputs[lowercase, True], outputs[lowercase, False], nonstarters
            )
        tables.append(table)
    entries, pages = np.unique(
        np.concatenate(tables).reshape(-1, PAGE_SIZE), axis=0, return_inverse=True
    )
    expansions = np.full((len(expansion_rows), EXPANSION_WIDTH), NO_OUTPUT, np.int32)
    for text, row in expansion_rows.items():
        expansions[row, : len(text)] = [ord(char) for char in text]
    survivors = [c for c in sorted(nonstarters) if outputs[False, True][c] == chr(c)]
    return {
        "pages": pages.reshape(len(OPTION_PAIRS), -1).astype(np.uint16),
        "entries": entries,
        "expansions": expansions,
        "marks": np.array(survivors, np.int32),
        "mark_ranks": _probe_mark_ranks(survivors),
        "tokenizers_version": np.array(metadata.version("tokenizers")),
    }


def find_drift(probed: dict[str, NDArray]) -> list[str]:
    """Names the arrays in which a probed table differs from the stored one.

    Args:
        probed: As `probe_unicode_table` returns it.

    Returns:
        Array names. The version is no array: two versions with equal tables do not differ.
    """
    stored = _stored_arrays()
    names = sorted(probed.keys() - {"tokenizers_version"})
    return [name for name in names if not np.array_equal(stored[name], probed[name])]


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the table, or compares it with `--check`.

    Args:
        argv: Command-line arguments without the program's name.

    Returns:
        The exit status: 1 if `--check` found a difference.
    """
    parser = argparse.ArgumentParser(description="Probe the tokenizers library's Unicode clean-up.")
    parser.add_argument("--check", action="store_true", help="compare with the stored table")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).with_name(FILE_NAME), help="file to write"
    )
    options = parser.parse_args(argv)
    probed = probe_unicode_table()
    if not options.check:
        np.savez_compressed(options.output, allow_pickle=False, **probed)
        sys.stdout.write(f"wrote {options.output}, {options.output.stat().st_size} bytes\n")
        return 0
    differing = find_drift(probed)
    sys.stdout.write(
        f"stored: tokenizers {stored_tokenizers_version()}, "
        f"installed: tokenizers {probed['tokenizers_version']}, "
        f"differing arrays: {', '.join(differing) or 'none'}\n"
    )
    return 1 if differing else 0


@functools.cache
def _stored_arrays() -> dict[str, NDArray]:
    with resources.files("distilbert_tf.tokenizers").joinpath(FILE_NAME).open("rb") as file:
        return dict(np.load(file))


def _make_entries(
    outputs: list[str], kinds: NDArray[np.int32], expansion_rows: dict[str, int]
) -> NDArray[np.int32]:
    """Packs the entry of each code point; new expansions get the next rows."""
    table = kinds << KIND_SHIFT | OFFSET_BIAS  # as if each stayed what it is
    changed = [c for c, output in enumerate(outputs) if output != chr(c)]
    for code_point in changed:
        output = outputs[code_point]
        if not output:
            kind, value = Kind.DELETED, OFFSET_BIAS
        elif len(output) == 3 and output[0] == output[2] == " ":
            kind, value = Kind.CHINESE, ord(output[1]) - code_point + OFFSET_BIAS
        elif len(output) == 1:
            kind, value = kinds[ord(output)], ord(output) - code_point + OFFSET_BIAS
        elif len(output) <= EXPANSION_WIDTH and all(kinds[ord(char)] == 0 for char in output):
            kind = Kind.EXPANDS
            value = expansion_rows.setdefault(output, len(expansion_rows))
        else:
            raise ValueError(f"U+{code_point:04X} becomes {output!r}, too much for this table")
        table[code_point] = kind << KIND_SHIFT | value
    return table


def _note_reordering(
    table: NDArray[np.int32], outputs: list[str], unstripped: list[str], nonstarters: set[int]
) -> None:
    """Adds to the entries what canonical reordering needs; only decomposed text is reordered."""
    for code_point, output in enumerate(outputs):
        if not output and unstripped[code_point] and code_point not in nonstarters:
            table[code_point] = Kind.DELETED_STARTER << KIND_SHIFT | OFFSET_BIAS
    marks = {chr(code_point) for code_point in nonstarters}
    for code_point, output in enumerate(outputs):
        if not marks.isdisjoint(output):
            table[code_point] |= 1 << MARK_SHIFT


def _chunks() -> Iterator[tuple[slice, str]]:
    """Yields all code points, a chunk at a time, as positions and as one string."""
    for start in range(0, NUM_CODE_POINTS, CHUNK_SIZE):
        if start not in SURROGATES:  # no valid UTF-8 text holds one, and Rust refuses them
            stop = start + CHUNK_SIZE
            yield slice(start, stop), "".join(map(chr, range(start, stop)))


def _probe_each(clean: Callable[[str], str], before: str = "", after: str = "") -> list[str]:
    """Cleans each code point between two strings; many to a call, as calls are slow."""
    outputs = [""] * NUM_CODE_POINTS
    for where, chunk in _chunks():
        joined = (after + SEPARATOR + before).join(chunk)
        cleaned = clean(before + joined + after).split(SEPARATOR)
        if len(cleaned) != CHUNK_SIZE:
            raise ValueError(f"the separator {SEPARATOR!r} is not kept near U+{ord(chunk[0]):04X}")
        outputs[where] = cleaned
    return outputs


def _probe_bert_outputs(lowercase: bool, strip_accents: bool) -> list[str]:
    from tokenizers import normalizers

    clean = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=True,
        strip_accents=strip_accents,
        lowercase=lowercase,
    )
    return _probe_each(clean.normalize_str)


def _probe_kinds() -> NDArray[np.int32]:
    """Finds how the pre-tokenizer splits "aXb" for each code point X."""
    from tokenizers import pre_tokenizers

    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    kind_of_count = {1: Kind.LETTER, 2: Kind.SPACE, 3: Kind.ISOLATED}
    kinds = np.full(NUM_CODE_POINTS, Kind.DELETED, np.int32)
    for where, chunk in _chunks():
        found, count = [], 0
        for word, _ in split("a" + "b a".join(chunk) + "b"):
            count += 1
            if word.endswith("b"):
                found.append(kind_of_count[count])
                count = 0
        kinds[where] = found
    return kinds


def _probe_nonstarters() -> set[int]:
    """Finds the code points that canonical reordering moves (combining class above 0).

    A mark of class k swaps with a following mark of a lower class and a preceding one of a higher.
    """
    from tokenizers import normalizers

    decompose = normalizers.NFD().normalize_str
    alone = _probe_each(decompose)
    before_low = _probe_each(decompose, after=LOW_MARK)
    after_high = _probe_each(decompose, before=HIGH_MARK)
    moved = {
        code_point
        for code_point, parts in enumerate(alone)
        if parts == chr(code_point)
        and (before_low[code_point][0] == LOW_MARK or after_high[code_point][0] != HIGH_MARK)
    }
    moved |= {ord(LOW_MARK), ord(HIGH_MARK)}
    marks = {chr(code_point) for code_point in moved}
    decomposing = {c for c, parts in enumerate(alone) if parts and marks.issuperset(parts)}
    return moved | decomposing


def _probe_mark_ranks(marks: list[int]) -> NDArray[np.int32]:
    """Ranks marks by combining class: 1 + the number of these marks whose class is lower."""
    from tokenizers import normalizers

    decompose = normalizers.NFD().normalize_str
    texts = [chr(mark) for mark in marks]
    ranks = [1 + sum(decompose(x + y) == y + x != x + y for y in texts) for x in texts]
    return np.array(ranks, np.int32)


if __name__ == "__main__":
    sys.exit(main())
