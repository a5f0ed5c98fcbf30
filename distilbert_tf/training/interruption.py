"""A run's state, saved as it goes and when the run is told to stop, and gone on from.

`state` knows the files; this is the part that lives inside `fit`.
"""

import contextlib
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
from distilbert_tf.training.callbacks import Logs, LossCurve, SaveBest, StepCounter
from distilbert_tf.training.state import read_variables, save_state, write_variables
from distilbert_tf.training.stop_signals import stop_signals
from distilbert_tf.training.strategy import is_chief

STEPS_BETWEEN_VOTES = 10  # how often several workers ask each other whether one was told to stop


class InterruptedRunError(RuntimeError):
    """A run that was told to stop, and has saved its state.

    Attributes:
        signal_number: The signal that told it, such as SIGTERM's.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class SaveState(keras.callbacks.Callback):
    """Saves the state of the run every so many steps, at each epoch's end, and when told to stop.

    The chief writes; other workers take part, since reading the metrics needs all of them.

    Args:
        directory: Where states go.
        counter: Knows the step.
        best: Its evaluations are part of the state.
        curve: So are its points.
        every: Steps between two states.
        keep: How many states to keep.
        run: Goes into every record: what tells this run from others.
        restored: The state to go on from, if there is one.

    Attributes:
        train_time_s: Seconds of training, evaluations included: of this process, and of earlier
            ones up to the state that was gone on from.
    """

    def __init__(
        self,
        directory: Path,
        counter: StepCounter,
        best: SaveBest,
        curve: LossCurve,
        *,
        every: int,
        keep: int,
        run: Mapping[str, Any],
        restored: tuple[Tensors, dict[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.directory, self.counter, self.best, self.curve = directory, counter, best, curve
        self.every, self.keep, self.run = every, keep, dict(run)
        self.epochs: list[dict[str, float]] = []
        self.seconds_before = 0.0
        self._tensors: Tensors | None = None
        self._signal = 0
        if restored is not None:
            self._tensors, record = restored
            self.epochs, self.seconds_before = record["epochs"], record["seconds"]
            best.evaluations = record["evaluations"]
            curve.points = record["curve"]
            counter.step = record["step"]
        self.saved_step = counter.step
        self.train_time_s = self.seconds_before

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Puts the model's and the optimizer's variables back."""
        self.started_s = time.monotonic()
        if self._tensors is not None:
            groups = _variable_groups(self.model)
            del groups["metrics"]  # `fit` sets them to zero next
            write_variables(groups, self._tensors)
            self.model.skip_steps(self.counter.step % self.counter.steps_per_epoch)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Puts the running metrics back, which `fit` has just set to zero."""
        if self._tensors is not None:
            if not self.counter.ends_epoch:
                write_variables({"metrics": self.model.metrics_variables}, self._tensors)
            self._tensors = None

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Saves, if it is time or the run was told to stop."""
        if not logs:  # a step that was taken before the run was resumed
            return
        if self.counter.ends_epoch:  # saved after the evaluation that belongs to it
            return
        if self.counter.passed(self.every):
            self.save()
        self._stop_if_told(asks_others=self.counter.passed(STEPS_BETWEEN_VOTES))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Saves the finished epoch."""
        self.epochs.append({name: float(value) for name, value in (logs or {}).items()})
        self.save()
        self._stop_if_told(asks_others=True)

    def save(self) -> None:
        """Saves the state of the run as it is."""
        self._take_time()
        tensors = read_variables(_variable_groups(self.model))
        record = {
            "run": self.run,
            "step": self.counter.step,
            "seconds": self.train_time_s,
            "epochs": self.epochs,
            "evaluations": self.best.evaluations,
            "curve": self.curve.points,
        }
        if is_chief(self.model.distribute_strategy):
            save_state(self.directory, self.counter.step, tensors, record, self.keep)
        self.saved_step = self.counter.step

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Stops the clock."""
        self._take_time()

    def _take_time(self) -> None:
        self.train_time_s = self.seconds_before + time.monotonic() - self.started_s

    @contextlib.contextmanager
    def watching_signals(self) -> Iterator[None]:
        """Lets the first of the `stop_signals` end the run after a step, with its state saved."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python delivers signals to the main thread alone
            return
        before = {number: signal.getsignal(number) for number in stop_signals()}

        def remember(number: int, frame: Any) -> None:
            self._signal = number
            signal.signal(number, before[signal.Signals(number)])  # the second one ends it at once

        for number in before:
            signal.signal(number, remember)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop_if_told(self, *, asks_others: bool) -> None:
        strategy = self.model.distribute_strategy
        if not asks_others and _has_workers(strategy):
            return  # all stop after one and the same step
        number = meet_workers(strategy, self._signal)
        if not number:
            return
        if self.saved_step != self.counter.step:
            self.save()
        meet_workers(strategy)  # none may end before the chief has written
        raise InterruptedRunError(
            f"{signal.Signals(number).name} stopped the run after step {self.counter.step}; its "
            f"state is in {self.directory}. The same command goes on from there.",
            number,
        )


def meet_workers(strategy: tf.distribute.Strategy, number: int = 0) -> int:
    """Waits until all workers are here, and gives the highest of the numbers that they bring."""
    if not _has_workers(strategy):
        return number
    return int(np.max(_meeting(strategy)(tf.constant(number))))


def _has_workers(strategy: tf.distribute.Strategy) -> bool:
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


@functools.cache
def _meeting(strategy: tf.distribute.Strategy) -> Callable[[tf.Tensor], tf.Tensor]:
    """Traces the exchange of numbers once: each time anew, it would take as long as a step."""

    @tf.function(autograph=False)
    def exchange(number: tf.Tensor) -> tf.Tensor:
        brought = strategy.run(lambda value: tf.reshape(value, [1]), args=(number,))
        return strategy.gather(brought, axis=0)

    return exchange


def _variable_groups(model: keras.Model) -> dict[str, list[keras.Variable]]:
    """Lists all that a training changes."""
    return {
        "model": model.variables,
        "optimizer": model.optimizer.variables,
        "metrics": model.metrics_variables,
    }
