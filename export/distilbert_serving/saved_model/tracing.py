"""How a model is traced for serving.

Shapes: B rows, T tokens in the longest of them.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from distilbert_tf.models.pretrained import PreTrainedModel
from distilbert_tf.models.unpadding import LENGTH_GROUPS

# oneDNN packs weights for 7 to 88 rows in one way and for more in another (measured on AVX-512).
FEW_TOKENS = (7, 80)


def trace_by_size(
    model: PreTrainedModel, attention_mask: tf.Tensor, call: Callable[[], tf.Tensor]
) -> tf.Tensor:
    """Traces a call of a model twice, for few tokens and for many; a request takes one of the two.

    A server that packs its weights once (TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=1) keeps for each op of
    the graph the layout of its first call. Few rows want another layout than many, and would pay
    for it anew in every call: 10 ms for a lone sentence. Two copies of each op keep both.

    Args:
        model: The model; also one that was trained with its padding is traced for true tokens.
        attention_mask: Integers (B, T).
        call: Calls it.

    Returns:
        What `call` gives.
    """

    def trace(length_groups: int) -> tf.Tensor:
        with _true_tokens(model, length_groups):
            return call()

    tokens = tf.math.count_nonzero(attention_mask, dtype=tf.int32)
    few, most = FEW_TOKENS
    return tf.cond(
        (tokens >= few) & (tokens <= most),
        # With few tokens, more groups of rows cost more than they save.
        lambda: trace(1),
        lambda: trace(LENGTH_GROUPS),
    )


@contextlib.contextmanager
def _true_tokens(model: Any, length_groups: int) -> Iterator[None]:
    encoder = getattr(model, "distilbert", model)
    before = model.skip_padding, encoder.length_groups
    model.skip_padding, encoder.length_groups = True, length_groups
    try:
        yield
    finally:
        model.skip_padding, encoder.length_groups = before
