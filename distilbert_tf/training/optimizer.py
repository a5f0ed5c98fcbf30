"""The recipe: AdamW, a rate that rises and falls, no weight decay on LayerNorm and biases.

Private methods of Keras' optimizers are relied on (setup.py holds Keras to one minor
version), and a test compares the result with Keras' own AdamW.
"""

import math
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from distilbert_tf.training.options import SCHEDULES

# Matched against variable paths such as "distilbert/embeddings/LayerNorm/gamma".
NO_WEIGHT_DECAY = ("LayerNorm", "layer_norm", "bias")
NOT_FINITE = "the norm of the gradients is not finite"


@keras.saving.register_keras_serializable(package="distilbert_tf")
class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises linearly to its peak, and then falls, or stays.

    Args:
        peak: The highest learning rate.
        total_steps: Steps until the rate is zero, if it falls.
        warmup_steps: Steps until the peak; the first step already has peak / warmup_steps.
        kind: How it falls: "linear", "cosine" (half a wave), or, as "constant_with_warmup", not at
            all.

    Raises:
        ValueError: `warmup_steps` is negative or not below `total_steps`; there is no such `kind`.

    Reference:
        Devlin et al., "BERT" (arXiv 1810.04805), appendix A.2; Loshchilov and Hutter, "SGDR"
        (arXiv 1608.03983); transformers' `get_linear_schedule_with_warmup`,
        `get_cosine_schedule_with_warmup` and `get_constant_schedule_with_warmup`, one step ahead:
        their first step has rate 0.
    """

    def __init__(
        self, peak: float, total_steps: int, warmup_steps: int = 0, kind: str = "linear"
    ) -> None:
        super().__init__()
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                f"warmup_steps ({warmup_steps}) must lie in [0, total_steps), and total_steps "
                f"is {total_steps}."
            )
        if kind not in SCHEDULES:
            raise ValueError(f"A schedule is one of {', '.join(SCHEDULES)}; got {kind!r}.")
        self.peak, self.total_steps, self.warmup_steps = peak, total_steps, warmup_steps
        self.kind = kind

    def __call__(self, step: Any) -> tf.Tensor:
        """Returns the rate at a step, counted from 0: float32 scalar."""
        step = tf.cast(step, tf.float32)
        rising = (step + 1) / max(self.warmup_steps, 1)
        left = (self.total_steps - step) / (self.total_steps - self.warmup_steps)
        if self.kind == "cosine":
            left = 0.5 - 0.5 * tf.cos(math.pi * tf.clip_by_value(left, 0.0, 1.0))
        elif self.kind == "constant_with_warmup":
            left = tf.ones_like(left)
        return self.peak * tf.clip_by_value(tf.minimum(rising, left), 0.0, 1.0)

    @property
    def end(self) -> float:
        """The step from which on the rate is 0; infinite if it stays."""
        return math.inf if self.kind == "constant_with_warmup" else self.total_steps

    def get_config(self) -> dict[str, Any]:
        """Describes the schedule for Keras' files."""
        return {
            "peak": self.peak,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "kind": self.kind,
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
        rate_factors: Factors of the learning rate, by a part of the paths of the variables that
            have them, such as `{"/layer_0/": 0.5}`; it is 1 for all others.
        **kwargs: See `keras.optimizers.AdamW`.
    """

    def __init__(
        self, *args: Any, rate_factors: Mapping[str, float] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.rate_factors = dict(rate_factors or {})

    def get_config(self) -> dict[str, Any]:
        """Describes the optimizer for Keras' files."""
        return {**super().get_config(), "rate_factors": self.rate_factors}

    def _rate_factor(self, path: str) -> float:
        return next((factor for part, factor in self.rate_factors.items() if part in path), 1.0)

    def finalize_variable_values(self, var_list: Any) -> None:
        """Ends a `fit`; says so if its last steps had no rate any more."""
        super().finalize_variable_values(var_list)
        schedule, taken = self._learning_rate, int(tf.convert_to_tensor(self.iterations))
        if isinstance(schedule, WarmupSchedule) and taken > schedule.end:
            logging.warning(
                "%d steps were taken, but the learning rate is 0 after %d, the total_steps of the "
                "optimizer: what came later changed no weight. Make it for all steps of all epochs "
                "(create_optimizer(..., total_steps=epochs * len(dataset))).",
                taken,
                schedule.total_steps,
            )

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one variable and its two moments."""
        index = self._get_variable_index(variable)
        factor = self._rate_factor(self._trainable_variables[index].path)
        rate = tf.cast(learning_rate, variable.dtype) * factor
        if self.amsgrad or isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable, rate)
            return
        step = tf.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(tf.cast(self.beta_1, variable.dtype), step),
            beta2_power=tf.pow(tf.cast(self.beta_2, variable.dtype), step),
            lr=rate,
            beta1=tf.cast(self.beta_1, variable.dtype),
            beta2=tf.cast(self.beta_2, variable.dtype),
            epsilon=tf.cast(self.epsilon, variable.dtype),
            grad=tf.cast(gradient, variable.dtype),
        )

    def _apply_weight_decay(self, variables: Any) -> None:
        if not self.weight_decay:
            return
        rate = self.weight_decay * self.learning_rate  # once, not an op per variable and factor

        factors = [self._rate_factor(variable.path) for variable in variables]

        def decay(variable: Any, factor: float) -> None:
            if self._use_weight_decay(variable):
                variable.assign_sub(variable * tf.cast(rate * factor, variable.dtype))

        def decay_all(distribution: Any, variables: Any) -> None:
            for variable, factor in zip(variables, factors, strict=True):
                distribution.extended.update(variable, decay, args=(factor,), group=False)

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
    lr_scheduler_type: str = "linear",
    weight_decay: float = 0.01,
    max_gradient_norm: float | None = 1.0,
    rate_factors: Mapping[str, float] | None = None,
) -> keras.optimizers.Optimizer:
    """Makes the optimizer for `model.compile`.

    Args:
        learning_rate: Peak of the schedule.
        total_steps: Steps of the whole run: batches per epoch times epochs.
        warmup_ratio: Share of the steps in which the rate rises.
        lr_scheduler_type: The `kind` of the `WarmupSchedule`.
        weight_decay: Decoupled decay per step, times the rate; LayerNorm and biases have none.
        max_gradient_norm: The gradient is scaled down to this global norm; None for never.
        rate_factors: See `AdamW`; `layer_rate_factors` makes some.

    Returns:
        An `AdamW`, with a `WarmupSchedule` as its learning rate.

    Raises:
        ValueError: A number out of its range, or no such schedule.

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
        WarmupSchedule(
            learning_rate, total_steps, int(warmup_ratio * total_steps), lr_scheduler_type
        ),
        rate_factors=rate_factors,
        weight_decay=weight_decay,
        global_clipnorm=max_gradient_norm,
        epsilon=1e-8,
    )
    optimizer.exclude_from_weight_decay(var_names=list(NO_WEIGHT_DECAY))
    return optimizer


def layer_rate_factors(decay: float, n_layers: int) -> dict[str, float]:
    """Makes learning rates that shrink from layer to layer, from the head down.

    Args:
        decay: A layer's rate as a share of that of the layer above it, or of the head.
        n_layers: Layers of the encoder.

    Returns:
        Factors for `AdamW`: decay ** 1 for the last layer, decay ** n_layers for the first, and one
        power more for the embeddings.

    Example:
        create_optimizer(5e-5, total_steps=100, rate_factors=layer_rate_factors(0.9, n_layers=6))

    Reference:
        Clark et al., "ELECTRA" (arXiv 2003.10555), appendix B; Howard and Ruder, "Universal
        Language Model Fine-tuning" (arXiv 1801.06146), section 3.2.
    """
    factors = {f"/layer_{i}/": decay ** (n_layers - i) for i in range(n_layers)}
    return {"/embeddings/": decay ** (n_layers + 1), **factors}
