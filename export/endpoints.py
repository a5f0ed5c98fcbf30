"""The endpoints of an export: what each takes, computes and is expected to give.

Shapes: B rows, T tokens in the longest of them, C classes.
"""

import abc
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from distilbert_tf.tokenizer import DistilBertTokenizer
from export import signatures as names
from export.configuration.examples import serialize_examples
from export.served_models import (
    Arrays,
    Expected,
    Inputs,
    ServedClassifier,
    ServedEncoder,
    ServedModel,
    encode,
    words_by_id,
)

TEXTS = tf.TensorSpec([None], tf.string)
ROWS = tf.TensorSpec([None, None], tf.int32)


class TextBatch(NamedTuple):
    """Texts to try an endpoint with, and as many second texts for those that take pairs."""

    texts: list[str]
    text_pairs: list[str]


class Tokenization:
    """A tokenizer in two forms: as the graph to export, and as the original to compare with.

    Args:
        tokenizer: The tokenizer.
        max_length: Longest row in tokens, special tokens included.
    """

    def __init__(self, tokenizer: DistilBertTokenizer, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.layer = tokenizer.as_layer(max_length=max_length)

    def expect(self, batch: TextBatch, pair: bool) -> Inputs:
        """Tokenizes with transformers' own tokenizer; a batch without texts as one empty text."""
        sides = [batch.texts or [""]]
        if pair:
            sides.append(batch.text_pairs or [""])
        encoding = self.tokenizer(
            *sides, truncation=True, max_length=self.max_length, padding=True, return_tensors="tf"
        )
        return {name: encoding[name] for name in (names.INPUT_IDS, names.ATTENTION_MASK)}


class Endpoint(abc.ABC):
    """One signature.

    Args:
        tokenization: The tokenizer.
        pair: Whether it takes pairs of texts.

    Attributes:
        specs: Its inputs by name.
    """

    specs: Mapping[str, tf.TensorSpec]

    def __init__(self, tokenization: Tokenization, pair: bool) -> None:
        self.tokenization = tokenization
        self.pair = pair
        self.specs = dict.fromkeys((names.TEXT, names.TEXT_PAIR)[: 2 if pair else 1], TEXTS)

    def trace(self) -> Any:
        """Traces it, as a tf.types.experimental.ConcreteFunction."""

        def call(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            return self.call(inputs)

        return tf.function(call, autograph=False).get_concrete_function(**self.specs)

    @abc.abstractmethod
    def call(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Gives its outputs by name."""

    @abc.abstractmethod
    def expect(self, batch: TextBatch, tolerance: float) -> Expected:
        """Computes eagerly what it must give; for a batch without texts, no rows of that kind."""

    def feed(self, batch: TextBatch) -> Arrays:
        """Writes texts as its inputs: strings as bytes."""
        sides = (batch.texts, batch.text_pairs)
        return {name: encode(side) for name, side in zip(self.specs, sides, strict=False)}


class FromText(Endpoint):
    """Texts to a model's answer.

    Args:
        model: The model.
        tokenization: Its tokenizer.
    """

    def __init__(self, model: ServedModel, tokenization: Tokenization) -> None:
        super().__init__(tokenization, model.pair)
        self.model = model

    def call(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """See `Endpoint.call`."""
        tokens = self.tokenization.layer(*(inputs[name] for name in self.specs))
        return self.model.answer(tokens[names.INPUT_IDS], tokens[names.ATTENTION_MASK])

    def expect(self, batch: TextBatch, tolerance: float) -> Expected:
        """See `Endpoint.expect`."""
        return _cut(self.model.expect(self.tokenization.expect(batch, self.pair), tolerance), batch)


class FromIds(FromText):
    """Token ids to a model's answer, for clients that tokenize by themselves.

    Padding costs nothing, so a client whose requests a server shall merge may pad to a fixed
    length: requests of different lengths are not merged.
    """

    def __init__(self, model: ServedModel, tokenization: Tokenization) -> None:
        super().__init__(model, tokenization)
        self.specs = {names.INPUT_IDS: ROWS, names.ATTENTION_MASK: ROWS}

    def call(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """See `Endpoint.call`."""
        input_ids, attention_mask = (inputs[name] for name in self.specs)
        config = self.model.model.config
        words, positions = config.vocab_size, config.max_position_embeddings
        rows, columns = tf.unstack(tf.shape(input_ids))
        checks = [
            tf.debugging.assert_equal(
                tf.shape(input_ids),
                tf.shape(attention_mask),
                "input_ids and attention_mask must have one shape",
            ),
            # Rows without tokens are refused, a batch without rows is not.
            tf.debugging.assert_less_equal(
                tf.minimum(rows, 1), columns, "input_ids must have at least one column"
            ),
            tf.debugging.assert_less_equal(
                columns,
                positions,
                f"input_ids must have at most {positions} columns, the number of positions",
            ),
            # Not left to the lookup, which on a GPU gives zeros for ids that do not exist.
            tf.debugging.assert_non_negative(input_ids, "input_ids must not be negative"),
            tf.debugging.assert_less(
                input_ids, words, f"input_ids must be less than {words}, the number of words"
            ),
        ]
        with tf.control_dependencies(checks):
            # Ops of their own on both inputs, since what is not held back here may run, and fail,
            # before the checks; and in bounds, so that no lookup fails in words of its own.
            return self.model.answer(
                tf.clip_by_value(input_ids, 0, words - 1)[:, :positions],
                attention_mask[:, :positions],
            )

    def feed(self, batch: TextBatch) -> Arrays:
        """See `Endpoint.feed`."""
        inputs = self.tokenization.expect(batch, self.pair)
        return {name: np.asarray(inputs[name])[: len(batch.texts)] for name in self.specs}


class _FromExamples(Endpoint):
    """Serialized tf.Examples to a classifier's answer, as TF Serving's own calls want it.

    Args:
        model: The classifier.
        tokenization: Its tokenizer.
    """

    def __init__(self, model: ServedClassifier, tokenization: Tokenization) -> None:
        super().__init__(tokenization, model.pair)
        self.model = model
        self.features = {name: tf.io.FixedLenFeature([], tf.string) for name in self.specs}
        self.specs = {names.EXAMPLES: TEXTS}

    def call(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """See `Endpoint.call`."""
        texts = tf.io.parse_example(inputs[names.EXAMPLES], self.features)
        tokens = self.tokenization.layer(*(texts[name] for name in self.features))
        answer = self.model.answer(tokens[names.INPUT_IDS], tokens[names.ATTENTION_MASK])
        return self._select(answer[names.PROBABILITIES])

    def expect(self, batch: TextBatch, tolerance: float) -> Expected:
        """See `Endpoint.expect`."""
        expected = self.model.expect(self.tokenization.expect(batch, self.pair), tolerance)
        selected = self._select(tf.constant(expected.outputs[names.PROBABILITIES]))
        outputs = {name: tensor.numpy() for name, tensor in selected.items()}
        return _cut(Expected(outputs, expected.is_tie), batch)

    def feed(self, batch: TextBatch) -> Arrays:
        """See `Endpoint.feed`."""
        columns = dict(zip(self.features, (batch.texts, batch.text_pairs), strict=False))
        return {names.EXAMPLES: np.array(serialize_examples(columns), object)}

    @abc.abstractmethod
    def _select(self, probabilities: tf.Tensor) -> dict[str, tf.Tensor]:
        """Picks what the call wants from the probabilities (B, C)."""


class Classify(_FromExamples):
    """TF Serving's Classify: every label with its probability."""

    def _select(self, probabilities: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = tf.shape(probabilities)[0]
        # A row of labels for each example: the server wants it so, and can cut a batch up.
        return {
            names.CLASSES: tf.tile(tf.constant([self.model.labels]), tf.stack([rows, 1])),
            names.SCORES: probabilities,
        }


class Regress(_FromExamples):
    """TF Serving's Regress: the probability of one label."""

    def _select(self, probabilities: tf.Tensor) -> dict[str, tf.Tensor]:
        return {
            names.REGRESSION: probabilities[:, self.model.labels.index(self.model.regress_label)]
        }


class Tokenize(Endpoint):
    """Texts to token ids, mask and tokens: to see what a model is really given."""

    def call(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """See `Endpoint.call`."""
        tokens = self.tokenization.layer(*(inputs[name] for name in self.specs))
        words = tf.constant(self._words)
        return {**tokens, names.TOKENS: tf.gather(words, tokens[names.INPUT_IDS])}

    def expect(self, batch: TextBatch, tolerance: float) -> Expected:
        """See `Endpoint.expect`."""
        tokens = self.tokenization.expect(batch, self.pair)
        outputs = {name: np.asarray(array) for name, array in tokens.items()}
        outputs[names.TOKENS] = encode(self._words)[outputs[names.INPUT_IDS]]
        rows = len(outputs[names.INPUT_IDS])
        return _cut(Expected(outputs, np.zeros(rows, bool)), batch)

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
        ValueError: Two endpoints would have one name.
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
                name = task if kind == models[task].main_signature else f"{task}_{kind}"
                if name in endpoints:
                    raise ValueError(
                        f"Task {task!r} would have a signature {name!r}, but there is one already: "
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


def _cut(expected: Expected, batch: TextBatch) -> Expected:
    """Takes away the row that stood in for a batch without texts."""
    rows = len(batch.texts)
    outputs = {name: array[:rows] for name, array in expected.outputs.items()}
    return Expected(outputs, expected.is_tie[:rows])
