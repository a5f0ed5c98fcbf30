"""Merges concurrent requests into one run of the graph, and splits its outputs again.

Each signature has a queue of batches. A request joins the last batch of its signature if it fits
in, or begins another; threads take turns with the signatures, and run the oldest batch of each. One
difference from TF Serving is meant: a thread that is free doesn't wait for a batch to fill up, so
an idle server adds no waiting time, and a busy one makes the batches by itself.

Otherwise the rules are TF Serving's: requests are merged whatever their shapes are beyond dimension
0, and a batch that fails, fails for all in it. Where TF Serving would die, they get INTERNAL.

Reference: batching_session.cc and batching_util.cc in tensorflow_serving/batching;
shared_batch_scheduler.h in tensorflow/core/kernels/batching_util.
"""

import collections
import dataclasses
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
from typing import Any

import grpc
import numpy as np
from absl import logging

from distilbert_serving.server import status
from distilbert_serving.server.metrics import Metrics
from distilbert_serving.tf_serving.batching_parameters import number_of, run_size_of

Arrays = dict[str, np.ndarray]
Inputs = Mapping[str, np.ndarray]
IsActive = Callable[[], bool]  # says whether anybody still waits for the answer


@dataclasses.dataclass(eq=False, slots=True)
class _Piece:
    """The rows of a request that take part in one run: all of them, unless they are too many."""

    inputs: Inputs
    rows: int
    is_batched: bool
    is_active: IsActive
    arrived_s: float = dataclasses.field(default_factory=time.monotonic)
    outputs: futures.Future[Arrays] = dataclasses.field(default_factory=futures.Future)


class Batcher:
    """Queues of requests, and the threads that run them.

    `run` takes a signature's name and its inputs, returns its outputs, and raises
    `status.RequestError`; it is called from several threads. `parameters` are BatchingParameters.
    """

    def __init__(
        self,
        run: Callable[[str, Inputs], Arrays],
        parameters: Any,
        model_name: str,
        metrics: Metrics,
    ) -> None:
        self._run = run
        self._parameters = parameters
        self._max_rows = number_of(parameters, "max_batch_size")
        self._max_batches = number_of(parameters, "max_enqueued_batches")
        self._run_size = run_size_of(parameters)
        self._name = model_name
        self._metrics = metrics
        self._queues: dict[str, collections.deque[list[_Piece]]] = {}  # no empty ones
        self._is_closed = False
        self._changed = threading.Condition()
        # Daemons: a graph that never ends must not keep the process alive.
        self._threads = [
            threading.Thread(target=self._work, name=f"batcher-{i}", daemon=True)
            for i in range(number_of(parameters, "num_batch_threads"))
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self, signature_name: str, inputs: Inputs, *, is_batched: bool, is_active: IsActive
    ) -> Callable[[], Arrays]:
        """Puts a request into its signature's queue, if there is room.

        If it is batched, dimension 0 of all inputs and outputs counts independent examples. A run
        is for those that are still active. Returns what waits for the outputs, or raises the
        `status.RequestError` of a run.
        """
        with self._changed:
            if self._is_closed:
                raise status.unavailable("The server is shutting down")
            queue = self._queues.get(signature_name, collections.deque())
            room = self._run_size - sum(piece.rows for piece in queue[-1]) if queue else 0
            # A request that is not batched is as good as a full batch.
            rows = _count_rows(inputs) if is_batched else self._run_size
            if rows > self._max_rows:
                raise status.invalid(
                    f"Task size {rows} is larger than maximum input batch size {self._max_rows}"
                )
            splits = self._parameters.enable_large_batch_splitting.value
            joins = room > 0 and (rows <= room or splits)
            bounds = [0, *range(room if joins else self._run_size, rows, self._run_size), rows]
            added = len(bounds) - 1 - joins
            if len(queue) + added > self._max_batches:
                raise status.unavailable(
                    "The batch scheduling queue to which this task was submitted is full; "
                    f"{len(queue)} batches wait, and this makes {added} more "
                    f"(max_enqueued_batches={self._max_batches})"
                )
            pieces = []
            for start, end in itertools.pairwise(bounds):
                part = inputs
                if len(bounds) > 2:
                    part = {name: array[start:end] for name, array in inputs.items()}
                pieces.append(_Piece(part, end - start, is_batched, is_active))
            if joins:
                queue[-1].append(pieces[0])
            queue.extend([piece] for piece in pieces[joins:])
            self._queues[signature_name] = queue
            self._count()
            self._changed.notify(added)
        outputs = [piece.outputs for piece in pieces]  # without the inputs
        return lambda: _join([part.result() for part in outputs])

    def close(self) -> None:
        """Ends the workers after their current runs; requests still waiting get UNAVAILABLE."""
        with self._changed:
            self._is_closed = True
            waiting = [p for queue in self._queues.values() for batch in queue for p in batch]
            self._queues.clear()
            self._changed.notify_all()
        _fail(waiting, grpc.StatusCode.UNAVAILABLE, "The server is shutting down")
        for thread in self._threads:
            thread.join(timeout=5.0)

    def _count(self) -> None:
        waiting = sum(len(batch) for queue in self._queues.values() for batch in queue)
        self._metrics.set_queue_length(self._name, waiting)

    def _work(self) -> None:
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        """Waits for a batch and answers it; returns False when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._queues or self._is_closed)
            if not self._queues:
                return False
            name = next(iter(self._queues))
            queue = self._queues.pop(name)
            batch = queue.popleft()
            if queue:
                self._queues[name] = queue  # at the end: signatures take turns
            self._count()
        wanted = [piece for piece in batch if piece.is_active()]
        _fail(set(batch).difference(wanted), grpc.StatusCode.CANCELLED, "Nobody waits for it")
        try:
            outputs = self._run_batch(name, wanted) if wanted else []
        except status.RequestError as error:
            _fail(wanted, error.code, error.message)
        except Exception as error:
            logging.exception("Signature %s failed", name)
            _fail(wanted, grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")
        else:
            for piece, part in zip(wanted, outputs, strict=True):
                piece.outputs.set_result(part)
        return True

    def _run_batch(self, signature_name: str, batch: list[_Piece]) -> list[Arrays]:
        """Runs the graph once, and returns each piece's own rows of the outputs."""
        wait_s = time.monotonic() - min(piece.arrived_s for piece in batch)
        if not batch[0].is_batched:
            self._metrics.observe_batch(self._name, 1, wait_s)
            return [self._run(signature_name, batch[0].inputs)]
        rows = sum(piece.rows for piece in batch)
        size = next((size for size in self._parameters.allowed_batch_sizes if size >= rows), rows)
        pads = self._parameters.pad_variable_length_inputs
        inputs = merge_inputs([piece.inputs for piece in batch], size, pads=pads)
        self._metrics.observe_batch(self._name, size, wait_s)
        outputs = self._run(signature_name, inputs)
        for name, array in outputs.items():
            if array.shape[:1] != (size,):
                raise status.failed_precondition(
                    "Batched output tensor's 0th dimension does not equal the number of rows: "
                    f"{name} has shape {array.shape} for {size} rows"
                )
        ends = itertools.accumulate((piece.rows for piece in batch), initial=0)
        return [
            {name: array[start:end] for name, array in outputs.items()}
            for start, end in itertools.pairwise(ends)
        ]


