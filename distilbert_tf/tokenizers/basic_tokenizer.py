"""BERT's clean-up and word splitting as TensorFlow ops, equal to Hugging Face's to the code point.

Rows of plain ASCII take a short path: lowercase, then spaces around punctuation. Other rows go code
point by code point through the stored Unicode table. Both end in words separated by spaces.

Special tokens are found in the raw text, before any clean-up. Each is replaced by a private-use
code point of its own, its marker, which later steps treat as punctuation; private-use code points
of the text itself are deleted, as BERT does.

Invalid UTF-8 counts as U+FFFD, as in `bytes.decode("utf-8", errors="replace")`. The two decoders
may disagree on how many U+FFFD a run of invalid bytes makes, but BERT deletes them all.

Shapes: B texts, W words, N code points, S slots (3 N), M marks.
"""

import itertools
import re
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from distilbert_tf.tokenizers.unicode_table import (
    EXPANSION_WIDTH,
    KIND_SHIFT,
    MARK_SHIFT,
    NO_OUTPUT,
    OFFSET_BIAS,
    PAGE_SHIFT,
    PAGE_SIZE,
    VALUE_MASK,
    Kind,
    UnicodeTable,
    load_unicode_table,
)

PRINTABLE_ASCII = [chr(code_point) for code_point in range(0x20, 0x7F)]
ASCII_PUNCTUATION = r"[!-/:-@\[-`{-~]"
SPACE = ord(" ")
# A slot of a deleted code point holds NO_OUTPUT (-1), or this if combining marks must not be
# reordered across it.
NO_OUTPUT_STARTER = -2
FIRST_MARKER = 0xF0000  # a private-use plane, rarely seen in text
MAX_MARKERS = 0xFFF0
OPENING_MARKER, CLOSING_MARKER, STRAY_MARKER = (chr(FIRST_MARKER + 0xFFF0 + i) for i in range(3))


