"""Reads texts out of serialized tf.Examples in the graph; a bad one spoils its own row alone.

`tf.io.parse_example` fails for a whole batch if one Example lacks a feature, has it with another
type, or is no Example at all. A server puts the Examples of many clients into one batch, so here
the wire format is read with string ops, for all rows at once.

An Example is nested fields, each a tag byte (8 * field number + 2), a varint of its length and that
many bytes:

    Example: features (1) > Features: entry of the map (1) > key (1), value (2)
    value = Feature: bytes_list (1) > BytesList: value (1)

What TensorFlow's own parser reads of a well-formed Example is read to the byte: Examples that are
concatenated are merged, and the last of several features of one name counts.

Shapes: B Examples, N fields of all of them, P fields that are still being read.
"""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

_FIRST_FIELD, _SECOND_FIELD = (8 * number + 2 for number in (1, 2))
_MOST_DIGITS = 5  # of a varint that is a length: a message has less than 2 GiB
_DIGIT_BITS = 7

_VECTOR = tf.TensorShape([None])


class _Fields(NamedTuple):
    """Where fields are, int64 (N,) each: the row, the first byte and the end of the contents."""

    row: tf.Tensor
    start: tf.Tensor
    end: tf.Tensor


def read_texts(examples: tf.Tensor, names: Sequence[str]) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Reads a text of each name from each Example.

    Args:
        examples: string (B,), serialized tf.Examples, or anything.
        names: The names of the features.

    Returns:
        For each name the texts, string (B,), and in which rows all of them are there, each as one
        string, bool (B,). The texts of other rows are empty.

    Reference:
        tensorflow/core/example/example.proto and feature.proto; what TensorFlow reads, is in
        tensorflow/core/util/example_proto_fast_parsing.cc.
    """
    count = tf.size(examples, tf.int64)
    whole = _Fields(tf.range(count), tf.zeros_like(tf.range(count)), _length(examples))
    features, is_broken_example = _read_all(examples, whole)
    entries, is_broken_features = _read_all(examples, features)
    key, is_key = _read_one(examples, entries, _FIRST_FIELD)
    value, is_value = _read_one(examples, entries._replace(start=key.end), _SECOND_FIELD)
    is_broken_entry = ~(is_key & is_value & (value.end == entries.end))
    is_readable = ~(
        is_broken_example
        | _any(is_broken_features, features.row, count)
        | _any(is_broken_entry, entries.row, count)
    )
    keys = _contents(examples, key, is_key)
    texts = []
    for name in names:
        text, is_text = _read_text(examples, value, (keys == name) & ~is_broken_entry)
        is_readable &= is_text
        texts.append(text)
    return [tf.where(is_readable, text, "") for text in texts], is_readable


def _read_text(
    examples: tf.Tensor, values: _Fields, is_wanted: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads the last wanted value of each row: texts, string (B,), and where there is one."""
    count = tf.size(examples, tf.int64)
    wanted = tf.where(is_wanted)[:, 0]
    # The last of a row has the highest numbers; where there is none, they are the lowest possible.
    row = tf.gather(values.row, wanted)
    start, end = (
        tf.math.unsorted_segment_max(tf.gather(bound, wanted), row, count)
        for bound in (values.start, values.end)
    )  # (B,)
    is_there = start >= 0
    feature = _Fields(tf.range(count), tf.maximum(start, 0), tf.maximum(end, 0))
    # A list of floats or integers has another tag, and several strings, or none, another end.
    strings, is_list = _read_one(examples, feature, _FIRST_FIELD)
    string, is_string = _read_one(examples, strings, _FIRST_FIELD)
    is_text = is_there & is_list & is_string
    is_text &= (strings.end == feature.end) & (string.end == strings.end)
    return _contents(examples, string, is_text), is_text


def _read_all(examples: tf.Tensor, parents: _Fields) -> tuple[_Fields, tf.Tensor]:
    """Reads the fields that follow each other in each parent, all of number 1.

    Returns:
        The fields, and which parents hold something else, bool (size of the parents,).
    """

    def read_next(
        active: tf.Tensor, start: tf.Tensor, found: _Fields, broken: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, _Fields, tf.Tensor]:
        row, end = tf.gather(parents.row, active), tf.gather(parents.end, active)
        field, is_field = _read_one(examples, _Fields(row, start, end), _FIRST_FIELD)
        good, bad = tf.where(is_field)[:, 0], tf.where(~is_field)[:, 0]
        new = [tf.gather(part, good) for part in field]
        found = _Fields(*(tf.concat(parts, 0) for parts in zip(found, new, strict=True)))
        broken = tf.concat([broken, tf.gather(active, bad)], 0)
        going_on = tf.where(is_field & (field.end < end))[:, 0]
        return tf.gather(active, going_on), tf.gather(field.end, going_on), found, broken

    active = tf.where(parents.start < parents.end)[:, 0]
    # Not a constant: the graph optimizer would take its length for that of what the loop gives.
    nothing = tf.where(parents.start > parents.end)[:, 0]
    _, _, found, broken = tf.while_loop(
        lambda active, *_: tf.size(active) > 0,
        read_next,
        (active, tf.gather(parents.start, active), _Fields(*[nothing] * 3), nothing),
        shape_invariants=(_VECTOR, _VECTOR, _Fields(*[_VECTOR] * 3), _VECTOR),
    )
    count = tf.size(parents.row, tf.int64)
    return found, _any(tf.ones_like(broken, tf.bool), broken, count)


def _read_one(examples: tf.Tensor, parents: _Fields, tag: int) -> tuple[_Fields, tf.Tensor]:
    """Reads the first field of each parent.

    Returns:
        The fields, and where there is one with this tag that ends within the parent, bool (P,).
        Elsewhere the field is empty and at the parent's start.
    """
    size = 1 + _MOST_DIGITS
    header = tf.strings.substr(
        tf.gather(examples, parents.row), parents.start, tf.zeros_like(parents.start) + size
    )
    # Beyond the end of an Example there are zeros, which are no tag.
    header = tf.io.decode_raw(header, tf.uint8, fixed_length=size)
    header = tf.cast(tf.ensure_shape(header, [None, size]), tf.int64)  # (P, size)
    digits, has_more = header[:, 1:] % 128, header[:, 1:] >= 128
    is_digit = tf.math.cumprod(tf.cast(has_more, tf.int64), axis=1, exclusive=True)  # 1, 1, .., 0
    weights = tf.constant([2 ** (_DIGIT_BITS * place) for place in range(_MOST_DIGITS)], tf.int64)
    length = tf.reduce_sum(digits * is_digit * weights, axis=1)
    start = parents.start + 1 + tf.reduce_sum(is_digit, axis=1)
    is_field = (
        (header[:, 0] == tag) & ~tf.reduce_all(has_more, axis=1) & (start + length <= parents.end)
    )
    start = tf.where(is_field, start, parents.start)
    return _Fields(parents.row, start, tf.where(is_field, start + length, start)), is_field


def _contents(examples: tf.Tensor, fields: _Fields, is_wanted: tf.Tensor) -> tf.Tensor:
    """Cuts fields out of the Examples: string (P,), empty where none is wanted."""
    start = tf.where(is_wanted, fields.start, 0)
    length = tf.where(is_wanted, fields.end - fields.start, 0)
    return tf.strings.substr(tf.gather(examples, fields.row), start, length)


def _any(values: tf.Tensor, row: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Says for each of `count` rows whether one of its values, bool (N,), is true."""
    return tf.math.unsorted_segment_max(tf.cast(values, tf.int32), row, count) > 0


def _length(texts: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.strings.length(texts), tf.int64)
