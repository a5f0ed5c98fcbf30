"""Merges concurrent requests into one run of the graph, and splits its outputs again.

Worker threads run the graph. While they are busy, requests queue up; one that is free again takes
the oldest together with all others that fit to it. An idle server therefore adds no waiting time,
and a busy one makes the batches by itself. A request with more rows than a run may have is run in
pieces, and goes to the end of the queue after each, so that others don't wait for all of it. The
answers are the same as without merging, and a request that makes the graph fail gets its error
alone.

Reference: shared_batch_scheduler.h in tensorflow/core/kernels/batching_util and
tensorflow_serving/batching/batching_session.cc, for the limits and their codes: a full queue is
UNAVAILABLE, which clients retry; a request with too many rows is INVALID_ARGUMENT, which they
don't. That the waiting requests need too much memory is a limit of this server alone:
RESOURCE_EXHAUSTED, as gRPC has it for a message that is too large.
"""

import collections
import dataclasses
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from concurrent import futures
from typing import NamedTuple

import grpc
import numpy as np
from absl import logging

from export.server import status
from export.server.batching_options import BatchingOptions
from export.server.signature import Arrays

RunFunction = Callable[[str, Mapping[str, np.ndarray]], Arrays]
IsActive = Callable[[], bool]

# One long text must not hold up the short ones: a run with more bytes than this has one request.
_MAX_MERGED_BYTES = 2**20

# What an element costs beside its bytes, as an object in an array of strings.
_STRING_OVERHEAD_BYTES = 64


