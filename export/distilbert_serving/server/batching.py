"""Merges concurrent requests into one run of the graph, and splits its outputs again.

Each signature has a queue of batches. A request joins the last batch of its signature if it fits
in, or begins another; worker threads take turns with the signatures, and run the oldest batch of
each. One difference from TF Serving is meant: a worker that is free doesn't wait for a batch to
fill up, so an idle server adds no waiting time, and a busy one makes the batches by itself.

Otherwise the rules are TF Serving's, the harsh ones as well, so that what works here works there:
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
from collections.abc import Callable, Mapping
from concurrent import futures

import grpc
import numpy as np
from absl import logging

from distilbert_serving.server import merging, status
from distilbert_serving.server.batching_options import BatchingOptions
from distilbert_serving.server.signature import Arrays

RunFunction = Callable[[str, Mapping[str, np.ndarray]], Arrays]
IsActive = Callable[[], bool]

# What an element costs beside its bytes, as an object in an array of strings.
_STRING_OVERHEAD_BYTES = 64


@dataclasses.dataclass(eq=False, slots=True)
class _Request:
    """What one `submit` asked for."""

    bytes: int
    is_batched: bool
    is_active: IsActive
    arrived_s: float = dataclasses.field(default_factory=time.monotonic)
    future: futures.Future[Arrays] = dataclasses.field(default_factory=futures.Future)
    parts: list[Arrays | None] = dataclasses.field(default_factory=list)  # outputs of its pieces

    def is_wanted(self) -> bool:
        """Says whether it is worth a run: it has not failed, and its client still waits."""
        return not self.future.done() and self.is_active()


@dataclasses.dataclass(eq=False, slots=True)
class _Piece:
    """The rows of a request that take part in one run: all of them, unless they are too many."""

    request: _Request
    index: int
    inputs: Mapping[str, np.ndarray]
    rows: int


_Batch = list[_Piece]


class Batcher:
    """Queues of requests, and the threads that run them.

    Args:
        run: Runs the graph: takes a signature's name and its inputs, returns its outputs, raises
            `status.RequestError`. Called from `options.num_threads` threads.
        options: How requests are merged.
        on_run: Is told of each run's rows and how long its oldest request had waited, in seconds.
        on_queue: Is told how many requests wait, when that changes.
    """

    def __init__(
        self,
        run: RunFunction,
        options: BatchingOptions,
        *,
        on_run: Callable[[int, float], None] = lambda rows, wait_s: None,
        on_queue: Callable[[int], None] = lambda length: None,
    ) -> None:
        self._run = run
        self._options = options
        self._on_run = on_run
        self._on_queue = on_queue
        self._queues: dict[str, collections.deque[_Batch]] = {}  # no empty ones
        self._waiting = 0
        self._waiting_bytes = 0
        self._is_closed = False
        self._changed = threading.Condition()
        # Daemons: a graph that never ends must not keep the process alive.
        self._threads = [
            threading.Thread(target=self._work, name=f"batcher-{i}", daemon=True)
            for i in range(options.num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        signature_name: str,
        inputs: Mapping[str, np.ndarray],
        *,
        is_batched: bool,
        is_active: IsActive = lambda: True,
    ) -> futures.Future[Arrays]:
        """Puts a request into its signature's queue.

        Args:
            signature_name: The endpoint to run.
            inputs: Its inputs; when batched, all with equal dimension 0.
            is_batched: Whether dimension 0 of all inputs and outputs counts independent examples,
                which is the same for all requests of a signature.
            is_active: Says whether anybody still waits for the answer; asked before the run.

        Returns:
            A future of all outputs by name, or of a `status.RequestError`.

        Raises:
            RequestError: UNAVAILABLE, the queue is full or closed; INVALID_ARGUMENT, the request
                has too many rows; RESOURCE_EXHAUSTED, what waits would need too much memory.
        """
        request = _Request(sum(map(_count_bytes, inputs.values())), is_batched, is_active)
        with self._changed:
            if self._is_closed:
                raise status.unavailable("The server is shutting down")
            queue = self._queues.get(signature_name, collections.deque())
            room = self._options.run_size - _count_rows(queue[-1]) if queue else 0
            pieces, joins = self._split(request, inputs, room)
            batches = [[piece] for piece in pieces[joins:]]
            self._check_room(len(queue), len(batches), request.bytes)
            request.parts = [None] * len(pieces)
            if joins:
                queue[-1].append(pieces[0])
            queue.extend(batches)
            self._queues[signature_name] = queue
            self._count(1, request.bytes)
            self._changed.notify(len(batches))
        return request.future

    def close(self) -> None:
        """Ends the workers after their current runs; requests still waiting get UNAVAILABLE."""
        with self._changed:
            self._is_closed = True
            batches = list(itertools.chain.from_iterable(self._queues.values()))
            self._queues.clear()
            self._changed.notify_all()
        for batch in batches:
            self._fail(batch, status.unavailable("The server is shutting down"))
        for thread in self._threads:
            thread.join(timeout=5.0)

    def _split(
        self, request: _Request, inputs: Mapping[str, np.ndarray], room: int
    ) -> tuple[list[_Piece], bool]:
        """Cuts a request into pieces, mostly one.

        Args:
            request: The request.
            inputs: Its inputs.
            room: How many rows the last batch of its queue can still take.

        Returns:
            The pieces, and whether the first of them joins that batch.
        """
        if not request.is_batched:
            return [_Piece(request, 0, inputs, 1)], False
        rows = len(next(iter(inputs.values())))
        limit = self._options.max_batch_size
        if rows > limit:
            raise status.invalid(
                f"Task size {rows} is larger than maximum input batch size {limit}"
            )
        joins = room > 0 and (rows <= room or self._options.enable_large_batch_splitting)
        run_size = self._options.run_size
        bounds = [0, *range(room if joins else run_size, rows, run_size), rows]
        pieces = []
        for index, (start, end) in enumerate(itertools.pairwise(bounds)):
            part = {name: array[start:end] for name, array in inputs.items()}
            pieces.append(_Piece(request, index, part, end - start))
        return pieces, joins

    def _check_room(self, waiting: int, added: int, size_bytes: int) -> None:
        """Checks that batches may be added to a queue in which so many wait."""
        options = self._options
        if waiting + added > options.max_enqueued_batches:
            raise status.unavailable(
                "The batch scheduling queue to which this task was submitted is full; "
                f"{waiting} batches wait, and this makes {added} more "
                f"(max_enqueued_batches={options.max_enqueued_batches})"
            )
        if self._waiting_bytes + size_bytes > options.max_queue_bytes:
            raise status.RequestError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"The request's inputs need {size_bytes} bytes, those that wait already "
                f"{self._waiting_bytes}, and max_queue_bytes={options.max_queue_bytes}",
            )

    def _count(self, requests: int, size_bytes: int) -> None:
        """Notes that requests joined the queues, or left them."""
        self._waiting += requests
        self._waiting_bytes += size_bytes
        self._on_queue(self._waiting)

    def _work(self) -> None:
        """Runs batches until closed."""
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        """Waits for a batch and answers it; False when closed."""
        taken = self._take()
        if taken is not None:
            self._answer(*taken)
        return taken is not None

    def _take(self) -> tuple[str, _Batch] | None:
        """Waits for a batch and takes it, with its signature's name; None when closed."""
        with self._changed:
            while not self._queues:
                if self._is_closed:
                    return None
                self._changed.wait()
            name = next(iter(self._queues))
            queue = self._queues.pop(name)
            batch = queue.popleft()
            if queue:
                self._queues[name] = queue  # at the end: signatures take turns
            for piece in batch:
                if piece.index == len(piece.request.parts) - 1:
                    self._count(-1, -piece.request.bytes)
            return name, batch

    def _answer(self, signature_name: str, batch: _Batch) -> None:
        """Runs a batch and hands its outputs over, or its error to everybody."""
        self._fail([p for p in batch if not p.request.is_wanted()], status.abandoned())
        batch = [piece for piece in batch if not piece.request.future.done()]
        if not batch:
            return
        try:
            outputs = self._run_batch(signature_name, batch)
        except status.RequestError as error:
            self._fail(batch, error)
        except Exception as error:
            logging.exception("Signature %s failed", signature_name)
            self._fail(batch, status.internal(error))
        else:
            for piece, part in zip(batch, outputs, strict=True):
                self._finish(piece, part)

    def _run_batch(self, signature_name: str, batch: _Batch) -> list[Arrays]:
        """Runs the graph once, and returns each piece's own rows of the outputs."""
        wait_s = time.monotonic() - min(piece.request.arrived_s for piece in batch)
        if not batch[0].request.is_batched:
            self._on_run(1, wait_s)
            return [self._run(signature_name, batch[0].inputs)]
        size = self._options.filled_size(_count_rows(batch))
        inputs = merging.merge(
            [piece.inputs for piece in batch], size, pads=self._options.pad_variable_length_inputs
        )
        self._on_run(size, wait_s)
        outputs = self._run(signature_name, inputs)
        return merging.split(outputs, [piece.rows for piece in batch], size)

    def _finish(self, piece: _Piece, outputs: Arrays) -> None:
        """Completes a request, if this was all that was missing."""
        request = piece.request
        with self._changed:
            request.parts[piece.index] = outputs
            parts = [part for part in request.parts if part is not None]
        if len(parts) < len(request.parts):
            return
        try:
            request.future.set_result(merging.join(parts) if len(parts) > 1 else outputs)
        except status.RequestError as error:
            self._fail([piece], error)

    def _fail(self, batch: _Batch, error: status.RequestError) -> None:
        """Ends the requests of a batch that have not ended yet."""
        with self._changed:  # two pieces of a request may fail at the same time
            for piece in batch:
                if not piece.request.future.done():
                    # Each has its own, as raising it adds to it, without the frames of the failure,
                    # which would keep the inputs in memory.
                    piece.request.future.set_exception(
                        status.RequestError(error.code, error.message)
                    )


def _count_rows(batch: _Batch) -> int:
    return sum(piece.rows for piece in batch)


def _count_bytes(array: np.ndarray) -> int:
    if not array.dtype.hasobject:
        return array.nbytes
    return sum(map(len, array.ravel().tolist())) + _STRING_OVERHEAD_BYTES * array.size
