"""Reads `config.json` of DistilBERT and BERT checkpoints as a `DistilBertConfig`."""

import json
from pathlib import Path
from typing import Any

from transformers import DistilBertConfig

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


def load_config(path: str | Path, **overrides: Any) -> tuple[DistilBertConfig, str]:
    """Reads a `config.json`.

    Args:
        path: The file.
        **overrides: Fields to replace, such as `num_labels=3` or `dropout=0.0`.

    Returns:
        The configuration, and the family of the checkpoint's tensor names: `"distilbert"` or
        `"bert"`.

    Raises:
        ValueError: Not JSON, another kind of model, or an unknown field among `overrides`.
    """
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path} is not a JSON object but {type(fields).__name__}.")
    family = fields.get("model_type")
    if family == "distilbert":
        config = DistilBertConfig.from_dict(fields)
    elif family == "bert":
        config = from_bert(fields, str(path))
    else:
        raise ValueError(
            f"{path} has model_type={family!r}; this package reads 'distilbert' and 'bert'."
        )
    if not config.label2id:  # transformers saves null if it was given id2label alone
        config.label2id = {label: key for key, label in config.id2label.items()}
    override(config, **overrides)
    return config, family


def override(config: DistilBertConfig, **fields: Any) -> None:
    """Replaces fields of a configuration in place, keeping the label fields consistent.

    Args:
        config: The configuration to change.
        **fields: New values. `id2label` sets `label2id` and `num_labels` too.

    Raises:
        ValueError: A field that `DistilBertConfig` does not have.
    """
    labels = fields.pop("id2label", None)
    for name, value in fields.items():
        if not hasattr(config, name):
            raise ValueError(f"DistilBertConfig has no field {name!r}.")
        setattr(config, name, value)
    if labels is not None:
        config.id2label = {int(key): label for key, label in dict(labels).items()}
        config.label2id = {label: key for key, label in config.id2label.items()}
