"""The worker's side of distillation.py: steps of a distillation on batches that are given."""

import time
from typing import Any

import numpy as np

from benchmarks.workers.protocol import Channel, peak_memory_mib, serve, versions

TEACHER, STUDENT = "teacher", "student"  # folders of the checkpoint
# The published recipe.
TEMPERATURE, WEIGHTS = 2.0, {"soft_targets": 5.0, "masked_lm": 2.0, "cosine": 1.0}
LEARNING_RATE, BETAS, EPSILON, WEIGHT_DECAY, MAX_GRADIENT_NORM = 5e-4, (0.9, 0.98), 1e-6, 0.0, 5.0

Arrays = dict[str, np.ndarray]


class DistillationWorker:
    """What distillation.py asks of a peer. A subclass implements `load`, `start` and `step`.

    A batch has `input_ids`, `attention_mask` and `labels`, int32 (B, T); a label is -1 where masked
    LM does not ask.
    """

    def load(self, checkpoint: str, artefacts: str, threads: int, options: dict[str, Any]) -> None:
        """Notes where things are; see `InferenceWorker.load`."""
        raise NotImplementedError

    def start(self, batches: list[Arrays], soft_targets_at: str) -> dict[str, float]:
        """Makes models and optimizer anew.

        Args:
            batches: What `step` is given by number.
            soft_targets_at: "masked" or "all".

        Returns:
            The losses of the first batch without dropout, by name: see `WEIGHTS`.
        """
        raise NotImplementedError

    def step(self, number: int) -> float:
        """Takes a step on a batch, and returns its loss."""
        raise NotImplementedError

    def handle_load(self, **arguments: Any) -> dict[str, str]:
        """Answers `load` with the versions at work."""
        self.load(**arguments)
        return versions()

    def handle_start(self, path: str, soft_targets_at: str) -> dict[str, float]:
        """Reads the batches: arrays named `input_ids.0` and so on in an .npz file."""
        batches: dict[str, Arrays] = {}
        with np.load(path) as file:
            for key, array in file.items():
                name, _, number = key.partition(".")
                batches.setdefault(number, {})[name] = array
        self._count, self._next = len(batches), 0
        return self.start(list(batches.values()), soft_targets_at)

    def handle_block(self, steps: int) -> dict[str, list[float]]:
        """Takes some steps, on one batch after the other: seconds and loss of each."""
        times_s, losses = [], []
        for _ in range(steps):
            start_s = time.perf_counter()
            losses.append(self.step(self._next))
            times_s.append(time.perf_counter() - start_s)
            self._next = (self._next + 1) % self._count
        return {"times_s": times_s, "losses": losses}

    def serve(self) -> None:
        """Answers the parent's requests."""
        serve(
            {
                "load": self.handle_load,
                "start": self.handle_start,
                "block": self.handle_block,
                "memory": peak_memory_mib,
            },
            Channel(),
        )
