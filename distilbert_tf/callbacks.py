"""Keras callbacks of a fine-tuning run."""

import time
from pathlib import Path
from typing import Any

import keras
from absl import logging

from distilbert_tf.checkpoint import load_tensors
from distilbert_tf.checkpoint_files import read_tensors
from distilbert_tf.hub import SAFETENSORS


class SaveBest(keras.callbacks.Callback):
    """Keeps the checkpoint of the best epoch, on disk and, at the end, in the model.

    Every improvement is saved at once, so a run that is stopped leaves its best epoch so far.

    Args:
        directory: Where `save_pretrained` writes.
        monitor: Name of the metric, higher is better.

    Attributes:
        best: The best value so far.
        best_epoch: Its epoch, counted from 1; 0 before the first.
    """

    def __init__(self, directory: Path, monitor: str = "val_accuracy") -> None:
        super().__init__()
        self.directory, self.monitor = directory, monitor
        self.best, self.best_epoch, self.last_epoch = float("-inf"), 0, 0

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Saves if the metric improved."""
        self.last_epoch = epoch + 1
        if (value := (logs or {})[self.monitor]) > self.best:
            self.best, self.best_epoch = value, epoch + 1
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
