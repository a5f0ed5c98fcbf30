"""KerasHub's `fit` on strings, with its own preprocessor (every row padded to the maximum)."""

import os
from typing import Any

import keras
import tensorflow as tf

from benchmarks.workers.keras_hub import load_classifier
from benchmarks.workers.keras_steps import StepCallback
from benchmarks.workers.training import AfterStep, Recipe, TrainingData, TrainingWorker
from distilbert_tf.training.optimizer import WarmupSchedule


def make_preprocessor(checkpoint: str, max_length: int) -> Any:
    """Builds KerasHub's preprocessor with a checkpoint's vocabulary."""
    import keras_nlp

    tokenizer = keras_nlp.models.DistilBertTokenizer(
        os.path.join(checkpoint, "vocab.txt"), lowercase=True
    )
    return keras_nlp.models.DistilBertTextClassifierPreprocessor(
        tokenizer, sequence_length=max_length
    )


class KerasHubTraining(TrainingWorker):
    """`jit_compile` is left to Keras, as its guides do."""

    def load(self, checkpoint: str, artefacts: str, threads: int, options: dict[str, Any]) -> None:
        """Sets the threads."""
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        self._checkpoint = checkpoint

    def start(self, data: TrainingData, recipe: Recipe) -> float:
        """Loads and compiles the model, and makes the pipeline."""
        keras.utils.set_random_seed(recipe.seed)
        preprocessor = make_preprocessor(self._checkpoint, recipe.max_length)
        self._model = load_classifier(self._checkpoint, preprocessor=preprocessor)
        optimizer = keras.optimizers.AdamW(
            WarmupSchedule(recipe.learning_rate, recipe.total_steps, recipe.warmup_steps),
            weight_decay=recipe.weight_decay,
            global_clipnorm=recipe.max_gradient_norm,
            epsilon=1e-8,
        )
        optimizer.exclude_from_weight_decay(var_names=["layer_norm", "bias"])
        self._model.compile(
            optimizer=optimizer,
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        columns = tuple(data.columns) if len(data.columns) > 1 else data.columns[0]
        self._batches = (
            tf.data.Dataset.from_tensor_slices((columns, data.labels))
            .shuffle(len(data.labels), seed=recipe.seed)
            .repeat()
            .batch(recipe.batch_size)
            .prefetch(tf.data.AUTOTUNE)
        )
        self._total_steps = recipe.total_steps
        return float(recipe.max_length)

    def train(self, after_step: AfterStep) -> None:
        """Fits."""
        self._model.fit(
            self._batches,
            steps_per_epoch=self._total_steps,
            verbose=0,
            callbacks=[StepCallback(after_step)],
        )


if __name__ == "__main__":
    KerasHubTraining().serve()
