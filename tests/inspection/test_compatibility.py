"""What the check of an export refuses."""

import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from distilbert_serving.inspection.compatibility import check_saved_model
from distilbert_serving.inspection.saved_model_files import CompatibilityError


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x + tf.random.uniform(tf.shape(x)), "op RandomUniform.*a random op"),
        (
            lambda x: tf.ensure_shape(tf.numpy_function(np.abs, [x], tf.float32), [None]),
            "Python code",
        ),
        (
            lambda x: tf.strings.length(tf.strings.as_string(tf.strings.as_string(x))),
            "op AsString, at '.*AsString_1' in .*: TF Serving 2.12 does not allow string",
        ),
        (tf.function(lambda x: x + 1, jit_compile=True), r"marked for XLA \(jit_compile=True\)"),
        (lambda x: tf.reduce_sum(x), "signature serving_default: y has no batch dimension"),
        (
            lambda x: x + tf.strings.to_number("/secret/build/dir/file"),
            "a directory of this machine",
        ),
        # In a branch, where stripped_op_list does not look.
        (
            lambda x: tf.cond(tf.size(x) > 1, lambda: tf.random.normal(tf.shape(x)), lambda: x),
            "op RandomStandardNormal, at '.*RandomStandardNormal' in .*cond_true",
        ),
    ],
    ids=["random", "python", "types", "xla", "scalar", "path", "branch"],
)
def test_what_a_server_lacks_is_found(function, message, tmp_path):
    module = tf.Module()
    traced = tf.function(lambda x: {"y": function(x)})
    signature = traced.get_concrete_function(tf.TensorSpec([None], tf.float32, "x"))
    tf.saved_model.save(module, os.fspath(tmp_path / "model"), {"serving_default": signature})
    with pytest.raises(CompatibilityError, match=message):
        check_saved_model(tmp_path / "model", private_paths=[Path("/secret/build/dir")])
