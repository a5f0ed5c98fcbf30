"""The endpoints of an export: what each takes, computes and must return.

A server merges the rows of many clients, and an op that fails, fails for all of them. So no op may
fail because of the contents of a row: a row that cannot be computed is replaced by a harmless one,
and its outputs are blank (see `signatures`). Only a fault of the whole request is an error.

Shapes: B rows, T tokens in the longest of them, L = max_length, C classes.
"""

import abc
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from distilbert_serving import signatures as names
from distilbert_serving.examples import serialize_examples
from distilbert_serving.saved_model.example_parser import read_texts
from distilbert_serving.saved_model.served_models import (
    Arrays,
    Expected,
    Inputs,
    ServedClassifier,
    ServedEncoder,
    ServedModel,
    blank_rows,
    encode,
    words_by_id,
)
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer

MAX_TEXT_BYTES = 2**20


class TextBatch(NamedTuple):
    """Texts to try an endpoint with, and as many second texts for endpoints that take pairs."""

    texts: list[str]
    text_pairs: list[str]


class Tokenization:
    """A tokenizer in two forms: as the graph to export, and as the original to compare with.

    Args:
        tokenizer: The tokenizer.
        max_length: L, the longest row in tokens, special tokens included.
        max_text_bytes: The longest text that is tokenized, in bytes. The tokenizer works on whole
            texts before it truncates, and needs some hundred bytes of memory for each of theirs.

    Raises:
        ValueError: `max_text_bytes` is less than 1.
    """

    def __init__(
        self,
        tokenizer: DistilBertTokenizer,
        max_length: int,
        max_text_bytes: int = MAX_TEXT_BYTES,
    ) -> None:
        if max_text_bytes < 1:
            raise ValueError(f"max_text_bytes must be at least 1; got {max_text_bytes}.")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.max_text_bytes = max_text_bytes
        self.layer = tokenizer.as_layer(max_length=max_length)

    def trace(
        self, texts: Sequence[tf.Tensor], is_valid: tf.Tensor | bool = True
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Tokenizes in the graph.

        Args:
            texts: string (B,), and as many second texts of pairs.
            is_valid: Which rows have texts, bool (B,).

        Returns:
            Token ids and mask, int32 (B, T), and which rows could be tokenized, bool (B,).
        """
        # An error of the whole request, found before the sizes are broadcast.
        sizes = [tf.size(text) for text in texts]
        check = tf.debugging.assert_equal(
            sizes[0], sizes[-1], "text and text_pair differ in length"
        )
        with tf.control_dependencies([check]):
            for text in texts:
                is_valid &= tf.strings.length(text) <= self.max_text_bytes
        tokens = self.layer(*(tf.where(is_valid, text, "") for text in texts))
        return tokens["input_ids"], tokens["attention_mask"], is_valid

    def expect(self, batch: TextBatch, pair: bool) -> Inputs:
        """Tokenizes with transformers' own tokenizer; a batch without texts as one empty text."""
        sides = [batch.texts or [""]]
        if pair:
            sides.append(batch.text_pairs or [""])
        encoding = self.tokenizer(
            *sides, truncation=True, max_length=self.max_length, padding=True, return_tensors="tf"
        )
        return {name: encoding[name] for name in ("input_ids", "attention_mask")}


class Endpoint(abc.ABC):
    """One signature.

    Args:
        tokenization: The tokenizer.
        pair: Whether it takes pairs of texts.

    Attributes:
        specs: The inputs by name.
    """

    specs: Mapping[str, tf.TensorSpec]

    def __init__(self, tokenization: Tokenization, pair: bool) -> None:
        self.tokenization = tokenization
        self.pair = pair
        self.specs = _make_specs("pairs" if pair else "texts")

    def trace(self) -> Any:
        """Traces it, as a tf.types.experimental.ConcreteFunction."""

        def call(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            return self._compute(inputs)

        return tf.function(call, autograph=False).get_concrete_function(**self.specs)

    def expect(self, batch: TextBatch, tolerance: float) -> Expected:
        """Computes eagerly what it must return; without texts, outputs of no rows."""
        expected = self._expect(self.tokenization.expect(batch, self.pair), tolerance)
        rows = len(batch.texts)  # without texts there is one row, of an empty text
        outputs = {name: array[:rows] for name, array in expected.outputs.items()}
        return Expected(outputs, expected.is_tie[:rows])

    @abc.abstractmethod
    def _compute(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Computes the outputs by name, in the graph."""

    @abc.abstractmethod
    def _expect(self, inputs: Inputs, tolerance: float) -> Expected:
        """Computes the same eagerly, from token ids and mask."""

    def feed(self, batch: TextBatch) -> Arrays:
        """Converts texts to its inputs; strings are bytes."""
        sides = (batch.texts, batch.text_pairs)
        return {name: encode(side) for name, side in zip(self.specs, sides, strict=False)}


class FromText(Endpoint):
    """Texts to the outputs of a model.

    Args:
        model: The model.
        tokenization: Its tokenizer.
    """

    def __init__(self, model: ServedModel, tokenization: Tokenization) -> None:
        super().__init__(tokenization, model.pair)
        self.model = model

    def _compute(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return self.model.answer(*self.tokenization.trace([inputs[name] for name in self.specs]))

    def _expect(self, inputs: Inputs, tolerance: float) -> Expected:
        return self.model.expect(inputs, tolerance)


class FromIds(FromText):
    """Token ids to the outputs of a model, for clients that tokenize themselves.

    Columns beyond a row's number of tokens are ignored, so that a server can merge rows of
    different lengths and pad them with anything. A mask, padded with anything, would not do.
    """

    def __init__(self, model: ServedModel, tokenization: Tokenization) -> None:
        super().__init__(model, tokenization)
        self.specs = _make_specs("ids")

    def _compute(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        input_ids, num_tokens = (inputs[name] for name in self.specs)
        # An error of the whole request, which a server that merges rows has already checked.
        check = tf.debugging.assert_equal(
            tf.shape(input_ids)[0],
            tf.size(num_tokens),
            f"{names.INPUT_IDS} and {names.NUM_TOKENS} must have as many rows",
        )
        config = self.model.model.config
        with tf.control_dependencies([check]):
            input_ids = input_ids[:, : config.max_position_embeddings]
        columns = tf.shape(input_ids)[1]
        # A column if there is none, since the first token of every row is computed.
        input_ids = tf.pad(input_ids, [[0, 0], [0, tf.cast(columns == 0, tf.int32)]])
        counts = tf.sequence_mask(num_tokens, tf.shape(input_ids)[1])  # (B, T)
        # Not left to the lookup, which on a GPU returns zeros for ids that do not exist.
        is_word = (input_ids >= 0) & (input_ids < config.vocab_size)
        is_valid = (num_tokens >= 1) & (num_tokens <= columns)
        is_valid &= tf.reduce_all(is_word | ~counts, axis=1)  # (B,)
        is_first = tf.range(tf.shape(input_ids)[1]) == 0
        counts = tf.where(is_valid[:, tf.newaxis], counts, is_first)
        return self.model.answer(
            tf.where(counts & is_word, input_ids, 0), tf.cast(counts, tf.int32), is_valid
        )

    def feed(self, batch: TextBatch) -> Arrays:
        """Converts texts to token ids."""
        inputs = self.tokenization.expect(batch, self.pair)
        ids, mask = (np.asarray(inputs[name])[: len(batch.texts)] for name in inputs)
        return {names.INPUT_IDS: ids, names.NUM_TOKENS: mask.sum(axis=1, dtype=np.int32)}


class _FromExamples(Endpoint):
    """Serialized tf.Examples to the outputs of a classifier that a method of TF Serving expects.

    Args:
        model: The classifier.
        tokenization: Its tokenizer.
    """

    def __init__(self, model: ServedClassifier, tokenization: Tokenization) -> None:
        super().__init__(tokenization, model.pair)
        self.model = model
        self.features = list(self.specs)
        self.specs = _make_specs("examples")

    def _compute(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        texts, is_readable = read_texts(inputs[names.EXAMPLES], self.features)
        answer = self.model.answer(*self.tokenization.trace(texts, is_readable))
        return self._select(answer[names.PROBABILITIES])

    def _expect(self, inputs: Inputs, tolerance: float) -> Expected:
        expected = self.model.expect(inputs, tolerance)
        selected = self._select(tf.constant(expected.outputs[names.PROBABILITIES]))
        outputs = {name: tensor.numpy() for name, tensor in selected.items()}
        return Expected(outputs, expected.is_tie)

    def feed(self, batch: TextBatch) -> Arrays:
        """Converts texts to serialized examples."""
        columns = dict(zip(self.features, (batch.texts, batch.text_pairs), strict=False))
        return {names.EXAMPLES: np.array(serialize_examples(columns), object)}

    @abc.abstractmethod
    def _select(self, probabilities: tf.Tensor) -> dict[str, tf.Tensor]:
        """Makes the method's outputs from the probabilities (B, C)."""


class Classify(_FromExamples):
    """TF Serving's Classify: every label with its probability."""

    def _select(self, probabilities: tf.Tensor) -> dict[str, tf.Tensor]:
        # A row of labels for each example: the server requires it, and can then split a batch.
        classes = tf.where(tf.math.is_nan(probabilities), "", tf.constant(self.model.labels))
        return {names.CLASSES: classes, names.SCORES: probabilities}


class Regress(_FromExamples):
    """TF Serving's Regress: the probability of one label."""

    def _select(self, probabilities: tf.Tensor) -> dict[str, tf.Tensor]:
        return {
            names.REGRESSION: probabilities[:, self.model.labels.index(self.model.regress_label)]
        }


class Tokenize(Endpoint):
    """Texts to token ids and tokens, to see what a model really gets.

    Rows are padded to L tokens, since a server joins the outputs of the parts of a large request.
    """

    def _compute(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        input_ids, mask, is_valid = self.tokenization.trace([inputs[name] for name in self.specs])
        width = self.tokenization.max_length
        padding = [[0, 0], [0, width - tf.shape(input_ids)[1]]]
        input_ids = tf.pad(
            input_ids, padding, constant_values=self.tokenization.tokenizer.pad_token_id
        )
        input_ids = tf.ensure_shape(input_ids, [None, width])
        outputs = {
            names.INPUT_IDS: input_ids,
            names.NUM_TOKENS: tf.reduce_sum(mask, axis=1),
            names.TOKENS: tf.gather(tf.constant(self._words), input_ids),
        }
        return blank_rows(outputs, is_valid)

    def _expect(self, inputs: Inputs, tolerance: float) -> Expected:
        ids, mask = (np.asarray(inputs[name]) for name in inputs)
        padding = [(0, 0), (0, self.tokenization.max_length - ids.shape[1])]
        ids = np.pad(ids, padding, constant_values=self.tokenization.tokenizer.pad_token_id)
        outputs = {
            names.INPUT_IDS: ids,
            names.NUM_TOKENS: mask.sum(axis=1, dtype=np.int32),
            names.TOKENS: encode(self._words)[ids],
        }
        return Expected(outputs, np.zeros(len(ids), bool))

    @functools.cached_property
    def _words(self) -> list[str]:
        tokenizer = self.tokenization.tokenizer
        return words_by_id(tokenizer, 1 + max(tokenizer.get_vocab().values()))


def make_endpoints(
    models: Mapping[str, ServedModel], tokenization: Tokenization
) -> dict[str, Endpoint]:
    """Lists the endpoints of an export.

    Args:
        models: One model under the name "", or classifiers on one encoder by task.
        tokenization: Their tokenizer.

    Returns:
        Endpoints by signature; those of the first model also under the plain names.

    Raises:
        ValueError: Two endpoints would have the same name.
    """
    first = next(iter(models.values()))
    by_task = {task: _make_own(model, tokenization) for task, model in models.items()}
    plain = next(iter(by_task.values()))
    encoder = ServedEncoder(first.encoder, tokenization.tokenizer)
    endpoints = {
        names.SERVING_DEFAULT: plain[first.main_signature],
        names.ENCODE: FromText(encoder, tokenization),
        **plain,
    }
    for task, own in by_task.items():
        if task:
            for kind, endpoint in own.items():
                name = names.signature_of(task, kind)
                if name in endpoints:
                    raise ValueError(
                        f"Task {task!r} would have a signature {name!r}, which exists already: "
                        "give the task another name."
                    )
                endpoints[name] = endpoint
    return endpoints


def _make_own(model: ServedModel, tokenization: Tokenization) -> dict[str, Endpoint]:
    """Makes a model's endpoints, the main one first."""
    own: dict[str, Endpoint] = {model.main_signature: FromText(model, tokenization)}
    if isinstance(model, ServedClassifier):
        own[names.CLASSIFY] = Classify(model, tokenization)
        own[names.REGRESS] = Regress(model, tokenization)
    own[names.TOKENIZE] = Tokenize(tokenization, model.pair)
    own[names.FROM_IDS] = FromIds(model, tokenization)
    return own


def _make_specs(kind: names.InputKind) -> dict[str, tf.TensorSpec]:
    return {
        name: tf.TensorSpec(info.shape, tf.as_dtype(info.dtype))
        for name, info in names.INPUTS[kind].items()
    }
