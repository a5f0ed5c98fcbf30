"""The recipe: AdamW, linear warmup and decay of the rate, no weight decay on LayerNorm and biases.

Private methods of Keras' optimizers are relied on (setup.py holds Keras to one minor
version), and a test compares the result with Keras' own AdamW.
"""

from typing import Any

import keras
import tensorflow as tf

# Matched against variable paths such as "distilbert/embeddings/LayerNorm/gamma".
NO_WEIGHT_DECAY = ("LayerNorm", "layer_norm", "bias")
NOT_FINITE = "the norm of the gradients is not finite"


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
        """Returns the rate at a step, counted from 0: float32 scalar."""
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


@keras.saving.register_keras_serializable(package="distilbert_tf")
class AdamW(keras.optimizers.AdamW):
    """Keras' AdamW with each weight updated in one pass over memory instead of a dozen.

    On a CPU the update is bound by memory, and for short texts it takes as long as the forward
    pass: most of it goes into the table of 30,522 words. Keras spells the rule out in elementwise
    ops, each of which reads and writes whole tensors; TensorFlow has it as one op. The numbers are
    those of Keras up to rounding.

    Other than in Keras, replicas' gradients are clipped after they have been added up, and with
    `global_clipnorm`, gradients that are not finite raise `tf.errors.InvalidArgumentError` instead
    of spoiling the weights.

    Args:
        **kwargs: See `keras.optimizers.AdamW`.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one variable and its two moments."""
        if self.amsgrad or isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable, learning_rate)
            return
        index = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(tf.cast(self.beta_1, variable.dtype), step),
            beta2_power=tf.pow(tf.cast(self.beta_2, variable.dtype), step),
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=tf.cast(self.beta_1, variable.dtype),
            beta2=tf.cast(self.beta_2, variable.dtype),
            epsilon=tf.cast(self.epsilon, variable.dtype),
            grad=tf.cast(gradient, variable.dtype),
        )

    def _apply_weight_decay(self, variables: Any) -> None:
        if not self.weight_decay:
            return
        rate = self.weight_decay * self.learning_rate  # once, not an op per variable and factor

        def decay(variable: Any) -> None:
            if self._use_weight_decay(variable):
                variable.assign_sub(variable * tf.cast(rate, variable.dtype))

        def decay_all(distribution: Any, variables: Any) -> None:
            for variable in variables:
                distribution.extended.update(variable, decay, group=False)

        # In a graph, nothing else makes the decay wait until the gradients turn out to be finite.
        with tf.control_dependencies(self._checks):
            tf.__internal__.distribute.interim.maybe_merge_call(
                decay_all,
                self._distribution_strategy,
                [keras_variable.value for keras_variable in variables],
            )

    def _clip_gradients(self, grads: Any) -> Any:
        # Keras clips each replica's gradients, and adds them up afterwards: on several devices
        # that is another step than on one. So they are added up here.
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            grads = replica.all_reduce(tf.distribute.ReduceOp.SUM, grads)
        if not self.global_clipnorm:
            self._checks: tuple[tf.Tensor, ...] = ()
            return super()._clip_gradients(grads)
        # TensorFlow's norm reads each gradient once, Keras' writes its square out first.
        norm = tf.debugging.check_numerics(tf.linalg.global_norm(grads), NOT_FINITE)
        self._checks = (norm,)  # Keras applies weight decay next
        return tf.clip_by_global_norm(grads, self.global_clipnorm, use_norm=norm)[0]

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        return grads_and_vars  # see _clip_gradients


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
        An `AdamW`, with `WarmupLinearDecay` as its learning rate.

    Example:
        model = TFDistilBertForSequenceClassification.from_pretrained("demo", num_labels=2)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(create_optimizer(5e-5, total_steps=100), loss)

    Reference:
        Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (arXiv 1711.05101).
    """
    if total_steps < 1:
        raise ValueError(f"total_steps must be at least 1; got {total_steps}.")
    optimizer = AdamW(
        WarmupLinearDecay(learning_rate, total_steps, int(warmup_ratio * total_steps)),
        weight_decay=weight_decay,
        global_clipnorm=max_gradient_norm,
        epsilon=1e-8,
    )
    optimizer.exclude_from_weight_decay(var_names=list(NO_WEIGHT_DECAY))
    return optimizer
