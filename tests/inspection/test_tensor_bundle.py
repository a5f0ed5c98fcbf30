"""The variables of a SavedModel, listed without TensorFlow: as it lists them, and damaged."""

import contextlib

import pytest
import tensorflow as tf
from distilbert_serving.inspection.tensor_bundle import BundleError, list_variables


@pytest.fixture
def prefix(tmp_path):
    """So many variables that the index has more than one block."""
    values = {f"weights_{i}/{'x' * (i % 40)}": tf.fill([i % 7, 2], i) for i in range(700)}
    values["half"] = tf.zeros([3], tf.float16)
    values["text"] = tf.constant(["a", "bcd"])
    prefix = tmp_path / "variables"
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=list(values.values()),
    )
    return prefix


def test_variables_as_tensorflow_lists_them(prefix):
    listed = list_variables(prefix)
    assert [(v.name, v.shape) for v in listed] == [
        (name, tuple(shape)) for name, shape in sorted(tf.train.list_variables(str(prefix)))
    ]
    types = {v.name: (v.data_type, v.num_bytes) for v in listed}
    assert types["half"] == ("half", 6)
    assert types["weights_5/xxxxx"] == ("int32", 40)


def test_damage_is_a_clear_error(prefix):
    index = prefix.with_name("variables.index")
    contents = index.read_bytes()
    for size in range(0, len(contents), len(contents) // 97):
        index.write_bytes(contents[:size])
        with pytest.raises(BundleError, match=r"variables.index is damaged"):
            list_variables(prefix)
    for position in range(0, len(contents), len(contents) // 97):  # overwritten
        index.write_bytes(contents[:position] + b"\xfe" * 9 + contents[position + 9 :])
        with contextlib.suppress(BundleError):
            list_variables(prefix)
    index.unlink()
    with pytest.raises(BundleError, match=r"variables.index is missing, but variables.data"):
        list_variables(prefix)
