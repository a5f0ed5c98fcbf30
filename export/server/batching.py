"""Merges concurrent requests into one run of the graph, and splits its outputs again.

One worker thread runs the graph. While it is busy, requests queue up; when it is free again, it
takes the oldest together with all others that fit to it. An idle server therefore adds no waiting
time, and a busy one makes the batches by itself. The answers are the same as without merging, and
a request that makes the graph fail gets its error alone.
"""

import collections
import dataclasses
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from concurrent import futures

import grpc
import numpy as np
from absl import logging

from export.server import status

Arrays = dict[str, np.ndarray]
RunFunction = Callable[[str, Mapping[str, np.ndarray]], Arrays]


@dataclasses.dataclass(frozen=True)
class BatchingOptions:
    """How requests are merged.

    Args:
        max_batch_size: Rows in one run of the graph; a larger request is run in slices.
        batch_timeout_s: How long a request that found the worker busy may wait, counted from its
            arrival, for others to share its run, in seconds. Others never wait for company.
        max_queue_length: Requests that may wait; more are turned away with UNAVAILABLE, which
            clients retry.

    Raises:
        ValueError: a size is less than 1, or the time is negative.
    """

    max_batch_size: int = 32
    batch_timeout_s: float = 0.001
    max_queue_length: int = 256

    def __post_init__(self) -> None:
        if self.max_batch_size < 1 or self.max_queue_length < 1 or self.batch_timeout_s < 0:
            raise ValueError(f"Sizes must be at least 1, and times at least 0: {self}")


@dataclasses.dataclass(frozen=True, eq=False)
class _Member:
    """A request in the queue. Those with equal `key` can be concatenated; None: with no other."""

    signature_name: str
    inputs: Mapping[str, np.ndarray]
    key: Hashable
    rows: int
    is_active: Callable[[], bool]
    run_by_s: float
    future: futures.Future[Arrays] = dataclasses.field(default_factory=futures.Future)


