import numpy as np
import pytest
import tensorflow as tf
from comparing import FEW, assert_close, by_size

from distilbert_tf.models.activations import ACTIVATIONS, get_activation


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
@pytest.mark.parametrize("training", [False, True])
def test_curve_equals_pytorchs(name, training, references):
    curves = np.load(references / "activations.npz")
    for part in by_size(curves["x"]):
        actual = get_activation(name, training)(tf.constant(curves["x"][part]))
        assert_close(actual, curves[name][part], FEW)


def test_gradients_in_training_are_exact(references):
    """GELU's are our own: compared with those of TensorFlow's op in float64, second ones too."""
    for part in by_size(x := np.load(references / "activations.npz")["x"]):
        found = []
        for dtype, activation in (
            ("float32", get_activation("gelu", True)),
            ("float64", tf.nn.gelu),
        ):
            rows = tf.constant(x[part].astype(dtype))
            with tf.GradientTape() as second:
                second.watch(rows)
                with tf.GradientTape() as first:
                    first.watch(rows)
                    y = 3.0 * activation(rows)
                slope = first.gradient(y, rows)
            found.append((slope, second.gradient(slope, rows)))
        for actual, expected in zip(*found, strict=True):
            assert_close(actual, expected, FEW, size=3.0)


def test_every_recorded_activation_is_supported(references):
    assert set(np.load(references / "activations.npz")) - {"x"} == set(ACTIVATIONS)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="'prelu'.*supported are gelu, gelu_10,.*tanh"):
        get_activation("prelu")
