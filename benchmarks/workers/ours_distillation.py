"""The step that this package's `distill` takes."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.workers import distillation as published
from benchmarks.workers.distillation import STUDENT, TEACHER, WEIGHTS, Arrays, DistillationWorker


class OursDistillation(DistillationWorker):
    """`Distiller.train_step` in a `tf.function`, as `fit` runs it."""

    def load(self, checkpoint: str, artefacts: str, threads: int, options: dict[str, Any]) -> None:
        """Sets the threads."""
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        self._checkpoint, self._dtype = Path(checkpoint), options.get("dtype", "float32")

    def start(self, batches: list[Arrays], soft_targets_at: str) -> dict[str, float]:
        """Loads both models, and makes tensors of the batches."""
        from distilbert_tf.distillation.batches import BATCH_MASKED, BATCH_TOKENS, LABELS
        from distilbert_tf.distillation.distiller import Distiller
        from distilbert_tf.distillation.losses import LossWeights
        from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM
        from distilbert_tf.training.optimizer import AdamW

        teacher, student = (
            TFDistilBertForMaskedLM.from_pretrained(self._checkpoint / name, dtype=dtype)
            for name, dtype in (
                (TEACHER, self._dtype.removeprefix("mixed_")),
                (STUDENT, self._dtype),
            )
        )
        distiller = Distiller(
            student,
            teacher,
            LossWeights(**WEIGHTS),
            temperature=published.TEMPERATURE,
            soft_targets_at=soft_targets_at,  # type: ignore[arg-type]
        )
        distiller.compile(
            AdamW(
                published.LEARNING_RATE,
                beta_1=published.BETAS[0],
                beta_2=published.BETAS[1],
                epsilon=published.EPSILON,
                weight_decay=published.WEIGHT_DECAY,
                global_clipnorm=published.MAX_GRADIENT_NORM,
            )
        )
        self._batches = []
        for batch in batches:
            inputs = {key: tf.constant(batch[key]) for key in ("input_ids", "attention_mask")}
            tokens, masked = (batch[k] != v for k, v in (("attention_mask", 0), ("labels", -1)))
            counts = {
                name: tf.fill([len(kept)], float(np.sum(kept)))
                for name, kept in ((BATCH_TOKENS, tokens), (BATCH_MASKED, masked))
            }
            self._batches.append((inputs, {LABELS: tf.constant(batch["labels"]), **counts}))
        self._train_step = tf.function(distiller.train_step, reduce_retracing=True)
        logs = distiller.test_step(self._batches[0])
        losses = {name: float(logs[name]) for name in WEIGHTS}
        distiller.reset_metrics()
        return losses

    def step(self, number: int) -> float:
        """Trains."""
        return float(self._train_step(self._batches[number])["loss"])  # the mean so far


if __name__ == "__main__":
    OursDistillation().serve()
