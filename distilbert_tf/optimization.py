"""The fine-tuning recipe: AdamW, linear warm-up and decay, no decay on LayerNorm and biases."""

from typing import Any

import keras
import tensorflow as tf

# Matched against variable paths such as "distilbert/embeddings/LayerNorm/gamma".
NO_WEIGHT_DECAY = ("LayerNorm", "layer_norm", "bias")


@keras.saving.register_keras_serializable(package="distilbert_tf")
class WarmupLinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises linearly to its peak, then falls linearly to zero.

    Args:
        peak: The highest learning rate.
        total_steps: Steps until the rate is zero.
        warmup_steps: Steps until the peak; the first step already has peak / warmup_steps.

    Raises:
        ValueError: `warmup_steps` is negative or not below `total_steps`.

    Reference:
        Devlin et al., "BERT" (arXiv 1810.04805), appendix A.2; transformers'
        `get_linear_schedule_with_warmup`, one step ahead: its first step has rate 0.
    """

    def __init__(self, peak: float, total_steps: int, warmup_steps: int = 0) -> None:
        super().__init__()
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                f"warmup_steps ({warmup_steps}) must lie in [0, total_steps), and total_steps "
                f"is {total_steps}."
            )
        self.peak, self.total_steps, self.warmup_steps = peak, total_steps, warmup_steps

    def __call__(self, step: Any) -> tf.Tensor:
        """Gives the rate at a step, counted from 0: float32 scalar."""
        step = tf.cast(step, tf.float32)
        rising = (step + 1) / max(self.warmup_steps, 1)
        falling = (self.total_steps - step) / (self.total_steps - self.warmup_steps)
        return self.peak * tf.clip_by_value(tf.minimum(rising, falling), 0.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Describes the schedule for Keras' files."""
        return {
            "peak": self.peak,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
        }


def create_optimizer(
    learning_rate: float,
    total_steps: int,
    *,
    warmup_ratio: float = 0.1,
    weight_decay: float = 0.01,
    max_gradient_norm: float | None = 1.0,
) -> keras.optimizers.Optimizer:
    """Makes the optimizer for `model.compile`.

    Args:
        learning_rate: Peak of the schedule.
        total_steps: Steps of the whole run: batches per epoch times epochs.
        warmup_ratio: Share of the steps in which the rate rises.
        weight_decay: Decoupled decay per step, times the rate; LayerNorm and biases have none.
        max_gradient_norm: The gradient is scaled down to this global norm; None for never.

    Returns:
        Keras' AdamW, with `WarmupLinearDecay` as its learning rate.

    Reference:
        Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (arXiv 1711.05101).
    """
    if total_steps < 1:
        raise ValueError(f"total_steps must be at least 1; got {total_steps}.")
    optimizer = keras.optimizers.AdamW(
        WarmupLinearDecay(learning_rate, total_steps, int(warmup_ratio * total_steps)),
        weight_decay=weight_decay,
        global_clipnorm=max_gradient_norm,
        epsilon=1e-8,
    )
    optimizer.exclude_from_weight_decay(var_names=list(NO_WEIGHT_DECAY))
    return optimizer
