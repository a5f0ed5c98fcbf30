"""Self-attention, with one projection for queries, keys and values.

Shapes: N tokens of a batch in flat rows, B its rows, R rows of a group with T tokens in the longest
(see `unpadding`), D = config.dim, H = config.n_heads, K = D / H.
"""

from typing import Any, NamedTuple

import keras
import tensorflow as tf
from transformers import DistilBertConfig

from distilbert_tf.models.layers import Dropout, Linear, at_least_float32
from distilbert_tf.models.slot import Slot
from distilbert_tf.models.unpadding import Layout


class Projection(NamedTuple):
    """One of the parts of a `JointLinear`: some rows of its kernel and bias."""

    layer: "JointLinear"
    rows: slice

    def slots(self) -> dict[str, Slot]:
        """Returns its kernel and bias."""
        return {
            "weight": Slot(self.layer.kernel, rows=self.rows),
            "bias": Slot(self.layer.bias, rows=self.rows),
        }


class JointLinear(keras.layers.Layer):
    """Several dense layers on the same input as one product, or the first one on another input.

    Args:
        parts: How many.
        config: Model configuration: `dim` is the width of the input and of each part.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        x: Float (N, D).
        query: Float (B, D), if the first part is to be computed of this instead.

    Returns:
        Float (N, parts, D), flattened to (N, parts * D); with `query` the pair of the first part,
        (B, D), and of the others, (N, (parts - 1) * D).
    """

    def __init__(self, parts: int, config: DistilBertConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parts, self.dim, self.stddev = parts, config.dim, config.initializer_range

    def build(self, input_shape: Any = None) -> None:
        """Makes kernel and bias."""
        # One row an output, as in PyTorch, so that a range of parts is a range of whole rows, which
        # TensorFlow splits off without copying.
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.parts * self.dim, self.dim),
            initializer=keras.initializers.RandomNormal(stddev=self.stddev),
        )
        self.bias = self.add_weight(
            name="bias", shape=(self.parts * self.dim,), initializer="zeros"
        )

    def part(self, index: int) -> Projection:
        """Returns one part, for its name in a checkpoint."""
        return Projection(self, slice(index * self.dim, (index + 1) * self.dim))

    def call(
        self, x: tf.Tensor, query: tf.Tensor | None = None
    ) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor]:
        """Computes all parts of `x`, or the first one of `query` and the others of `x`."""

        def multiply(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
            return tf.nn.bias_add(tf.matmul(x, kernel, transpose_b=True), bias)

        kernel, bias = tf.convert_to_tensor(self.kernel), tf.convert_to_tensor(self.bias)
        if query is None:
            return multiply(x, kernel, bias)
        sizes = [self.dim, (self.parts - 1) * self.dim]
        # Not by slices, whose gradients are padded and added up.
        first_kernel, kernel = tf.split(kernel, sizes)
        first_bias, bias = tf.split(bias, sizes)
        return multiply(query, first_kernel, first_bias), multiply(x, kernel, bias)


class MultiHeadSelfAttention(keras.layers.Layer):
    """Scaled dot-product self-attention with H heads.

    Query, key and value are one product; `q_lin`, `k_lin` and `v_lin` name its parts as a
    checkpoint does.

    Args:
        config: Model configuration; `dim` must be a multiple of `n_heads`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        x: Float (N, D).
        layout: Where the tokens are.
        query: Float (B, D), the first token of each row, if only these attend.
        fused: See `Fusion`.

    Returns:
        The pair of the layer's output, (N, D) or (B, D), and the attention weights of each group,
        (R, H, T, T) or (R, H, 1, T), each row of which adds up to 1 (before dropout).

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
        self.qkv_lin = JointLinear(3, config, name="qkv_lin", dtype=self.dtype_policy)
        self.out_lin = Linear(config.dim, config, name="out_lin", dtype=self.dtype_policy)
        self.dropout = Dropout(config.attention_dropout, name="dropout", dtype=self.dtype_policy)

    @property
    def q_lin(self) -> Projection:
        """The part of `qkv_lin` that makes queries."""
        return self.qkv_lin.part(0)

    @property
    def k_lin(self) -> Projection:
        """The part of `qkv_lin` that makes keys."""
        return self.qkv_lin.part(1)

    @property
    def v_lin(self) -> Projection:
        """The part of `qkv_lin` that makes values."""
        return self.qkv_lin.part(2)

    def build(self, input_shape: Any = None) -> None:
        """Makes all variables."""
        self.qkv_lin.build()
        self.out_lin.build((None, self.dim))
        self.dropout.build()

    def call(
        self,
        x: tf.Tensor,
        layout: Layout,
        query: tf.Tensor | None = None,
        fused: bool = False,
        training: bool | None = None,
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Attends: (N, D) to (N, D), or to (B, D) for the first tokens alone."""
        if query is None:
            heads = layout.split_heads(self.qkv_lin(x), self.n_heads, self.head_dim)
            triples = [tf.unstack(qkv) for qkv in heads]
        else:
            query, kv = self.qkv_lin(x, query)
            heads = layout.split_heads(kv, self.n_heads, self.head_dim)
            query = tf.reshape(query, [-1, self.n_heads, 1, self.head_dim])
            queries = [
                query if group.rows is None else tf.gather(query, group.rows)
                for group in layout.groups
            ]
            triples = [[q, *tf.unstack(kv)] for q, kv in zip(queries, heads, strict=True)]
        contexts, weights = [], []
        for (q, k, v), group in zip(triples, layout.groups, strict=True):
            weights.append(self._weigh(q, k, group.mask, fused))  # (R, H, T or 1, T)
            contexts.append(tf.matmul(self.dropout(weights[-1], training=training), v))
        if query is None:
            context = layout.merge_heads(contexts)  # (N, D)
        else:
            context = layout.merge_rows([tf.reshape(rows, [-1, self.dim]) for rows in contexts])
        return self.out_lin(context), weights

    def _weigh(self, query: tf.Tensor, key: tf.Tensor, mask: tf.Tensor, fused: bool) -> tf.Tensor:
        """Computes the attention weights of a group."""
        # In float32 at least: bfloat16 sums of exponentials lose 2 digits (only the kernel of a
        # fused softmax sums in float32 whatever it reads), and the lowest float16 plus a score is
        # -inf. The lowest finite number rather than -inf, so that a row without any token spreads
        # its attention evenly, where -inf makes NaN.
        dtype = tf.as_dtype(self.compute_dtype if fused else at_least_float32(self.compute_dtype))
        # Product, scale and mask in this order are one kernel for TensorFlow's graph optimizer, if
        # no cast is between them.
        scores = tf.cast(tf.matmul(query, key, transpose_b=True), dtype) * self.head_dim**-0.5
        bias = tf.where(mask, tf.zeros([], dtype), dtype.min)
        # The optimizer knows no rank of the kernel's output, and would log a line for each softmax.
        scores = tf.ensure_shape(scores + bias, [None, self.n_heads, None, None])
        return tf.cast(tf.nn.softmax(scores, axis=-1), self.compute_dtype)
