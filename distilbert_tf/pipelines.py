"""From texts to answers in one call: fill-mask and text-classification.

Results have the shape and the numbers of transformers' own pipelines on PyTorch, down to their
quirks, so code written for those goes on working:

* One text gives its result, a list (or tuple) gives a list of results in the same order, and
  any other iterable gives an iterator that reads `batch_size` texts at a time.
* fill-mask unwraps a list of one text.
* text-classification gives one dict per text, or a sorted list of dicts once `top_k` is given;
  the result of a lone string then stands in a list of its own, unless `top_k` came with the call.

Texts are batched by length, so little is computed on padding.

Shapes: B texts, T tokens in the longest of them, M masks in all of them, C = config.num_labels,
V = config.vocab_size.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import tensorflow as tf
from absl import logging
from transformers import PreTrainedTokenizerBase

from distilbert_tf.heads import TFDistilBertForMaskedLM, TFDistilBertForSequenceClassification
from distilbert_tf.hub import find_tokenizer
from distilbert_tf.model import PreTrainedModel
from distilbert_tf.tokenizer import DistilBertTokenizer

Text = str | dict[str, str]
Score = TypeVar("Score")

ALIASES = {"sentiment-analysis": "text-classification"}
TOKENIZER_OPTIONS = {"max_length", "padding", "truncation"}
_TEXT_KEYS = {"text", "text_pair"}
_NOT_GIVEN: Any = object()  # for `top_k`, whose None has a meaning


class Pipeline:
    """What both tasks share: the checks, and texts to token ids to batches.

    Args:
        model: A model with the task's head.
        tokenizer: The model's tokenizer.
        batch_size: How many texts to compute at once.

    Raises:
        TypeError: The model has another head, or none.
        ValueError: `batch_size` is less than 1.
    """

    task: ClassVar[str]
    model_class: ClassVar[type[PreTrainedModel]]

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int = 32
    ) -> None:
        if not isinstance(model, self.model_class):
            raise TypeError(
                f"The task {self.task!r} takes a {self.model_class.__name__}; got "
                f"{type(model).__name__}."
            )
        self.model, self.tokenizer = model, tokenizer
        self.batch_size = _checked_batch_size(batch_size)

    def _map(
        self, inputs: Any, batch_size: int | None, apply: Callable[[list[Any], int], list[Any]]
    ) -> Any:
        """Applies a function from a list of texts to a list of results to any kind of input."""
        size = self.batch_size if batch_size is None else _checked_batch_size(batch_size)
        if isinstance(inputs, (str, dict)):
            return apply([inputs], size)[0]
        if isinstance(inputs, (list, tuple)):
            return apply(list(inputs), size)
        if not isinstance(inputs, Iterable):
            raise TypeError(
                f"{self.task} takes a string, or a list or iterable of them; got "
                f"{type(inputs).__name__}."
            )
        return self._stream(iter(inputs), size, apply)

    def _stream(
        self, inputs: Iterator[Any], size: int, apply: Callable[[list[Any], int], list[Any]]
    ) -> Iterator[Any]:
        while chunk := list(islice(inputs, size)):
            yield from apply(chunk, size)

    def _encode(self, text: str, pair: str | None, options: dict[str, Any]) -> list[int]:
        """Tokenizes one text to ids, and checks that the model can take them."""
        longest = self.model.config.max_position_embeddings
        options = {"max_length": min(longest, self.tokenizer.model_max_length)} | options
        if not options.get("truncation"):
            options.pop("max_length")
        # A batch is padded as a whole later: what padding the caller wants makes no difference.
        ids = self.tokenizer(text, pair, **options | {"padding": False})["input_ids"]
        if len(ids) > longest:
            raise ValueError(
                f"A text has {len(ids)} tokens, and the model takes {longest}: shorten it, or "
                "give the tokenizer's option truncation=True. It starts with "
                f"{text[:60]!r}."
            )
        if ids and max(ids) >= self.model.config.vocab_size:
            raise ValueError(
                f"The tokenizer gave id {max(ids)} for {text[:60]!r}, but the model knows "
                f"{self.model.config.vocab_size} words: they do not belong together."
            )
        return ids

    def _in_batches(
        self,
        rows: Sequence[list[int]],
        batch_size: int,
        score: Callable[[tf.Tensor, tf.Tensor], Sequence[Score]],
    ) -> list[Score]:
        """Scores rows of ids batch by batch, the short ones first, and restores their order."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        scores: dict[int, Score] = {}
        for start in range(0, len(rows), batch_size):
            batch = order[start : start + batch_size]
            length = len(rows[batch[-1]])
            ids = np.full((len(batch), length), self.tokenizer.pad_token_id or 0, np.int32)
            mask = np.zeros_like(ids)
            for b, i in enumerate(batch):
                ids[b, : len(rows[i])] = rows[i]
                mask[b, : len(rows[i])] = 1
            scores.update(zip(batch, score(tf.constant(ids), tf.constant(mask)), strict=True))
        return [scores[i] for i in range(len(rows))]


