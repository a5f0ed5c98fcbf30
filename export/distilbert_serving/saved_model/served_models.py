"""The outputs of each kind of model for token ids: as a graph to export, and eagerly.

A row that cannot be computed gets blanks (see `signatures`), and costs one token.

Shapes: B rows, T tokens in the longest of them, C classes, D = config.dim, V = config.vocab_size,
M = max_masks, K answers for each, N masked tokens of all rows.
"""

import abc
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from distilbert_serving import signatures as names
from distilbert_serving.saved_model.tracing import trace_by_size
from distilbert_tf.checkpoints.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from distilbert_tf.models.encoder import TFDistilBertModel
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM
from distilbert_tf.models.pretrained import PreTrainedModel
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer

Arrays = dict[str, np.ndarray]
Inputs = dict[str, Any]  # what a model takes: `input_ids` and `attention_mask`, int32 (B, T)

_IDS = tf.TensorSpec([None, None], tf.int32)
_ROWS = tf.TensorSpec([None], tf.bool)
_BLANKS = {tf.float32: np.float32("nan"), tf.int32: np.int32(names.NO_NUMBER), tf.string: ""}


class Expected(NamedTuple):
    """The outputs that an endpoint must return.

    Attributes:
        outputs: Arrays by name, first dimension B; strings as bytes.
        is_tie: Rows in which two scores are nearly equal, bool (B,): a label, an id or a token may
            differ there.
    """

    outputs: Arrays
    is_tie: np.ndarray


