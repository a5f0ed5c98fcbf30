"""The arrays of a batch: merges what requests feed, and splits and joins what they get.

Where TF Serving's process would die, this raises INTERNAL.

Reference: MergeInputTensors and SplitOutputTensors in tensorflow_serving/batching/
batching_session.cc, AddPadding in batching_util.cc.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import grpc
import numpy as np

from distilbert_serving.server import status

Arrays = dict[str, np.ndarray]
Inputs = Mapping[str, np.ndarray]


def merge(parts: Sequence[Inputs], size: int, *, pads: bool) -> Arrays:
    """Makes one run's inputs of those of several requests.

    Args:
        parts: The inputs of each, which have the same names, and dimension 0 in common.
        size: How many rows to fill up to, with the first row of the last request.
        pads: Whether tensors that differ beyond dimension 0 are padded.

    Raises:
        RequestError: FAILED_PRECONDITION, they differ, and are not to be padded; INVALID_ARGUMENT,
            one should be padded that has no elements; INTERNAL, the last has no rows to fill with.
    """
    missing = size - sum(map(count_rows, parts))
    merged = {}
    for name in parts[0]:
        arrays = _with_equal_shapes(name, [part[name] for part in parts], pads)
        if missing:
            if not len(arrays[-1]):
                raise _would_die(
                    f"a batch is filled up with {missing} rows, to one of allowed_batch_sizes, and "
                    "they are the first row of its last request, which has none. Take "
                    "allowed_batch_sizes out of batching_params.pbtxt, or export again; and send "
                    "no requests without rows"
                )
            arrays.append(np.repeat(arrays[-1][:1], missing, axis=0))
        merged[name] = np.concatenate(arrays) if len(arrays) > 1 else arrays[0]
    return merged


def split(outputs: Inputs, rows: Sequence[int], size: int) -> list[Arrays]:
    """Returns each request's own rows of a run's outputs.

    Args:
        outputs: The outputs.
        rows: How many rows each request has; what comes behind them was filled up.
        size: How many rows the run had.

    Raises:
        RequestError: FAILED_PRECONDITION; an output has not a row for each row put in.
    """
    for name, array in outputs.items():
        if array.shape[:1] != (size,):
            raise status.failed_precondition(
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension "
                f"sizes of the input tensors: {name} has shape {array.shape} for {size} rows"
            )
    bounds = itertools.pairwise(itertools.accumulate(rows, initial=0))
    return [{name: array[start:end] for name, array in outputs.items()} for start, end in bounds]


def join(parts: Sequence[Arrays]) -> Arrays:
    """Joins the outputs of a request's pieces.

    Raises:
        RequestError: INTERNAL; an output is not equally wide in all of them.
    """
    if len(parts) == 1:
        return parts[0]
    for name in parts[0]:
        shapes = {part[name].shape for part in parts}
        if len({shape[1:] for shape in shapes}) > 1:
            raise _would_die(
                f"the request was run in pieces, and output {name} has the shapes "
                f"{sorted(shapes)}, which differ beyond dimension 0. The graph must fix these "
                "dimensions; until then, send fewer rows"
            )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def count_rows(inputs: Inputs) -> int:
    """Returns the size of dimension 0, which all inputs of a batched signature share."""
    return len(next(iter(inputs.values())))


def _would_die(reason: str) -> status.RequestError:
    return status.RequestError(
        grpc.StatusCode.INTERNAL,
        f"TF Serving would have died here, with all its requests: {reason}",
    )


def _with_equal_shapes(name: str, arrays: list[np.ndarray], pads: bool) -> list[np.ndarray]:
    if len({array.shape[1:] for array in arrays}) == 1:
        return arrays
    if not pads:
        raise status.failed_precondition(
            f"Tensors with name '{name}' from different tasks have different shapes and padding is "
            "turned off. Set pad_variable_length_inputs to true, or ensure that all tensors with "
            "the same name have equal dimensions starting with the first dim."
        )
    sizes = np.max([array.shape[1:] for array in arrays], axis=0).tolist()
    return [_pad(array, (len(array), *sizes)) for array in arrays]


def _pad(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Pads an array at the ends of its dimensions with its own first element."""
    if array.size == math.prod(shape):
        return array.reshape(shape)
    if not array.size:
        raise status.invalid("Got empty tensor in batch of non-empty tensors.")
    # Not np.full, which drops the NUL bytes at the end of a string.
    padded = np.broadcast_to(array.ravel()[:1], shape).copy()
    padded[tuple(map(slice, array.shape))] = array
    return padded