class BasicTokenizer:
    """Splits texts into clean words.

    Args:
        special_tokens: Tokens that are kept whole wherever they occur in the raw text; of two that
            overlap, the leftmost and then the longest wins.
        lowercase: Whether to lowercase.
        strip_accents: Whether to decompose and drop non-spacing marks; None means `lowercase`.
        tokenize_chinese_chars: Whether each Chinese character is a word.

    Raises:
        ValueError: A special token is empty or contains one of the code points used as markers, or
            there are more special tokens than markers.
    """

    def __init__(
        self,
        special_tokens: Sequence[str] = (),
        *,
        lowercase: bool = True,
        strip_accents: bool | None = None,
        tokenize_chinese_chars: bool = True,
    ) -> None:
        if len(special_tokens) > MAX_MARKERS:
            raise ValueError(f"{len(special_tokens)} special tokens; at most {MAX_MARKERS} fit")
        for token in special_tokens:
            if not token or any(FIRST_MARKER <= ord(char) <= ord(STRAY_MARKER) for char in token):
                raise ValueError(f"special token {token!r} cannot be told from ordinary text")
        self.lowercase = lowercase
        self.markers = {token: chr(FIRST_MARKER + i) for i, token in enumerate(special_tokens)}
        self._special_regex = "|".join(
            re.escape(token) for token in sorted(special_tokens, key=len, reverse=True)
        )
        self._plain_regex = _plain_text_regex(special_tokens)
        strip_accents = lowercase if strip_accents is None else strip_accents
        table = load_unicode_table(lowercase, strip_accents)
        table = _resolve_chinese(table, tokenize_chinese_chars)
        if special_tokens:
            table = _isolate_markers(table, len(special_tokens))
        # On the host, where the string ops are.
        with tf.init_scope(), tf.device("CPU"):
            self._pages = tf.constant(table.pages)
            self._entries = tf.constant(table.entries)
            self._expansions = tf.constant(table.expansions)
            self._marks = tf.constant(table.marks)
            self._mark_ranks = tf.constant(table.mark_ranks)

    def split(self, texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Splits texts into words.

        Args:
            texts: string (B,).

        Returns:
            The words, string (W,), and the text that each belongs to, int32 (W,), ascending.
        """
        is_plain = tf.strings.regex_full_match(texts, self._plain_regex)

        def some_not_plain() -> tf.Tensor:
            rows = tf.where(~is_plain)  # (rows, 1)
            cleaned = self._clean_any(tf.gather_nd(texts, rows))
            return tf.tensor_scatter_nd_update(self._clean_plain(texts), rows, cleaned)

        spaced = tf.cond(tf.reduce_all(is_plain), lambda: self._clean_plain(texts), some_not_plain)
        split = tf.raw_ops.StringSplitV2(input=spaced, sep="", maxsplit=-1)
        return split.values, tf.cast(split.indices[:, 0], tf.int32)

    def _clean_plain(self, texts: tf.Tensor) -> tf.Tensor:
        """Cleans printable ASCII without special tokens: string (B,) to string (B,)."""
        lowered = tf.strings.lower(texts) if self.lowercase else texts
        return tf.strings.regex_replace(lowered, ASCII_PUNCTUATION, r" \0 ")

    def _clean_any(self, texts: tf.Tensor) -> tf.Tensor:
        """Cleans any text: string (B,) to string (B,)."""
        decoded = tf.raw_ops.UnicodeDecode(
            input=self._mark_special_tokens(texts),
            input_encoding="UTF-8",
            errors="replace",
            replacement_char=0xFFFD,
            replace_control_characters=False,
        )
        code_points = decoded.char_values  # (N,)
        page_offsets = tf.gather(self._pages, tf.bitwise.right_shift(code_points, PAGE_SHIFT))
        entries = tf.gather(
            self._entries, page_offsets + tf.bitwise.bitwise_and(code_points, PAGE_SIZE - 1)
        )
        slots = tf.reshape(self._fill_slots(code_points, entries), [-1])  # (S,)
        slot_splits = decoded.row_splits * EXPANSION_WIDTH  # (B + 1,)
        has_marks = tf.reduce_any(tf.bitwise.bitwise_and(entries, 1 << MARK_SHIFT) != 0)
        slots = tf.cond(has_marks, lambda: self._reorder_marks(slots, slot_splits), lambda: slots)
        kept = tf.where(slots >= 0)[:, 0]
        return tf.raw_ops.UnicodeEncode(
            input_values=tf.gather(slots, kept),
            input_splits=tf.searchsorted(kept, slot_splits, out_type=tf.int64),
            errors="replace",
            output_encoding="UTF-8",
            replacement_char=0xFFFD,
        )

    def _mark_special_tokens(self, texts: tf.Tensor) -> tf.Tensor:
        """Replaces each special token by its marker: string (B,) to string (B,).

        One regex finds them all, so that overlaps are settled from the left. It puts brackets
        around each, so that the replacement of single tokens finds no other occurrence.
        """
        if not self.markers:
            return texts
        own_code_points = f"[{chr(FIRST_MARKER)}-{STRAY_MARKER}]"
        marked = tf.strings.regex_replace(texts, own_code_points, STRAY_MARKER)
        bracketed = rf"{OPENING_MARKER}\0{CLOSING_MARKER}"
        marked = tf.strings.regex_replace(marked, self._special_regex, bracketed)
        for token, marker in self.markers.items():
            bracketed = f"{OPENING_MARKER}{re.escape(token)}{CLOSING_MARKER}"
            marked = tf.strings.regex_replace(marked, bracketed, marker)
        return marked

    def _fill_slots(self, code_points: tf.Tensor, entries: tf.Tensor) -> tf.Tensor:
        """Writes the output of each code point: int32 (N,), (N,) to int32 (N, EXPANSION_WIDTH).

        An isolated code point needs three slots, for a space on each side; an expansion up to
        three.
        """
        kinds = tf.bitwise.right_shift(entries, KIND_SHIFT)
        values = tf.bitwise.bitwise_and(entries, VALUE_MASK)
        middle = code_points + values - OFFSET_BIAS
        middle = tf.where(kinds == Kind.SPACE, SPACE, middle)
        middle = tf.where(kinds == Kind.DELETED, NO_OUTPUT, middle)
        middle = tf.where(kinds == Kind.DELETED_STARTER, NO_OUTPUT_STARTER, middle)
        side = tf.where(kinds == Kind.ISOLATED, SPACE, NO_OUTPUT)
        slots = tf.stack([side, middle, side], axis=1)
        expands = kinds == Kind.EXPANDS

        def with_expansions() -> tf.Tensor:
            expansions = tf.gather(self._expansions, tf.where(expands, values, 0))
            return tf.where(expands[:, tf.newaxis], expansions, slots)

        return tf.cond(tf.reduce_any(expands), with_expansions, lambda: slots)

    def _reorder_marks(self, slots: tf.Tensor, slot_splits: tf.Tensor) -> tf.Tensor:
        """Sorts each run of combining marks by class, as canonical decomposition does.

        Only marks that survive the stripping of accents matter: int32 (S,), int64 (B + 1,) to (S,).
        """
        nearest = tf.minimum(tf.searchsorted(self._marks, slots), self._marks.shape[0] - 1)
        is_mark = tf.gather(self._marks, nearest) == slots
        ranks = tf.where(is_mark, tf.gather(self._mark_ranks, nearest), 0)
        text_starts = tf.scatter_nd(
            slot_splits[:-1, tf.newaxis], tf.ones_like(slot_splits[:-1]), slot_splits[-1:] + 1
        )[:-1]
        starts_run = (text_starts > 0) | (~is_mark & (slots != NO_OUTPUT))
        runs = tf.cumsum(tf.cast(starts_run, tf.int64))
        order = tf.argsort(runs * (len(self._marks) + 1) + tf.cast(ranks, tf.int64), stable=True)
        return tf.gather(slots, order)


def _plain_text_regex(special_tokens: Sequence[str]) -> str:
    """Matches printable ASCII and ASCII white space that cannot contain any special token.

    The class lacks one character of each token, the one that is rarest in plain text.
    """

    def frequency(char: str) -> int:
        if char.isspace():
            return 5
        rarest_first = (not char.isascii(), not char.isalnum(), char.isdigit(), char.isupper())
        return rarest_first.index(True) if any(rarest_first) else 4

    left_out = {min(token, key=frequency) for token in special_tokens}
    allowed = [char for char in PRINTABLE_ASCII if char not in left_out]
    white_space = [char for char in "\t\n\r" if char not in left_out]
    return f"[{''.join(re.escape(char) for char in itertools.chain(white_space, allowed))}]*"


def _resolve_chinese(table: UnicodeTable, tokenize_chinese_chars: bool) -> UnicodeTable:
    kind = Kind.ISOLATED if tokenize_chinese_chars else Kind.LETTER
    rest = table.entries & ((1 << KIND_SHIFT) - 1)
    is_chinese = table.entries >> KIND_SHIFT == Kind.CHINESE
    return table._replace(entries=np.where(is_chinese, kind << KIND_SHIFT | rest, table.entries))


def _isolate_markers(table: UnicodeTable, count: int) -> UnicodeTable:
    """Makes the first `count` markers isolated code points that stay as they are."""
    pages, entries = table.pages.copy(), [table.entries]
    num_entries = len(table.entries)
    for first in range(FIRST_MARKER, FIRST_MARKER + count, PAGE_SIZE):
        page = table.entries_of(np.arange(first, first + PAGE_SIZE, dtype=np.int32))
        page[: FIRST_MARKER + count - first] = Kind.ISOLATED << KIND_SHIFT | OFFSET_BIAS
        pages[first >> PAGE_SHIFT] = num_entries
        entries.append(page)
        num_entries += PAGE_SIZE
    return table._replace(pages=pages, entries=np.concatenate(entries).astype(np.int32))
