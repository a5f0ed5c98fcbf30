"""This package's `fit`: its dataset (strings in, tokenized on the way), optimizer and loss."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.workers.training import (
    COUNTED_BATCHES,
    AfterStep,
    Recipe,
    TrainingData,
    TrainingWorker,
    padded_tokens_per_example,
)


class StepCallback(keras.callbacks.Callback):
    """Reports every step of a `fit`."""

    def __init__(self, after_step: AfterStep) -> None:
        super().__init__()
        self._after_step = after_step

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Reports the step with Keras' running loss."""
        self._after_step(float((logs or {})["loss"]))


class OursTraining(TrainingWorker):
    """As README.md shows it."""

    def load(self, checkpoint: str, artefacts: str, threads: int, options: dict[str, Any]) -> None:
        """Sets the threads."""
        if options.get("set_threads", True):
            tf.config.threading.set_intra_op_parallelism_threads(threads)
        self._checkpoint = checkpoint

    def start(self, data: TrainingData, recipe: Recipe) -> float:
        """Loads and compiles the model, and makes the pipeline."""
        from distilbert_tf import (
            DistilBertTokenizer,
            TFDistilBertForSequenceClassification,
            create_optimizer,
            make_dataset,
        )
        from distilbert_tf.readers import Examples
        from distilbert_tf.training import compile_classifier

        keras.utils.set_random_seed(recipe.seed)
        tokenizer = DistilBertTokenizer.from_pretrained(self._checkpoint)
        examples = Examples(tuple(map(tuple, data.columns)), np.array(data.labels, np.int32))
        batches = make_dataset(
            examples,
            tokenizer.as_layer(max_length=recipe.max_length),
            recipe.batch_size,
            shuffle_seed=recipe.seed,
        )
        self._model = TFDistilBertForSequenceClassification.from_pretrained(self._checkpoint)
        optimizer = create_optimizer(
            recipe.learning_rate,
            recipe.total_steps,
            warmup_ratio=recipe.warmup_steps / recipe.total_steps,
            weight_decay=recipe.weight_decay,
            max_gradient_norm=recipe.max_gradient_norm,
        )
        compile_classifier(self._model, optimizer)
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
    OursTraining().serve()