def merge_inputs(parts: Sequence[Inputs], size: int, *, pads: bool) -> Arrays:
    """Merges inputs, filled up to a size with the first row of the last request."""
    missing = size - sum(map(_count_rows, parts))
    merged = {}
    for name in parts[0]:
        arrays = [part[name] for part in parts]
        if len({array.shape[1:] for array in arrays}) > 1:
            if not pads:
                raise status.failed_precondition(
                    f"Tensors with name '{name}' from different tasks have different shapes and "
                    "padding is turned off. Set pad_variable_length_inputs to true."
                )
            sizes = np.max([array.shape[1:] for array in arrays], axis=0).tolist()
            arrays = [_pad(array, (len(array), *sizes)) for array in arrays]
        if missing:
            if not len(arrays[-1]):
                raise _would_die(
                    f"a batch is filled up to {size} rows, one of allowed_batch_sizes, with the "
                    "first row of its last request, which has none. Take allowed_batch_sizes out "
                    "of batching_params.pbtxt, and send no requests without rows"
                )
            arrays.append(np.repeat(arrays[-1][:1], missing, axis=0))
        merged[name] = np.concatenate(arrays) if len(arrays) > 1 else arrays[0]
    return merged


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


def _join(parts: Sequence[Arrays]) -> Arrays:
    """Joins the outputs of a request's pieces."""
    if len(parts) == 1:
        return parts[0]
    for name in parts[0]:
        shapes = {part[name].shape for part in parts}
        if len({shape[1:] for shape in shapes}) > 1:
            raise _would_die(
                f"the request was run in pieces, and output {name} has the shapes "
                f"{sorted(shapes)}, which differ beyond dimension 0. Send fewer rows"
            )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _count_rows(inputs: Inputs) -> int:
    return len(next(iter(inputs.values())))


def _would_die(reason: str) -> status.RequestError:
    text = f"TF Serving would have died here, with all its requests: {reason}"
    return status.RequestError(grpc.StatusCode.INTERNAL, text)


def _fail(pieces: Iterable[_Piece], code: grpc.StatusCode, message: str) -> None:
    # Each has its own error, as raising it adds to it, without the frames of the failure, which
    # would keep the inputs in memory.
    for piece in pieces:
        piece.outputs.set_exception(status.RequestError(code, message))
