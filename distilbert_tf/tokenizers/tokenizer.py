"""DistilBertTokenizer: transformers' own, with TensorFlow tensors and an in-graph twin.

Shapes: B texts, T tokens of the longest row.
"""

import os
from typing import Any

import numpy as np
import tensorflow as tf
import transformers
from transformers import BatchEncoding

from distilbert_tf.checkpoints.hub import find_tokenizer
from distilbert_tf.tokenizers.truncation import Padding, Truncation
from distilbert_tf.tokenizers.wordpiece import WordPieceTokenizer

DEFAULT_MAX_LENGTH = 512  # the positions of a pretrained DistilBERT
# Settings of a directory that are arguments of each call here.
CALL_SETTINGS = (
    "_json_padding",
    "_json_truncation",
    "tokenizer_padding",
    "tokenizer_truncation",
    "max_length",
    "model_input_names",
    "pad_to_multiple_of",
    "stride",
    "truncation_strategy",
)


class DistilBertTokenizer(transformers.DistilBertTokenizer):
    """transformers' DistilBERT tokenizer that also returns TensorFlow tensors.

    `return_tensors="tf"` returns int32 tensors; `as_layer` returns the same tokenizer as a Keras
    layer. Truncation and padding fixed in the `tokenizer.json` of a directory are ignored, and the
    outputs are always `input_ids` and `attention_mask`, whatever class saved the directory.

    Args:
        *args: transformers' arguments.
        **kwargs: transformers' arguments.

    Example:
        tokenizer = DistilBertTokenizer.from_pretrained("demo")
        tokenizer(["A red kite.", "Rain"], padding=True, return_tensors="tf")
        tokenizer.as_layer(max_length=64)(tf.constant(["A red kite.", "Rain"]))  # the same
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for name in CALL_SETTINGS:
            kwargs.pop(name, None)
        super().__init__(*args, **kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> "DistilBertTokenizer":
        """Loads a tokenizer.

        Args:
            pretrained_model_name_or_path: A directory with `vocab.txt` or `tokenizer.json` and, if
                the defaults do not fit, `tokenizer_config.json`; `"demo"`; or a name on the hub.
            *args: transformers' arguments.
            **kwargs: transformers' arguments.

        Returns:
            The tokenizer.

        Raises:
            FileNotFoundError: There is no vocabulary within reach. (transformers would make a
                tokenizer of five special tokens.)
        """
        directory = find_tokenizer(os.fspath(pretrained_model_name_or_path), kwargs.get("revision"))
        return super().from_pretrained(directory, *args, **kwargs)

    def __call__(
        self, *args: Any, return_tensors: str | None = None, **kwargs: Any
    ) -> BatchEncoding:
        """Tokenizes as transformers does; `return_tensors` may also be "tf".

        Args:
            *args: transformers' arguments, such as `text` and `text_pair`.
            return_tensors: "tf" for int32 tensors (B, T); B is 1 for a single text.
            **kwargs: transformers' arguments.

        Returns:
            The encoding.

        Raises:
            ValueError: With "tf", if rows differ in length.
        """
        if return_tensors != "tf":
            return super().__call__(*args, return_tensors=return_tensors, **kwargs)
        return _to_tensorflow(super().__call__(*args, return_tensors="np", **kwargs))

    def encode(self, *args: Any, return_tensors: str | None = None, **kwargs: Any) -> Any:
        """Tokenizes to ids alone, as transformers does; `return_tensors` may also be "tf".

        Args:
            *args: transformers' arguments, such as `text` and `text_pair`.
            return_tensors: "tf" for an int32 tensor (1, T).
            **kwargs: transformers' arguments.

        Returns:
            The ids: a list, or a tensor.
        """
        if return_tensors != "tf":
            return super().encode(*args, return_tensors=return_tensors, **kwargs)
        return tf.constant(super().encode(*args, return_tensors="np", **kwargs), tf.int32)

    def pad(self, *args: Any, return_tensors: str | None = None, **kwargs: Any) -> BatchEncoding:
        """Pads encodings as transformers does; `return_tensors` may also be "tf".

        Args:
            *args: transformers' arguments, such as the encodings.
            return_tensors: "tf" for int32 tensors (B, T).
            **kwargs: transformers' arguments.

        Returns:
            The padded encoding.
        """
        if return_tensors != "tf":
            return super().pad(*args, return_tensors=return_tensors, **kwargs)
        return _to_tensorflow(super().pad(*args, return_tensors="np", **kwargs))

    def as_layer(
        self,
        max_length: int | None = None,
        truncation: Truncation = "longest_first",
        padding: Padding = "longest",
    ) -> WordPieceTokenizer:
        """Builds this tokenizer as a Keras layer of core TensorFlow ops.

        Args:
            max_length: Longest row in tokens, special tokens included; by default
                `model_max_length`, at most 512.
            truncation: "longest_first", "only_first" or "only_second".
            padding: To the "longest" row of a batch, or to "max_length".

        Returns:
            The layer: string (B,) to `input_ids` and `attention_mask`, int32 (B, T).

        Raises:
            ValueError: The tokenizer pads or truncates on the left, or has added tokens that match
                only single words or normalized text; the graph supports neither.
        """
        for name in ("padding_side", "truncation_side"):
            if getattr(self, name) != "right":
                raise ValueError(f"the layer supports only {name}='right'")
        if max_length is None:
            max_length = min(self.model_max_length, DEFAULT_MAX_LENGTH)
        vocabulary = self.backend_tokenizer.get_vocab(with_added_tokens=False)
        return WordPieceTokenizer(
            # By id, since the library's order changes from run to run, and with it a SavedModel.
            dict(sorted(vocabulary.items(), key=lambda item: item[1])),
            added_tokens=self._raw_text_tokens(),
            unk_token=self.backend_tokenizer.model.unk_token,
            cls_token=self.cls_token,
            sep_token=self.sep_token,
            pad_token=self.pad_token,
            lowercase=self.do_lower_case,
            strip_accents=self.strip_accents,
            tokenize_chinese_chars=self.tokenize_chinese_chars,
            max_length=max_length,
            truncation=truncation,
            padding=padding,
        )

    def _raw_text_tokens(self) -> dict[str, int]:
        """Returns the ids of the added tokens, which are matched in the raw text."""
        tokens = {}
        for token_id, token in self.added_tokens_decoder.items():
            if token.special and self.split_special_tokens:
                continue
            # White space beside a token (lstrip, rstrip) divides words anyway, so it needs no care.
            if token.normalized or token.single_word:
                raise ValueError(
                    f"the layer cannot match {token.content!r}: add it with normalized=False and "
                    "single_word=False"
                )
            tokens[token.content] = token_id
        return tokens


def _to_tensorflow(encoding: BatchEncoding) -> BatchEncoding:
    for name, array in encoding.items():
        if np.asarray(array).dtype == object:
            raise ValueError(
                f"the rows of {name} differ in length, so they make no tensor: pass padding=True, "
                "and truncation=True to limit them"
            )
        encoding[name] = tf.constant(array, tf.int32)
    return encoding
