"""Merges concurrent requests into one run of the graph, and splits its outputs again.

Each signature has a queue of batches. A request joins the last batch of its signature if it fits
in, or begins another; worker threads take turns with the signatures, and run the oldest batch of
each. One difference from TF Serving is meant: a worker that is free doesn't wait for a batch to
fill up, so an idle server adds no waiting time, and a busy one makes the batches by itself.

Otherwise the rules are TF Serving's, the strict ones as well, so that what works here works there:
requests are merged whatever their shapes are beyond dimension 0, and a batch that fails, fails for
every request in it.

Reference: tensorflow_serving/batching/batching_session.cc; shared_batch_scheduler.h in
tensorflow/core/kernels/batching_util.
"""

import collections
import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
from typing import Any

import grpc
from absl import logging

from distilbert_serving.server import merging, status
from distilbert_serving.server.merging import Arrays, Inputs
from distilbert_serving.tf_serving.batching_parameters import number_of, run_size_of

RunFunction = Callable[[str, Inputs], Arrays]
IsActive = Callable[[], bool]


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

    Args:
        run: Runs the graph: takes a signature's name and its inputs, returns its outputs, raises
            `status.RequestError`. Called from several threads.
        parameters: How requests are merged: `BatchingParameters`.
        on_run: Is told of each run's rows and how long its oldest request had waited, in seconds.
        on_queue: Is told how many requests wait, when that changes.
    """

    def __init__(
        self,
        run: RunFunction,
        parameters: Any,
        on_run: Callable[[int, float], None],
        on_queue: Callable[[int], None],
    ) -> None:
        self._run = run
        self._max_rows = number_of(parameters, "max_batch_size")
        self._run_size = run_size_of(parameters)
        self._max_batches = number_of(parameters, "max_enqueued_batches")
        self._parameters = parameters
        self._on_run = on_run
        self._on_queue = on_queue
        self._queues: dict[str, collections.deque[list[_Piece]]] = {}  # no empty ones
        self._waiting = 0
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
        self,
        signature_name: str,
        inputs: Inputs,
        *,
        is_batched: bool,
        is_active: IsActive,
    ) -> Callable[[], Arrays]:
        """Puts a request into its signature's queue.

        Args:
            signature_name: The endpoint to run.
            inputs: Its inputs; when batched, all with equal dimension 0.
            is_batched: Whether dimension 0 of all inputs and outputs counts independent examples,
                which is the same for all requests of a signature.
            is_active: Says whether anybody still waits for the answer; asked before the run.

        Returns:
            What waits for the outputs by name, or raises the `status.RequestError` of a run.

        Raises:
            RequestError: UNAVAILABLE, the queue is full or closed; INVALID_ARGUMENT, the request
                has too many rows.
        """
        with self._changed:
            if self._is_closed:
                raise status.unavailable("The server is shutting down")
            queue = self._queues.get(signature_name, collections.deque())
            room = self._run_size - _count_rows(queue[-1]) if queue else 0
            # A request that is not batched is as good as a full batch.
            rows = merging.count_rows(inputs) if is_batched else self._run_size
            if rows > self._max_rows:
                raise status.invalid(
                    f"Task size {rows} is larger than maximum input batch size {self._max_rows}"
                )
            joins = room > 0 and (
                rows <= room or self._parameters.enable_large_batch_splitting.value
            )
            first = room if joins else self._run_size
            bounds = [0, *range(first, rows, self._run_size), rows]
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
            self._count(len(pieces))
            self._changed.notify(added)
        outputs = [piece.outputs for piece in pieces]  # without the inputs
        return lambda: merging.join([part.result() for part in outputs])

    def close(self) -> None:
        """Ends the workers after their current runs; requests still waiting get UNAVAILABLE."""
        with self._changed:
            self._is_closed = True
            batches = itertools.chain.from_iterable(self._queues.values())
            waiting = list(itertools.chain.from_iterable(batches))
            self._queues.clear()
            self._changed.notify_all()
        _fail(waiting, grpc.StatusCode.UNAVAILABLE, "The server is shutting down")
        for thread in self._threads:
            thread.join(timeout=5.0)

    def _count(self, pieces: int) -> None:
        self._waiting += pieces
        self._on_queue(self._waiting)

    def _work(self) -> None:
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        """Waits for a batch and answers it; returns False when closed."""
        with self._changed:
            while not self._queues:
                if self._is_closed:
                    return False
                self._changed.wait()
            name = next(iter(self._queues))
            queue = self._queues.pop(name)
            batch = queue.popleft()
            if queue:
                self._queues[name] = queue  # at the end: signatures take turns
            self._count(-len(batch))
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
            self._on_run(1, wait_s)
            return [self._run(signature_name, batch[0].inputs)]
        rows = _count_rows(batch)
        size = next((size for size in self._parameters.allowed_batch_sizes if size >= rows), rows)
        inputs = merging.merge(
            [piece.inputs for piece in batch],
            size,
            pads=self._parameters.pad_variable_length_inputs,
        )
        self._on_run(size, wait_s)
        outputs = self._run(signature_name, inputs)
        return merging.split(outputs, [piece.rows for piece in batch], size)


def _count_rows(batch: Sequence[_Piece]) -> int:
    return sum(piece.rows for piece in batch)


def _fail(pieces: Iterable[_Piece], code: grpc.StatusCode, message: str) -> None:
    # Each has its own error, as raising it adds to it, without the frames of the failure, which
    # would keep the inputs in memory.
    for piece in pieces:
        piece.outputs.set_exception(status.RequestError(code, message))
