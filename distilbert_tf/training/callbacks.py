"""Keras callbacks of a fine-tuning run.

They work with `MultiTaskModel`. Steps are counted over the whole run, from 1; `fit` counts those of
an epoch, from 0, and calls with the last one of each execution.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
from absl import logging
from transformers import PreTrainedTokenizerBase

from distilbert_tf.checkpoints.hub import SAFETENSORS
from distilbert_tf.checkpoints.tensor_files import read_tensors
from distilbert_tf.models.weight_names import load_tensors
from distilbert_tf.training.state import read_variables, write_variables
from distilbert_tf.training.strategy import is_chief

Logs = dict[str, Any]


class TrainingDivergedError(RuntimeError):
    """A run whose loss or gradients became infinite or NaN."""


class StepCounter(keras.callbacks.Callback):
    """Knows where a run stands. The other callbacks come after it, and ask it.

    Args:
        steps_per_epoch: Steps in an epoch.

    Attributes:
        step: Steps taken.
        current: The step being taken: the first one of an execution of several.
    """

    def __init__(self, steps_per_epoch: int) -> None:
        super().__init__()
        self.steps_per_epoch = steps_per_epoch
        self.epoch = self.step = self.current = 0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Begins an epoch."""
        self.epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Begins a step."""
        self.current = self.epoch * self.steps_per_epoch + batch + 1

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Counts the steps of an execution."""
        self.step = self.epoch * self.steps_per_epoch + batch + 1

    @property
    def ends_epoch(self) -> bool:
        """Whether no step of an epoch is left."""
        return self.step % self.steps_per_epoch == 0

    def passed(self, every: int) -> bool:
        """Whether a multiple of so many steps is among those of the last execution."""
        return self.step // every > (self.current - 1) // every


class SaveBest(keras.callbacks.Callback):
    """Keeps the checkpoint of the best evaluation, on disk and, at the end, in the model.

    Every improvement is saved at once, so a run that is stopped leaves its best so far.

    Args:
        directories: For each task, where its classifier and tokenizer go.
        tokenizer: The model's tokenizer.
        score: Gives the score, higher is better, of an evaluation's logs (without `val_`).
        counter: Knows the step.
        patience: After how many evaluations without a better score the run ends; never if None.

    Attributes:
        best: The best evaluation so far: `score`, `epoch` (counted from 1) and `step`.
        evaluations: All of them, the same and their logs.
    """

    def __init__(
        self,
        directories: Mapping[str, Path],
        tokenizer: PreTrainedTokenizerBase,
        score: Callable[[Mapping[str, float]], float],
        counter: StepCounter,
        patience: int | None = None,
    ) -> None:
        super().__init__()
        self.directories, self.tokenizer, self.score = dict(directories), tokenizer, score
        self.counter, self.patience = counter, patience
        self.evaluations: list[dict[str, Any]] = []

    @property
    def best(self) -> dict[str, Any] | None:
        """The first of the evaluations with the best score; None before the first."""
        return max(self.evaluations, key=lambda found: found["score"], default=None)

    @property
    def is_over(self) -> bool:
        """Whether patience has run out."""
        if self.patience is None or self.best is None:
            return False
        return len(self.evaluations) - 1 - self.evaluations.index(self.best) >= self.patience

    def add(self, logs: Mapping[str, float]) -> None:
        """Takes an evaluation of the model as it is, and saves the model if it is the best."""
        found = {
            "score": float(self.score(logs)),
            "epoch": self.counter.epoch + 1,
            "step": self.counter.step,
            **{name: float(value) for name, value in logs.items()},
        }
        self.evaluations.append(found)
        if self.best is found:
            if is_chief(self.model.distribute_strategy):
                for name, directory in self.directories.items():
                    self.tokenizer.save_pretrained(directory)
                    self.model.classifiers[name].save_pretrained(directory)
        elif self.is_over:
            logging.info("No better score in %d evaluations: the run ends early.", self.patience)
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Takes the evaluation that `fit` made."""
        found = {
            name.removeprefix("val_"): value
            for name, value in (logs or {}).items()
            if name.startswith("val_")
        }
        self.add(found)

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Puts the best weights back, if a later evaluation was worse."""
        if self.best is not None and self.best is not self.evaluations[-1]:
            for name, directory in self.directories.items():
                path = directory / SAFETENSORS
                load_tensors(self.model.classifiers[name], read_tensors(path), where=str(path))