class FillMaskPipeline(Pipeline):
    """Proposes words for the masked places of a text.

    Args:
        model: A `TFDistilBertForMaskedLM`.
        tokenizer: Its tokenizer, with a mask token.
        batch_size: How many texts to compute at once.
        top_k: How many words to propose; the whole vocabulary at most.
        targets: The only words to propose. A word outside the vocabulary stands for its first
            piece, and the log says so. Scores stay the probabilities among all words.
        tokenizer_kwargs: Options of the tokenizer, such as `{"truncation": True}`. By default
            a text that is too long is an error, since its mask might be cut off.

    Raises:
        TypeError: The model has another head, or an option is unknown.
        ValueError: The tokenizer has no mask token, or an option's value makes no sense.
    """

    task = "fill-mask"
    model_class = TFDistilBertForMaskedLM

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 32,
        top_k: int = 5,
        targets: str | Sequence[str] | None = None,
        tokenizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(model, tokenizer, batch_size)
        if tokenizer.mask_token_id is None:
            raise ValueError("The tokenizer has no mask token, which fill-mask needs.")
        self.top_k = _checked_top_k(top_k)
        self.target_ids = None if targets is None else self._find_targets(targets)
        self.tokenizer_kwargs = _checked_options(tokenizer_kwargs or {})
        self._score = tf.function(self._score_words, input_signature=_IDS_AND_MASK)

    def __call__(
        self,
        inputs: str | Iterable[str],
        *,
        top_k: int | None = None,
        targets: str | Sequence[str] | None = None,
        tokenizer_kwargs: dict[str, Any] | None = None,
        batch_size: int | None = None,
    ) -> Any:
        """Fills masks in.

        Args:
            inputs: A text with at least one mask token, or several texts.
            top_k: Replaces the constructor's, as do the others.
            targets: The only words to propose.
            tokenizer_kwargs: Options of the tokenizer.
            batch_size: How many texts to compute at once.

        Returns:
            For a text, or a list of one: a list of `{"score", "token", "token_str",
            "sequence"}`, the best first, and a list of such lists if it has several masks,
            each filled in alone. For more texts, those results.

        Raises:
            ValueError: A text has no mask token, or is too long.
            TypeError: A text is no string.
        """
        count = self.top_k if top_k is None else _checked_top_k(top_k)
        target_ids = self.target_ids if targets is None else self._find_targets(targets)
        options = self.tokenizer_kwargs | _checked_options(tokenizer_kwargs or {})

        def fill(texts: list[Any], size: int) -> list[Any]:
            rows = [self._encode_masked(text, options) for text in texts]
            best = self._in_batches(
                rows, size, lambda ids, mask: self._best(ids, mask, count, target_ids)
            )
            return [self._describe(row, *found) for row, found in zip(rows, best, strict=True)]

        results = self._map(inputs, batch_size, fill)
        if isinstance(inputs, (list, tuple)) and len(inputs) == 1:
            return results[0]
        return results

    def _encode_masked(self, text: Any, options: dict[str, Any]) -> list[int]:
        if not isinstance(text, str):
            raise TypeError(f"{self.task} takes strings; got {type(text).__name__}.")
        ids = self._encode(text, None, options)
        if self.tokenizer.mask_token_id not in ids:
            raise ValueError(
                f"No mask token ({self.tokenizer.mask_token}) in the text {text[:60]!r}"
                + (", or it was cut off with the text's end." if options.get("truncation") else ".")
            )
        return ids

    def _score_words(self, ids: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Gives every word's probability at every mask: (B, T) to (M, V), row after row."""
        hidden = self.model.distilbert({"input_ids": ids, "attention_mask": mask}, training=False)
        places = tf.where(ids == self.tokenizer.mask_token_id)  # (M, 2)
        # The head is applied to the masks alone: its output for all tokens is (B, T, V).
        masked = tf.gather_nd(hidden.last_hidden_state, places)[tf.newaxis]  # (1, M, D)
        logits = tf.cast(self.model.head(masked, training=False)[0], tf.float32)
        return tf.nn.softmax(logits)

    def _best(
        self, ids: tf.Tensor, mask: tf.Tensor, top_k: int, target_ids: np.ndarray | None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Picks the best words: per text, probabilities and ids (masks in it, top_k)."""
        scores = self._score(ids, mask)  # (M, V)
        if target_ids is not None:
            scores = tf.gather(scores, target_ids, axis=1)
        values, words = tf.math.top_k(scores, min(top_k, scores.shape[1]))
        words = words.numpy() if target_ids is None else target_ids[words.numpy()]
        masks = np.count_nonzero(ids.numpy() == self.tokenizer.mask_token_id, axis=1)
        ends = np.cumsum(masks)[:-1]
        return list(zip(np.split(values.numpy(), ends), np.split(words, ends), strict=True))

    def _describe(self, ids: list[int], scores: np.ndarray, words: np.ndarray) -> list[Any]:
        places = [t for t, token in enumerate(ids) if token == self.tokenizer.mask_token_id]
        # Among several masks the others are kept in the sequence, and [CLS] and [SEP] with them.
        lone = len(places) == 1
        found = []
        for place, mask_scores, mask_words in zip(places, scores, words, strict=True):
            proposals = []
            for score, word in zip(mask_scores.tolist(), mask_words.tolist(), strict=True):
                filled = [*ids[:place], word, *ids[place + 1 :]]
                filled = [token for token in filled if token != self.tokenizer.pad_token_id]
                proposals.append(
                    {
                        "score": score,
                        "token": word,
                        "token_str": self.tokenizer.decode([word]),
                        "sequence": self.tokenizer.decode(filled, skip_special_tokens=lone),
                    }
                )
            found.append(proposals)
        return found[0] if lone else found

    def _find_targets(self, targets: str | Sequence[str]) -> np.ndarray:
        vocabulary = self.tokenizer.get_vocab()
        ids = []
        for target in [targets] if isinstance(targets, str) else targets:
            if target not in vocabulary:
                pieces = self.tokenizer.tokenize(target)
                if not pieces:
                    logging.warning("The target %r has no token, and is left out.", target)
                    continue
                logging.warning("The target %r is no word; %r stands for it.", target, pieces[0])
                target = pieces[0]
            ids.append(vocabulary[target])
        if not ids:
            raise ValueError("targets must name at least one word.")
        return np.array(list(dict.fromkeys(ids)), np.int32)


class TextClassificationPipeline(Pipeline):
    """Labels texts, or pairs of them.

    Args:
        model: A `TFDistilBertForSequenceClassification`.
        tokenizer: Its tokenizer.
        batch_size: How many texts to compute at once.
        top_k: How many labels to give, the best first; all of them if None. If not given at
            all, the best one, without a list around it.
        function_to_apply: How scores come from logits: `"softmax"`, `"sigmoid"` or `"none"`. By
            default none for a regression, a sigmoid for one label or a multi-label problem
            (`config.problem_type`), a softmax otherwise.
        **tokenizer_kwargs: Options of the tokenizer. Other than in transformers,
            `truncation=True` is the default: a text that is too long loses its end.

    Raises:
        TypeError: The model has another head, or an option is unknown.
        ValueError: An option's value makes no sense.
    """

    task = "text-classification"
    model_class = TFDistilBertForSequenceClassification

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
        self.tokenizer_kwargs = {"truncation": True} | _checked_options(tokenizer_kwargs)
        self._score = tf.function(self._score_labels, input_signature=_IDS_AND_MASK)

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
            top_k: Replaces the constructor's, as do the others.
            function_to_apply: How scores come from logits.
            batch_size: How many texts to compute at once.
            **tokenizer_kwargs: Options of the tokenizer.

        Returns:
            Without `top_k`, `{"label", "score"}` for a text, in a list for a lone string. With
            it a list of those, the best first (in a further list for a lone string, if `top_k`
            is the constructor's). For several texts, a list of results.

        Raises:
            TypeError: A text is neither a string nor a pair.
            ValueError: A pair has other keys, or a text is too long with `truncation=False`.
        """
        count = self.top_k if top_k is _NOT_GIVEN else _checked_limit(top_k)
        function = _checked_function(function_to_apply) or self.function_to_apply
        options = self.tokenizer_kwargs | _checked_options(tokenizer_kwargs)

        def classify(texts: list[Any], size: int) -> list[Any]:
            rows = [self._encode(*_split_pair(text), options) for text in texts]
            logits = self._in_batches(rows, size, lambda *batch: self._score(*batch).numpy())
            return [self._describe(row, count, function) for row in logits]

        results = self._map(inputs, batch_size, classify)
        return [results] if isinstance(inputs, str) and top_k is _NOT_GIVEN else results

    def _score_labels(self, ids: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Gives logits: (B, T) to (B, C)."""
        return self.model({"input_ids": ids, "attention_mask": mask}, training=False)

    def _describe(self, logits: np.ndarray, top_k: int | None, function: str | None) -> Any:
        config = self.model.config
        if function is None:
            function = "softmax"
            if config.problem_type == "regression":
                function = "none"
            elif config.problem_type == "multi_label_classification" or config.num_labels == 1:
                function = "sigmoid"
        scores = FUNCTIONS[function](logits)  # (C,)
        order = np.argsort(-scores, kind="stable")
        count = 1 if top_k is _NOT_GIVEN else top_k
        best = [{"label": config.id2label[i], "score": scores[i].item()} for i in order[:count]]
        return best[0] if top_k is _NOT_GIVEN else best


def pipeline(
    task: str,
    model: str | Path | PreTrainedModel,
    tokenizer: str | Path | PreTrainedTokenizerBase | None = None,
    *,
    revision: str | None = None,
    **options: Any,
) -> FillMaskPipeline | TextClassificationPipeline:
    """Makes a function from texts to answers.

    Args:
        task: `"fill-mask"`, or `"text-classification"` (also called `"sentiment-analysis"`).
        model: A model, or a name or directory for its `from_pretrained`. The checkpoint must
            hold the task's head.
        tokenizer: A tokenizer, or its name or directory; by default the model's name.
        revision: Branch, tag or commit of the names on the hub.
        **options: Options of `FillMaskPipeline` or `TextClassificationPipeline`: `top_k`,
            `batch_size` and others.

    Returns:
        The pipeline: call it with texts.

    Raises:
        ValueError: An unknown task, or a model object without a tokenizer.
        TypeError: The model has another head, or an option is unknown.
        FileNotFoundError: A name is out of reach.
        CheckpointError: The checkpoint does not fit, or lacks the task's head.
    """
    pipeline_class = TASKS.get(ALIASES.get(task, task))
    if pipeline_class is None:
        raise ValueError(f"Unknown task {task!r}; the tasks are {', '.join([*TASKS, *ALIASES])}.")
    if tokenizer is None:
        if not isinstance(model, (str, Path)):
            raise ValueError("Give tokenizer= too: a model object does not tell its own.")
        tokenizer = model
    if isinstance(tokenizer, (str, Path)):
        tokenizer = DistilBertTokenizer.from_pretrained(find_tokenizer(tokenizer, revision))
    if isinstance(model, (str, Path)):
        # Never with a fresh head: its answers would be noise that looks like answers.
        model = pipeline_class.model_class.from_pretrained(
            model, fresh_head=False, revision=revision
        )
    return pipeline_class(model, tokenizer, **options)


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - np.max(logits))
    return exponentials / np.sum(exponentials)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


TASKS: dict[str, Any] = {
    FillMaskPipeline.task: FillMaskPipeline,
    TextClassificationPipeline.task: TextClassificationPipeline,
}
FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "softmax": _softmax,
    "sigmoid": _sigmoid,
    "none": np.asarray,
}
# One graph for all sizes of a batch.
_IDS_AND_MASK = [tf.TensorSpec([None, None], tf.int32)] * 2


def _split_pair(text: Any) -> tuple[str, str | None]:
    if isinstance(text, str):
        return text, None
    if not isinstance(text, dict):
        raise TypeError(
            f'text-classification takes strings, or pairs as {{"text": ..., "text_pair": ...}}; '
            f"got {type(text).__name__}."
        )
    if "text" not in text or text.keys() - _TEXT_KEYS:
        raise ValueError(f"A pair has the keys 'text' and 'text_pair'; got {sorted(text)}.")
    return text["text"], text.get("text_pair")


def _checked_top_k(top_k: Any) -> int:
    if isinstance(top_k, (int, np.integer)) and top_k >= 1:
        return int(top_k)
    raise ValueError(f"top_k must be a whole number from 1 up; got {top_k!r}.")


def _checked_limit(top_k: Any) -> int | None:
    return top_k if top_k is None or top_k is _NOT_GIVEN else _checked_top_k(top_k)


def _checked_batch_size(batch_size: int) -> int:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}.")
    return batch_size


def _checked_function(name: str | None) -> str | None:
    if name is not None and name.lower() not in FUNCTIONS:
        raise ValueError(f"function_to_apply must be one of {', '.join(FUNCTIONS)}; got {name!r}.")
    return None if name is None else name.lower()


def _checked_options(options: dict[str, Any]) -> dict[str, Any]:
    if unknown := options.keys() - TOKENIZER_OPTIONS:
        raise TypeError(
            f"Unknown option {sorted(unknown)[0]!r}; the tokenizer's are "
            f"{', '.join(sorted(TOKENIZER_OPTIONS))}."
        )
    return options
