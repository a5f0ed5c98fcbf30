"""The worker's side of training.py: a training that runs in blocks of steps, when asked.

A framework's own loop (`model.fit`) cannot be called step by step, so it runs in a thread, and
waits between blocks.
"""

import json
import os
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.workers.protocol import Channel, peak_memory_mib, serve, versions

AfterStep = Callable[[float], None]
COUNTED_BATCHES = 100  # enough to know how much padding there is
SPARE_STEPS = 1000  # so that no schedule ends while it is timed


@dataclass(frozen=True)
class Recipe:
    """The hyper-parameters that everybody trains with.

    Attributes:
        batch_size: Rows per step.
        max_length: Longest row in tokens.
        total_steps: Steps of the schedule.
        warmup_steps: Steps with a rising rate.
        learning_rate: Peak.
        weight_decay: Decoupled; none on LayerNorm and biases.
        max_gradient_norm: Gradients are clipped to this global norm.
        seed: Of shuffles and dropout.
    """

    batch_size: int
    max_length: int
    total_steps: int
    warmup_steps: int
    learning_rate: float
    weight_decay: float
    max_gradient_norm: float
    seed: int


def make_recipe(steps: int, batch_size: int = 32, max_length: int = 128) -> Recipe:
    """Sets the hyper-parameters: those of `distilbert-tf finetune` where it has them.

    Args:
        steps: How many will be taken, all of them with a rising rate.
        batch_size: Rows per step.
        max_length: Longest row in tokens.
    """
    return Recipe(
        batch_size=batch_size,
        max_length=max_length,
        total_steps=steps + SPARE_STEPS,
        warmup_steps=steps,
        learning_rate=5e-5,
        weight_decay=0.01,
        max_gradient_norm=1.0,
        seed=42,
    )


@dataclass(frozen=True)
class TrainingData:
    """Labelled texts, a whole number of batches.

    Attributes:
        columns: One or two lists of N strings.
        labels: N label ids.
    """

    columns: list[list[str]]
    labels: list[int]

    @property
    def texts(self) -> list[Any]:
        """N strings, or N pairs of them."""
        if len(self.columns) == 1:
            return self.columns[0]
        return [list(pair) for pair in zip(*self.columns, strict=True)]


class TrainingWorker:
    """What training.py asks of a peer. A subclass implements `load`, `start` and `train`."""

    def __init__(self) -> None:
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._steps_left, self._start_s, self._time_s, self._loss = 0, 0.0, 0.0, 0.0
        self._error = ""
        self._thread = threading.Thread(target=self._run, daemon=True)

    def prepare(self, checkpoint: str, artefacts: str, options: dict[str, Any]) -> None:
        """Converts a checkpoint. Nothing by default."""

    def load(self, checkpoint: str, artefacts: str, threads: int, options: dict[str, Any]) -> None:
        """Notes where things are; see `InferenceWorker.load`."""
        raise NotImplementedError

    def start(self, data: TrainingData, recipe: Recipe) -> float:
        """Makes model, optimizer and batches.

        Returns:
            Tokens per example that the model computes, padding included.
        """
        raise NotImplementedError

    def train(self, after_step: AfterStep) -> None:
        """Trains without end, and calls `after_step` after each step.

        Its argument is the mean loss of all steps so far, which shows that everybody learns.
        """
        raise NotImplementedError

    def _run(self) -> None:
        try:
            self._wait()
            self.train(self._after_step)
            raise RuntimeError("the training ended before it was told to")
        except BaseException:
            self._error = traceback.format_exc(limit=-6)
            self._done.release()

    def _wait(self) -> None:
        self._go.acquire()
        self._start_s = time.perf_counter()

    def _after_step(self, loss: float) -> None:
        self._loss = float(loss)  # waits for the step, where steps are queued
        self._steps_left -= 1
        if self._steps_left == 0:
            self._time_s = time.perf_counter() - self._start_s
            self._done.release()
            self._wait()

    def handle_load(self, **arguments: Any) -> dict[str, str]:
        """Answers `load` with the versions at work."""
        self.load(**arguments)
        return versions()

    def handle_start(self, path: str, recipe: dict[str, Any]) -> float:
        """Reads the examples, `columns` and `labels` in a JSON file, and gets ready."""
        with open(path, encoding="utf-8") as file:
            data = TrainingData(**json.load(file))
        return self.start(data, Recipe(**recipe))

    def handle_block(self, steps: int) -> dict[str, float]:
        """Runs some steps: their time in seconds, and the mean loss of all so far."""
        if not self._thread.is_alive() and not self._error:
            self._thread.start()
        self._steps_left = steps
        self._go.release()
        self._done.acquire()
        if self._error:
            raise RuntimeError(self._error)
        return {"time_s": self._time_s, "loss": self._loss}

    def serve(self) -> None:
        """Answers the parent's requests."""
        serve(
            {
                "prepare": self.prepare,
                "load": self.handle_load,
                "start": self.handle_start,
                "block": self.handle_block,
                "memory": peak_memory_mib,
            },
            Channel(),
        )
        os._exit(0)  # the training waits in its thread, and would wait for ever


def padded_tokens_per_example(masks: list[Any]) -> float:
    """Returns the mean number of columns of an example's batch, from masks (B, T)."""
    return sum(mask.shape[0] * mask.shape[1] for mask in masks) / sum(m.shape[0] for m in masks)
