"""The DistilBERT tokenizer: transformers' own, with TensorFlow tensors and an in-graph twin.

Shapes: B texts, T longest row.
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

# DistilBERT's table of positions ends here.
DEFAULT_MAX_LENGTH = 512
# What a directory may prescribe about each call, and a tokenizer should leave to the call.
BAKED_IN_ARGUMENTS = (
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

    `return_tensors="tf"` gives int32 tensors; `as_layer` gives the same tokenizer as a Keras layer.
    A truncation or padding fixed in a directory's `tokenizer.json` is dropped, and the outputs are
    always `input_ids` and `attention_mask`, whatever class the directory was saved from.

    Args:
        *args: transformers' arguments.
        **kwargs: transformers' arguments.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for name in BAKED_IN_ARGUMENTS:
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
            FileNotFoundError: There is no vocabulary within reach. transformers would fall back on
                five special tokens.
        """
        directory = find_tokenizer(os.fspath(pretrained_model_name_or_path), kwargs.get("revision"))
        return super().from_pretrained(directory, *args, **kwargs)

    def __call__(
        self, *args: Any, return_tensors: str | None = None, **kwargs: Any
    ) -> BatchEncoding:
        """Tokenizes as transformers does; `return_tensors` may also be "tf".

        Args:
            *args: transformers' arguments, above all `text` and `text_pair`.
            return_tensors: "tf" for int32 tensors (B, T), B being 1 for a single text.
            **kwargs: transformers' arguments.

        Returns:
            The encoding.

        Raises:
            ValueError: If "tf" is asked for and rows differ in length.
        """
        if return_tensors != "tf":
            return super().__call__(*args, return_tensors=return_tensors, **kwargs)
        return _to_tensorflow(super().__call__(*args, return_tensors="np", **kwargs))

    def encode(self, *args: Any, return_tensors: str | None = None, **kwargs: Any) -> Any:
        """Tokenizes to ids alone, as transformers does; `return_tensors` may also be "tf".

        Args:
            *args: transformers' arguments, above all `text` and `text_pair`.
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
            *args: transformers' arguments, above all the encodings.
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
            max_length: Longest row; None means `model_max_length`, at most 512.
            truncation: "longest_first", "only_first" or "only_second".
            padding: Up to the "longest" row of a batch, or to "max_length".

        Returns:
            The layer, string (B,) -> `input_ids` and `attention_mask`, int32 (B, T).

        Raises:
            ValueError: For a setting that the graph does not have: padding or truncation on the
                left, or added tokens that match only single words or cleaned-up text.
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
        """Returns the ids of the tokens matched in the raw text."""
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
    """Replaces NumPy arrays by int32 tensors."""
    for name, array in encoding.items():
        if np.asarray(array).dtype == object:
            raise ValueError(
                f"the rows of {name} differ in length, so they make no tensor: pass padding=True, "
                "and truncation=True to bound them"
            )
        encoding[name] = tf.constant(array, tf.int32)
    return encoding
