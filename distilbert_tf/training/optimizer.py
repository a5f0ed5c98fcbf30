"""The recipe: AdamW, a rate that rises and falls, no weight decay on LayerNorm and biases.

Private methods of Keras' optimizers are relied on (setup.py holds Keras to one minor
version), and a test compares the result with Keras' own AdamW.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from absl import logging

from distilbert_tf.models.layers import at_least_float32
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


class Rule(NamedTuple):
    """Adam's numbers for one weight at one step: scalars of the type that is computed in.

    Attributes:
        rate: The learning rate.
        decay: The share of the weight that weight decay takes off; None without.
        clip: What the gradient is multiplied by; None without clipping by the global norm.
        beta_1: How much of the first moment stays.
        beta_2: How much of the second one stays.
        power_1: `beta_1` to the power of the step, counted from 1.
        power_2: `beta_2` to that power.
        epsilon: What is added to the root of the second moment.
    """

    rate: tf.Tensor
    decay: tf.Tensor | None
    clip: tf.Tensor | None
    beta_1: tf.Tensor
    beta_2: tf.Tensor
    power_1: tf.Tensor
    power_2: tf.Tensor
    epsilon: tf.Tensor


def _update(rule: Rule, gradient: tf.Tensor, handles: Sequence[tf.Tensor], dtype: tf.DType) -> None:
    """Updates a weight and its moments.

    Args:
        rule: The numbers.
        gradient: The weight's gradient.
        handles: The resources of the weight, its first and second moment, and with amsgrad the
            largest second one. (A function that took variables would be bound to the first ones.)
        dtype: The type of all of them.
    """
    old = [tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype) for handle in handles]
    w, m, v, *largest = (tf.cast(x, rule.rate.dtype) for x in old)
    gradient = tf.cast(gradient, rule.rate.dtype)
    if rule.clip is not None:
        gradient *= rule.clip
    m += (gradient - m) * (1 - rule.beta_1)
    v += (tf.square(gradient) - v) * (1 - rule.beta_2)
    largest = [tf.maximum(v, x) for x in largest]
    rate = rule.rate * tf.sqrt(1 - rule.power_2) / (1 - rule.power_1)
    change = rate * m / (tf.sqrt([v, *largest][-1]) + rule.epsilon)
    if rule.decay is not None:
        # Not as w * (1 - decay): a decay is often smaller than the rounding of 1.
        change += rule.decay * w
    for handle, new in zip(handles, (w - change, m, v, *largest), strict=True):
        tf.raw_ops.AssignVariableOp(resource=handle, value=tf.cast(new, dtype))


@functools.cache
def _compiled_update(shape: tuple[int, ...]) -> Callable[..., None]:
    """Makes `_update` for weights of one shape; a function for all would warn of its retracing."""
    del shape
    return tf.function(_update, jit_compile=True)


def _update_by_kernel(
    rule: Rule, gradient: tf.Tensor, handles: Sequence[tf.Tensor], dtype: tf.DType
) -> None:
    """Does what `_update` does with TensorFlow's own kernel, which knows no decay and no clipping.

    Only for float32 and float64, since it computes in the weight's type, and without amsgrad.
    """
    if rule.decay is not None:
        weight = tf.raw_ops.ReadVariableOp(resource=handles[0], dtype=dtype)
        decayed = weight - weight * rule.decay
        tf.raw_ops.AssignVariableOp(resource=handles[0], value=decayed)
    gradient = tf.cast(gradient, dtype)
    tf.raw_ops.ResourceApplyAdam(
        **dict(zip(("var", "m", "v"), handles, strict=True)),
        beta1_power=rule.power_1,
        beta2_power=rule.power_2,
        lr=rule.rate,
        beta1=rule.beta_1,
        beta2=rule.beta_2,
        epsilon=rule.epsilon,
        grad=gradient if rule.clip is None else gradient * rule.clip,
    )


@keras.saving.register_keras_serializable(package="distilbert_tf")
class AdamW(keras.optimizers.AdamW):
    """Keras' AdamW with each weight updated in one pass over a CPU's memory instead of a dozen.

    On a CPU the update is bound by memory, and for short texts it takes as long as the forward
    pass: most of it goes into the table of 30,522 words. Keras spells the rule out in elementwise
    ops, each of which reads and writes whole tensors. Here XLA makes one loop of them, with weight
    decay and the scale of clipping in it. The numbers are those of Keras up to rounding.

    Other than in Keras, replicas' gradients are clipped after they have been added up, and so are
    slices of a sparse gradient for one row. With `global_clipnorm`, gradients that are not finite
    raise `tf.errors.InvalidArgumentError` instead of spoiling the weights, but where XLA compiles
    the whole step, and checks nothing.

    Args:
        rate_factors: Factors of the learning rate, by a part of the paths of the variables that
            have them, such as `{"/layer_0/": 0.5}`; it is 1 for all others.
        jit_compile: Whether XLA compiles the updates; by default on CPUs. On a GPU it needs files
            of CUDA that not every installation has, and passes over memory cost less there.
        **kwargs: See `keras.optimizers.AdamW`.
    """

    def __init__(
        self,
        *args: Any,
        rate_factors: Mapping[str, float] | None = None,
        jit_compile: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.rate_factors, self.jit_compile = dict(rate_factors or {}), jit_compile
        self._clip_factor: tf.Tensor | None = None

    def get_config(self) -> dict[str, Any]:
        """Describes the optimizer for Keras' files."""
        own = {"rate_factors": self.rate_factors, "jit_compile": self.jit_compile}
        return {**super().get_config(), **own}

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
        dtype = at_least_float32(variable.dtype)
        rate, beta_1, beta_2, epsilon, step = (
            tf.cast(number, dtype)
            for number in (
                learning_rate, self.beta_1, self.beta_2, self.epsilon, self.iterations + 1,
            )
        )  # fmt: skip
        rate *= self._rate_factor(self._trainable_variables[index].path)
        decays = self.weight_decay and self._use_weight_decay(variable)
        decay = rate * self.weight_decay if decays else None
        clip = None if self._clip_factor is None else tf.cast(self._clip_factor, dtype)
        powers = tf.pow(beta_1, step), tf.pow(beta_2, step)
        rule = Rule(rate, decay, clip, beta_1, beta_2, *powers, epsilon)
        moments = [self._momentums, self._velocities]
        if self.amsgrad:
            moments.append(self._velocity_hats)
        handles = [variable.handle, *(moment[index].value.handle for moment in moments)]
        if "CPU" in variable.device if self.jit_compile is None else self.jit_compile:
            update = _compiled_update(tuple(variable.shape))
        else:
            has_kernel = variable.dtype == dtype and not self.amsgrad
            update = _update_by_kernel if has_kernel else _update
        update(rule, gradient, handles, variable.dtype)

    def _apply_weight_decay(self, variables: Any) -> None:
        """Does nothing: `update_step` does it."""

    def _clip_gradients(self, grads: Any) -> Any:
        grads = [tf.convert_to_tensor(gradient) for gradient in grads]  # slices added up
        # Keras clips each replica's gradients, and adds them up afterwards: on several devices
        # that is another step than on one. So they are added up here.
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            grads = replica.all_reduce(tf.distribute.ReduceOp.SUM, grads)
        self._clip_factor = None
        if not self.global_clipnorm:
            return super()._clip_gradients(grads)
        # TensorFlow's norm reads each gradient once, Keras' writes its square out first.
        norm = tf.debugging.check_numerics(tf.linalg.global_norm(grads), NOT_FINITE)
        self._clip_factor = self.global_clipnorm / tf.maximum(norm, self.global_clipnorm)
        return grads

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
