"""The text-classification pipeline.

Shapes: B texts, T tokens in the longest of them, C = config.num_labels.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf
from transformers import PreTrainedTokenizerBase

from distilbert_tf.checkpoints.problem_types import MULTI_LABEL, REGRESSION
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.models.pretrained import PreTrainedModel
from distilbert_tf.pipelines.base import (
    IDS_AND_MASK,
    Pipeline,
    checked_options,
    checked_top_k,
)
from distilbert_tf.tokenizers.texts import describe_fault

Text = str | dict[str, str]

_TEXT_KEYS = {"text", "text_pair"}
_NOT_GIVEN: Any = object()  # for `top_k`, whose None has a meaning


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - np.max(logits))
    return exponentials / np.sum(exponentials)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "softmax": _softmax,
    "sigmoid": _sigmoid,
    "none": np.asarray,
}


class TextClassificationPipeline(Pipeline):
    """Classifies texts, or pairs of them.

    Args:
        model: A `TFDistilBertForSequenceClassification`.
        tokenizer: Its tokenizer.
        batch_size: Number of texts to compute at once.
        top_k: Number of labels to return, best first; all of them if None. If not given, the
            best one, not in a list.
        function_to_apply: How scores are computed from logits: `"softmax"`, `"sigmoid"` or
            `"none"`. By default none for a regression, a sigmoid for one label or a multi-label
            problem (`config.problem_type`), a softmax otherwise.
        **tokenizer_kwargs: Options of the tokenizer. Unlike in transformers,
            `truncation=True` is the default: a text that is too long loses its end.

    Raises:
        TypeError: The model has another head, or an option is unknown.
        ValueError: An option's value is invalid.

    Example:
        model = TFDistilBertForSequenceClassification.from_pretrained("demo", num_labels=3)
        tokenizer = DistilBertTokenizer.from_pretrained("demo")
        classify = TextClassificationPipeline(model, tokenizer, top_k=2)
        classify(["A film that knows exactly what it wants.", "Too long."])
    """

    task = "text-classification"
    model_class = TFDistilBertForSequenceClassification
    table_hint = ', or frame.to_dict("records") with the keys text and text_pair'

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 32,
        top_k: int | None = _NOT_GIVEN,
        function_to_apply: str | None = None,
        **tokenizer_kwargs: Any,
    ) -> None:
        super().__init__(model, tokenizer, batch_size)
        self.top_k = _checked_limit(top_k)
        self.function_to_apply = _checked_function(function_to_apply)
        self.tokenizer_kwargs = {"truncation": True} | checked_options(tokenizer_kwargs)
        self._score = tf.function(self._score_labels, input_signature=IDS_AND_MASK)

    def __call__(
        self,
        inputs: Text | Iterable[Text],
        *,
        top_k: int | None = _NOT_GIVEN,
        function_to_apply: str | None = None,
        batch_size: int | None = None,
        **tokenizer_kwargs: Any,
    ) -> Any:
        """Classifies texts.

        Args:
            inputs: A string, a pair `{"text": ..., "text_pair": ...}`, or several of these.
            top_k: Overrides the constructor's value, as do the others.
            function_to_apply: How scores are computed from logits.
            batch_size: Number of texts to compute at once.
            **tokenizer_kwargs: Options of the tokenizer.

        Returns:
            Without `top_k`, `{"label", "score"}` for a text, in a list for a single string. With
            it, a list of these, best first (in another list for a single string, if `top_k` is
            the constructor's). For several texts, a list of results.

        Raises:
            TypeError: A text is neither a string nor a pair.
            ValueError: A pair has other keys, or a text is too long with `truncation=False`.
        """
        count = self.top_k if top_k is _NOT_GIVEN else _checked_limit(top_k)
        function = _checked_function(function_to_apply) or self.function_to_apply
        options = self.tokenizer_kwargs | checked_options(tokenizer_kwargs)

        def classify(rows: list[list[int]], size: int) -> list[Any]:
            logits = self._in_batches(rows, size, lambda *batch: self._score(*batch).numpy())
            return [self._describe(row, count, function) for row in logits]

        results = self._map(
            inputs, batch_size, lambda text: self._encode(*_split_pair(text), options), classify
        )
        return [results] if isinstance(inputs, str) and top_k is _NOT_GIVEN else results

    def _score_labels(self, ids: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Returns logits: (B, T) to (B, C)."""
        return self.model({"input_ids": ids, "attention_mask": mask}, training=False)

    def _describe(self, logits: np.ndarray, top_k: int | None, function: str | None) -> Any:
        config = self.model.config
        if function is None:
            function = "softmax"
            if config.problem_type == REGRESSION:
                function = "none"
            elif config.problem_type == MULTI_LABEL or config.num_labels == 1:
                function = "sigmoid"
        scores = FUNCTIONS[function](logits)  # (C,)
        order = np.argsort(-scores, kind="stable")
        count = 1 if top_k is _NOT_GIVEN else top_k
        best = [{"label": config.id2label[i], "score": scores[i].item()} for i in order[:count]]
        return best[0] if top_k is _NOT_GIVEN else best


def _split_pair(text: Any) -> tuple[str, str | None]:
    if isinstance(text, str):
        return text, None
    if not isinstance(text, dict):
        remedy = "leave it out"
        if isinstance(text, list | tuple):
            remedy = 'write a pair as {"text": ..., "text_pair": ...}'
        raise TypeError(
            'text-classification takes strings, or pairs as {"text": ..., "text_pair": ...}; this '
            f"text {describe_fault(text)}: {remedy}."
        )
    if "text" not in text or text.keys() - _TEXT_KEYS:
        raise ValueError(f"A pair has the keys 'text' and 'text_pair'; got {sorted(text)}.")
    first, second = text["text"], text.get("text_pair")
    for name, value in (("text", first), ("text_pair", "" if second is None else second)):
        if fault := describe_fault(value):
            raise TypeError(f"The {name!r} of a pair {fault}: leave the pair out.")
    return first, second


def _checked_limit(top_k: Any) -> int | None:
    return top_k if top_k is None or top_k is _NOT_GIVEN else checked_top_k(top_k)


def _checked_function(name: str | None) -> str | None:
    if name is not None and name.lower() not in FUNCTIONS:
        raise ValueError(f"function_to_apply must be one of {', '.join(FUNCTIONS)}; got {name!r}.")
    return None if name is None else name.lower()
