"""What lets a training of Keras be timed step by step."""

from typing import Any

import keras

from benchmarks.workers.training import AfterStep


class StepCallback(keras.callbacks.Callback):
    """Reports every step of a `fit`."""

    def __init__(self, after_step: AfterStep) -> None:
        super().__init__()
        self._after_step = after_step

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Reports the step with Keras' running loss."""
        self._after_step(float((logs or {})["loss"]))