@dataclasses.dataclass(eq=False, slots=True)
class _Member:
    """A request in the queue. Those with equal `key` can be concatenated; None: with no other."""

    signature_name: str
    inputs: Mapping[str, np.ndarray]
    key: Hashable
    rows: int
    bytes: int
    is_active: IsActive
    arrived_s: float
    run_by_s: float
    future: futures.Future[Arrays] = dataclasses.field(default_factory=futures.Future)
    next_row: int = 0  # where the next piece begins
    parts: dict[int, Arrays] = dataclasses.field(default_factory=dict)  # outputs by first row

    def fail(self, error: status.RequestError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class _Piece(NamedTuple):
    """The rows of a request that take part in a run: all of them, unless they are too many."""

    member: _Member
    start: int
    end: int

    @property
    def inputs(self) -> Mapping[str, np.ndarray]:
        if self.end - self.start == self.member.rows:
            return self.member.inputs
        return {name: array[self.start : self.end] for name, array in self.member.inputs.items()}


class Batcher:
    """A queue of requests and the threads that run them.

    Args:
        run: Runs the graph: takes a signature's name and its inputs, gives its outputs, raises
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
        self._queue: collections.deque[_Member] = collections.deque()
        self._queue_rows = 0
        self._queue_bytes = 0
        self._changed = threading.Condition()
        self._busy = 0
        self._is_closed = False
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
        """Puts a request into the queue.

        Args:
            signature_name: The endpoint to run.
            inputs: Its inputs; when batched, all with equal dimension 0.
            is_batched: Whether dimension 0 of all inputs and outputs counts independent examples.
            is_active: Says whether anybody still waits for the answer; asked before the run.

        Returns:
            A future of all outputs by name, or of a `status.RequestError`.

        Raises:
            RequestError: UNAVAILABLE, the queue is full or closed; INVALID_ARGUMENT, the request
                has too many rows; RESOURCE_EXHAUSTED, what waits would need too much memory.
        """
        key = None
        rows = 0
        if is_batched:
            rows = len(next(iter(inputs.values())))
            # Only equal trailing dimensions can be concatenated.
            key = (signature_name, tuple((name, inputs[name].shape[1:]) for name in sorted(inputs)))
        size_bytes = sum(map(_count_bytes, inputs.values()))
        now_s = time.monotonic()
        with self._changed:
            self._check_room(rows, size_bytes)
            run_by_s = 0.0
            if self._busy == len(self._threads):
                run_by_s = now_s + self._options.batch_timeout_s
            member = _Member(
                signature_name, inputs, key, rows, size_bytes, is_active, now_s, run_by_s
            )
            self._queue.append(member)
            self._count(rows, size_bytes)
            # A worker that waits for company is woken when that is complete, not for each.
            if len(self._queue) == 1 or self._queue_rows >= self._options.max_batch_size:
                self._changed.notify()
        return member.future

    def close(self) -> None:
        """Ends the workers after their current runs; requests still waiting get UNAVAILABLE."""
        with self._changed:
            self._is_closed = True
            waiting = list(self._queue)
            self._queue.clear()
            self._changed.notify_all()
        for member in waiting:
            member.fail(status.unavailable("The server is shutting down"))
        for thread in self._threads:
            thread.join(timeout=5.0)

    def _check_room(self, rows: int, size_bytes: int) -> None:
        """Checks that a request may be put into the queue."""
        options = self._options
        if self._is_closed:
            raise status.unavailable("The server is shutting down")
        if options.max_request_rows is not None and rows > options.max_request_rows:
            raise status.invalid(
                f"Task size {rows} is larger than maximum input batch size "
                f"{options.max_request_rows}"
            )
        if len(self._queue) >= options.max_queue_length or (
            options.max_queue_rows is not None
            and self._queue
            and self._queue_rows + rows > options.max_queue_rows
        ):
            raise status.unavailable(
                "The batch scheduling queue to which this task was submitted is full: "
                f"{len(self._queue)} requests with {self._queue_rows} rows wait "
                f"(max_queue_length={options.max_queue_length}, "
                f"max_queue_rows={options.max_queue_rows})"
            )
        if self._queue_bytes + size_bytes > options.max_queue_bytes:
            raise status.RequestError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"The request's inputs need {size_bytes} bytes, those that wait already "
                f"{self._queue_bytes}, and max_queue_bytes={options.max_queue_bytes}",
            )

    def _count(self, rows: int, size_bytes: int) -> None:
        """Notes that rows joined the queue, or left it."""
        self._queue_rows += rows
        self._queue_bytes += size_bytes
        self._on_queue(len(self._queue))

    def _work(self) -> None:
        """Runs requests until closed."""
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        """Waits for the next batch and answers it; False when closed."""
        batch = self._take()
        active = []
        for piece in batch:
            if piece.member.future.done():
                continue  # another piece of it has failed
            if piece.member.is_active():
                active.append(piece)
            else:
                self._fail(piece.member, status.abandoned())
        if active:
            self._answer(active)
        if batch:
            with self._changed:
                self._busy -= 1
        return bool(batch)

    def _take(self) -> list[_Piece]:
        """Waits for requests and takes those for the next run; an empty list when closed."""
        with self._changed:
            while True:
                if self._is_closed:
                    return []
                if not self._queue:
                    self._changed.wait()
                    continue
                batch, is_full = self._next_batch()
                wait_s = batch[0].member.run_by_s - time.monotonic()
                if is_full or wait_s <= 0:
                    for piece in batch:
                        self._remove(piece)
                    self._busy += 1
                    if self._queue:
                        self._changed.notify()
                    return batch
                self._changed.wait(wait_s)

    def _next_batch(self) -> tuple[list[_Piece], bool]:
        """Picks the oldest request and those that can run with it.

        Returns:
            Their pieces, and whether no other can join them.
        """
        limit = self._options.max_batch_size
        batch: list[_Piece] = []
        rows = size_bytes = 0
        key = self._queue[0].key
        for member in self._queue:
            if batch and (member.key is None or member.key != key):
                continue
            end = min(member.rows, member.next_row + limit)
            piece_rows = end - member.next_row
            if batch and (
                rows + piece_rows > limit or size_bytes + member.bytes > _MAX_MERGED_BYTES
            ):
                continue
            batch.append(_Piece(member, member.next_row, end))
            rows += piece_rows
            size_bytes += member.bytes
            if key is None or rows >= limit:
                return batch, True
        return batch, False

    def _remove(self, piece: _Piece) -> None:
        """Takes a piece out of the queue; what is left of its request goes to the end."""
        member = piece.member
        self._queue.remove(member)
        member.next_row = piece.end
        is_last = piece.end == member.rows
        if not is_last:
            member.run_by_s = 0.0
            self._queue.append(member)
        self._count(piece.start - piece.end, -member.bytes if is_last else 0)

    def _fail(self, member: _Member, error: status.RequestError) -> None:
        """Ends a request, and takes what is left of it out of the queue."""
        with self._changed:
            member.fail(error)
            if member in self._queue:
                self._queue.remove(member)
                self._count(member.next_row - member.rows, -member.bytes)

    def _answer(self, batch: list[_Piece]) -> None:
        """Runs pieces, together if that works, and hands their outputs over."""
        try:
            answers = self._run_merged(batch)
        except Exception as error:
            if len(batch) > 1:
                # Halves, so that one bad request among many costs few runs.
                middle = len(batch) // 2
                self._answer(batch[:middle])
                self._answer(batch[middle:])
                return
            member = batch[0].member
            if not isinstance(error, status.RequestError):
                logging.exception("Signature %s failed", member.signature_name)
                error = status.internal(error)
            self._fail(member, error)
            return
        for piece, answer in zip(batch, answers, strict=True):
            self._finish(piece, answer)

    def _finish(self, piece: _Piece, outputs: Arrays) -> None:
        """Completes a request, if this was all that was missing."""
        member = piece.member
        if piece.end - piece.start < member.rows:
            with self._changed:
                member.parts[piece.start] = outputs
                done = sum(len(next(iter(part.values()))) for part in member.parts.values())
                if done < member.rows or member.future.done():
                    return
            try:
                outputs = _join([member.parts[start] for start in sorted(member.parts)])
            except status.RequestError as error:
                self._fail(member, error)
                return
        if not member.future.done():
            member.future.set_result(outputs)

    def _run_merged(self, batch: list[_Piece]) -> list[Arrays]:
        """Runs pieces as one batch and gives each its own rows."""
        first = batch[0].member
        self._on_run(
            max(1, sum(piece.end - piece.start for piece in batch)),
            time.monotonic() - min(piece.member.arrived_s for piece in batch),
        )
        if first.key is None:
            return [self._run(first.signature_name, first.inputs)]
        if len(batch) == 1:
            ((_, start, end),) = batch
            is_whole = end - start == first.rows
            return [self._run_rows(first.signature_name, batch[0].inputs, end - start, is_whole)]
        inputs = {
            name: np.concatenate([piece.inputs[name] for piece in batch]) for name in first.inputs
        }
        ends = np.cumsum([piece.end - piece.start for piece in batch]).tolist()
        outputs = self._run_rows(first.signature_name, inputs, ends[-1], False)
        return [
            {name: array[begin:end] for name, array in outputs.items()}
            for begin, end in zip([0, *ends], ends, strict=False)
        ]

    def _run_rows(
        self, signature_name: str, inputs: Mapping[str, np.ndarray], rows: int, is_whole: bool
    ) -> Arrays:
        """Runs the graph once, filled up to an allowed size.

        It checks that every output has a row for each row put in, unless they are those of one
        whole request, which needs no splitting.
        """
        size = self._options.padded_size(rows)
        if size > rows:
            inputs = {
                name: np.concatenate([array, np.repeat(array[:1], size - rows, axis=0)])
                for name, array in inputs.items()
            }
        outputs = self._run(signature_name, inputs)
        if is_whole and size == rows:
            return outputs
        for name, array in outputs.items():
            if array.shape[:1] != (size,):
                raise status.RequestError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th "
                    f"dimension sizes of the input tensors: {name} has shape {array.shape} for "
                    f"{size} rows",
                )
        return {name: array[:rows] for name, array in outputs.items()}


def _count_bytes(array: np.ndarray) -> int:
    if not array.dtype.hasobject:
        return array.nbytes
    return sum(map(len, array.ravel().tolist())) + _STRING_OVERHEAD_BYTES * array.size


def _join(parts: list[Arrays]) -> Arrays:
    """Puts the outputs of a request's pieces together."""
    outputs = {}
    for name in parts[0]:
        arrays = [part[name] for part in parts]
        if len({array.shape[1:] for array in arrays}) > 1:
            sizes = [len(array) for array in arrays]
            raise status.RequestError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"The request was run in pieces of at most {max(sizes)} rows, as it has "
                f"{sum(sizes)}, and output {name} is not equally large in all of them; send "
                "fewer rows",
            )
        outputs[name] = np.concatenate(arrays)
    return outputs
