"""The base of models with a head, and sequence classification.

Shapes: B rows, T tokens in a row, P positions to predict in a row, D = config.dim, C =
config.num_labels, V = config.vocab_size.
"""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
from absl import logging
from transformers import BatchEncoding, DistilBertConfig

from distilbert_tf.checkpoints.problem_types import MULTI_LABEL, REGRESSION
from distilbert_tf.models.encoder import TFDistilBertModel
from distilbert_tf.models.inputs import (
    ModelInputs,
    check_labels,
)
from distilbert_tf.models.layers import Dropout, Linear, at_least_float32
from distilbert_tf.models.outputs import HeadOutput
from distilbert_tf.models.pretrained import PreTrainedModel
from distilbert_tf.models.weight_names import HEADS
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer

IGNORED = -100  # a label that does not count


class ModelWithHead(PreTrainedModel):
    """An encoder named `distilbert`; subclasses add the head.

    Args:
        config: Model configuration.
        encoder: An encoder to share with another model; a new one if not given.
        **kwargs: See `PreTrainedModel`.
    """

    def __init__(
        self, config: DistilBertConfig, *, encoder: TFDistilBertModel | None = None, **kwargs: Any
    ) -> None:
        super().__init__(config, **kwargs)
        if encoder is None:
            encoder = TFDistilBertModel(
                config, skip_padding=self.skip_padding, name="distilbert", dtype=self.dtype_policy
            )
        self.distilbert = encoder

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the model: see `PreTrainedModel`."""
        output = super().__call__(*args, **kwargs)
        if not tf.is_tensor(output):
            return output
        inputs = args[0] if args else None
        by_hand = "training" not in kwargs  # Keras' trainer always says
        if isinstance(inputs, BatchEncoding) or (by_hand and isinstance(inputs, list | tuple)):
            logging.log_first_n(
                logging.WARNING,
                "Called with one argument, a model returns the logits themselves, so [0] is the "
                "first row. model(**encoding) and model(ids, attention_mask=mask) return an "
                "output as transformers does, whose [0] is all.",
                1,
            )
        if by_hand and self.asks_for_states:
            logging.log_first_n(
                logging.WARNING,
                "To one argument, a model with a head returns its logits alone. Pass the inputs "
                "by name for the states that its configuration asks for.",
                1,
            )
        # For those who expect an output. (As eager tensors do not wait for Python's cyclic garbage
        # collector, they hold no reference to themselves.)
        output.logits = tf.identity(output) if tf.executing_eagerly() else output
        return output

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor:
        """Computes the loss of `fit`: that of the head if `compile` was given none."""
        check_labels(y)
        if self.loss is None:
            if y is None:
                raise ValueError("There are no targets: pass the labels as y.")
            return self.make_loss()(y, y_pred, sample_weight)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def make_loss(self, labels: tf.Tensor | None = None) -> keras.losses.Loss:
        """Makes the loss of the head, the one that transformers computes from `labels`.

        Args:
            labels: Labels to which it will be applied.

        Returns:
            The loss of labels and logits: their mean over rows, or over tokens for masked LM.
        """
        raise NotImplementedError

    def _complete(self, output: Any, labels: Any) -> HeadOutput:
        if not isinstance(output, HeadOutput):
            output = HeadOutput(output)
        if labels is None:
            return output
        check_labels(labels)
        labels = tf.convert_to_tensor(labels)
        return output._replace(loss=self.make_loss(labels)(labels, output.logits))


@keras.saving.register_keras_serializable(package="distilbert_tf")
class TFDistilBertForSequenceClassification(ModelWithHead):
    """DistilBERT with a classifier on its first token, [CLS].

    The output is the logits, so `compile` with a `from_logits=True` loss and `fit` work unchanged;
    the logits of the first row are `logits[0]`. A call as in transformers, such as
    `model(**encoding)`, returns an output with `.logits`, and with `labels` its `.loss`.

    Args:
        config: Model configuration; `num_labels` or `id2label` sets C.
        encoder: An encoder to share with another task; a new one if not given.
        **kwargs: See `PreTrainedModel`.

    Call arguments:
        inputs, training, output_hidden_states, output_attentions, skip_padding: See
            `TFDistilBertModel`.
        labels: Label ids (B,); for a regression, numbers (B,); for a multi-label problem, 0 or 1
            for each label, float (B, C).
        return_dict: True for a `HeadOutput`, False for a tuple: see `PreTrainedModel`.

    Returns:
        Logits, float32 (B, C). A `HeadOutput` if more is asked for, or in transformers' way: see
        `PreTrainedModel`.

    Example:
        tokenizer = DistilBertTokenizer.from_pretrained("demo")
        model = TFDistilBertForSequenceClassification.from_pretrained("demo", num_labels=2)
        inputs = tokenizer(["Lovely.", "Dreadful."], padding=True, return_tensors="tf")
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(inputs, np.array([1, 0]))
        model(**inputs, labels=tf.constant([1, 0])).loss

    Reference:
        `DistilBertForSequenceClassification` of transformers on PyTorch.
    """

    has_classifier = True

    def __init__(self, config: DistilBertConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.pre_classifier = Linear(
            config.dim, config, name="pre_classifier", dtype=self.dtype_policy
        )
        self.dropout = Dropout(config.seq_classif_dropout, name="dropout", dtype=self.dtype_policy)
        # In float32 at least: a few columns, whose sums decide.
        self.classifier = Linear(
            config.num_labels, config, name="classifier", dtype=at_least_float32(self.compute_dtype)
        )
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Makes all variables."""
        self.pre_classifier.build((None, self.config.dim))
        self.dropout.build()
        self.classifier.build((None, self.config.dim))

    def call(
        self,
        inputs: ModelInputs,
        training: bool | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        skip_padding: bool | None = None,
    ) -> tf.Tensor | HeadOutput:
        """Encodes tokens and classifies the first of each row."""
        wants_more = output_hidden_states or output_attentions
        encoded = self.distilbert(
            inputs,
            training=training,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            first_token_only=not wants_more,
            skip_padding=self.skip_padding if skip_padding is None else skip_padding,
        )
        logits = self.classify(encoded.last_hidden_state[:, 0], training=training)
        if wants_more:
            return HeadOutput(logits, encoded.hidden_states, encoded.attentions)
        return logits

    def make_loss(self, labels: tf.Tensor | None = None) -> keras.losses.Loss:
        """Makes the loss of `config.problem_type`, or what number and dtype of labels ask for."""
        kind = self.config.problem_type
        if kind == REGRESSION or (kind is None and self.config.num_labels == 1):
            return keras.losses.MeanSquaredError()
        if kind == MULTI_LABEL or (
            kind is None and labels is not None and labels.dtype.is_floating
        ):
            return keras.losses.BinaryCrossentropy(from_logits=True)
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=IGNORED)

    def classify(self, first_tokens: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Applies the head alone.

        Args:
            first_tokens: Last hidden states of [CLS], float (B, D).
            training: Whether dropout acts.

        Returns:
            Logits, float32 (B, C).
        """
        pooled = tf.nn.relu(self.pre_classifier(first_tokens))  # (B, D)
        return tf.cast(self.classifier(self.dropout(pooled, training=training)), tf.float32)

    def to_keras_hub(self, tokenizer: DistilBertTokenizer | None = None) -> keras.Model:
        """Makes a `keras_nlp.models.DistilBertTextClassifier` that predicts what this model does.

        Args:
            tokenizer: The model's tokenizer, for a classifier that takes texts; without it, the
                classifier takes what `DistilBertBackbone` takes.

        Returns:
            The classifier, whose outputs are logits. `save_to_preset` saves it for KerasHub.

        Raises:
            ValueError: See `TFDistilBertModel.to_keras_hub`, and
                `DistilBertTokenizer.to_keras_hub`.
        """
        from distilbert_tf.models.keras_hub import make_classifier

        return make_classifier(self, tokenizer)

    @classmethod
    def _needs_fresh_head(cls, tensors: Mapping[str, Any]) -> bool:
        head = HEADS["sequence classification"]
        return not any(name.split(".")[0] in head for name in tensors)
