"""`fit` of Hugging Face's last TensorFlow DistilBERT, from rows tokenized beforehand."""

import os
from typing import Any

import tensorflow as tf
import tf_keras

from benchmarks.workers.text import load_tokenizer
from benchmarks.workers.training import (
    COUNTED_BATCHES,
    AfterStep,
    Recipe,
    TrainingData,
    TrainingWorker,
    padded_tokens_per_example,
)
from benchmarks.workers.transformers4 import convert


class StepCallback(tf_keras.callbacks.Callback):
    """Reports every step of a `fit`."""

    def __init__(self, after_step: AfterStep) -> None:
        super().__init__()
        self._after_step = after_step

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Reports the step with Keras' running loss."""
        self._after_step(float((logs or {})["loss"]))


class Transformers4Training(TrainingWorker):
    """Random batches, padded to their longest row by `padded_batch`."""

    def prepare(self, checkpoint: str, artefacts: str, options: dict[str, Any]) -> None:
        """Converts the weights."""
        convert(checkpoint, os.path.join(artefacts, "model"))

    def load(self, checkpoint: str, artefacts: str, threads: int, options: dict[str, Any]) -> None:
        """Sets the threads."""
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        self._checkpoint, self._artefacts = checkpoint, artefacts

    def start(self, data: TrainingData, recipe: Recipe) -> float:
        """Tokenizes everything, loads and compiles the model, and makes the pipeline."""
        from transformers import TFDistilBertForSequenceClassification, create_optimizer

        tf_keras.utils.set_random_seed(recipe.seed)
        tokenizer = load_tokenizer(self._checkpoint, recipe.max_length)
        tokenizer.no_padding()
        texts = [tuple(t) if isinstance(t, list) else t for t in data.texts]
        rows = tf.ragged.constant([row.ids for row in tokenizer.encode_batch(texts)], tf.int32)
        self._model = TFDistilBertForSequenceClassification.from_pretrained(
            os.path.join(self._artefacts, "model")
        )
        optimizer, _ = create_optimizer(
            recipe.learning_rate,
            recipe.total_steps,
            recipe.warmup_steps,
            weight_decay_rate=recipe.weight_decay,
            adam_global_clipnorm=recipe.max_gradient_norm,
        )
        self._model.compile(
            optimizer=optimizer,
            loss=tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        self._batches = (
            tf.data.Dataset.from_tensor_slices((rows, data.labels))
            .shuffle(len(data.labels), seed=recipe.seed)
            .repeat()
            .map(
                lambda ids, label: (
                    {"input_ids": ids, "attention_mask": tf.ones_like(ids)},
                    label,
                )
            )
            .padded_batch(recipe.batch_size)
            .prefetch(tf.data.AUTOTUNE)
        )
        self._total_steps = recipe.total_steps
        masks = [x["attention_mask"] for x, _ in self._batches.take(COUNTED_BATCHES)]
        return padded_tokens_per_example(masks)

    def train(self, after_step: AfterStep) -> None:
        """Fits."""
        self._model.fit(
            self._batches,
            steps_per_epoch=self._total_steps,
            verbose=0,
            callbacks=[StepCallback(after_step)],
        )


if __name__ == "__main__":
    Transformers4Training().serve()
