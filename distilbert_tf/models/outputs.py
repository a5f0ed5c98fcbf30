"""What models return: named tuples that can also be read as transformers' outputs are.

Shapes: B rows, T tokens in a row, P positions to predict in a row, D = config.dim, H =
config.n_heads, L = config.n_layers, C = config.num_labels, V = config.vocab_size.
"""

from typing import Any, NamedTuple

import tensorflow as tf


def _to_tuple(output: Any, *names: str) -> tuple[Any, ...]:
    values = [getattr(output, name) for name in names]
    return tuple(value for value in values if tf.is_tensor(value) or value)


class EncoderOutput(NamedTuple):
    """The output of the encoder.

    `output["last_hidden_state"]` and `output[0]` are read as in transformers: by number, what was
    not asked for does not count.

    Attributes:
        last_hidden_state: Float (B, T, D), or (B, 1, D) of the first tokens alone. Zeros at masked
            positions unless those were computed: see `PreTrainedModel`.
        hidden_states: L + 1 tensors (B, T, D), embeddings first; empty unless asked for.
        attentions: L tensors (B, H, T, T); empty unless asked for.
    """

    last_hidden_state: tf.Tensor
    hidden_states: tuple[tf.Tensor, ...] = ()
    attentions: tuple[tf.Tensor, ...] = ()

    def __getitem__(self, key: Any) -> Any:
        return getattr(self, key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[Any, ...]:
        """Returns what was asked for, in transformers' order."""
        return _to_tuple(self, *self._fields)


class HeadOutput(NamedTuple):
    """The output of a model with a head, where it is more than the logits.

    `output["logits"]` and `output[0]` are read as in transformers: by number, the loss comes first,
    and what was not asked for does not count.

    Attributes:
        logits: Float32 (B, C), or (B, T, V) or (B, P, V) for masked LM.
        hidden_states: See `EncoderOutput`.
        attentions: See `EncoderOutput`.
        loss: The mean loss, float32 (), if the call had labels.
    """

    logits: tf.Tensor
    hidden_states: tuple[tf.Tensor, ...] = ()
    attentions: tuple[tf.Tensor, ...] = ()
    loss: tf.Tensor | None = None

    def __getitem__(self, key: Any) -> Any:
        return getattr(self, key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[Any, ...]:
        """Returns the loss, if any, the logits, and what else was asked for."""
        return _to_tuple(self, "loss", "logits", "hidden_states", "attentions")
