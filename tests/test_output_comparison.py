"""Which outputs count as equal. Loaders that differ are in inspection/test_loader_comparison.py."""

import ml_dtypes
import numpy as np
import pytest
from distilbert_serving.output_comparison import DifferenceError, compare_outputs, size_of

WANT = {"label": np.array([b"a", b"b"], object), "logits": np.float32([[8.0, 1.0], [0.0, 3.0]])}


def changed(**outputs):
    return {**WANT, **outputs}


def test_numbers_may_differ_by_what_their_largest_allows():
    near = WANT["logits"] + np.float32([[0.0, 0.0], [4e-5, 0.0]])
    assert compare_outputs(changed(logits=near), WANT, 1e-5) == {
        "label": 0.0,
        "logits": pytest.approx(4e-5, rel=1e-6),
    }
    with pytest.raises(
        DifferenceError, match="differ by 4.0e-05 in row 1, allowed is 3.2e-05"
    ) as e:
        compare_outputs(changed(logits=near), WANT, 4e-6)
    assert e.value.row == 1


def test_numbers_are_told_before_the_labels_that_follow_from_them():
    got = changed(label=WANT["label"][::-1], logits=WANT["logits"][::-1])
    with pytest.raises(DifferenceError, match="^logits is"):
        compare_outputs(got, WANT, 1e-5)


def test_ties_excuse_labels_in_their_rows():
    got = changed(label=np.array([b"a", b"c"], object))
    assert compare_outputs(got, WANT, 1e-5, np.array([False, True]))
    with pytest.raises(DifferenceError, match=r"label is \[b'c'\] instead of \[b'b'\]"):
        compare_outputs(got, WANT, 1e-5, np.array([True, False]))


def test_other_shapes_and_types():
    for got in (WANT["logits"][:1], WANT["logits"].astype(np.float64)):
        with pytest.raises(DifferenceError, match="instead of float32") as caught:
            compare_outputs(changed(logits=got), WANT, 1.0)
        assert caught.value.row is None
    half = {"x": np.ones((1, 2), ml_dtypes.bfloat16)}
    assert compare_outputs(half, half, 0.0) == {"x": 0.0}
    assert size_of([np.nan, -np.inf, -3.0]) == 3.0
    assert size_of([]) == 1.0
