"""The layers that others are made of: dense layers, LayerNorm, dropout.

Every layer works on flat rows, one row a token, float (N, D): see `unpadding` for how the tokens of
a batch get there. Shapes: N tokens, D = config.dim.

Models build their layers from the top down (`model.build()` in the constructor), so every variable
exists as soon as the model does, and its path tells where it is.
"""

from contextlib import ExitStack
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from transformers import DistilBertConfig

from distilbert_tf.models.slot import Slot

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"distilbert_tf needs Keras on TensorFlow, but its backend is {keras.backend.backend()!r}: "
        "set KERAS_BACKEND=tensorflow, or leave it unset."
    )

LAYER_NORM_EPSILON = 1e-12  # not a field of DistilBertConfig: the reference fixes it too


class Fusion(NamedTuple):
    """Which parts are spelled for the kernels that TensorFlow's graph optimizer has for a CPU.

    For inference in a graph: gradients, and calls without that optimizer, are slower so.

    Attributes:
        attention: Whether attention's scores stay in the type that is computed in: scale and mask
            are then part of the product, whose output the softmax reads, float32 only inside.
        layer_norm: Whether each LayerNorm is one kernel, which pays from some hundred rows on.
    """

    attention: bool = False
    layer_norm: bool = False


NO_FUSION = Fusion()


def at_least_float32(dtype: Any) -> str:
    """Returns the name of a float type, or "float32" for smaller ones."""
    return keras.backend.result_type(dtype, "float32")


def resize_weight(layer: keras.layers.Layer, name: str, rows: int, initializer: Any) -> None:
    """Changes the number of rows of a weight, in place; the first ones stay.

    Args:
        layer: Its layer.
        name: Its attribute.
        rows: How many it shall have.
        initializer: What initializes new ones.
    """
    old = getattr(layer, name)
    *scopes, leaf = old.path.split("/")
    layer._untrack_variable(old)
    layer._tracker.unlock()  # as Keras' own layers do that change their weights once built
    with ExitStack() as stack:
        for scope in scopes:
            stack.enter_context(keras.name_scope(scope))
        new = layer.add_weight(
            name=leaf,
            shape=(rows, *old.shape[1:]),
            initializer=initializer,
            trainable=old.trainable,
        )
    setattr(layer, name, new)
    layer._tracker.lock()
    kept = min(rows, old.shape[0])
    new.assign(np.concatenate([old.numpy()[:kept], new.numpy()[kept:]]))


class Linear(keras.layers.Dense):
    """A Dense layer in two ops that TensorFlow's graph optimizer fuses into one.

    Keras' own ends in an addition, which is not fused. With a `BiasAdd`, the product, the bias, and
    an activation or a residual that follows become one kernel.

    Args:
        units: Width of the output.
        config: Model configuration: `initializer_range`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        x: Float (N, width of the input).

    Returns:
        Float (N, units).
    """

    def __init__(self, units: int, config: DistilBertConfig, **kwargs: Any) -> None:
        normal = keras.initializers.RandomNormal(stddev=config.initializer_range)
        super().__init__(units, kernel_initializer=normal, **kwargs)

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Multiplies by the kernel, and adds the bias."""
        return tf.nn.bias_add(tf.matmul(x, self.kernel), self.bias)

    def slots(self) -> dict[str, Slot]:
        """Returns kernel and bias; PyTorch's kernel is (outputs, inputs)."""
        return {"weight": Slot(self.kernel, transposed=True), "bias": Slot(self.bias)}


