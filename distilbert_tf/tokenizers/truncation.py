"""Truncation and padding: from the pieces of texts, or pairs of texts, to rows of token ids.

Both equal Hugging Face's `tokenizers` to the token. Where that raises because the text to cut is
too short, so does this graph; where it silently ignores a `max_length` below the number of special
tokens, `check_max_length` raises.

Shapes: B texts or pairs, V pieces of all texts together, S sequences of a row (1, or 2 for a pair),
T padded length.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import tensorflow as tf

Truncation = Literal["longest_first", "only_first", "only_second"]
Padding = Literal["longest", "max_length"]


class SpecialIds(NamedTuple):
    """Ids of the tokens that do not come from a text."""

    cls: int
    sep: int
    pad: int


def num_special_tokens(num_sequences: int) -> int:
    """Returns how many tokens `[CLS] A [SEP]` or `[CLS] A [SEP] B [SEP]` add."""
    return 1 + num_sequences


def check_max_length(max_length: int, num_sequences: int) -> None:
    """Raises ValueError unless a row of `max_length` has room for its special tokens."""
    least = num_special_tokens(num_sequences)
    if max_length < least:
        what = "a pair of texts" if num_sequences == 2 else "a text"
        raise ValueError(
            f"max_length={max_length} is too short: {what} needs {least} special tokens"
        )


def truncate(
    lengths: Sequence[tf.Tensor], max_length: int, truncation: Truncation
) -> list[tf.Tensor]:
    """Computes how many pieces of each sequence to keep.

    Args:
        lengths: S tensors, int32 (B,): how many pieces each sequence has.
        max_length: Longest row, special tokens included.
        truncation: Which sequence to cut.

    Returns:
        S tensors, int32 (B,).

    Raises:
        tf.errors.InvalidArgumentError: In the graph, if "only_first" or "only_second" would have to
            cut all of that sequence, or a sequence that is not there.
    """
    room = max_length - num_special_tokens(len(lengths))
    if room == 0:  # the one case in which Hugging Face cuts everything, whatever the strategy
        return [tf.zeros_like(length) for length in lengths]
    if truncation == "longest_first":
        if len(lengths) == 1:
            return [tf.minimum(lengths[0], room)]
        return _truncate_longest_first(lengths[0], lengths[1], room)
    excess = tf.maximum(tf.add_n(list(lengths)) - room, 0)
    target = 0 if truncation == "only_first" else 1
    available = lengths[target] if target < len(lengths) else tf.zeros_like(lengths[0])
    too_short = (excess > 0) & (available <= excess)
    message = f'truncation="{truncation}" cannot bring these rows to max_length={max_length}:'
    tf.debugging.Assert(~tf.reduce_any(too_short), [message, tf.where(too_short)[:, 0]])
    return [length - excess if i == target else length for i, length in enumerate(lengths)]


def build_rows(
    pieces: tf.Tensor,
    starts: Sequence[tf.Tensor],
    lengths: Sequence[tf.Tensor],
    special_ids: SpecialIds,
    padded_length: int | None,
) -> dict[str, tf.Tensor]:
    """Builds rows: [CLS], then each sequence followed by [SEP], then padding.

    Args:
        pieces: int32 (V,): token ids of all texts.
        starts: S tensors, int32 (B,): where each sequence starts in `pieces`.
        lengths: S tensors, int32 (B,): how many of its pieces to keep.
        special_ids: Ids of the other tokens.
        padded_length: T; None means the longest row.

    Returns:
        `input_ids` and `attention_mask`, each int32 (B, T).
    """
    num_special = num_special_tokens(len(lengths))
    row_lengths = tf.add_n(list(lengths)) + num_special  # (B,)
    if padded_length is None:
        # The maximum over no rows would be the lowest integer.
        longest = tf.maximum(tf.reduce_max(row_lengths), num_special)
    else:
        longest = tf.constant(padded_length)
    positions = tf.range(longest)[tf.newaxis, :]  # (1, T)
    # One gather from the pieces with the special ids behind them.
    source = tf.concat([pieces, tf.constant(special_ids, tf.int32)], axis=0)
    cls_index, sep_index, pad_index = (tf.size(pieces) + i for i in range(len(special_ids)))
    indices = tf.where(positions == 0, cls_index, pad_index)
    offset = tf.ones_like(row_lengths)  # where the sequence begins in its row
    for start, length in zip(starts, lengths, strict=True):
        within = positions - offset[:, tf.newaxis]  # (B, T)
        is_piece = (within >= 0) & (within < length[:, tf.newaxis])
        indices = tf.where(is_piece, start[:, tf.newaxis] + within, indices)
        indices = tf.where(within == length[:, tf.newaxis], sep_index, indices)
        offset += length + 1
    mask = tf.cast(positions < row_lengths[:, tf.newaxis], tf.int32)
    return {"input_ids": tf.gather(source, indices), "attention_mask": mask}


def _truncate_longest_first(first: tf.Tensor, second: tf.Tensor, room: int) -> list[tf.Tensor]:
    """Cuts the longer text to the length of the shorter, then both alike, as `tokenizers` does."""
    shorter = tf.minimum(first, second)
    kept_longer = tf.where(shorter > room, shorter, tf.maximum(shorter, room - shorter))
    cut_both = shorter + kept_longer > room
    kept_shorter = tf.where(cut_both, room // 2, shorter)
    kept_longer = tf.where(cut_both, room - room // 2, kept_longer)
    fits = first + second <= room
    is_swapped = first > second
    kept_first = tf.where(is_swapped, kept_longer, kept_shorter)
    kept_second = tf.where(is_swapped, kept_shorter, kept_longer)
    return [tf.where(fits, first, kept_first), tf.where(fits, second, kept_second)]
