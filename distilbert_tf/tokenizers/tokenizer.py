"""DistilBertTokenizer: transformers' own, with TensorFlow tensors and an in-graph twin.

Shapes: B texts, T tokens of the longest row.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import transformers
from transformers import BatchEncoding

from distilbert_tf.checkpoints.hub import (
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    VOCAB,
    find_preset,
    find_tokenizer,
    take_hub_options,
)
from distilbert_tf.files import replacing
from distilbert_tf.tokenizers.texts import as_python, check_texts, describe_fault
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
                the defaults do not fit, `tokenizer_config.json`; that of a KerasHub preset;
                `"demo"`; or a name on the hub.
            *args: transformers' arguments.
            **kwargs: transformers' arguments; of the hub's, those of `HubOptions`.

        Returns:
            The tokenizer.

        Raises:
            FileNotFoundError: There is no vocabulary within reach. (transformers would make a
                tokenizer of five special tokens.)
            ValueError: The vocabulary lacks a special token. (transformers would give it an id
                that no model has.)
        """
        if (preset := find_preset(pretrained_model_name_or_path, TOKENIZER_JSON)) is not None:
            return cls.from_preset(preset, **kwargs)
        hub = take_hub_options(kwargs)
        directory = find_tokenizer(os.fspath(pretrained_model_name_or_path), **hub)
        tokenizer = super().from_pretrained(directory, *args, **kwargs)
        _check_special_tokens(tokenizer, directory)
        return tokenizer

    @classmethod
    def from_preset(cls, preset: str | os.PathLike[str], **kwargs: Any) -> "DistilBertTokenizer":
        """Loads the tokenizer of a KerasHub preset: see `from_keras_hub`.

        Args:
            preset: A built-in name such as `"distil_bert_base_en_uncased"`, a handle, or a
                directory that KerasHub wrote.
            **kwargs: Settings to replace, such as `model_max_length=512`.

        Returns:
            The tokenizer.
        """
        from distilbert_tf.tokenizers.keras_hub import load_preset

        return cls.from_keras_hub(load_preset(preset), **kwargs)

    @classmethod
    def from_keras_hub(cls, tokenizer: Any, **kwargs: Any) -> "DistilBertTokenizer":
        """Makes a tokenizer with the vocabulary of one of KerasHub's.

        It splits text as transformers does, which strips accents where it lowercases.

        Args:
            tokenizer: A `keras_nlp.models.DistilBertTokenizer`.
            **kwargs: Settings to replace.

        Returns:
            The tokenizer.

        Raises:
            TypeError: Another kind of object.
        """
        from distilbert_tf.tokenizers.keras_hub import write_files

        with tempfile.TemporaryDirectory() as directory:
            settings = write_files(tokenizer, Path(directory))
            return cls.from_pretrained(directory, **(settings | kwargs))

    def to_keras_hub(self) -> Any:
        """Makes a `keras_nlp.models.DistilBertTokenizer` with the same vocabulary and settings.

        Returns:
            The tokenizer. It splits some Unicode text otherwise than transformers.

        Raises:
            ValueError: Special tokens have other names than KerasHub's, or there are added ones.
        """
        from distilbert_tf.tokenizers.keras_hub import make_tokenizer

        return make_tokenizer(self)

    def __call__(
        self, *args: Any, return_tensors: str | None = None, **kwargs: Any
    ) -> BatchEncoding:
        """Tokenizes as transformers does; `return_tensors` may also be "tf".

        Args:
            *args: transformers' arguments, such as `text` and `text_pair`. Several texts may also
                be an array, a column of pandas or a string tensor.
            return_tensors: "tf" for int32 tensors (B, T); B is 1 for a single text.
            **kwargs: transformers' arguments.

        Returns:
            The encoding.

        Raises:
            TypeError: A text is not a string; the message names its row.
            ValueError: A text is not Unicode, or, with "tf", rows differ in length.
        """
        args = (*map(as_python, args[:2]), *args[2:])
        for name in kwargs.keys() & {"text", "text_pair"}:
            kwargs[name] = as_python(kwargs[name])
        form = "np" if return_tensors == "tf" else return_tensors
        try:
            encoding = super().__call__(*args, return_tensors=form, **kwargs)
        except (TypeError, ValueError, IndexError) as error:
            names = ("text", "text_pair")
            _explain({**dict(zip(names, args, strict=False)), **kwargs}, error)
            raise
        return _to_tensorflow(encoding) if return_tensors == "tf" else encoding

    def encode_plus(self, *args: Any, **kwargs: Any) -> BatchEncoding:
        """Tokenizes a text, or a pair: an old name of the call."""
        return self(*args, **kwargs)

    def batch_encode_plus(self, *args: Any, **kwargs: Any) -> BatchEncoding:
        """Tokenizes texts: an old name of the call."""
        return self(*args, **kwargs)

    def decode(self, token_ids: Any, *args: Any, **kwargs: Any) -> Any:
        """Makes text of ids, as transformers does; also of TensorFlow's tensors.

        Args:
            token_ids: Ids, or rows of ids: lists, arrays or tensors, which may be ragged.
            *args: transformers' arguments.
            **kwargs: transformers' arguments, such as `skip_special_tokens`.

        Returns:
            The text, or a list of texts.
        """
        return super().decode(_as_ids(token_ids), *args, **kwargs)

    def batch_decode(self, sequences: Any, *args: Any, **kwargs: Any) -> list[str]:
        """Makes texts of rows of ids, as transformers does: see `decode`."""
        return super().batch_decode(_as_ids(sequences), *args, **kwargs)

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

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> tuple[str, ...]:
        """Saves the tokenizer as transformers does, and `vocab.txt`, which others read.

        Args:
            save_directory: Where the files go.
            *args: transformers' arguments.
            **kwargs: transformers' arguments.

        Returns:
            The files.
        """
        files = super().save_pretrained(save_directory, *args, **kwargs)
        words = self.words()
        if list(words.values()) != list(range(len(words))):
            return files  # a line of that file is an id
        path = Path(save_directory) / VOCAB
        with replacing(path) as temporary:
            temporary.write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
        return (*files, str(path))

    def words(self) -> dict[str, int]:
        """Returns the ids of the vocabulary's words, without added tokens, in the order of ids."""
        # The library's order changes from run to run, and with it that of a SavedModel.
        words = self.backend_tokenizer.get_vocab(with_added_tokens=False)
        return dict(sorted(words.items(), key=lambda item: item[1]))

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
        return WordPieceTokenizer(
            self.words(),
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


def _check_special_tokens(tokenizer: DistilBertTokenizer, directory: Path) -> None:
    """Checks that the files of a tokenizer hold its special tokens."""
    path = directory / (TOKENIZER_JSON if (directory / TOKENIZER_JSON).is_file() else VOCAB)
    known = set(tokenizer.words())
    added: Any = []
    if path.name == TOKENIZER_JSON:
        added = json.loads(path.read_text(encoding="utf-8"))["added_tokens"]
    elif (settings := directory / TOKENIZER_CONFIG).is_file():
        fields = json.loads(settings.read_text(encoding="utf-8"))
        added = (fields.get("added_tokens_decoder") or {}).values()
    known |= {token["content"] for token in added}
    names = ("unk_token", "cls_token", "sep_token", "pad_token", "mask_token")
    missing = {
        name: token for name in names if (token := getattr(tokenizer, name)) not in (None, *known)
    }
    if missing:
        raise ValueError(
            f"The vocabulary {path} lacks special tokens: {', '.join(missing.values())}. It is "
            "damaged, or that of another kind of model. For tokens of other names, pass them, such "
            f"as {next(iter(missing))}='<...>'; a model without masks does without mask_token=None."
        )


def _explain(arguments: dict[str, Any], error: Exception) -> None:
    """Raises an error that names the text which cannot be tokenized, if there is one."""
    for name in ("text", "text_pair"):
        value = arguments.get(name)
        if value is None and (name == "text_pair" or "text_target" in arguments):
            continue
        if isinstance(value, list | tuple):
            if not value:
                raise ValueError(f"There is no {name}: the list is empty.") from error
            check_texts(value, name)
        elif fault := describe_fault(value):
            raise TypeError(f"The {name} {fault}.") from error


def _as_ids(ids: Any) -> Any:
    if isinstance(ids, tf.RaggedTensor):
        return ids.to_list()
    return ids.numpy().tolist() if isinstance(ids, tf.Tensor) else ids


def _to_tensorflow(encoding: BatchEncoding) -> BatchEncoding:
    for name, array in encoding.items():
        if np.asarray(array).dtype == object:
            raise ValueError(
                f"the rows of {name} differ in length, so they make no tensor: pass padding=True, "
                "and truncation=True to limit them"
            )
        encoding[name] = tf.constant(array, tf.int32)
    return encoding
