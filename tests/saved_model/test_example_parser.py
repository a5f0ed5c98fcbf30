"""Reading tf.Examples in the graph, against TensorFlow's own parser and the protocol buffers."""

import numpy as np
import pytest
import tensorflow as tf
from distilbert_serving.saved_model.example_parser import read_texts
from hypothesis import given, settings
from hypothesis import strategies as st

NAMES = ["text", "text_pair"]
BATCH = [tf.TensorSpec([None], tf.string)]
read = tf.function(lambda examples: read_texts(examples, NAMES), BATCH, autograph=False)
FEATURES = dict.fromkeys(NAMES, tf.io.FixedLenFeature([], tf.string))


@tf.function(input_signature=BATCH)
def read_as_tensorflow(examples):
    return tf.io.parse_example(examples, FEATURES)


def make(**features):
    example = tf.train.Example()
    for name, values in features.items():
        feature = example.features.feature[name]
        kind = {bytes: "bytes_list", float: "float_list", int: "int64_list"}[type(values[0])]
        getattr(feature, kind).value.extend(values)
    return example.SerializeToString()


def read_rows(examples):
    """Returns the texts of each row, None for a bad one."""
    texts, is_readable = read(tf.constant(examples, tf.string))
    rows = zip(*(text.numpy().tolist() for text in texts), strict=True)
    pairs = zip(is_readable.numpy(), rows, strict=True)
    read_ones = [(good, list(row)) for good, row in pairs]
    assert all(good or row == [b"", b""] for good, row in read_ones)
    return [row if good else None for good, row in read_ones]


GOOD = {
    make(text=[b"a"], text_pair=[b"b"]): [b"a", b"b"],
    make(text_pair=[b""], text=[b""]): [b"", b""],
    make(text=["größer".encode()], text_pair=[b"\xff\0"]): ["größer".encode(), b"\xff\0"],
    make(text=[b"x" * 300], text_pair=[b"y" * 70_000]): [b"x" * 300, b"y" * 70_000],
    make(id=[7, 8], text=[b"a"], score=[0.5, 1.5], text_pair=[b"b"], tex=[b"no"]): [b"a", b"b"],
    # As a context before the example, and as features that come again.
    make(text_pair=[b"b"]) + make(text=[b"a"]): [b"a", b"b"],
    make(text=[b"old"], text_pair=[b"b"]) + make(text=[b"new"]): [b"new", b"b"],
    make(text=[1], text_pair=[b"b"]) + make(text=[b"new"]): [b"new", b"b"],
}
BAD = [
    b"",
    b"\n",
    b"\xff" * 20,
    b"no example",
    b"\n\x80\x80\x80\x80\x80\x00",
    make(text=[b"a"]),
    make(text=[5], text_pair=[b"b"]),
    make(text=[b"a"], text_pair=[0.5]),
    make(text=[b"a", b"b"], text_pair=[b"b"]),
    make(text=[b"a"], text_pair=[b"b"])[:-1],
    make(text=[b"a"], text_pair=[b"b"]) + b"\n",
    make(text=[b"a"], text_pair=[b"b"]) + make(text=[5]),
]


def test_each_row_is_read_whatever_stands_beside_it():
    rows = [example for pair in zip(BAD, [*GOOD, *GOOD], strict=False) for example in pair]
    assert read_rows(rows) == [GOOD.get(row) for row in rows]
    for row in rows:
        assert read_rows([row]) == [GOOD.get(row)]
    assert read_rows([]) == []


def test_one_feature_alone():
    one = tf.function(lambda examples: read_texts(examples, ["text"]), BATCH, autograph=False)
    (text,), is_readable = one(tf.constant([make(text=[b"a"]), make(text_pair=[b"b"]), b""]))
    np.testing.assert_array_equal(is_readable, [True, False, False])
    assert text.numpy().tolist() == [b"a", b"", b""]


_VALUES = st.one_of(
    st.lists(st.binary(max_size=200), min_size=1, max_size=2),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=3),
    st.lists(st.floats(width=32), min_size=1, max_size=3),
)
_EXAMPLES = st.dictionaries(st.sampled_from([*NAMES, "id", ""]), _VALUES).map(
    lambda features: make(**features)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(_EXAMPLES, min_size=1, max_size=3).map(b"".join), max_size=6))
def test_any_example_is_read_as_tensorflow_reads_it(examples):
    want = []
    for example in examples:
        try:
            texts = read_as_tensorflow(tf.constant([example]))
        except tf.errors.InvalidArgumentError:
            want.append(None)
        else:
            want.append([texts[name].numpy()[0] for name in NAMES])
    assert read_rows(examples) == want


@st.composite
def _damaged(draw):
    example = bytearray(draw(st.sampled_from([row for row in GOOD if len(row) < 1000])))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(example)))
        example[place : place + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(example)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(_damaged(), st.binary(max_size=30)), min_size=1, max_size=6))
def test_bytes_of_any_kind_fail_nobody(examples):
    good = next(iter(GOOD))
    rows = read_rows([good, *examples, good])
    assert rows[0] == rows[-1] == GOOD[good]
    for example, row in zip(examples, rows[1:-1], strict=True):
        if row is not None:  # whole pieces of the example, nothing else
            assert all(text in example for text in row)


@pytest.mark.parametrize("rows", [1, 40])
def test_a_large_example(rows):
    text = bytes(range(256)) * 4096
    examples = [make(text=[text], text_pair=[b"b"])] * rows
    assert read_rows(examples) == [[text, b"b"]] * rows