class LayerNorm(keras.layers.LayerNormalization):
    """LayerNormalization with the epsilon of the reference, in few passes over the rows, or in one.

    Statistics, scale and shift are float32 under any policy of less: they are few, and the rows
    are float32 already where they are scaled.

    Call arguments:
        x: Float (..., D).
        fused: Whether to spell it for one kernel of oneDNN: see `Fusion`. Only for x of shape
            (N, D) where N is not known before a call.

    Returns:
        Float (..., D).

    Reference:
        Ba et al., "Layer Normalization" (arXiv 1607.06450).
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(epsilon=LAYER_NORM_EPSILON, **kwargs)

    def add_weight(self, *args: Any, **kwargs: Any) -> keras.Variable:
        """Makes scale or shift."""
        return super().add_weight(*args, dtype=at_least_float32(self.variable_dtype), **kwargs)

    def call(self, x: tf.Tensor, fused: bool = False) -> tf.Tensor:
        """Normalizes each row, then scales and shifts it."""
        if fused:
            return self._call_fused(x)
        dtype = at_least_float32(x.dtype)
        x = tf.cast(x, dtype)
        centered = x - tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centered), axis=-1, keepdims=True)
        # Not rsqrt, which is an approximation on a CPU (it shows where rows hardly vary), nor a
        # plain division, which the graph optimizer turns into one.
        inverse = tf.math.divide_no_nan(tf.ones([], dtype), tf.sqrt(variance + self.epsilon))
        x = centered * inverse * tf.cast(self.gamma, dtype) + tf.cast(self.beta, dtype)
        return tf.cast(x, self.compute_dtype)

    def _call_fused(self, x: tf.Tensor) -> tf.Tensor:
        """Normalizes (N, D) as Keras 2 did, each row being a channel of batch normalization."""
        # Every op is part of the pattern that the optimizer looks for (FindMklLayerNorm in its
        # remapper.cc), from TensorFlow 2.12 to today's; but that it must not find a cast there,
        # which it would move behind the reshape. In float32 at least: the kernel for bfloat16 fails
        # on processors that lack it.
        dtype = at_least_float32(x.dtype)
        x = tf.ensure_shape(tf.cast(x, dtype), x.shape)
        shape = tf.shape(x)
        per_row = shape[:1]
        as_channels = tf.reshape(x, tf.concat([[1], shape, [1]], 0))
        normalized, *_ = tf.raw_ops.FusedBatchNormV3(
            x=as_channels,
            scale=tf.fill(per_row, 1.0),
            offset=tf.fill(per_row, 0.0),
            mean=tf.constant([], tf.float32),
            variance=tf.constant([], tf.float32),
            epsilon=self.epsilon,
            data_format="NCHW",
            is_training=True,
        )
        scaled = tf.reshape(normalized, shape) * tf.cast(self.gamma, dtype)
        x = tf.raw_ops.AddV2(x=tf.cast(self.beta, dtype), y=scaled)
        return tf.cast(x, self.compute_dtype)

    def slots(self) -> dict[str, Slot]:
        """Returns scale and shift."""
        return {"weight": Slot(self.gamma), "bias": Slot(self.beta)}


class Dropout(keras.layers.Layer):
    """Dropout whose mask is a function of seed, step and replica, with the step a saved weight.

    Keras' own Dropout draws the same mask on every replica of a strategy, and its state is not
    among the weights, so a resumed run differs from an uninterrupted one.

    Args:
        rate: Fraction of elements set to zero in training, in [0, 1).
        seed: Base seed; by default drawn from Keras' global random state, so
            `keras.utils.set_random_seed` makes runs repeatable.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        x: Float tensor of any shape.
        training: Whether to drop.

    Returns:
        A tensor of the same shape; kept elements are scaled by 1 / (1 - rate).

    Raises:
        ValueError: `rate` lies outside [0, 1).
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"A dropout rate must lie in [0, 1); got {rate}.")
        self.rate = float(rate)
        self.seed = int(keras.random.randint((), 0, 2**30)) if seed is None else seed

    def build(self, input_shape: Any = None) -> None:
        """Makes the step counter."""
        # Each replica counts for itself (they agree): a variable that is synchronized at each
        # change could not be incremented inside a loop or an XLA function.
        self.step = keras.Variable(
            "zeros",
            shape=(),
            dtype="int32",
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
            synchronization="on_read",
            name="step",
        )

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Drops elements of `x` if training."""
        if not training or self.rate == 0:
            return x
        context = tf.distribute.get_replica_context()
        replica = 0 if context is None else context.replica_id_in_sync_group
        step = tf.convert_to_tensor(self.step.value)
        seed = tf.stack([self.seed + tf.cast(replica, tf.int32), step])
        self.step.assign_add(1)
        # What tf.nn.experimental.stateless_dropout does, but that it draws in the dtype of x:
        # bfloat16 has 128 numbers to draw, too few for most rates, and takes a CPU longer.
        kept = tf.random.stateless_uniform(tf.shape(x), seed) >= self.rate
        return tf.where(kept, x * (1.0 / (1.0 - self.rate)), tf.zeros([], x.dtype))
