"""Loads classifiers that were trained on one encoder, each from a checkpoint of its own.

A run on several tasks leaves a complete checkpoint for each, so all of them hold the encoder. A
program that serves them together wants it once.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from transformers import DistilBertConfig

from distilbert_tf.checkpoints.config import load_config
from distilbert_tf.checkpoints.hub import CONFIG, find_checkpoint
from distilbert_tf.checkpoints.tensor_files import CheckpointError, Tensors, read_tensors
from distilbert_tf.models.encoder import TFDistilBertModel
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.models.weight_names import is_head, load_tensors, to_distilbert
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer

# Equal tensors compute the same only if these are equal.
_ENCODER_FIELDS = (
    "vocab_size",
    "max_position_embeddings",
    "sinusoidal_pos_embds",
    "n_layers",
    "n_heads",
    "dim",
    "hidden_dim",
    "activation",
)
# These decide, with the vocabulary, which ids a text gets.
_TOKENIZER_FIELDS = (
    "do_lower_case",
    "strip_accents",
    "tokenize_chinese_chars",
    "split_special_tokens",
    "unk_token",
    "cls_token",
    "sep_token",
    "pad_token",
)


class _Shared(NamedTuple):
    """What checkpoints must have in common to share an encoder."""

    path: str
    config: DistilBertConfig
    encoder: Tensors
    tokenizer: DistilBertTokenizer


def load_classifiers(
    paths: Sequence[str | os.PathLike[str]],
) -> dict[str, TFDistilBertForSequenceClassification]:
    """Loads classifiers that share one encoder.

    Args:
        paths: Their checkpoints, as for `from_pretrained`, each with its tokenizer.

    Returns:
        Classifiers by task, in the order given; their `distilbert` is one object. A task's name is
        `task_name` in `config.json`, or that of the directory.

    Raises:
        FileNotFoundError: There is no such checkpoint, or it lacks a file.
        CheckpointError: Encoders or tokenizers differ, two tasks have the same name, or a
            checkpoint has no classifier or does not fit.
        ValueError: `paths` is empty, or a configuration is that of another kind of model.
    """
    if not paths:
        raise ValueError("There are no checkpoints to load: the list is empty.")
    classifiers: dict[str, TFDistilBertForSequenceClassification] = {}
    sources: dict[str, str] = {}
    first = encoder = None
    for path in [os.fspath(path) for path in paths]:
        files = find_checkpoint(path)
        config, family = load_config(files.config)
        tensors = read_tensors(files.weights)
        shared = _Shared(
            path,
            config,
            {n: a for n, a in to_distilbert(tensors, family).items() if not is_head(n)},
            DistilBertTokenizer.from_pretrained(path),
        )
        if first is None:
            first, encoder = shared, TFDistilBertModel(config, name="distilbert")
        else:
            _check_same(first, shared)
        name = getattr(config, "task_name", None) or Path(path).expanduser().resolve().name
        if name in classifiers:
            raise CheckpointError(
                f"{sources[name]} and {path} both are for the task {name!r}, but each task may "
                f"occur only once (its name is task_name in {CONFIG}, or that of the directory)."
            )
        model = TFDistilBertForSequenceClassification(config, encoder=encoder)
        load_tensors(
            model, tensors, family=family, fresh_head=False, where=os.fspath(files.weights)
        )
        classifiers[name], sources[name] = model, path
    return classifiers


def _check_same(first: _Shared, other: _Shared) -> None:
    """Checks that two checkpoints have the same encoder and the same tokenizer."""
    differences = [
        *_compare_fields(first.config, other.config, _ENCODER_FIELDS),
        *_compare_tensors(first.encoder, other.encoder),
        *_compare_fields(first.tokenizer, other.tokenizer, _TOKENIZER_FIELDS),
        *_compare_vocabularies(first.tokenizer.get_vocab(), other.tokenizer.get_vocab()),
    ]
    if not differences:
        return
    shown = "\n  ".join(differences[:5])
    more = f"\n  and {len(differences) - 5} more" if len(differences) > 5 else ""
    raise CheckpointError(
        f"{first.path} and {other.path} cannot share an encoder: only classifiers of one run on "
        f"several tasks can. They differ in:\n  {shown}{more}"
    )


def _compare_fields(first: Any, other: Any, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        values = getattr(first, name, None), getattr(other, name, None)
        if values[0] != values[1]:
            yield f"{name}: {values[0]!r} and {values[1]!r}"


def _compare_tensors(first: Tensors, other: Tensors) -> Iterator[str]:
    for name in sorted(first.keys() | other.keys()):
        if name not in first or name not in other:
            yield f"tensor {name}: only in the {'second' if name in other else 'first'}"
        elif first[name].shape != other[name].shape:
            yield f"tensor {name}: shapes {first[name].shape} and {other[name].shape}"
        # By bytes: -0.0 equals 0.0, and NaN not even itself.
        elif first[name].tobytes() != other[name].tobytes():
            difference = np.abs(first[name] - other[name]).max()
            yield f"tensor {name}: values, by up to {difference:.1e}"


def _compare_vocabularies(first: dict[str, int], other: dict[str, int]) -> Iterator[str]:
    if first != other:
        token = min(token for token, _ in first.items() ^ other.items())
        yield f"vocabulary: the id of {token!r} is {first.get(token)} and {other.get(token)}"
