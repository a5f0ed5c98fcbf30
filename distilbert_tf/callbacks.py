"""Keras callbacks of a fine-tuning run."""

import math
import time
from pathlib import Path
from typing import Any

import keras
from absl import logging
from transformers import PreTrainedTokenizerBase

from distilbert_tf.checkpoint import load_tensors
from distilbert_tf.checkpoint_files import read_tensors
from distilbert_tf.hub import SAFETENSORS


class TrainingDivergedError(RuntimeError):
    """A run whose loss became infinite or NaN."""


class SaveBest(keras.callbacks.Callback):
    """Keeps the checkpoint of the best epoch, on disk and, at the end, in the model.

    Every improvement is saved at once, so a run that is stopped leaves its best epoch so far.

    Args:
        directory: Where the checkpoint and its tokenizer go.
        tokenizer: The model's tokenizer.
        monitor: Name of the metric, higher is better.

    Attributes:
        best: The best value so far.
        best_epoch: Its epoch, counted from 1; 0 before the first.

    Raises:
        TrainingDivergedError: At the end of an epoch whose loss is not finite.
    """

    def __init__(
        self,
        directory: Path,
        tokenizer: PreTrainedTokenizerBase,
        monitor: str = "val_accuracy",
    ) -> None:
        super().__init__()
        self.directory, self.tokenizer, self.monitor = directory, tokenizer, monitor
        self.best, self.best_epoch, self.last_epoch = float("-inf"), 0, 0

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Saves if the metric improved."""
        logs = logs or {}
        if not math.isfinite(logs["loss"]):
            raise TrainingDivergedError(
                f"The loss of epoch {epoch + 1} is {logs['loss']}: the training diverged. Try a "
                "lower learning rate. "
                + (
                    f"{self.directory} keeps epoch {self.best_epoch}."
                    if self.best_epoch
                    else "Nothing was saved."
                )
            )
        self.last_epoch = epoch + 1
        if logs[self.monitor] > self.best:
            self.best, self.best_epoch = logs[self.monitor], epoch + 1
            self.tokenizer.save_pretrained(self.directory)
            self.model.save_pretrained(self.directory)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Puts the best epoch's weights back, if a later epoch was worse."""
        if 0 < self.best_epoch < self.last_epoch:
            path = self.directory / SAFETENSORS
            load_tensors(self.model, read_tensors(path), where=str(path))


class ProgressLog(keras.callbacks.Callback):
    """Progress as log lines, for runs whose output is a file and cannot show Keras' bar.

    Args:
        interval_s: Seconds between two lines.
    """

    def __init__(self, interval_s: float = 30.0) -> None:
        super().__init__()
        self.interval_s = interval_s

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the clock."""
        self.epoch = epoch + 1
        self.started_s = self.logged_s = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Logs step, rate, loss and time left, if the last line is old enough."""
        now_s = time.monotonic()
        if now_s - self.logged_s < self.interval_s:
            return
        self.logged_s = now_s
        step, steps = batch + 1, self.params["steps"]
        rate = step / (now_s - self.started_s)
        logging.info(
            "epoch %d/%d, step %d/%d, %.2f steps/s, loss %.4f, %.0f s left in this epoch",
            self.epoch,
            self.params["epochs"],
            step,
            steps,
            rate,
            (logs or {}).get("loss", float("nan")),
            (steps - step) / rate,
        )
