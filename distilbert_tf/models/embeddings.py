"""Embeddings of words and positions.

Shapes: N tokens of a batch in flat rows (see `unpadding`), D = config.dim, V = config.vocab_size.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from transformers import DistilBertConfig

from distilbert_tf.models.layers import (
    NO_FUSION,
    Dropout,
    Fusion,
    LayerNorm,
    resize_weight,
)
from distilbert_tf.models.slot import Slot


def gather_with_dense_gradient(
    table: tf.Tensor, ids: tf.Tensor, padding_id: int | None = None
) -> tf.Tensor:
    """Gathers rows of a table; the gradient is dense, with repeated rows summed.

    The gradient of `tf.gather` is `IndexedSlices`, and Keras' Adam squares the slices before it
    adds up those of the same row, which makes its second moment too small for every word that
    occurs twice in a batch.

    Args:
        table: Float (V, D).
        ids: Integers of any shape, in [0, V).
        padding_id: A row without gradient, like PyTorch's `padding_idx`.

    Returns:
        Float of shape `ids.shape + (D,)`.
    """

    @tf.custom_gradient
    def gather(table: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
            rows, width = tf.shape(table)[0], table.shape[1]
            segments = tf.reshape(ids, [-1])
            if padding_id is not None:  # the sum leaves out negative segments
                segments = tf.where(segments == padding_id, tf.cast(-1, ids.dtype), segments)
            # In float32 under any policy: a frequent word has hundreds of terms, and a sum in
            # bfloat16 stops growing once it is 256 times the next term.
            flat = tf.cast(tf.reshape(upstream, [-1, width]), tf.float32)
            total = tf.math.unsorted_segment_sum(flat, segments, rows)
            return tf.cast(total, upstream.dtype), None

        return tf.gather(table, ids), gradient

    return gather(table, ids)


def sinusoidal_positions(length: int, dim: int) -> np.ndarray:
    """Computes the fixed position embeddings of "Attention Is All You Need", section 3.5.

    Args:
        length: Number of positions.
        dim: Width of an embedding, D.

    Returns:
        float32 (length, dim): sines in the even columns, cosines in the odd ones.
    """
    position = np.arange(length)[:, None]
    column = np.arange(dim)[None, :]
    angle = position / np.power(10000, 2 * (column // 2) / dim)
    return np.where(column % 2 == 0, np.sin(angle), np.cos(angle)).astype("float32")


class Embedding(keras.layers.Embedding):
    """A lookup table whose gradient is dense: see `gather_with_dense_gradient`.

    Args:
        *args: See `keras.layers.Embedding`.
        padding_id: A row that lookups do not train; none if not given.
        **kwargs: See `keras.layers.Embedding`.
    """

    def __init__(self, *args: Any, padding_id: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.padding_id = padding_id

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        """Looks up rows: integers (...) to float (..., D)."""
        table = tf.convert_to_tensor(self.embeddings)
        rows = gather_with_dense_gradient(table, ids, self.padding_id)
        return tf.cast(rows, self.compute_dtype)

    def resize(self, rows: int) -> None:
        """Changes the number of rows, in place; new ones are drawn as the layer's first were."""
        resize_weight(self, "_embeddings", rows, self.embeddings_initializer)
        self.input_dim = rows

    def slots(self) -> dict[str, Slot]:
        """Returns the table."""
        return {"weight": Slot(self.embeddings)}


class Embeddings(keras.layers.Layer):
    """Word plus position embeddings, LayerNorm, dropout.

    Args:
        config: Model configuration. With `sinusoidal_pos_embds` the positions are sines and are not
            trained, as in the reference.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        input_ids: Integers (N,).
        positions: Integers (N,), the column of each token in its row.
        fusion: See `Fusion`.

    Returns:
        Float (N, D).
    """

    def __init__(self, config: DistilBertConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_length = config.max_position_embeddings
        normal = keras.initializers.RandomNormal(stddev=config.initializer_range)
        self.word_embeddings = Embedding(
            config.vocab_size,
            config.dim,
            embeddings_initializer=normal,
            padding_id=config.pad_token_id,
            name="word_embeddings",
            dtype=self.dtype_policy,
        )
        positions = sinusoidal_positions(self.max_length, config.dim)
        self.position_embeddings = Embedding(
            self.max_length,
            config.dim,
            embeddings_initializer=(
                keras.initializers.Constant(positions) if config.sinusoidal_pos_embds else normal
            ),
            trainable=not config.sinusoidal_pos_embds,
            name="position_embeddings",
            dtype=self.dtype_policy,
        )
        self.LayerNorm = LayerNorm(name="LayerNorm", dtype=self.dtype_policy)
        self.dropout = Dropout(config.dropout, name="dropout", dtype=self.dtype_policy)
        self.dim = config.dim

    def build(self, input_shape: Any = None) -> None:
        """Makes all variables."""
        self.word_embeddings.build()
        self.position_embeddings.build()
        self.LayerNorm.build((None, self.dim))
        self.dropout.build()

    def call(
        self,
        input_ids: tf.Tensor,
        positions: tf.Tensor,
        fusion: Fusion = NO_FUSION,
        training: bool | None = None,
    ) -> tf.Tensor:
        """Embeds tokens: (N,) to (N, D)."""
        x = self.word_embeddings(input_ids) + self.position_embeddings(positions)
        return self.dropout(self.LayerNorm(x, fused=fusion.layer_norm), training=training)

    def check_length(self, input_ids: tf.Tensor) -> tf.Tensor:
        """Refuses rows that have more tokens than there are positions.

        Args:
            input_ids: Integers (B, W).

        Returns:
            `input_ids`, checked.

        Raises:
            ValueError: W, when known, exceeds `max_position_embeddings`.
            tf.errors.InvalidArgumentError: The same when W is only known at run time.
        """
        message = (
            f"A row of input_ids is longer than the {self.max_length} positions that this model "
            "has (config.max_position_embeddings); truncate it, for example with the "
            "tokenizer's max_length."
        )
        if (length := input_ids.shape[1]) is not None:
            if length > self.max_length:
                raise ValueError(f"{message} Its length is {length}.")
            return input_ids
        check = tf.debugging.assert_less_equal(
            tf.shape(input_ids)[1], self.max_length, message=message
        )
        with tf.control_dependencies([check] if check is not None else []):
            return tf.identity(input_ids)
