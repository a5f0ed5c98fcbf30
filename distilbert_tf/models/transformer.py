"""Attention, feed-forward, and the stack of blocks, with Hugging Face's names for every part.

Shapes: N tokens of a batch in flat rows, B its rows, R rows of a group with T tokens in the longest
(see `row_layout`), D = config.dim, H = config.n_heads, K = D / H, F = config.hidden_dim.
"""

from typing import Any, NamedTuple

import keras
import tensorflow as tf
from transformers import DistilBertConfig

from distilbert_tf.models.activations import get_activation
from distilbert_tf.models.layers import Dropout, JointLinear, LayerNorm, Linear, Projection
from distilbert_tf.models.unpadding import RowLayout


class MultiHeadSelfAttention(keras.layers.Layer):
    """Scaled dot-product self-attention with H heads.

    Query, key and value are one product; `q_lin`, `k_lin` and `v_lin` name their parts, as a
    checkpoint does.

    Args:
        config: Model configuration; `dim` must be a multiple of `n_heads`.

    Call arguments:
        x: Float (N, D).
        layout: Where the tokens are.
        query: Float (B, D), if only the first token of each row is to attend.

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
        layout: RowLayout,
        query: tf.Tensor | None = None,
        training: bool | None = None,
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Attends: (N, D) to (N, D), or to (B, D) for the first tokens alone."""
        if query is None:
            heads = layout.split_heads(self.qkv_lin(x), self.n_heads, self.head_dim)
            triples = [tf.unstack(qkv) for qkv in heads]
        else:
            heads = layout.split_heads(self.qkv_lin(x, first=1), self.n_heads, self.head_dim)
            query = tf.reshape(self.qkv_lin(query, last=0), [-1, self.n_heads, 1, self.head_dim])
            queries = [
                query if group.rows is None else tf.gather(query, group.rows)
                for group in layout.groups
            ]
            triples = [[q, *tf.unstack(kv)] for q, kv in zip(queries, heads, strict=True)]
        contexts, weights = [], []
        for (q, k, v), group in zip(triples, layout.groups, strict=True):
            weights.append(self._weigh(q, k, group.counts))  # (R, H, T or 1, T)
            contexts.append(tf.matmul(self.dropout(weights[-1], training=training), v))
        if query is None:
            context = layout.merge_heads(contexts)  # (N, D)
        else:
            context = layout.merge_rows([tf.reshape(rows, [-1, self.dim]) for rows in contexts])
        return self.out_lin(context), weights

    def _weigh(self, query: tf.Tensor, key: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
        """Computes the attention weights of a group."""
        # Product, scale and mask in this order are one kernel for TensorFlow's graph optimizer.
        scores = tf.matmul(query, key, transpose_b=True) * self.head_dim**-0.5
        # In float32 at least: bfloat16 sums of exponentials lose 2 digits, and the lowest float16
        # plus a score is -inf. The lowest finite number rather than -inf, since a row without any
        # token then spreads its attention evenly, where -inf gives NaN.
        dtype = tf.as_dtype(keras.backend.result_type(self.compute_dtype, "float32"))
        bias = tf.where(counts, tf.zeros([], dtype), dtype.min)
        # To the optimizer the kernel's output has no rank; it would log a line for each softmax.
        scores = tf.ensure_shape(tf.cast(scores, dtype) + bias, [None, self.n_heads, None, None])
        return tf.cast(tf.nn.softmax(scores, axis=-1), self.compute_dtype)


class FeedForward(keras.layers.Layer):
    """Two dense layers with an activation between and dropout behind.

    Args:
        config: Model configuration.

    Call arguments:
        x: Float (N, D).

    Returns:
        Float (N, D).
    """

    def __init__(self, config: DistilBertConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim, self.hidden_dim = config.dim, config.hidden_dim
        self.activation = get_activation(config.activation)
        self.lin1 = Linear(config.hidden_dim, config, name="lin1", dtype=self.dtype_policy)
        self.lin2 = Linear(config.dim, config, name="lin2", dtype=self.dtype_policy)
        self.dropout = Dropout(config.dropout, name="dropout", dtype=self.dtype_policy)

    def build(self, input_shape: Any = None) -> None:
        """Makes all variables."""
        self.lin1.build((None, self.dim))
        self.lin2.build((None, self.hidden_dim))
        self.dropout.build()

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Transforms each token alone: (N, D) to (N, D)."""
        hidden = self.activation(self.lin1(x))  # (N, F)
        return self.dropout(self.lin2(hidden), training=training)


class TransformerBlock(keras.layers.Layer):
    """Self-attention and feed-forward, each with a residual and a LayerNorm behind it.

    Args:
        config: Model configuration.

    Call arguments:
        x: Float (N, D).
        layout: Where the tokens are.
        first_token_only: Whether to compute the output of each row's first token alone.

    Returns:
        The pair of the block's output, (N, D) or (B, D), and the attention weights: see
        `MultiHeadSelfAttention`.
    """

    def __init__(self, config: DistilBertConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim = config.dim
        self.attention = MultiHeadSelfAttention(config, name="attention", dtype=self.dtype_policy)
        self.sa_layer_norm = LayerNorm(name="sa_layer_norm", dtype=self.dtype_policy)
        self.ffn = FeedForward(config, name="ffn", dtype=self.dtype_policy)
        self.output_layer_norm = LayerNorm(name="output_layer_norm", dtype=self.dtype_policy)

    def build(self, input_shape: Any = None) -> None:
        """Makes all variables."""
        self.attention.build()
        self.sa_layer_norm.build((None, self.dim))
        self.ffn.build()
        self.output_layer_norm.build((None, self.dim))

    def call(
        self,
        x: tf.Tensor,
        layout: RowLayout,
        first_token_only: bool = False,
        training: bool | None = None,
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Runs one block."""
        query = layout.first_tokens(x) if first_token_only else None  # (B, D)
        attended, weights = self.attention(x, layout=layout, query=query, training=training)
        x = self.sa_layer_norm((x if query is None else query) + attended)
        return self.output_layer_norm(x + self.ffn(x, training=training)), weights


class TransformerOutput(NamedTuple):
    """What the stack gives, in flat rows.

    Attributes:
        last: Float (N, D), or (B, D) of the first tokens alone.
        hidden_states: n_layers + 1 tensors (N, D), from the embeddings to the last block.
        attentions: For each block the weights of each group: see `MultiHeadSelfAttention`.
    """

    last: tf.Tensor
    hidden_states: list[tf.Tensor]
    attentions: list[list[tf.Tensor]]


class Transformer(keras.layers.Layer):
    """The stack of `config.n_layers` blocks.

    Args:
        config: Model configuration.

    Call arguments:
        x: Float (N, D), the embedded tokens.
        layout: Where they are.
        first_token_only: Whether the last block is to compute the first token of each row alone.

    Returns:
        A `TransformerOutput`.
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
        self,
        x: tf.Tensor,
        layout: RowLayout,
        first_token_only: bool = False,
        training: bool | None = None,
    ) -> TransformerOutput:
        """Runs the stack, and keeps what every block gave."""
        hidden_states, attentions = [x], []
        for block in self.layer:
            is_last = block is self.layer[-1]
            x, weights = block(
                x, layout=layout, first_token_only=first_token_only and is_last, training=training
            )
            hidden_states.append(x)
            attentions.append(weights)
        return TransformerOutput(x, hidden_states, attentions)