class EvaluateWithin(keras.callbacks.Callback):
    """Evaluates every so many steps within epochs.

    Args:
        every: Steps between two evaluations.
        evaluate: Evaluates the model, and gives the results by name.
        counter: Knows the step.
        best: Is told the results.
    """

    def __init__(
        self,
        every: int,
        evaluate: Callable[[], Mapping[str, float]],
        counter: StepCounter,
        best: SaveBest,
    ) -> None:
        super().__init__()
        self.every, self.evaluate, self.counter, self.best = every, evaluate, counter, best

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Evaluates, if it is time; at the end of an epoch `fit` does."""
        if not logs or self.counter.ends_epoch or not self.counter.passed(self.every):
            return
        with _keeping_metrics(self.model):
            results = self.evaluate()
        shown = ", ".join(f"{name} {value:.4f}" for name, value in results.items())
        logging.info("step %d: %s", self.counter.step, shown)
        self.best.add(results)


@contextlib.contextmanager
def _keeping_metrics(model: keras.Model) -> Iterator[None]:
    """Puts the running metrics of an epoch back, which an evaluation starts anew."""
    groups = {"metrics": model.metrics_variables}
    before = read_variables(groups)
    yield
    write_variables(groups, before)


class LossCurve(keras.callbacks.Callback):
    """Keeps the training loss, at some 200 points of a run.

    Args:
        counter: Knows the step.
        epochs: How many epochs the run has.

    Attributes:
        points: Pairs of a step and the mean loss up to it since the pair before, or since the
            epoch's beginning.
    """

    def __init__(self, counter: StepCounter, epochs: int) -> None:
        super().__init__()
        self.counter = counter
        self.every = max(1, epochs * counter.steps_per_epoch // 200)
        self.points: list[tuple[int, float]] = []
        self._sum, self._steps = 0.0, 0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Starts anew, as Keras' running mean does."""
        self._sum, self._steps = 0.0, 0

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Takes the loss, if it is time."""
        if not logs or not self.counter.passed(self.every):
            return
        total = float(logs["loss"]) * (batch + 1)
        mean = (total - self._sum) / (batch + 1 - self._steps)
        self.points.append((self.counter.step, mean))
        self._sum, self._steps = total, batch + 1


class ProgressLog(keras.callbacks.Callback):
    """Progress as log lines, for runs whose output is a file and cannot show Keras' bar.

    Args:
        counter: Knows the step.
        batch_size: Rows of a step.
        interval_s: Seconds between two lines.
    """

    def __init__(self, counter: StepCounter, batch_size: int, interval_s: float = 30.0) -> None:
        super().__init__()
        self.counter, self.batch_size, self.interval_s = counter, batch_size, interval_s
        self.logged_s = time.monotonic()
        self.started_s: float | None = None
        self.first_step = 0

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Logs step, rate, loss and time left, if the last line is old enough."""
        now_s = time.monotonic()
        if not logs:
            return
        if self.started_s is None:  # tracing is over
            self.started_s, self.first_step = now_s, self.counter.step
        if now_s - self.logged_s < self.interval_s or self.counter.step == self.first_step:
            return
        self.logged_s = now_s
        step, steps_per_epoch = self.counter.step, self.counter.steps_per_epoch
        epochs = self.params["epochs"]
        rate = (step - self.first_step) / (now_s - self.started_s)
        left_s = (epochs * steps_per_epoch - step) / rate
        logging.info(
            "epoch %d/%d, step %d/%d, %.1f examples/s, loss %.4f, %s left",
            self.counter.epoch + 1,
            epochs,
            batch + 1,
            steps_per_epoch,
            rate * self.batch_size,
            float(logs["loss"]),
            format_duration(left_s),
        )


def format_duration(seconds: float) -> str:
    """Writes seconds as people do: `"2 h 05 min"`, `"3 min 20 s"`, `"41 s"`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    if whole >= 60:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole} s"
