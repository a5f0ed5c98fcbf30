"""The rules by which TF Serving merges requests, in NumPy: what happens to several in one batch.

Reference: batching_session.cc and batching_util.cc in tensorflow_serving/batching, and
`Concat` in tensorflow/core/framework/tensor_util.cc.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

Arrays = Mapping[str, np.ndarray]
Run = Callable[[Arrays], dict[str, np.ndarray]]


class ServerDiesError(Exception):
    """A check that ends the server's process."""


def run_batches(
    run: Run,
    requests: Sequence[Arrays],
    *,
    max_rows: int,
    allowed_sizes: Sequence[int] = (),
    pads: bool = True,
) -> list[dict[str, np.ndarray]]:
    """Answers requests that wait together, as a server with large batch splitting does.

    Args:
        run: Runs the graph once.
        requests: Inputs by name, in the order of arrival.
        max_rows: `max_execution_batch_size`.
        allowed_sizes: `allowed_batch_sizes`.
        pads: `pad_variable_length_inputs`.

    Returns:
        The outputs of each request by name.

    Raises:
        ServerDiesError: The process would end.
        ValueError: A batch would fail.
    """
    answers: list[list[dict[str, np.ndarray]]] = [[] for _ in requests]
    for batch in _form_batches(requests, max_rows):
        parts = [part for _, part in batch]
        outputs = run(_merge(parts, allowed_sizes, pads))
        rows = [_count(part) for part in parts]
        total = _fill(sum(rows), allowed_sizes)
        if any(len(array) != total for array in outputs.values()):
            raise ValueError("an output has not as many rows as the inputs")
        end = 0
        for (number, _), count in zip(batch, rows, strict=True):
            start, end = end, end + count
            answers[number].append({name: array[start:end] for name, array in outputs.items()})
    return [_join(parts) for parts in answers]


def _form_batches(requests: Sequence[Arrays], max_rows: int) -> list[list[tuple[int, Arrays]]]:
    """Fills up batch after batch, each with parts of requests by the request's number."""
    batches: list[list[tuple[int, Arrays]]] = [[]]
    room = max_rows
    for number, request in enumerate(requests):
        rows, start = _count(request), 0
        while True:
            end = min(rows, start + room)
            part = {name: array[start:end] for name, array in request.items()}
            batches[-1].append((number, part))
            room -= end - start
            start = end
            if room == 0:
                batches.append([])
                room = max_rows
            if start == rows:
                break
    return [batch for batch in batches if batch]


def _merge(parts: Sequence[Arrays], allowed_sizes: Sequence[int], pads: bool) -> Arrays:
    merged = {}
    filling = _fill(sum(map(_count, parts)), allowed_sizes) - sum(map(_count, parts))
    for name in parts[0]:
        arrays = [part[name] for part in parts]
        if pads:
            widths = np.max([array.shape[1:] for array in arrays], axis=0).tolist()
            arrays = [_pad(array, widths) for array in arrays]
        elif len({array.shape[1:] for array in arrays}) > 1:
            raise ValueError("different shapes and padding is turned off")
        if filling:
            if not len(arrays[-1]):
                raise ServerDiesError("Check failed: limit <= dim0_size")
            arrays += [arrays[-1][:1]] * filling
        merged[name] = np.concatenate(arrays)
    return merged


def _pad(array: np.ndarray, widths: Sequence[int]) -> np.ndarray:
    """Pads behind, with the first of all elements."""
    padding = [(0, 0)]
    padding += [(0, wide - is_) for wide, is_ in zip(widths, array.shape[1:], strict=True)]
    if not any(behind for _, behind in padding) or not len(array):
        return array.reshape([len(array), *widths]) if not array.size else array
    if not array.size:
        raise ValueError("Got empty tensor in batch of non-empty tensors.")
    return np.pad(array, padding, constant_values=array.flat[0])


def _fill(rows: int, allowed_sizes: Sequence[int]) -> int:
    return next((size for size in allowed_sizes if size >= rows), rows)


def _join(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Joins what was computed in several batches, by copying it behind each other."""
    for name, array in parts[0].items():
        if any(part[name].shape[1:] != array.shape[1:] for part in parts):
            raise ServerDiesError(f"Check failed: the parts of {name} differ in width")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _count(arrays: Arrays) -> int:
    return len(next(iter(arrays.values())))
