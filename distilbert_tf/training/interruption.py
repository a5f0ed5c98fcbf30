"""Inside `fit`: saves the state of a run, also upon SIGTERM and SIGINT, and resumes from one.

The files are those of `state`.
"""

import contextlib
import dataclasses
import functools
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from distilbert_tf.checkpoints.tensor_files import Tensors
from distilbert_tf.training.callbacks import Logs
from distilbert_tf.training.state import Progress, read_variables, save_state, write_variables
from distilbert_tf.training.stop_signals import handling_stop_signals
from distilbert_tf.training.strategy import is_chief

STEPS_BETWEEN_VOTES = 10  # workers exchange the signals they received; it costs a round trip


class InterruptedRunError(RuntimeError):
    """A run was stopped by a signal, and its state is saved.

    Attributes:
        signal_number: The signal, such as `signal.SIGTERM`.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class SaveState(keras.callbacks.Callback):
    """Saves the state of a run every few steps, after each epoch, and upon a signal to stop.

    The chief writes. All workers must take part, since reading the metrics needs all of them.

    Args:
        directory: Where states go.
        progress: Is saved; receives the epochs and the time.
        identity: What tells this run from others; saved with every state.
        every: Steps between two states.
        keep: How many states to keep.
        tensors: The variables of the state to resume from, if there is one.
    """

    def __init__(
        self,
        directory: Path,
        progress: Progress,
        identity: Mapping[str, Any],
        *,
        every: int,
        keep: int,
        tensors: Tensors | None = None,
    ) -> None:
        super().__init__()
        self.directory, self.progress, self.identity = directory, progress, identity
        self.every, self.keep = every, keep
        self.saved_step = progress.step
        self._seconds_before = progress.train_time_s
        self._tensors = tensors
        self._signal = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Puts the model's and the optimizer's variables back."""
        self._started_s = time.monotonic()
        if self._tensors is not None:
            groups = self.model.variable_groups()
            del groups["metrics"]  # `fit` resets them next
            write_variables(groups, self._tensors)
            self.model.skip_steps(self.progress.step % self.progress.steps_per_epoch)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Puts the running metrics back, which `fit` has just reset."""
        if self._tensors is not None:
            if not self.progress.ends_epoch:
                write_variables({"metrics": self.model.metrics_variables}, self._tensors)
            self._tensors = None

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Saves, if it is time or a signal came."""
        if not logs:  # a step that was taken before the run was resumed
            return
        if self.progress.ends_epoch:  # saved after the evaluation that belongs to it
            return
        if self.progress.passed(self.every):
            self.save()
        self._stop_if_signalled(exchanges=self.progress.passed(STEPS_BETWEEN_VOTES))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Saves the finished epoch."""
        self.progress.epochs.append({name: float(value) for name, value in (logs or {}).items()})
        self.save()
        self._stop_if_signalled(exchanges=True)

    def save(self) -> None:
        """Saves the state of the run as it is."""
        self._take_time()
        tensors = read_variables(self.model.variable_groups())
        if is_chief(self.model.distribute_strategy):
            record = {"run": self.identity, "progress": dataclasses.asdict(self.progress)}
            save_state(self.directory, self.progress.step, tensors, record, self.keep)
        self.saved_step = self.progress.step

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Stops the clock."""
        self._take_time()

    def _take_time(self) -> None:
        self.progress.train_time_s = self._seconds_before + time.monotonic() - self._started_s

    @contextlib.contextmanager
    def watching_signals(self) -> Iterator[None]:
        """Lets the first SIGTERM or SIGINT end the run after a step, with its state saved."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python delivers signals to the main thread alone
            return

        def remember(number: int, handler_before: Any) -> None:
            self._signal = number
            signal.signal(number, handler_before)  # the second one ends it at once

        with handling_stop_signals(remember):
            yield

    def _stop_if_signalled(self, *, exchanges: bool) -> None:
        strategy = self.model.distribute_strategy
        if not exchanges and _has_workers(strategy):
            return  # all must stop after the same step
        number = meet_workers(strategy, self._signal)
        if not number:
            return
        if self.saved_step != self.progress.step:
            self.save()
        meet_workers(strategy)  # none may end before the chief has written
        raise InterruptedRunError(
            f"{signal.Signals(number).name} stopped the run after step {self.progress.step}; its "
            f"state is in {self.directory}. The same command resumes it.",
            number,
        )


def meet_workers(strategy: tf.distribute.Strategy, number: int = 0) -> int:
    """Waits for all workers, and returns the highest of their numbers."""
    if not _has_workers(strategy):
        return number
    return int(np.max(_meeting(strategy)(tf.constant(number))))


def _has_workers(strategy: tf.distribute.Strategy) -> bool:
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


@functools.cache
def _meeting(strategy: tf.distribute.Strategy) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the traced exchange of numbers; tracing takes as long as a step."""

    @tf.function(autograph=False)
    def exchange(number: tf.Tensor) -> tf.Tensor:
        brought = strategy.run(lambda value: tf.reshape(value, [1]), args=(number,))
        return strategy.gather(brought, axis=0)

    return exchange
