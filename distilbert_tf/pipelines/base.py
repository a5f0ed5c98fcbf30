"""What the pipelines share: checks, tokenization and batching.

Shapes: B texts, T tokens in the longest of them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar, TypeVar

import numpy as np
import tensorflow as tf
from transformers import PreTrainedTokenizerBase

from distilbert_tf.models.pretrained import PreTrainedModel
from distilbert_tf.tokenizers.texts import as_python

Score = TypeVar("Score")

TOKENIZER_OPTIONS = {"max_length", "padding", "truncation"}
# One graph for all sizes of a batch.
IDS_AND_MASK = [tf.TensorSpec([None, None], tf.int32)] * 2


class Pipeline:
    """The base of both pipelines: checks, tokenization and batching.

    Args:
        model: A model with the task's head.
        tokenizer: The model's tokenizer.
        batch_size: Number of texts to compute at once.

    Raises:
        TypeError: The model has another head, or none.
        ValueError: `batch_size` is less than 1.
    """

    task: ClassVar[str]
    model_class: ClassVar[type[PreTrainedModel]]
    table_hint: ClassVar[str] = ""  # what to make of a table, apart from taking a column

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
        self,
        inputs: Any,
        batch_size: int | None,
        encode: Callable[[Any], list[int]],
        answer: Callable[[list[list[int]], int], list[Any]],
    ) -> Any:
        """Answers any kind of input, with a function to ids and one from rows of ids to results."""
        size = self.batch_size if batch_size is None else _checked_batch_size(batch_size)
        if hasattr(inputs, "columns") and hasattr(inputs, "to_dict"):  # it would yield their names
            column = next(iter(inputs.columns), "text")
            raise TypeError(
                f"{self.task} takes texts, not a {type(inputs).__name__}: pass a column, such as "
                f"frame[{column!r}]{self.table_hint}."
            )
        inputs = as_python(inputs)
        if isinstance(inputs, (str, bytes, dict)):
            return answer([encode(inputs)], size)[0]
        if isinstance(inputs, (list, tuple)):
            return answer(_encode_rows(inputs, 0, encode), size)
        if not isinstance(inputs, Iterable):
            raise TypeError(
                f"{self.task} takes a string, or a list or iterable of them; got "
                f"{type(inputs).__name__}."
            )
        return self._stream(iter(inputs), size, encode, answer)

    def _stream(
        self,
        inputs: Iterator[Any],
        size: int,
        encode: Callable[[Any], list[int]],
        answer: Callable[[list[list[int]], int], list[Any]],
    ) -> Iterator[Any]:
        first = 0
        while chunk := list(islice(inputs, size)):
            yield from answer(_encode_rows(chunk, first, encode), size)
            first += len(chunk)

    def _encode(self, text: str, pair: str | None, options: dict[str, Any]) -> list[int]:
        """Tokenizes one text, and checks that the model can take its ids."""
        longest = self.model.config.max_position_embeddings
        options = {"max_length": min(longest, self.tokenizer.model_max_length)} | options
        if not options.get("truncation"):
            options.pop("max_length")
        # Batches are padded later, so the caller's padding options make no difference. This is a
        # batch of one: of a pair alone, the tokenizer drops an empty second text with its [SEP].
        pairs = None if pair is None else [pair]
        (ids,) = self.tokenizer([text], pairs, **options | {"padding": False})["input_ids"]
        if len(ids) > longest:
            raise ValueError(
                f"A text has {len(ids)} tokens, but the model takes {longest}: shorten it, or pass "
                f"the tokenizer's option truncation=True. It starts with {text[:60]!r}."
            )
        if ids and max(ids) >= self.model.config.vocab_size:
            raise ValueError(
                f"The tokenizer returned id {max(ids)} for {text[:60]!r}, but the model's "
                f"vocabulary has {self.model.config.vocab_size} entries: they do not belong "
                "together."
            )
        return ids

    def _in_batches(
        self,
        rows: Sequence[list[int]],
        batch_size: int,
        score: Callable[[tf.Tensor, tf.Tensor], Sequence[Score]],
    ) -> list[Score]:
        """Scores rows of ids in batches, the short ones first, and restores their order."""
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


def _encode_rows(
    texts: Sequence[Any], first: int, encode: Callable[[Any], list[int]]
) -> list[list[int]]:
    rows = []
    for row, text in enumerate(texts, first):
        try:
            rows.append(encode(text))
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"Row {row} (from 0): {error}") from error
    return rows


def checked_top_k(top_k: Any) -> int:
    """Returns `top_k` as an int; raises a ValueError unless it is an integer of at least 1."""
    if isinstance(top_k, (int, np.integer)) and top_k >= 1:
        return int(top_k)
    raise ValueError(f"top_k must be an integer of at least 1; got {top_k!r}.")


def _checked_batch_size(batch_size: int) -> int:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}.")
    return batch_size


def checked_options(options: dict[str, Any]) -> dict[str, Any]:
    """Returns the tokenizer's options; raises a TypeError if one is unknown."""
    if unknown := options.keys() - TOKENIZER_OPTIONS:
        raise TypeError(
            f"Unknown option {sorted(unknown)[0]!r}; the tokenizer's are "
            f"{', '.join(sorted(TOKENIZER_OPTIONS))}."
        )
    return options