class ServedModel(abc.ABC):
    """A model, its tokenizer, and the outputs of an export for them.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        pair: Whether it takes pairs of texts.

    Attributes:
        answer: The traced part that all endpoints share: `input_ids` and `attention_mask`, int32
            (B, T), and which rows to compute, bool (B,), to outputs by name. A graph holds it once.

    Raises:
        ValueError: The tokenizer has words that the model lacks.
    """

    main_signature: ClassVar[str]

    def __init__(
        self, model: PreTrainedModel, tokenizer: DistilBertTokenizer, pair: bool = False
    ) -> None:
        highest = max(tokenizer.get_vocab().values())
        if highest >= model.config.vocab_size:
            raise ValueError(
                f"The tokenizer gives ids up to {highest}, but the model has "
                f"{model.config.vocab_size} words (config.vocab_size): they do not belong together."
            )
        self.model = model
        self.tokenizer = tokenizer
        self.pair = pair
        self.answer = tf.function(
            lambda ids, mask, is_valid: blank_rows(
                *self._trace({"input_ids": ids, "attention_mask": mask}, is_valid)
            ),
            input_signature=(_IDS, _IDS, _ROWS),
            autograph=False,
        )

    @property
    def encoder(self) -> TFDistilBertModel:
        """The encoder, which several may share."""
        model: Any = self.model
        return model if isinstance(model, TFDistilBertModel) else model.distilbert

    @abc.abstractmethod
    def expect(self, inputs: Inputs, tolerance: float) -> Expected:
        """Computes eagerly what `answer` must return.

        Args:
            inputs: Token ids and mask.
            tolerance: By how much two scores may differ and count as equal, relative to the largest
                (or 1).
        """

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """Returns what `export.json` says about the model."""

    @abc.abstractmethod
    def _trace(self, inputs: Inputs, is_valid: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Returns the outputs by name, and which rows could be computed, bool (B,)."""


class ServedClassifier(ServedModel):
    """A classifier: LABEL, LABEL_ID, PROBABILITIES and LOGITS.

    If a text may have several labels (`config.problem_type`), LABEL is the likeliest of them, and
    PROBABILITIES has the one of each label, which do not add up to 1. Of a regression, which has
    one label, it is the number.

    Args:
        model: The classifier.
        tokenizer: Its tokenizer.
        pair: Whether it takes pairs; by default as its `config.text_pair` says.
        regress_label: The label whose probability REGRESS returns; by default the second of two
            labels ("positive", "duplicate"), and the first of more ("entailment").

    Raises:
        ValueError: Its labels have no names, it has only one though it is no regression, or there
            is no such label; or see `ServedModel`.
    """

    main_signature = names.CLASSIFY_TEXT

    def __init__(
        self,
        model: TFDistilBertForSequenceClassification,
        tokenizer: DistilBertTokenizer,
        pair: bool | None = None,
        regress_label: str | None = None,
    ) -> None:
        self.labels = _list_labels(model)
        if pair is None:
            pair = getattr(model.config, "text_pair", False)
            if not isinstance(pair, bool):
                raise ValueError(f"config.text_pair must be true or false; got {pair!r}.")
        if regress_label is None:
            regress_label = self.labels[1 if len(self.labels) == 2 else 0]
        if regress_label not in self.labels:
            raise ValueError(f"regress_label={regress_label!r} is none of {self.labels}.")
        self.regress_label = regress_label
        self.problem_type = model.config.problem_type or SINGLE_LABEL
        self._activate = _ACTIVATIONS[self.problem_type]
        super().__init__(model, tokenizer, pair)

    def _trace(self, inputs: Inputs, is_valid: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        logits = trace_by_size(
            self.encoder,
            inputs,
            lambda hidden: self.model.classify(hidden[:, 0], training=False),
            first_token_only=True,
        )
        label_id = tf.argmax(logits, axis=1, output_type=tf.int32)
        outputs = {
            names.LABEL: tf.gather(tf.constant(self.labels), label_id),
            names.LABEL_ID: label_id,
            names.PROBABILITIES: self._activate(logits),
            names.LOGITS: logits,
        }
        return outputs, is_valid

    def expect(self, inputs: Inputs, tolerance: float) -> Expected:
        """See `ServedModel.expect`."""
        logits = self.model(inputs, training=False).numpy()
        ids = logits.argmax(axis=1).astype(np.int32)
        outputs = {
            names.LOGITS: logits,
            names.PROBABILITIES: self._activate(tf.constant(logits)).numpy(),
            names.LABEL_ID: ids,
            names.LABEL: encode(self.labels)[ids],
        }
        return Expected(outputs, _has_ties(logits, 1, tolerance))

    def describe(self) -> dict[str, Any]:
        """See `ServedModel.describe`."""
        described: dict[str, Any] = {
            "labels": self.labels,
            "pair": self.pair,
            "regress_label": self.regress_label,
        }
        if self.problem_type != SINGLE_LABEL:
            described["problem_type"] = self.problem_type
        return described


class ServedMaskedLM(ServedModel):
    """A masked-LM model: TOKENS, TOKEN_IDS and SCORES of the best words at each mask.

    A text with fewer masks than M has empty strings and zeros for the rest; a text with more cannot
    be computed. M is fixed, since a server joins the outputs of the parts of a large request.

    Args:
        model: The model.
        tokenizer: Its tokenizer, with a mask token.
        top_k: K, how many words to return.
        max_masks: M, the most masks that a text may have.

    Raises:
        ValueError: There are fewer words than `top_k`, `max_masks` is less than 1, or there is no
            mask token; or see `ServedModel`.
    """

    main_signature = names.FILL_MASK

    def __init__(
        self,
        model: TFDistilBertForMaskedLM,
        tokenizer: DistilBertTokenizer,
        top_k: int = 5,
        max_masks: int = 16,
    ) -> None:
        if not 1 <= top_k <= model.config.vocab_size:
            raise ValueError(
                f"top_k must be from 1 to the {model.config.vocab_size} words; got {top_k}."
            )
        if max_masks < 1:
            raise ValueError(f"max_masks must be at least 1; got {max_masks}.")
        if tokenizer.mask_token_id is None:
            raise ValueError(f"The tokenizer has no mask token, which {names.FILL_MASK} needs.")
        self.top_k, self.max_masks = top_k, max_masks
        self._words = words_by_id(tokenizer, model.config.vocab_size)
        super().__init__(model, tokenizer)

    def _trace(self, inputs: Inputs, is_valid: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        # Padding is not a mask, whatever ids a client pads with.
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        is_mask = (ids == self.tokenizer.mask_token_id) & (mask != 0)  # (B, T)
        counts = tf.math.count_nonzero(is_mask, axis=1, dtype=tf.int32)  # (B,)
        is_valid &= counts <= self.max_masks
        places = tf.where(is_mask & is_valid[:, tf.newaxis])  # (N, 2)

        def score(hidden: tf.Tensor) -> tf.Tensor:
            # Only the masks: scoring the vocabulary is the most expensive product of all.
            return tf.nn.softmax(self.model.score_words(tf.gather_nd(hidden, places)))  # (N, V)

        best, ids = tf.math.top_k(trace_by_size(self.encoder, inputs, score), self.top_k)  # (N, K)
        order = tf.cumsum(tf.cast(is_mask, tf.int32), axis=1, exclusive=True)  # (B, T)
        order = tf.gather_nd(order, places)  # (N,): which mask of its row
        rows = tf.cast(places[:, 0], tf.int32)
        shape = tf.stack([tf.size(counts), self.max_masks, self.top_k])

        def spread(values: tf.Tensor) -> tf.Tensor:
            spread = tf.scatter_nd(tf.stack([rows, order], axis=1), values, shape)
            return tf.ensure_shape(spread, [None, self.max_masks, self.top_k])

        is_filled = tf.sequence_mask(counts, self.max_masks)[..., tf.newaxis]  # (B, M, 1)
        ids = spread(ids)
        words = tf.where(is_filled, tf.gather(tf.constant(self._words), ids), "")
        outputs = {names.TOKENS: words, names.TOKEN_IDS: ids, names.SCORES: spread(best)}
        return outputs, is_valid

    def expect(self, inputs: Inputs, tolerance: float) -> Expected:
        """See `ServedModel.expect`."""
        logits = self.model(inputs, training=False).numpy()  # (B, T, V)
        is_mask = np.asarray(inputs["input_ids"]) == self.tokenizer.mask_token_id
        counts = is_mask.sum(axis=1)
        shape = (len(is_mask), self.max_masks, self.top_k)
        tokens = np.full(shape, b"", object)
        ids, scores = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        is_tie = np.zeros(len(is_mask), bool)
        words = encode(self._words)
        for row, count in enumerate(counts):
            found = tf.nn.softmax(logits[row][is_mask[row]]).numpy()  # (masks of the row, V)
            best = np.argsort(-found, axis=1, kind="stable")[:, : self.top_k]
            ids[row, :count], tokens[row, :count] = best, words[best]
            scores[row, :count] = np.take_along_axis(found, best, axis=1)
            is_tie[row] = _has_ties(found, self.top_k, tolerance).any()
        outputs = {names.TOKENS: tokens, names.TOKEN_IDS: ids, names.SCORES: scores}
        return Expected(outputs, is_tie)

    def describe(self) -> dict[str, Any]:
        """See `ServedModel.describe`."""
        return {"top_k": self.top_k, "max_masks": self.max_masks}


class ServedEncoder(ServedModel):
    """An encoder: CLS_EMBEDDING and MEAN_EMBEDDING. Also that of a model with a head.

    Args:
        model: The encoder.
        tokenizer: Its tokenizer.
    """

    main_signature = names.ENCODE

    def _trace(self, inputs: Inputs, is_valid: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        mask = inputs["attention_mask"]
        # (B, T, D), zeros where the mask is
        hidden = trace_by_size(self.encoder, inputs, lambda hidden: tf.cast(hidden, tf.float32))
        tokens = tf.math.count_nonzero(mask, axis=1, keepdims=True, dtype=tf.float32)  # (B, 1)
        outputs = {
            names.CLS_EMBEDDING: hidden[:, 0],
            names.MEAN_EMBEDDING: tf.reduce_sum(hidden, axis=1) / tokens,
        }
        return outputs, is_valid

    def expect(self, inputs: Inputs, tolerance: float) -> Expected:
        """See `ServedModel.expect`."""
        # Without unpadding, and the mean is taken by the mask.
        output = self.model(inputs, training=False, skip_padding=False)
        hidden = tf.cast(output.last_hidden_state, tf.float32).numpy()
        weights = np.asarray(inputs["attention_mask"], np.float32)[..., np.newaxis]  # (B, T, 1)
        mean = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
        outputs = {names.CLS_EMBEDDING: hidden[:, 0], names.MEAN_EMBEDDING: mean}
        return Expected(outputs, np.zeros(len(hidden), bool))

    def describe(self) -> dict[str, Any]:
        """See `ServedModel.describe`."""
        return {"dim": self.model.config.dim}


def blank_rows(outputs: dict[str, tf.Tensor], is_valid: tf.Tensor) -> dict[str, tf.Tensor]:
    """Blanks the outputs of rows that cannot be computed.

    Args:
        outputs: Tensors (B, ...) by name.
        is_valid: Which rows can be computed, bool (B,).

    Returns:
        The same tensors, with NaN, "" or `signatures.NO_NUMBER` in the other rows.
    """
    return {
        name: tf.where(
            tf.reshape(is_valid, [-1] + [1] * (tensor.shape.rank - 1)),
            tensor,
            tf.constant(_BLANKS[tensor.dtype], tensor.dtype),
        )
        for name, tensor in outputs.items()
    }


def words_by_id(tokenizer: DistilBertTokenizer, size: int) -> list[str]:
    """Lists the vocabulary by id; "" for ids of the model that the tokenizer lacks."""
    words = [""] * size
    for word, number in tokenizer.get_vocab().items():
        words[number] = word
    return words


def encode(texts: Sequence[str]) -> np.ndarray:
    """Makes an array of bytes, which is how TensorFlow returns strings."""
    return np.array([text.encode() for text in texts], object)


def _list_labels(model: TFDistilBertForSequenceClassification) -> list[str]:
    """Lists the names of the classes, in the order of the logits."""
    config = model.config
    labels = {int(number): str(name) for number, name in config.id2label.items()}
    if sorted(labels) != list(range(model.classifier.units)):
        raise ValueError(
            f"config.id2label must name the classes 0 to {model.classifier.units - 1}; "
            f"got {config.id2label}."
        )
    if (len(labels) == 1) != (config.problem_type == REGRESSION):
        raise ValueError(
            "A classifier has two labels at least, and a regression one; this model has "
            f"{len(labels)} label(s) and problem_type={config.problem_type!r} (config.json)."
        )
    return [labels[number] for number in sorted(labels)]


# What makes probabilities of logits.
_ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    SINGLE_LABEL: tf.nn.softmax,
    MULTI_LABEL: tf.nn.sigmoid,
    REGRESSION: tf.identity,
}


def _has_ties(values: np.ndarray, count: int, tolerance: float) -> np.ndarray:
    """Finds the rows of (R, X) whose `count` greatest numbers are nearly equal: bool (R,)."""
    ranked = -np.sort(-values, axis=1)[:, : count + 1]
    allowed = tolerance * max(1.0, float(np.abs(values).max(initial=0.0)))
    is_close: np.ndarray = -np.diff(ranked, axis=1) <= 2 * allowed
    return np.asarray(is_close.any(axis=1))
