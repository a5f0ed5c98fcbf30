"""This package's models and datasets with Keras' own `compile` and `fit`, as README.md shows it."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.workers.keras_steps import StepCallback
from benchmarks.workers.training import (
    COUNTED_BATCHES,
    AfterStep,
    Recipe,
    TrainingData,
    TrainingWorker,
    padded_tokens_per_example,
)


class OursFit(TrainingWorker):
    """What users write who bring their own training code."""

    def load(self, checkpoint: str, artefacts: str, threads: int, options: dict[str, Any]) -> None:
        """Sets the threads."""
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        self._checkpoint = checkpoint

    def start(self, data: TrainingData, recipe: Recipe) -> float:
        """Loads and compiles the model, and makes the pipeline."""
        from distilbert_tf import (
            DistilBertTokenizer,
            Examples,
            TFDistilBertForSequenceClassification,
            create_optimizer,
            make_dataset,
        )

        keras.utils.set_random_seed(recipe.seed)
        tokenizer = DistilBertTokenizer.from_pretrained(self._checkpoint)
        batches = make_dataset(
            Examples(tuple(map(tuple, data.columns)), np.array(data.labels, np.int32)),
            tokenizer.as_layer(max_length=recipe.max_length),
            recipe.batch_size,
            shuffle_seed=recipe.seed,
        )
        self._model = TFDistilBertForSequenceClassification.from_pretrained(self._checkpoint)
        self._model.compile(
            optimizer=create_optimizer(
                recipe.learning_rate,
                recipe.total_steps,
                warmup_ratio=recipe.warmup_steps / recipe.total_steps,
                weight_decay=recipe.weight_decay,
                max_gradient_norm=recipe.max_gradient_norm,
            ),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        self._batches, self._total_steps = batches.repeat(), recipe.total_steps
        masks = [inputs["attention_mask"] for inputs, _ in batches.take(COUNTED_BATCHES)]
        return padded_tokens_per_example(masks)

    def train(self, after_step: AfterStep) -> None:
        """Fits."""
        self._model.fit(
            self._batches,
            steps_per_epoch=self._total_steps,
            shuffle=False,
            verbose=0,
            callbacks=[StepCallback(after_step)],
        )


if __name__ == "__main__":
    OursFit().serve()
