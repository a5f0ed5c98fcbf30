"""Records what BERT's text clean-up does to every Unicode code point.

`python tests/make_unicode_table.py` asks the installed `tokenizers` library about each of them
(10 seconds) and writes `tokenizers/unicode_table.npz`; run the parity tests afterwards. `--check`
compares instead, and exits with 1 where they differ.

Shapes: O option pairs (4), G pages per option pair (17,408), U distinct pages, X expansions,
M marks that survive the stripping of accents. See `distilbert_tf.tokenizers.unicode_table`.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import normalizers, pre_tokenizers

from distilbert_tf.tokenizers.unicode_table import (
    EXPANSION_WIDTH,
    FILE,
    KIND_SHIFT,
    MARK_SHIFT,
    NO_OUTPUT,
    OFFSET_BIAS,
    OPTION_PAIRS,
    PAGE_SIZE,
    Kind,
)

NUM_CODE_POINTS = 0x110000
SURROGATES = range(0xD800, 0xE000)
# Between probed code points: two letters that no clean-up changes and that cannot be mistaken for
# the output of a single code point.
SEPARATOR = "qz"
CHUNK_SIZE = 2048
LOW_MARK, HIGH_MARK = "\u0334", "\u0301"  # combining classes 1 and 230


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the table, or compares it; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the stored table")
    parser.add_argument("--output", type=Path, default=FILE, help="file to write")
    options = parser.parse_args(argv)
    probed = probe_unicode_table()
    if not options.check:
        np.savez_compressed(options.output, **probed)
        print(f"{options.output}: {options.output.stat().st_size:,} bytes")
        return 0
    differing = find_drift(probed)
    print(
        f"stored: tokenizers {np.load(FILE)['tokenizers_version']}, "
        f"installed: tokenizers {probed['tokenizers_version']}, "
        f"differing arrays: {', '.join(differing) or 'none'}"
    )
    return bool(differing)


def find_drift(probed: dict[str, NDArray]) -> list[str]:
    """Names the arrays in which a probed table differs from the stored one."""
    with np.load(FILE) as stored:
        names = sorted(probed.keys() - {"tokenizers_version"})
        return [name for name in names if not np.array_equal(stored[name], probed[name])]


def probe_unicode_table() -> dict[str, NDArray]:
    """Asks the installed `tokenizers` library what becomes of each code point.

    Returns:
        The arrays of `unicode_table.npz`: `pages` (O, G), `entries` (U, PAGE_SIZE),
        `expansions` (X, EXPANSION_WIDTH), `marks` (M,), `mark_ranks` (M,), `tokenizers_version`.
    """
    kinds = probe_kinds()
    outputs = {pair: probe_bert_outputs(*pair) for pair in OPTION_PAIRS}
    nonstarters = probe_nonstarters()
    expansion_rows: dict[str, int] = {}
    tables = []
    for lowercase, strip_accents in OPTION_PAIRS:
        table = make_entries(outputs[lowercase, strip_accents], kinds, expansion_rows)
        if strip_accents:
            note_reordering(table, outputs[lowercase, True], outputs[lowercase, False], nonstarters)
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
        "mark_ranks": probe_mark_ranks(survivors),
        "tokenizers_version": np.array(metadata.version("tokenizers")),
    }


def make_entries(
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


def note_reordering(
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


def chunks() -> Iterator[tuple[slice, str]]:
    """Yields all code points, a chunk at a time, as positions and as one string."""
    for start in range(0, NUM_CODE_POINTS, CHUNK_SIZE):
        if start not in SURROGATES:  # no valid UTF-8 text holds one, and Rust refuses them
            stop = start + CHUNK_SIZE
            yield slice(start, stop), "".join(map(chr, range(start, stop)))


def probe_each(clean: Callable[[str], str], before: str = "", after: str = "") -> list[str]:
    """Cleans each code point between two strings; many to a call, as calls are slow."""
    outputs = [""] * NUM_CODE_POINTS
    for where, chunk in chunks():
        joined = (after + SEPARATOR + before).join(chunk)
        cleaned = clean(before + joined + after).split(SEPARATOR)
        if len(cleaned) != CHUNK_SIZE:
            raise ValueError(f"the separator {SEPARATOR!r} is not kept near U+{ord(chunk[0]):04X}")
        outputs[where] = cleaned
    return outputs


def probe_bert_outputs(lowercase: bool, strip_accents: bool) -> list[str]:
    clean = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=True,
        strip_accents=strip_accents,
        lowercase=lowercase,
    )
    return probe_each(clean.normalize_str)


def probe_kinds() -> NDArray[np.int32]:
    """Finds how the pre-tokenizer splits "aXb" for each code point X."""
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    kind_of_count = {1: Kind.LETTER, 2: Kind.SPACE, 3: Kind.ISOLATED}
    kinds = np.full(NUM_CODE_POINTS, Kind.DELETED, np.int32)
    for where, chunk in chunks():
        found, count = [], 0
        for word, _ in split("a" + "b a".join(chunk) + "b"):
            count += 1
            if word.endswith("b"):
                found.append(kind_of_count[count])
                count = 0
        kinds[where] = found
    return kinds


def probe_nonstarters() -> set[int]:
    """Finds the code points that canonical reordering moves (combining class above 0).

    A mark of class k swaps with a following mark of a lower class and a preceding one of a higher.
    """
    decompose = normalizers.NFD().normalize_str
    alone = probe_each(decompose)
    before_low = probe_each(decompose, after=LOW_MARK)
    after_high = probe_each(decompose, before=HIGH_MARK)
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


def probe_mark_ranks(marks: list[int]) -> NDArray[np.int32]:
    """Ranks marks by combining class: 1 + the number of these marks whose class is lower."""
    decompose = normalizers.NFD().normalize_str
    texts = [chr(mark) for mark in marks]
    ranks = [1 + sum(decompose(x + y) == y + x != x + y for y in texts) for x in texts]
    return np.array(ranks, np.int32)


if __name__ == "__main__":
    sys.exit(main())
