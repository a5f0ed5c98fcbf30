"""Keras callbacks of a run. They work with a `TrainerModel`, and share a `Progress`."""

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
from distilbert_tf.training.state import Progress, read_variables, write_variables
from distilbert_tf.training.strategy import is_chief

Logs = dict[str, Any]


class CountSteps(keras.callbacks.Callback):
    """Counts the steps of a run. The other callbacks come after it.

    Args:
        progress: Counts the steps.
    """

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self.progress = progress

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Counts the steps of an execution, unless they were taken before the run was resumed."""
        if logs:
            self.progress.advance(batch)


class SaveBest(keras.callbacks.Callback):
    """Keeps the models of the best evaluation, on disk and, at the end, in memory.

    Every improvement is saved at once, so a run that is stopped leaves its best so far.

    Args:
        directories: Where each of the trainer's models and its tokenizer go.
        tokenizer: The models' tokenizer.
        score: Returns the score, higher is better, of an evaluation's logs (without `val_`).
        progress: Receives the evaluations.
        patience: Evaluations without a better score after which the run stops; never if None.
    """

    def __init__(
        self,
        directories: Mapping[str, Path],
        tokenizer: PreTrainedTokenizerBase,
        score: Callable[[Mapping[str, float]], float],
        progress: Progress,
        patience: int | None = None,
    ) -> None:
        super().__init__()
        self.directories, self.tokenizer, self.score = dict(directories), tokenizer, score
        self.progress, self.patience = progress, patience

    def add(self, logs: Mapping[str, float]) -> None:
        """Takes an evaluation of the models as they are, and saves them if they are the best."""
        found = {
            "score": float(self.score(logs)),
            "epoch": self.progress.epoch,
            "step": self.progress.step,
            **{name: float(value) for name, value in logs.items()},
        }
        self.progress.evaluations.append(found)
        if self.progress.best is found:
            if is_chief(self.model.distribute_strategy):
                for name, model in self.model.pretrained_models().items():
                    self.tokenizer.save_pretrained(self.directories[name])
                    model.save_pretrained(self.directories[name])
        elif self.progress.is_out_of_patience(self.patience):
            logging.info("No better score in %d evaluations: stopping early.", self.patience)
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Takes the evaluation that `fit` made."""
        self.add(
            {
                name.removeprefix("val_"): value
                for name, value in (logs or {}).items()
                if name.startswith("val_")
            }
        )

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Puts the best weights back, whatever later steps and other callbacks have changed."""
        if self.progress.best is not None:
            for name, model in self.model.pretrained_models().items():
                path = self.directories[name] / SAFETENSORS
                load_tensors(model, read_tensors(path), where=str(path))


class EvaluateWithin(keras.callbacks.Callback):
    """Evaluates every few steps within epochs.

    Args:
        every: Steps between two evaluations.
        evaluate: Evaluates the model, and returns the results by name.
        best: Receives the results.
    """

    def __init__(
        self, every: int, evaluate: Callable[[], Mapping[str, float]], best: SaveBest
    ) -> None:
        super().__init__()
        self.every, self.evaluate, self.best = every, evaluate, best

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Evaluates, if it is time; at the end of an epoch `fit` does."""
        progress = self.best.progress
        if not logs or progress.ends_epoch or not progress.passed(self.every):
            return
        with _keeping_metrics(self.model):
            results = self.evaluate()
        shown = ", ".join(f"{name} {value:.4f}" for name, value in results.items())
        logging.info("step %d: %s", progress.step, shown)
        self.best.add(results)


@contextlib.contextmanager
def _keeping_metrics(model: keras.Model) -> Iterator[None]:
    """Puts back the running metrics of an epoch, which an evaluation resets."""
    groups = {"metrics": model.metrics_variables}
    before = read_variables(groups)
    yield
    write_variables(groups, before)


class LossCurve(keras.callbacks.Callback):
    """Keeps the training loss, at some 200 points of a run.

    A point is the mean loss since the one before, or since the epoch's beginning.

    Args:
        progress: Receives the losses.
        epochs: How many epochs the run has.
    """

    def __init__(self, progress: Progress, epochs: int) -> None:
        super().__init__()
        self.progress = progress
        self.every = max(1, epochs * progress.steps_per_epoch // 200)
        self._sum, self._steps = 0.0, 0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Starts over, as Keras' running mean does."""
        self._sum, self._steps = 0.0, 0

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Takes the loss, if it is time."""
        if not logs or not self.progress.passed(self.every):
            return
        total = float(logs["loss"]) * (batch + 1)
        mean = (total - self._sum) / (batch + 1 - self._steps)
        self.progress.losses.append((self.progress.step, mean))
        self._sum, self._steps = total, batch + 1


class ProgressLog(keras.callbacks.Callback):
    """Logs progress as lines, for runs whose output is a file and cannot show Keras' bar.

    Args:
        progress: That of the run.
        batch_size: Rows of a step.
        interval_s: Seconds between two lines.
    """

    def __init__(self, progress: Progress, batch_size: int, interval_s: float = 30.0) -> None:
        super().__init__()
        self.progress, self.batch_size, self.interval_s = progress, batch_size, interval_s
        self.logged_s = time.monotonic()
        self.started_s: float | None = None
        self.first_step = 0

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Logs step, rate, loss and time left, if the last line is old enough."""
        now_s, step = time.monotonic(), self.progress.step
        if not logs:
            return
        if self.started_s is None:  # tracing is over
            self.started_s, self.first_step = now_s, step
        if now_s - self.logged_s < self.interval_s or step == self.first_step:
            return
        self.logged_s = now_s
        epochs, steps_per_epoch = self.params["epochs"], self.progress.steps_per_epoch
        rate = (step - self.first_step) / (now_s - self.started_s)
        logging.info(
            "epoch %d/%d, step %d/%d, %.1f examples/s, loss %.4f, %s left",
            self.progress.epoch,
            epochs,
            batch + 1,
            steps_per_epoch,
            rate * self.batch_size,
            float(logs["loss"]),
            format_duration((epochs * steps_per_epoch - step) / rate),
        )


def format_duration(seconds: float) -> str:
    """Returns a duration as people write it: `"2 h 05 min"`, `"3 min 20 s"`, `"41 s"`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    if whole >= 60:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole} s"
