"""The building blocks of DistilBERT, with Hugging Face's names for every part.

Shapes: B rows, T tokens in a row, D = config.dim, H = config.n_heads, K = D / H,
F = config.hidden_dim.

Models build their layers from the top down (`model.build()` in the constructor), so every
variable exists as soon as the model does, and its path tells where it stands.
"""

from typing import Any

import keras
import tensorflow as tf
from transformers import DistilBertConfig

from distilbert_tf.activations import get_activation

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"distilbert_tf needs Keras on TensorFlow, but its backend is {keras.backend.backend()!r}: "
        "set KERAS_BACKEND=tensorflow, or leave it unset."
    )

LAYER_NORM_EPSILON = 1e-12  # not a field of DistilBertConfig: the reference fixes it too


def linear(units: int, config: DistilBertConfig, name: str, dtype: Any) -> keras.layers.Dense:
    """Makes a Dense layer with the reference's initial distribution."""
    return keras.layers.Dense(
        units,
        kernel_initializer=keras.initializers.RandomNormal(stddev=config.initializer_range),
        name=name,
        dtype=dtype,
    )


def layer_norm(name: str, dtype: Any) -> keras.layers.LayerNormalization:
    """Makes a LayerNormalization with the reference's epsilon."""
    return keras.layers.LayerNormalization(epsilon=LAYER_NORM_EPSILON, name=name, dtype=dtype)


