import numpy as np
import pytest
from comparing import FEW, assert_close, by_size

from distilbert_tf.models.activations import ACTIVATIONS, get_activation


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_curve_equals_pytorchs(name, references):
    curves = np.load(references / "activations.npz")
    for part in by_size(curves["x"]):
        assert_close(get_activation(name)(curves["x"][part]), curves[name][part], FEW)


def test_every_recorded_activation_is_supported(references):
    assert set(np.load(references / "activations.npz")) - {"x"} == set(ACTIVATIONS)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="'prelu'.*supported are gelu, gelu_10,.*tanh"):
        get_activation("prelu")
