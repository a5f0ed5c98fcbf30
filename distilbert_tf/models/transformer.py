"""Feed-forward layers, blocks and their stack, with Hugging Face's names for every part.

Shapes: N tokens of a batch in flat rows, B its rows, R rows of a group with T tokens in the longest
(see `unpadding`), D = config.dim, H = config.n_heads, F = config.hidden_dim.
"""

from typing import Any, NamedTuple

import keras
import tensorflow as tf
from transformers import DistilBertConfig

from distilbert_tf.models.activations import get_activation
from distilbert_tf.models.attention import MultiHeadSelfAttention
from distilbert_tf.models.layers import (
    NO_FUSION,
    Dropout,
    Fusion,
    LayerNorm,
    Linear,
    at_least_float32,
)
from distilbert_tf.models.unpadding import Layout


class FeedForward(keras.layers.Layer):
    """Two dense layers with an activation between them, then dropout.

    Args:
        config: Model configuration.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        x: Float (N, D).

    Returns:
        Float (N, D).
    """

    def __init__(self, config: DistilBertConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim, self.hidden_dim = config.dim, config.hidden_dim
        self.activation = get_activation(config.activation)
        self.trained_activation = get_activation(config.activation, training=True)
        self.lin1 = Linear(config.hidden_dim, config, name="lin1", dtype=self.dtype_policy)
        self.lin2 = Linear(config.dim, config, name="lin2", dtype=self.dtype_policy)
        self.dropout = Dropout(config.dropout, name="dropout", dtype=self.dtype_policy)

    def build(self, input_shape: Any = None) -> None:
        """Makes all variables."""
        self.lin1.build((None, self.dim))
        self.lin2.build((None, self.hidden_dim))
        self.dropout.build()

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Transforms each token on its own: (N, D) to (N, D)."""
        hidden = self.lin1(x)  # (N, F)
        if training:
            # In bfloat16 a CPU is slow with all but products. (Without gradients it is one kernel.)
            hidden = self.trained_activation(tf.cast(hidden, at_least_float32(self.compute_dtype)))
        else:
            hidden = self.activation(hidden)
        hidden = tf.cast(hidden, self.compute_dtype)
        return self.dropout(self.lin2(hidden), training=training)


class TransformerBlock(keras.layers.Layer):
    """Self-attention and feed-forward, each followed by a residual and LayerNorm.

    Args:
        config: Model configuration.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        x: Float (N, D).
        layout: Where the tokens are.
        first_token_only: Whether to compute only the first token of each row.
        fusion: See `Fusion`.

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
        layout: Layout,
        first_token_only: bool = False,
        fusion: Fusion = NO_FUSION,
        training: bool | None = None,
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Runs one block."""
        query = layout.first_tokens(x) if first_token_only else None  # (B, D)
        fused = fusion.layer_norm and not first_token_only  # those are few
        attended, weights = self.attention(
            x, layout=layout, query=query, fused=fusion.attention, training=training
        )
        x = (x if query is None else query) + attended
        x = self.sa_layer_norm(x, fused=fused)
        x = x + self.ffn(x, training=training)
        return self.output_layer_norm(x, fused=fused), weights


class TransformerOutput(NamedTuple):
    """The output of the stack, in flat rows.

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
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        x: Float (N, D), the embedded tokens.
        layout: Where they are.
        first_token_only: Whether the last block computes only the first token of each row.
        fusion: See `Fusion`.

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
        layout: Layout,
        first_token_only: bool = False,
        fusion: Fusion = NO_FUSION,
        training: bool | None = None,
    ) -> TransformerOutput:
        """Runs the stack, and keeps the output of every block."""
        hidden_states, attentions = [x], []
        for block in self.layer:
            is_last = block is self.layer[-1]
            x, weights = block(
                x,
                layout=layout,
                first_token_only=first_token_only and is_last,
                fusion=fusion,
                training=training,
            )
            hidden_states.append(x)
            attentions.append(weights)
        return TransformerOutput(x, hidden_states, attentions)
