"""This package's `finetune`, from files to checkpoints, with all that it does on the way."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.workers.keras_steps import StepCallback
from benchmarks.workers.text import load_encoder
from benchmarks.workers.training import (
    COUNTED_BATCHES,
    AfterStep,
    Recipe,
    TrainingData,
    TrainingWorker,
)

LABELS = ("0", "1")
VALIDATION_ROWS = 32  # scored before the first step and at each epoch's end


class OursTraining(TrainingWorker):
    """A run that is never finished: its directory goes with the process."""

    def load(self, checkpoint: str, artefacts: str, threads: int, options: dict[str, Any]) -> None:
        """Sets the threads."""
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        self._checkpoint, self._dtype = checkpoint, options.get("dtype", "float32")

    def start(self, data: TrainingData, recipe: Recipe) -> float:
        """Writes the files of a task, and draws the batches that its first epoch will have."""
        from distilbert_tf import Task
        from distilbert_tf.data.sampler import EpochSampler

        self._recipe, self._rows = recipe, len(data.labels)
        self._directory = tempfile.TemporaryDirectory()
        names = ("text", "text_pair")[: len(data.columns)]
        self._task = Task("timed", names, ("label",), LABELS)
        rows = [
            {**dict(zip(names, texts, strict=True)), "label": LABELS[label]}
            for *texts, label in zip(*data.columns, data.labels, strict=True)
        ]
        for split, part in (("train", rows), ("dev", rows[:VALIDATION_ROWS])):
            lines = "".join(json.dumps(row) + "\n" for row in part)
            path = Path(self._directory.name) / f"{split}.jsonl"
            path.write_text(lines, encoding="utf-8")
        _, mask = load_encoder(self._checkpoint, recipe.max_length)(data.texts)
        lengths = mask.sum(axis=1)
        sampler = EpochSampler(lengths, (self._rows,), recipe.batch_size, recipe.seed)
        batches = sampler.batches(0)[:COUNTED_BATCHES]
        return float(np.mean([lengths[batch].max() for batch in batches]))

    def train(self, after_step: AfterStep) -> None:
        """Fine-tunes."""
        from distilbert_tf import finetune

        recipe = self._recipe
        steps_per_epoch = self._rows // recipe.batch_size
        epochs = -(-recipe.total_steps // steps_per_epoch)
        finetune(
            self._task,
            self._checkpoint,
            self._directory.name,
            Path(self._directory.name) / "run",
            callbacks=[StepCallback(after_step)],
            epochs=epochs,
            batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            warmup_ratio=recipe.warmup_steps / (epochs * steps_per_epoch),
            weight_decay=recipe.weight_decay,
            max_gradient_norm=recipe.max_gradient_norm,
            max_length=recipe.max_length,
            seed=recipe.seed,
            dtype=self._dtype,
        )


if __name__ == "__main__":
    OursTraining().serve()
