"""Compares outputs of loaders, servers and models, which must be equal but for rounding."""

from collections.abc import Mapping
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]  # by output; strings as bytes

# By how much numbers may differ, relative to `size_of` their output, by the float type that a model
# multiplies in. Both sides do the same arithmetic, but the graph optimizer fuses ops, which changes
# the order of sums: about 1e-6 in float32. A single wrong token or weight changes logits a hundred
# times more than the first of these bounds.
TOLERANCES = {"float32": 1e-5, "float64": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}

_MOST_SHOWN = 200  # characters of a row


class DifferenceError(ValueError):
    """Outputs that differ by more than rounding explains.

    Args:
        message: Which output, how it differs, and what is allowed.
        row: The first row that differs; None if shapes, types or names do.
    """

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


def compare_outputs(
    got: Arrays, want: Arrays, tolerance: float, is_tie: np.ndarray | None = None
) -> dict[str, float]:
    """Compares two answers to the same rows.

    Numbers may differ by rounding, but NaN and infinities must stand in the same places. All else
    must be equal.

    Args:
        got: An answer.
        want: The answer that it should be.
        tolerance: What numbers may differ by, relative to `size_of` their output.
        is_tie: In which rows strings and integers may differ, since two answers are equally good,
            bool (B,).

    Returns:
        The greatest difference between two numbers of each output; 0 for strings and integers.

    Raises:
        DifferenceError: They differ in more than that.
    """
    if got.keys() != want.keys():
        raise DifferenceError(f"outputs {sorted(got)} instead of {sorted(want)}")
    # Numbers first: where they differ, labels do for that reason.
    names = sorted(want, key=lambda name: not _is_float(want[name]))
    return {name: compare_arrays(name, got[name], want[name], tolerance, is_tie) for name in names}


def compare_arrays(
    what: str,
    got: np.ndarray,
    want: np.ndarray,
    tolerance: float,
    is_tie: np.ndarray | None = None,
) -> float:
    """Compares one output, named `what` in the error: see `compare_outputs`."""
    if (got.shape, got.dtype) != (want.shape, want.dtype):
        raise DifferenceError(
            f"{what} is {got.dtype} {got.shape} instead of {want.dtype} {want.shape}"
        )
    if not want.size:
        return 0.0
    rows = want.shape[0] if want.ndim else 1
    got, want = got.reshape(rows, -1), want.reshape(rows, -1)
    if not _is_float(want):
        is_wrong = (got != want).any(axis=1)
        if is_tie is not None:
            is_wrong &= ~is_tie
        if is_wrong.any():
            row = int(is_wrong.argmax())
            raise DifferenceError(f"{what} is {_show(got[row])} instead of {_show(want[row])}", row)
        return 0.0
    got, want = got.astype(np.float64), want.astype(np.float64)
    is_equal = (got == want) | (np.isnan(got) & np.isnan(want))
    with np.errstate(invalid="ignore"):
        differences = np.where(is_equal, 0.0, np.abs(got - want))
    allowed = tolerance * size_of(want)
    is_wrong = ~(differences <= allowed).all(axis=1)
    if is_wrong.any():
        row = int(is_wrong.argmax())
        raise DifferenceError(
            f"{what} is {_show(got[row])} instead of {_show(want[row])}; they differ by "
            f"{differences[row].max():.1e} in row {row}, allowed is {allowed:.1e}",
            row,
        )
    return float(differences.max())


def size_of(array: Any) -> float:
    """Returns what differences are relative to: the largest finite number of an output, or 1."""
    array = np.asarray(array, np.float64)
    return float(np.abs(array).max(initial=1.0, where=np.isfinite(array)))


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind in "fV"  # V: bfloat16 and the like


def _show(row: np.ndarray) -> str:
    shown = str(row.tolist())
    return shown if len(shown) <= _MOST_SHOWN else f"{shown[:_MOST_SHOWN]}..."
