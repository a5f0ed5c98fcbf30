"""The model for masked LM.

Shapes: B rows, T tokens in a row, P positions to predict in a row, N rows of any kind, D =
config.dim, V = config.vocab_size.
"""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
from transformers import DistilBertConfig

from distilbert_tf.models.activations import get_activation
from distilbert_tf.models.heads import IGNORED, ModelWithHead
from distilbert_tf.models.inputs import ATTENTION_MASK, INPUT_IDS, ModelInputs, split_inputs
from distilbert_tf.models.layers import LayerNorm, Linear, resize_weight
from distilbert_tf.models.outputs import HeadOutput
from distilbert_tf.models.slot import Slot
from distilbert_tf.models.unpadding import Unpadding, make_layout

MASK_POSITIONS = "mask_positions"  # an input of the model


class VocabProjector(keras.layers.Layer):
    """Scores every word; the weights are the word embeddings unless untied.

    Args:
        config: Model configuration: `tie_word_embeddings`.

    Call arguments:
        x: Float (N, D).
        embeddings: The word embeddings, float (V, D); used if tied.

    Returns:
        Float (N, V).
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
        """Scores words: (N, D) to (N, V)."""
        kernel = embeddings if self.kernel is None else tf.convert_to_tensor(self.kernel)
        scores = tf.matmul(x, tf.cast(kernel, x.dtype), transpose_b=True)
        return tf.nn.bias_add(scores, self.bias)

    def resize(self, vocab_size: int) -> None:
        """Changes the number of words, in place; new ones get a bias of 0."""
        resize_weight(self, "bias", vocab_size, "zeros")
        if not self.tied:
            normal = keras.initializers.RandomNormal(stddev=self.stddev)
            resize_weight(self, "kernel", vocab_size, normal)
        self.vocab_size = vocab_size

    def slots(self) -> dict[str, Slot]:
        """Returns the bias, and the kernel if it is not shared."""
        slots = {"bias": Slot(self.bias)}
        return slots if self.kernel is None else slots | {"weight": Slot(self.kernel)}


@keras.saving.register_keras_serializable(package="distilbert_tf")
class TFDistilBertForMaskedLM(ModelWithHead):
    """DistilBERT with the masked language modeling head.

    The projection onto the vocabulary is the most expensive product of all. It is computed for true
    tokens only, and, in training, where few of them are predicted, only for those that the input
    `mask_positions` names.

    Args:
        config: Model configuration; `tie_word_embeddings` shares the weights of the projection.
        **kwargs: See `PreTrainedModel`.

    Call arguments:
        inputs: See `TFDistilBertModel`; there may also be `mask_positions`, integers (B, P), the
            columns to predict. A row with fewer of them repeats one, with weight 0 in the loss.
        training, output_hidden_states, output_attentions, skip_padding: See `TFDistilBertModel`.
        labels: Ids of the right words, (B, T) or (B, P); -100 where none is to be predicted. There
            may be some at padding, so a call with labels computes every position, as PyTorch does,
            unless it says `skip_padding=True`.
        return_dict: True for a `HeadOutput`, False for a tuple: see `PreTrainedModel`.

    Returns:
        Logits, float32 (B, T, V), zeros at positions that were not computed, or (B, P, V) at
        `mask_positions`. A `HeadOutput` if more is asked for, or in transformers' way: see
        `PreTrainedModel`.

    Raises:
        ValueError: See `TFDistilBertModel`; or `mask_positions` are not integers (B, P).

    Example:
        tokenizer = DistilBertTokenizer.from_pretrained("distilbert-base-uncased")
        model = TFDistilBertForMaskedLM.from_pretrained("distilbert-base-uncased")
        inputs = tokenizer("The kettle is [MASK].", return_tensors="tf")
        best = model({**inputs, "mask_positions": tf.constant([[4]])})[0, 0].numpy().argmax()
        tokenizer.convert_ids_to_tokens(int(best))

    Reference:
        `DistilBertForMaskedLM` of transformers on PyTorch.
    """

    input_names = (INPUT_IDS, ATTENTION_MASK, MASK_POSITIONS)

    def __init__(self, config: DistilBertConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.activation = get_activation(config.activation)
        self.vocab_transform = Linear(
            config.dim, config, name="vocab_transform", dtype=self.dtype_policy
        )
        self.vocab_layer_norm = LayerNorm(name="vocab_layer_norm", dtype=self.dtype_policy)
        self.vocab_projector = VocabProjector(
            config, name="vocab_projector", dtype=self.dtype_policy
        )
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Makes all variables."""
        self.vocab_transform.build((None, self.config.dim))
        self.vocab_layer_norm.build((None, self.config.dim))
        self.vocab_projector.build()

    def call(
        self,
        inputs: ModelInputs,
        training: bool | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        skip_padding: bool | None = None,
    ) -> tf.Tensor | HeadOutput:
        """Encodes tokens and scores words."""
        wants_more = output_hidden_states or output_attentions
        if skip_padding is None:
            skip_padding = self.skip_padding
        positions = None
        if isinstance(inputs, Mapping):
            inputs = dict(inputs)
            positions = inputs.pop(MASK_POSITIONS, None)
        encoded = self.distilbert(
            inputs,
            training=training,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            skip_padding=skip_padding,
        )
        hidden = encoded.last_hidden_state  # (B, T, D)
        if positions is not None:
            logits = self.score_words(tf.gather(hidden, _check_positions(positions), batch_dims=1))
        else:
            _, mask = split_inputs(inputs)
            layout = make_layout(
                mask,
                skip_padding=skip_padding and not wants_more,
                options=Unpadding(length_groups=1),
            )
            logits = layout.pad(self.score_words(layout.flatten(hidden)))
            logits = tf.ensure_shape(logits, [*hidden.shape[:2], self.config.vocab_size])
        if wants_more:
            return HeadOutput(logits, encoded.hidden_states, encoded.attentions)
        return logits

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the model: see `PreTrainedModel`."""
        if kwargs.get("labels") is not None:
            kwargs.setdefault("skip_padding", False)
        return super().__call__(*args, **kwargs)

    def make_loss(self, labels: tf.Tensor | None = None) -> keras.losses.Loss:
        """Makes the cross-entropy of the words at positions with a label."""
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=IGNORED)

    def score_words(self, hidden: tf.Tensor) -> tf.Tensor:
        """Applies the head alone.

        Args:
            hidden: Last hidden states, float (..., D).

        Returns:
            Logits, float32 (..., V).
        """
        states = self.transform_states(tf.reshape(hidden, [-1, self.config.dim]))
        words = self.distilbert.embeddings.word_embeddings.embeddings
        scores = tf.cast(self.vocab_projector(states, tf.convert_to_tensor(words)), tf.float32)
        shape = [tf.shape(hidden)[i] if n is None else n for i, n in enumerate(hidden.shape[:-1])]
        return tf.reshape(scores, [*shape, self.config.vocab_size])

    def _resize(self, vocab_size: int) -> None:
        super()._resize(vocab_size)
        self.vocab_projector.resize(vocab_size)

    def transform_states(self, hidden: tf.Tensor) -> tf.Tensor:
        """Applies the head up to its last product, which `word_weights` are the weights of.

        Args:
            hidden: Last hidden states, float (N, D).

        Returns:
            Float (N, D).
        """
        return self.vocab_layer_norm(self.activation(self.vocab_transform(hidden)))

    def word_weights(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the weights of the last product: a vector for each word, (V, D), and (V,)."""
        projector = self.vocab_projector
        kernel = projector.kernel
        if kernel is None:
            kernel = self.distilbert.embeddings.word_embeddings.embeddings
        return tf.convert_to_tensor(kernel), tf.convert_to_tensor(projector.bias)


def _check_positions(positions: tf.Tensor) -> tf.Tensor:
    positions = tf.convert_to_tensor(positions)
    if not positions.dtype.is_integer or positions.shape.rank != 2:
        raise ValueError(
            f"{MASK_POSITIONS} must be integers of shape (rows, positions); got "
            f"{positions.dtype.name} {tuple(positions.shape)}."
        )
    return positions
