"""How an encoder is traced for serving.

Shapes: B rows, T tokens in the longest of them, D = config.dim.
"""

from collections.abc import Callable

import tensorflow as tf

from distilbert_tf.models.encoder import TFDistilBertModel
from distilbert_tf.models.inputs import ModelInputs
from distilbert_tf.models.layers import Fusion
from distilbert_tf.models.unpadding import Unpadding

# oneDNN packs weights for 7 to 88 rows in one way and for more in another (measured on AVX-512).
FEW_TOKENS = 80
# With few tokens, more groups of rows cost more than they save.
FEW = Unpadding(length_groups=1, least_tokens=8)
# Merged requests are of any size, and oneDNN makes kernels for each: it keeps 1,024 of them, which
# 250 batches exceed. Of rounded sizes there are few; and what is computed in vain is regained in
# products and softmaxes without remainders. Matrix units (AMX) take 32 rows at a time.
MANY = Unpadding(token_multiple=16, length_multiple=16)
MANY_IN_BFLOAT16 = MANY._replace(token_multiple=32)


def trace_by_size(
    encoder: TFDistilBertModel,
    inputs: ModelInputs,
    head: Callable[[tf.Tensor], tf.Tensor],
    *,
    first_token_only: bool = False,
) -> tf.Tensor:
    """Traces encoder and head twice, for few tokens and for many; a request takes one of the two.

    A server that packs its weights once (TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=1) keeps for each op of
    the graph the layout of its first call. Few rows want another layout than many, and would pay
    for it anew in every call: 10 ms for a lone sentence. Two copies of each op keep both. For
    many tokens each LayerNorm is one kernel, which takes longer to start than few tokens take.

    Padding is never computed, not even for a model made with `skip_padding=False`.

    Args:
        encoder: The encoder.
        inputs: `input_ids` and `attention_mask`, integers (B, T).
        head: Takes the last hidden states, float (B, T, D) or (B, 1, D).
        first_token_only: Whether it takes those of the first tokens alone, (B, 1, D).

    Returns:
        What `head` returns.
    """

    def compute(unpadding: Unpadding, fusion: Fusion) -> tf.Tensor:
        encoded = encoder(
            inputs,
            training=False,
            output_hidden_states=False,  # whatever the configuration asks for
            output_attentions=False,
            first_token_only=first_token_only,
            skip_padding=True,
            unpadding=unpadding,
            fusion=fusion,
        )
        return head(encoded.last_hidden_state)

    tokens = tf.math.count_nonzero(inputs["attention_mask"], dtype=tf.int32)
    many = MANY_IN_BFLOAT16 if encoder.compute_dtype == "bfloat16" else MANY
    has_kernels = encoder.compute_dtype in ("float32", "bfloat16")
    return tf.cond(
        tokens <= FEW_TOKENS,
        lambda: compute(FEW, Fusion(attention=has_kernels)),
        lambda: compute(many, Fusion(attention=has_kernels, layer_norm=has_kernels)),
    )
