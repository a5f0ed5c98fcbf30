"""Models with a head: sequence classification and masked LM.

Shapes: B rows, T tokens in a row, D = config.dim, C = config.num_labels,
V = config.vocab_size.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from transformers import DistilBertConfig

from distilbert_tf.activations import get_activation
from distilbert_tf.checkpoint import HEADS
from distilbert_tf.layers import Dropout, layer_norm, linear
from distilbert_tf.model import ModelInputs, PreTrainedModel, TFDistilBertModel


class HeadOutput(NamedTuple):
    """What a model with a head gives when asked for more than its logits.

    Attributes:
        logits: Float32 (B, C), or (B, T, V) for masked LM.
        hidden_states: See `EncoderOutput`.
        attentions: See `EncoderOutput`.
    """

    logits: tf.Tensor
    hidden_states: tuple[tf.Tensor, ...] = ()
    attentions: tuple[tf.Tensor, ...] = ()


class _ModelWithHead(PreTrainedModel):
    """An encoder named `distilbert`, and a subclass' `head` on its last hidden state."""

    def __init__(self, config: DistilBertConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.distilbert = TFDistilBertModel(config, name="distilbert", dtype=self.dtype_policy)

    def head(self, hidden: tf.Tensor, training: bool | None) -> tf.Tensor:
        """Turns the last hidden state (B, T, D) into logits."""
        raise NotImplementedError

    def call(
        self,
        inputs: ModelInputs,
        training: bool | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> tf.Tensor | HeadOutput:
        """Encodes tokens and applies the head."""
        encoded = self.distilbert(
            inputs,
            training=training,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        logits = tf.cast(self.head(encoded.last_hidden_state, training), tf.float32)
        if output_hidden_states or output_attentions:
            return HeadOutput(logits, encoded.hidden_states, encoded.attentions)
        return logits


@keras.saving.register_keras_serializable(package="distilbert_tf")
class TFDistilBertForSequenceClassification(_ModelWithHead):
    """DistilBERT with a classifier on its first token, [CLS].

    The output is the logits, so `compile` with a `from_logits=True` loss and `fit` work as
    they are.

    Args:
        config: Model configuration; `num_labels` or `id2label` give C.
        **kwargs: See `PreTrainedModel`.

    Call arguments:
        inputs: See `TFDistilBertModel`.
        training: Whether dropout acts.
        output_hidden_states: Whether to give all hidden states.
        output_attentions: Whether to give the attention weights.

    Returns:
        Logits, float32 (B, C); a `HeadOutput` if hidden states or attentions are asked for.

    Reference:
        transformers' `DistilBertForSequenceClassification` on PyTorch.
    """

    def __init__(self, config: DistilBertConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.pre_classifier = linear(config.dim, config, "pre_classifier", self.dtype_policy)
        self.dropout = Dropout(config.seq_classif_dropout, name="dropout", dtype=self.dtype_policy)
        self.classifier = linear(config.num_labels, config, "classifier", self.dtype_policy)
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Makes all variables."""
        self.pre_classifier.build((None, self.config.dim))
        self.dropout.build()
        self.classifier.build((None, self.config.dim))

    def head(self, hidden: tf.Tensor, training: bool | None) -> tf.Tensor:
        """Classifies the first token: (B, T, D) to (B, C)."""
        pooled = tf.nn.relu(self.pre_classifier(hidden[:, 0]))  # (B, D)
        return self.classifier(self.dropout(pooled, training=training))

    @classmethod
    def _asks_for_fresh_head(cls, tensors: Mapping[str, Any]) -> bool:
        head = HEADS["sequence classification"]
        return not any(name.split(".")[0] in head for name in tensors)


class VocabProjector(keras.layers.Layer):
    """Scores for every word; the weights are the word embeddings unless untied.

    Args:
        config: Model configuration: `tie_word_embeddings`.

    Call arguments:
        x: Float (N..., D).
        embeddings: The word embeddings, float (V, D); used if tied.

    Returns:
        Float (N..., V).
    """

    def __init__(self, config: DistilBertConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.vocab_size, self.dim = config.vocab_size, config.dim
        self.tied = config.tie_word_embeddings
        self.stddev = config.initializer_range
        self.kernel: keras.Variable | None = None

    def build(self, input_shape: Any = None) -> None:
        """Makes the bias, and the kernel (V, D) if it is not shared."""
        self.bias = self.add_weight(name="bias", shape=(self.vocab_size,), initializer="zeros")
        if not self.tied:
            self.kernel = self.add_weight(
                name="kernel",
                shape=(self.vocab_size, self.dim),
                initializer=keras.initializers.RandomNormal(stddev=self.stddev),
            )

    def call(self, x: tf.Tensor, embeddings: tf.Tensor) -> tf.Tensor:
        """Scores words: (..., D) to (..., V)."""
        kernel = embeddings if self.kernel is None else tf.convert_to_tensor(self.kernel)
        flat = tf.reshape(x, [-1, self.dim])
        scores = tf.matmul(flat, tf.cast(kernel, x.dtype), transpose_b=True) + self.bias
        return tf.reshape(scores, tf.concat([tf.shape(x)[:-1], [self.vocab_size]], 0))


@keras.saving.register_keras_serializable(package="distilbert_tf")
class TFDistilBertForMaskedLM(_ModelWithHead):
    """DistilBERT with the masked language modelling head.

    Args:
        config: Model configuration; `tie_word_embeddings` shares the projector's weights.
        **kwargs: See `PreTrainedModel`.

    Call arguments:
        inputs: See `TFDistilBertModel`.
        training: Whether dropout acts.
        output_hidden_states: Whether to give all hidden states.
        output_attentions: Whether to give the attention weights.

    Returns:
        Logits, float32 (B, T, V); a `HeadOutput` if hidden states or attentions are asked for.

    Reference:
        transformers' `DistilBertForMaskedLM` on PyTorch.
    """

    def __init__(self, config: DistilBertConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.activation = get_activation(config.activation)
        self.vocab_transform = linear(config.dim, config, "vocab_transform", self.dtype_policy)
        self.vocab_layer_norm = layer_norm("vocab_layer_norm", self.dtype_policy)
        self.vocab_projector = VocabProjector(
            config, name="vocab_projector", dtype=self.dtype_policy
        )
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Makes all variables."""
        self.vocab_transform.build((None, None, self.config.dim))
        self.vocab_layer_norm.build((None, None, self.config.dim))
        self.vocab_projector.build()

    def head(self, hidden: tf.Tensor, training: bool | None) -> tf.Tensor:
        """Scores words at every position: (B, T, D) to (B, T, V)."""
        x = self.vocab_layer_norm(self.activation(self.vocab_transform(hidden)))
        words = self.distilbert.embeddings.word_embeddings.embeddings
        return self.vocab_projector(x, tf.convert_to_tensor(words))