class Dropout(keras.layers.Layer):
    """Dropout whose mask is a function of (seed, step, replica), the step a saved weight.

    Keras' own Dropout draws the same mask on every replica of a strategy, and its state is not
    among the weights, so a resumed run differs from an uninterrupted one.

    Args:
        rate: Fraction of elements set to zero in training, in [0, 1).
        seed: Base seed; by default drawn from Keras' global random state, so
            `keras.utils.set_random_seed` makes runs repeatable.

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
        self.step = self.add_weight(
            name="step",
            shape=(),
            dtype="int32",
            initializer="zeros",
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
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
        return tf.nn.experimental.stateless_dropout(x, self.rate, seed)


class MultiHeadSelfAttention(keras.layers.Layer):
    """Scaled dot-product self-attention with H heads.

    Args:
        config: Model configuration; `dim` must be a multiple of `n_heads`.

    Call arguments:
        x: Float (B, T, D).
        counts: Booleans (B, 1, 1, T), false where a token is masked.

    Returns:
        The pair of the layer's output (B, T, D) and the attention weights (B, H, T, T),
        each row of which adds up to 1 (before dropout).

    Raises:
        ValueError: `dim` is not a multiple of `n_heads`.
    """

    def __init__(self, config: DistilBertConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if config.dim % config.n_heads:
            raise ValueError(
                f"config.dim ({config.dim}) must be a multiple of config.n_heads "
                f"({config.n_heads})."
            )
        self.dim, self.n_heads = config.dim, config.n_heads
        self.head_dim = config.dim // config.n_heads
        self.q_lin = linear(config.dim, config, "q_lin", self.dtype_policy)
        self.k_lin = linear(config.dim, config, "k_lin", self.dtype_policy)
        self.v_lin = linear(config.dim, config, "v_lin", self.dtype_policy)
        self.out_lin = linear(config.dim, config, "out_lin", self.dtype_policy)
        self.dropout = Dropout(config.attention_dropout, name="dropout", dtype=self.dtype_policy)

    def build(self, input_shape: Any = None) -> None:
        """Makes all variables."""
        for projection in (self.q_lin, self.k_lin, self.v_lin, self.out_lin):
            projection.build((None, None, self.dim))
        self.dropout.build()

    def call(
        self, x: tf.Tensor, counts: tf.Tensor, training: bool | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Attends: (B, T, D) to (B, T, D) and (B, H, T, T)."""
        # Scaling the query costs T*D products, scaling the scores would cost H*T*T.
        query = self._split_heads(self.q_lin(x) * self.head_dim**-0.5)  # (B, H, T, K)
        key = self._split_heads(self.k_lin(x))
        value = self._split_heads(self.v_lin(x))
        scores = tf.matmul(query, key, transpose_b=True)  # (B, H, T, T)
        # In float32 under any policy: bfloat16 sums of exponentials lose 2 digits, and the
        # lowest float16 plus a score is -inf. The lowest finite number rather than -inf, since
        # a row without any token then spreads its attention evenly, where -inf gives NaN.
        bias = tf.where(counts, 0.0, tf.float32.min)
        weights = tf.nn.softmax(tf.cast(scores, tf.float32) + bias, axis=-1)
        weights = tf.cast(weights, self.compute_dtype)
        context = tf.matmul(self.dropout(weights, training=training), value)  # (B, H, T, K)
        context = tf.reshape(tf.transpose(context, [0, 2, 1, 3]), tf.shape(x))  # (B, T, D)
        return self.out_lin(context), weights

    def _split_heads(self, x: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(x)
        x = tf.reshape(x, [shape[0], shape[1], self.n_heads, self.head_dim])
        return tf.transpose(x, [0, 2, 1, 3])  # (B, H, T, K)


class FeedForward(keras.layers.Layer):
    """Two dense layers with an activation between and dropout behind.

    Args:
        config: Model configuration.

    Call arguments:
        x: Float (B, T, D).

    Returns:
        Float (B, T, D).
    """

    def __init__(self, config: DistilBertConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim, self.hidden_dim = config.dim, config.hidden_dim
        self.activation = get_activation(config.activation)
        self.lin1 = linear(config.hidden_dim, config, "lin1", self.dtype_policy)
        self.lin2 = linear(config.dim, config, "lin2", self.dtype_policy)
        self.dropout = Dropout(config.dropout, name="dropout", dtype=self.dtype_policy)

    def build(self, input_shape: Any = None) -> None:
        """Makes all variables."""
        self.lin1.build((None, None, self.dim))
        self.lin2.build((None, None, self.hidden_dim))
        self.dropout.build()

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Transforms each token alone: (B, T, D) to (B, T, D)."""
        hidden = self.activation(self.lin1(x))  # (B, T, F)
        return self.dropout(self.lin2(hidden), training=training)


class TransformerBlock(keras.layers.Layer):
    """Self-attention and feed-forward, each with a residual and a LayerNorm behind it.

    Args:
        config: Model configuration.

    Call arguments:
        x: Float (B, T, D).
        counts: Booleans (B, 1, 1, T): see `MultiHeadSelfAttention`.

    Returns:
        The pair of the block's output (B, T, D) and the attention weights (B, H, T, T).
    """

    def __init__(self, config: DistilBertConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim = config.dim
        self.attention = MultiHeadSelfAttention(config, name="attention", dtype=self.dtype_policy)
        self.sa_layer_norm = layer_norm("sa_layer_norm", self.dtype_policy)
        self.ffn = FeedForward(config, name="ffn", dtype=self.dtype_policy)
        self.output_layer_norm = layer_norm("output_layer_norm", self.dtype_policy)

    def build(self, input_shape: Any = None) -> None:
        """Makes all variables."""
        self.attention.build()
        self.sa_layer_norm.build((None, None, self.dim))
        self.ffn.build()
        self.output_layer_norm.build((None, None, self.dim))

    def call(
        self, x: tf.Tensor, counts: tf.Tensor, training: bool | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Runs one block: (B, T, D) to (B, T, D) and (B, H, T, T)."""
        attended, weights = self.attention(x, counts, training=training)
        x = self.sa_layer_norm(x + attended)
        return self.output_layer_norm(x + self.ffn(x, training=training)), weights


class Transformer(keras.layers.Layer):
    """The stack of `config.n_layers` blocks.

    Args:
        config: Model configuration.

    Call arguments:
        x: Float (B, T, D), the embedded tokens.
        attention_mask: Integers or booleans (B, T), nonzero where a token counts.

    Returns:
        The pair of all hidden states, n_layers + 1 tensors (B, T, D) from the embeddings to
        the last block, and all attention weights, n_layers tensors (B, H, T, T).
    """

    def __init__(self, config: DistilBertConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer = [
            TransformerBlock(config, name=f"layer_{i}", dtype=self.dtype_policy)
            for i in range(config.n_layers)
        ]

    def build(self, input_shape: Any = None) -> None:
        """Makes all variables."""
        for block in self.layer:
            block.build()

    def call(
        self, x: tf.Tensor, attention_mask: tf.Tensor, training: bool | None = None
    ) -> tuple[tuple[tf.Tensor, ...], tuple[tf.Tensor, ...]]:
        """Runs the stack, and keeps what every block gave."""
        counts = tf.cast(attention_mask, tf.bool)[:, None, None, :]  # (B, 1, 1, T)
        hidden_states, attentions = [x], []
        for block in self.layer:
            x, weights = block(x, counts, training=training)
            hidden_states.append(x)
            attentions.append(weights)
        return tuple(hidden_states), tuple(attentions)
