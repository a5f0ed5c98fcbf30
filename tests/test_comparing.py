"""The bounds of comparing.py find what is wrong, by a wide margin, in every recorded model."""

from collections.abc import Iterator

import keras
import numpy as np
import pytest
from comparing import EPS, FEW, assert_close, largest, near, roundings
from recorded import CLASSES, at_tokens, outputs, recorded_outputs


@pytest.fixture(params=CLASSES)
def name(request) -> str:
    return request.param


@pytest.fixture
def model(name, references) -> keras.Model:
    return CLASSES[name].from_pretrained(references / name)


def times_the_bound(model: keras.Model, actual: np.ndarray, expected: np.ndarray) -> float:
    return largest(actual - expected) / (roundings(model) * EPS * largest(expected))


def run(model: keras.Model, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    output = model({"input_ids": ids, "attention_mask": mask})
    return np.asarray(getattr(output, "last_hidden_state", output))


def test_one_token_too_few(model, name, references):
    arrays = np.load(references / name / "expected.npz")
    ids, mask = arrays["input_ids"], arrays["attention_mask"]
    for row in np.flatnonzero(mask.sum(axis=1) > 1):
        fewer = mask.copy()
        fewer[row, np.flatnonzero(mask[row])[-1]] = 0
        actual, expected = (at_tokens(run(model, ids, kept), fewer) for kept in (fewer, mask))
        assert times_the_bound(model, actual, expected) > 1000


def swaps(model: keras.Model) -> Iterator[str]:
    """Swaps two numbers of one matrix after the other, and swaps them back."""
    for weight in model.trainable_weights:
        if not weight.path.endswith("kernel"):
            continue
        before = weight.numpy()
        after, (row, column) = before.copy(), np.array(before.shape) // 2
        after[row, [0, column]] = before[row, [column, 0]]
        weight.assign(after)
        yield weight.path
        weight.assign(before)


def test_two_swapped_weights(model, name, references):
    expected = recorded_outputs(references / name)
    found = {
        path: times_the_bound(model, outputs(model, references / name), expected)
        for path in swaps(model)
    }
    assert len(found) >= 4 * model.config.n_layers
    assert {path: times for path, times in found.items() if times < 100} == {}


def test_a_bound_grows_with_the_numbers_and_the_layers(model):
    count = roundings(model)
    assert count == 16 * (model.config.n_layers + 1) == roundings(model.config)
    for size in (1e-3, 1.0, 4e5):
        expected = np.array([size, size / 3], "float32")
        assert_close(expected + 0.9 * count * EPS * size, expected, count)
        with pytest.raises(AssertionError):
            assert_close(expected + 1.2 * count * EPS * size, expected, count)


def test_neither_shapes_nor_nan_pass_unseen():
    one = np.ones(3, "float32")
    with pytest.raises(AssertionError):
        assert_close(one, np.ones((1, 3), "float32"), FEW)
    with pytest.raises(AssertionError):
        assert_close(one * np.nan, one * np.nan, FEW)
    with pytest.raises(AssertionError):
        assert_close(1.0, one, FEW)


def test_near_takes_numbers_lists_and_dictionaries():
    assert near(0.5, FEW) == 0.5 + FEW * EPS / 4
    assert near(0.5, FEW) != 0.5 + FEW * EPS
    assert near(0.5, FEW, size=2.0) == 0.5 + FEW * EPS
    assert near([0.1, 4.0], FEW) == [0.1 + FEW * EPS, 4.0]
    assert near({"a": 0.1, "b": 4.0}, FEW) == {"a": 0.1 + FEW * EPS, "b": 4.0}
    assert near({"b": 0.1}, FEW) != {"a": 0.1}