class Batcher:
    """A queue of requests and the thread that runs them.

    Args:
        run: Runs the graph: takes a signature's name and its inputs, gives its outputs, raises
            `status.RequestError`. Called from one thread only.
        options: How requests are merged.
    """

    def __init__(self, run: RunFunction, options: BatchingOptions) -> None:
        self._run = run
        self._options = options
        self._queue: collections.deque[_Member] = collections.deque()
        self._changed = threading.Condition()
        self._is_busy = False
        self._is_closed = False
        # A daemon: a graph that never ends must not keep the process alive.
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    def submit(
        self,
        signature_name: str,
        inputs: Mapping[str, np.ndarray],
        *,
        is_batched: bool,
        is_active: Callable[[], bool] = lambda: True,
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
            RequestError: UNAVAILABLE; the queue is full or closed.
        """
        key = None
        rows = 0
        if is_batched:
            rows = len(next(iter(inputs.values())))
            # Only equal trailing dimensions can be concatenated.
            key = (signature_name, tuple((name, inputs[name].shape[1:]) for name in sorted(inputs)))
        with self._changed:
            if self._is_closed:
                raise _unavailable("The server is shutting down")
            if len(self._queue) >= self._options.max_queue_length:
                raise _unavailable(
                    "The batch scheduling queue to which this task was submitted is full "
                    f"(max_queue_length={self._options.max_queue_length})"
                )
            run_by_s = time.monotonic() + self._options.batch_timeout_s if self._is_busy else 0.0
            member = _Member(signature_name, inputs, key, rows, is_active, run_by_s)
            self._queue.append(member)
            self._changed.notify()
        return member.future

    def close(self) -> None:
        """Ends the worker after its current run; requests still waiting get UNAVAILABLE."""
        with self._changed:
            self._is_closed = True
            waiting = list(self._queue)
            self._queue.clear()
            self._changed.notify()
        for member in waiting:
            member.future.set_exception(_unavailable("The server is shutting down"))
        self._thread.join(timeout=5.0)

    def _work(self) -> None:
        """Runs requests until closed."""
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        """Waits for the next batch and answers it; False when closed."""
        batch = self._take()
        active = []
        for member in batch:
            if member.is_active():
                active.append(member)
            else:
                member.future.set_exception(_abandoned())
        if active:
            self._answer(active)
        return bool(batch)

    def _take(self) -> list[_Member]:
        """Waits for requests and takes those for the next run; an empty list when closed."""
        with self._changed:
            self._is_busy = False
            self._changed.wait_for(lambda: self._queue or self._is_closed)
            while self._queue:
                batch, is_full = self._next_batch()
                wait_s = batch[0].run_by_s - time.monotonic()
                if is_full or wait_s <= 0:
                    for member in batch:
                        self._queue.remove(member)
                    self._is_busy = True
                    return batch
                self._changed.wait(wait_s)
            return []

    def _next_batch(self) -> tuple[list[_Member], bool]:
        """Picks the oldest request and those that can run with it.

        Returns:
            The requests, and whether no other can join them.
        """
        oldest, *others = self._queue
        batch, rows = [oldest], oldest.rows
        if oldest.key is None:
            return batch, True
        for member in others:
            if member.key == oldest.key and rows + member.rows <= self._options.max_batch_size:
                batch.append(member)
                rows += member.rows
        return batch, rows >= self._options.max_batch_size

    def _answer(self, batch: list[_Member]) -> None:
        """Runs requests, together if that works, and completes their futures."""
        try:
            answers = self._run_merged(batch)
        except Exception as error:
            if len(batch) > 1:
                for member in batch:
                    self._answer([member])
                return
            if not isinstance(error, status.RequestError):
                logging.exception("Signature %s failed", batch[0].signature_name)
                error = status.RequestError(
                    grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"
                )
            batch[0].future.set_exception(error)
            return
        for member, answer in zip(batch, answers, strict=True):
            member.future.set_result(answer)

    def _run_merged(self, batch: list[_Member]) -> list[Arrays]:
        """Runs requests as one batch and gives each its own rows."""
        first = batch[0]
        if len(batch) == 1:
            if first.rows > self._options.max_batch_size:
                return [self._run_slices(first)]
            return [self._run(first.signature_name, first.inputs)]
        inputs = {
            name: np.concatenate([member.inputs[name] for member in batch]) for name in first.inputs
        }
        ends = np.cumsum([member.rows for member in batch])
        outputs = self._run_rows(first.signature_name, inputs, int(ends[-1]))
        return [
            {name: array[end - member.rows : end] for name, array in outputs.items()}
            for member, end in zip(batch, ends, strict=True)
        ]

    def _run_slices(self, member: _Member) -> Arrays:
        """Runs a large request, at most `max_batch_size` rows at a time."""
        parts = []
        for start in range(0, member.rows, self._options.max_batch_size):
            if not member.is_active():
                raise _abandoned()
            end = min(start + self._options.max_batch_size, member.rows)
            inputs = {name: array[start:end] for name, array in member.inputs.items()}
            parts.append(self._run_rows(member.signature_name, inputs, end - start))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _run_rows(self, signature_name: str, inputs: Arrays, rows: int) -> Arrays:
        """Runs the graph once and checks that every output has a row for each row put in."""
        outputs = self._run(signature_name, inputs)
        for name, array in outputs.items():
            if array.shape[:1] != (rows,):
                raise status.RequestError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th "
                    f"dimension sizes of the input tensors: {name} has shape {array.shape} for "
                    f"{rows} rows",
                )
        return outputs


def _abandoned() -> status.RequestError:
    # Nobody reads this; it ends the request's thread without computing the answer.
    return status.RequestError(grpc.StatusCode.CANCELLED, "The client stopped waiting")


def _unavailable(message: str) -> status.RequestError:
    return status.RequestError(grpc.StatusCode.UNAVAILABLE, message)
