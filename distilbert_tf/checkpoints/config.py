"""Reads `config.json` of DistilBERT and BERT checkpoints as a `DistilBertConfig`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import BertConfig, DistilBertConfig

from distilbert_tf.checkpoints.hub import CONFIG
from distilbert_tf.files import read_json_object

# BERT's name for a field -> DistilBERT's. `layer_norm_eps` is not in the table: DistilBERT has
# one fixed value, so it is checked instead.
BERT_FIELDS = {
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_position_embeddings",
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "initializer_range": "initializer_range",
    "pad_token_id": "pad_token_id",
    "tie_word_embeddings": "tie_word_embeddings",
    "id2label": "id2label",
    "label2id": "label2id",
}
BERT_REQUIRED = {"position_embedding_type": "absolute", "is_decoder": False}


def from_bert(fields: dict[str, Any], where: str = "config.json") -> DistilBertConfig:
    """Translates a BERT configuration into that of a DistilBERT of the same depth and width.

    Args:
        fields: The contents of a BERT `config.json`.
        where: Name of the source for error messages.

    Returns:
        A configuration for a model without segments and pooler.

    Raises:
        ValueError: The configuration requires something that DistilBERT does not have.
    """
    epsilon = fields.get("layer_norm_eps", 1e-12)
    if epsilon != 1e-12:
        raise ValueError(
            f"{where} has layer_norm_eps={epsilon}; a DistilBERT always has 1e-12, so this BERT "
            "cannot be turned into one."
        )
    for name, required in BERT_REQUIRED.items():
        if fields.get(name, required) != required:
            raise ValueError(
                f"{where} has {name}={fields[name]!r}; only a BERT with {name}={required!r} can "
                "be turned into a DistilBERT."
            )
    kept = {ours: fields[theirs] for theirs, ours in BERT_FIELDS.items() if theirs in fields}
    return DistilBertConfig.from_dict(kept)


def load_config(
    path: str | Path, config: Any = None, **overrides: Any
) -> tuple[DistilBertConfig, str]:
    """Reads a `config.json`.

    Args:
        path: The file.
        config: A configuration to take instead, of DistilBERT or BERT, or the path of its file or
            directory. The file then only says how tensors are named.
        **overrides: Fields to replace, such as `num_labels=3` or `dropout=0.0`.

    Returns:
        The configuration, and the family of the checkpoint's tensor names: `"distilbert"` or
        `"bert"`.

    Raises:
        ValueError: Not JSON, another kind of model, labels that contradict each other, or an
            unknown field among `overrides`.
        TypeError: `config` is something else.
    """
    fields = _read_fields(Path(path))
    family = fields["model_type"]
    if config is not None:
        fields, path = _given_fields(config), "config"
    if overrides.keys() & {"id2label", "label2id"}:
        fields.pop("num_labels", None)
        fields["id2label"] = fields["label2id"] = None
    _check_labels(fields, str(path))
    if fields["model_type"] == "bert":
        loaded = from_bert(fields, str(path))
    else:
        loaded = DistilBertConfig.from_dict(fields)
    if not loaded.label2id:  # transformers saves null if it was given id2label alone
        loaded.label2id = {label: key for key, label in loaded.id2label.items()}
    override(loaded, **overrides)
    return loaded, family


def override(config: DistilBertConfig, **fields: Any) -> None:
    """Replaces fields of a configuration in place, keeping the label fields consistent.

    Args:
        config: The configuration to change.
        **fields: New values. `id2label`, a mapping or a sequence, sets `label2id` and `num_labels`
            too, and `label2id` sets the others.

    Raises:
        ValueError: A field that `DistilBertConfig` does not have, or labels that contradict each
            other.
    """
    names, ids = fields.pop("id2label", None), fields.pop("label2id", None)
    if names is None and ids is not None:
        names = {key: label for label, key in dict(ids).items()}
    if names is not None:
        names = dict(names) if isinstance(names, Mapping) else dict(enumerate(names))
        given = {"id2label": names, "label2id": ids, "num_labels": fields.pop("num_labels", None)}
        _check_labels(given, "from_pretrained")
    for name, value in fields.items():
        if not hasattr(config, name):
            raise ValueError(f"DistilBertConfig has no field {name!r}.")
        setattr(config, name, value)
    if names is not None:
        config.id2label = {int(key): names[key] for key in sorted(names, key=int)}
        config.label2id = {label: key for key, label in config.id2label.items()}


def _read_fields(path: Path) -> dict[str, Any]:
    fields = read_json_object(path)
    if fields.get("model_type") not in ("distilbert", "bert"):
        raise ValueError(
            f"{path} has model_type={fields.get('model_type')!r}; this package reads 'distilbert' "
            "and 'bert'."
        )
    return fields


def _given_fields(config: Any) -> dict[str, Any]:
    """Returns the fields of a configuration that takes the place of the file's."""
    if isinstance(config, str | Path):
        path = Path(config).expanduser()
        return _read_fields(path / CONFIG if path.is_dir() else path)
    if isinstance(config, DistilBertConfig | BertConfig):
        return config.to_dict()
    raise TypeError(
        f"config must be a DistilBertConfig or a BertConfig, or its path; got "
        f"{type(config).__name__}."
    )


def _check_labels(fields: Mapping[str, Any], where: str) -> None:
    """Checks that `id2label`, `label2id` and `num_labels` say the same, and ids count from 0."""
    names, ids, count = (fields.get(name) for name in ("id2label", "label2id", "num_labels"))
    if not names:
        return
    remedy = "Correct it there, or pass id2label={0: ..., 1: ...} to from_pretrained."
    shown = json.dumps(names, ensure_ascii=False)
    shown = shown if len(shown) < 200 else f"{shown[:200]}..."
    try:
        by_id = {int(key): label for key, label in names.items()}
        own_ids = {label: int(key) for label, key in (ids or {}).items()}
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{where} has id2label {shown} or label2id with an id that is no "
            f"number: {error}. {remedy}"
        ) from error
    if sorted(by_id) != list(range(len(by_id))):
        raise ValueError(
            f"{where} has id2label {shown}, whose ids do not count from 0 to {len(by_id) - 1}: "
            f"logits have no such places. {remedy}"
        )
    if count is not None and count != len(by_id):
        raise ValueError(
            f"{where} has num_labels {count}, but id2label with {len(by_id)}: {shown}. {remedy}"
        )
    if ids and own_ids != {label: key for key, label in by_id.items()}:
        raise ValueError(
            f"{where} has id2label {shown}, but label2id {json.dumps(ids, ensure_ascii=False)}, "
            f"which is not its reverse. {remedy}"
        )
