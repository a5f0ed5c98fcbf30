"""How close two computations of the same numbers must come: the only bounds of the tests.

Bounds are relative to the size of what is compared, since float32 rounds relative to it: an
absolute bound that logits of 1 keep on one processor is broken by logits of 4 on the next. They
are derived, not tuned:

- An operation rounds its result by at most eps / 2 of its size; eps is the distance from 1 to the
  next number. Of an array the largest number counts as its size, since products and LayerNorm mix
  its elements. A sum of many products rounds as often, but in both directions, in several lanes,
  and mostly while it is still small: it counts as one operation.
- A layer of the encoder is a chain of about 16 operations: a product and a bias for queries, keys
  and values; scores, scale, mask, softmax and context; a product, a residual and LayerNorm; two
  products, the activation, a residual and LayerNorm. Residuals and LayerNorm pass an error on
  about as large as it came. The embeddings and a head are no longer than one more layer.
- Both sides round, so they differ by at most 2 * eps / 2 for each operation: `ROUNDINGS_PER_LAYER`
  of eps a layer, or 1e-5 of the largest number with six layers.

Roundings are independent of each other and mostly cancel: recorded models keep a sixth of the bound
or less, so processors and libraries that round in another order stay within it. A token too few is
a thousand times outside, two swapped weights a hundred times: see test_comparing.py.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

EPS = float(np.finfo(np.float32).eps)
ROUNDINGS_PER_LAYER = 16
FEW = 8  # of a formula in a line or two, such as the softmax of known logits
# Where a model or a training enlarges every rounding, the truth in float64 shows how much: ours may
# be this many times as far from it as a reference in float32 that only rounds in another order.
TIMES_THE_REFERENCES_ERROR = 4
WITH_GRADIENTS = 3  # forward, then backward with two products for each of the forward pass


def roundings(model: Any, passes: int = 1) -> int:
    """Counts the roundings one after the other in the computation of a model.

    Args:
        model: A model of ours, or its configuration.
        passes: How often it is run, each time on results of the time before:
            `WITH_GRADIENTS` for gradients, as many times the steps for trained weights.
    """
    config = getattr(model, "config", model)
    return passes * ROUNDINGS_PER_LAYER * (config.n_layers + 1)


def largest(array: Any) -> float:
    """Returns the size of an array: its largest absolute number, 0 if it is empty."""
    return float(np.max(np.abs(np.asarray(array, np.float64)), initial=0.0))


def by_size(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yields masks of the numbers of about one size, which large ones would hide otherwise."""
    edges = (0.0, 1.0, 4.0, 16.0, np.inf)
    for low, high in itertools.pairwise(edges):
        yield (np.abs(array) >= low) & (np.abs(array) < high)


def assert_close(
    actual: Any,
    expected: Any,
    count: int,
    *,
    size: float | None = None,
    dtype: str = "float32",
    err_msg: str = "",
) -> None:
    """Compares two arrays, which must agree in shape and hold no NaN.

    Args:
        actual: The one.
        expected: The other.
        count: How many roundings one after the other lead to either: see `roundings`.
        size: The size of the numbers that these are computed from, if that is larger than their
            own: of gradients that nearly cancel, the largest of all gradients.
        dtype: What both are computed in.
        err_msg: What they are.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, (actual.shape, expected.shape, err_msg)
    bound = count * float(ml_dtypes.finfo(dtype).eps) * max(size or 0.0, largest(expected))
    np.testing.assert_allclose(
        actual, expected, rtol=0.0, atol=bound, equal_nan=False, err_msg=err_msg
    )


def near(expected: Any, count: int, *, size: float | None = None) -> Any:
    """Makes what equals numbers near these in a number, a list or a dictionary.

    Args:
        expected: The numbers.
        count: See `assert_close`, as for `size`.
        size: The size of the numbers that these are computed from. A probability's is that of the
            logits, or 1 if they are smaller.
    """
    numbers = list(expected.values()) if isinstance(expected, dict) else expected
    bound = count * EPS * max(size or 0.0, largest(numbers))
    return pytest.approx(expected, rel=0.0, abs=bound)
