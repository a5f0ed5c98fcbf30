"""The fill-mask pipeline.

Shapes: B texts, T tokens in the longest of them, M masks in all of them, D = config.dim,
V = config.vocab_size.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from transformers import PreTrainedTokenizerBase

from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM
from distilbert_tf.models.pretrained import PreTrainedModel
from distilbert_tf.pipelines.base import (
    IDS_AND_MASK,
    Pipeline,
    checked_options,
    checked_top_k,
)
from distilbert_tf.tokenizers.texts import describe_fault


class FillMaskPipeline(Pipeline):
    """Predicts words for the masked positions of a text.

    Args:
        model: A `TFDistilBertForMaskedLM`.
        tokenizer: Its tokenizer, with a mask token.
        batch_size: Number of texts to compute at once.
        top_k: Number of words to return, at most the whole vocabulary.
        targets: The only words to return. A word outside the vocabulary is replaced by its first
            piece, with a warning. Scores remain the probabilities among all words.
        tokenizer_kwargs: Options of the tokenizer, such as `{"truncation": True}`. By default
            a text that is too long is an error, since truncation might remove its mask.

    Raises:
        TypeError: The model has another head, or an option is unknown.
        ValueError: The tokenizer has no mask token, or an option's value is invalid.

    Example:
        name = "distilbert-base-uncased"
        fill_mask = FillMaskPipeline(
            TFDistilBertForMaskedLM.from_pretrained(name),
            DistilBertTokenizer.from_pretrained(name),
        )
        fill_mask("The capital of France is [MASK].")[0]["token_str"]
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
        self.top_k = checked_top_k(top_k)
        self.target_ids = None if targets is None else self._find_targets(targets)
        self.tokenizer_kwargs = checked_options(tokenizer_kwargs or {})
        self._score = tf.function(self._score_words, input_signature=IDS_AND_MASK)

    def __call__(
        self,
        inputs: str | Iterable[str],
        *,
        top_k: int | None = None,
        targets: str | Sequence[str] | None = None,
        tokenizer_kwargs: dict[str, Any] | None = None,
        batch_size: int | None = None,
    ) -> Any:
        """Fills in masks.

        Args:
            inputs: A text with at least one mask token, or several texts.
            top_k: Overrides the constructor's value, as do the others.
            targets: The only words to return.
            tokenizer_kwargs: Options of the tokenizer.
            batch_size: Number of texts to compute at once.

        Returns:
            For a text, or a list of one: a list of `{"score", "token", "token_str",
            "sequence"}`, best first, or a list of such lists if it has several masks, each
            filled in independently. For more texts, a list of these results.

        Raises:
            ValueError: A text has no mask token, or is too long.
            TypeError: A text is not a string.
        """
        count = self.top_k if top_k is None else checked_top_k(top_k)
        target_ids = self.target_ids if targets is None else self._find_targets(targets)
        options = self.tokenizer_kwargs | checked_options(tokenizer_kwargs or {})

        def fill(rows: list[list[int]], size: int) -> list[Any]:
            best = self._in_batches(
                rows, size, lambda ids, mask: self._best(ids, mask, count, target_ids)
            )
            return [self._describe(row, *found) for row, found in zip(rows, best, strict=True)]

        results = self._map(
            inputs, batch_size, lambda text: self._encode_masked(text, options), fill
        )
        if isinstance(inputs, (list, tuple)) and len(inputs) == 1:
            return results[0]
        return results

    def _encode_masked(self, text: Any, options: dict[str, Any]) -> list[int]:
        if not isinstance(text, str):
            raise TypeError(
                f"{self.task} takes strings; this text {describe_fault(text)}: leave it out."
            )
        ids = self._encode(text, None, options)
        if self.tokenizer.mask_token_id not in ids:
            raise ValueError(
                f"No mask token ({self.tokenizer.mask_token}) in the text {text[:60]!r}"
                + (", or truncation removed it." if options.get("truncation") else ".")
            )
        return ids

    def _score_words(self, ids: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Returns every word's probability at every mask: (B, T) to (M, V), row after row."""
        hidden = self.model.distilbert(
            {"input_ids": ids, "attention_mask": mask},
            training=False,
            output_hidden_states=False,
            output_attentions=False,
        )
        places = tf.where(ids == self.tokenizer.mask_token_id)  # (M, 2)
        # The head is applied to the masks alone: its output for all tokens is (B, T, V).
        masked = tf.gather_nd(hidden.last_hidden_state, places)  # (M, D)
        return tf.nn.softmax(self.model.score_words(masked))

    def _best(
        self, ids: tf.Tensor, mask: tf.Tensor, top_k: int, target_ids: np.ndarray | None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns the best words of each text: probabilities and ids (masks in it, top_k)."""
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
        # With several masks, the sequence keeps the other masks, and [CLS] and [SEP], too.
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
                    logging.warning("The target %r has no token and is ignored.", target)
                    continue
                logging.warning(
                    "The target %r is not in the vocabulary; %r replaces it.", target, pieces[0]
                )
                target = pieces[0]
            ids.append(vocabulary[target])
        if not ids:
            raise ValueError("targets must name at least one word.")
        return np.array(list(dict.fromkeys(ids)), np.int32)
