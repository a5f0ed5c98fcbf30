"""Between KerasHub's `DistilBertBackbone` and this package's encoder.

KerasHub (`keras_nlp`) is imported only when one of these functions is called, which takes many
seconds. The two encoders compute the same, so their outputs agree, but for what one cannot express:

* KerasHub has one dropout rate, DistilBERT two. From KerasHub, its rate becomes both; to KerasHub,
  an `attention_dropout` of another rate than `dropout` is dropped with a warning. In training
  KerasHub also drops elements of the attention's output, as BERT does and DistilBERT does not.
  Neither changes a prediction.
* KerasHub's activation is always the exact GELU, and its positions are always trained. Other
  configurations are refused.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from transformers import DistilBertConfig

from distilbert_tf.checkpoints.config import override
from distilbert_tf.checkpoints.tensor_files import Tensors
from distilbert_tf.models.weight_names import expand, export_tensors, find_layer

# Our layer -> KerasHub's: a path from the backbone, or from its `transformer_layers` where `{i}`
# counts blocks.
KERAS_HUB = {
    "embeddings.word_embeddings": "embeddings.token_embedding",
    "embeddings.position_embeddings": "embeddings.position_embedding",
    "embeddings.LayerNorm": "embeddings_layer_norm",
    "transformer.layer.{i}.attention.q_lin": "{i}._self_attention_layer.query_dense",
    "transformer.layer.{i}.attention.k_lin": "{i}._self_attention_layer.key_dense",
    "transformer.layer.{i}.attention.v_lin": "{i}._self_attention_layer.value_dense",
    "transformer.layer.{i}.attention.out_lin": "{i}._self_attention_layer.output_dense",
    "transformer.layer.{i}.sa_layer_norm": "{i}._self_attention_layer_norm",
    "transformer.layer.{i}.ffn.lin1": "{i}._feedforward_intermediate_dense",
    "transformer.layer.{i}.ffn.lin2": "{i}._feedforward_output_dense",
    "transformer.layer.{i}.output_layer_norm": "{i}._feedforward_layer_norm",
}
# Our field -> KerasHub's.
KERAS_HUB_FIELDS = {
    "vocab_size": "vocabulary_size",
    "max_position_embeddings": "max_sequence_length",
    "n_layers": "num_layers",
    "n_heads": "num_heads",
    "dim": "hidden_dim",
    "hidden_dim": "intermediate_dim",
    "dropout": "dropout",
}
EXACT_GELU = ("gelu", "gelu_python")


def load_preset(preset: str | Path, dtype: Any = None) -> keras.Model:
    """Loads a DistilBERT backbone through KerasHub: see `TFDistilBertModel.from_preset`."""
    import keras_nlp

    offline = (
        "Offline, give a directory that KerasHub's `save_to_preset` wrote, copy Kaggle's cache "
        "(KAGGLEHUB_CACHE says where it is) from a machine that has loaded the preset, or load the "
        "same weights from a Hugging Face checkpoint with `from_pretrained`."
    )
    options = {} if dtype is None else {"dtype": dtype}
    load = keras_nlp.models.DistilBertBackbone.from_preset
    if Path(preset).is_dir():
        return load(str(preset), **options)
    try:
        return load(str(preset), **options)
    except (OSError, tf.errors.OpError) as error:
        raise FileNotFoundError(
            f"The KerasHub preset {str(preset)!r} cannot be reached. {offline} "
            f"KerasHub says: {error}"
        ) from error
    except ValueError as error:
        # So does KerasHub report a `hf://` handle out of reach.
        raise ValueError(
            f"KerasHub cannot load the preset {str(preset)!r}: {error}\n{offline}"
        ) from error


def backbone_config(backbone: keras.Model, **overrides: Any) -> DistilBertConfig:
    """Makes the configuration of a backbone: see `TFDistilBertModel.from_keras_hub`."""
    _check_backbone(backbone)
    fields = {ours: getattr(backbone, theirs) for ours, theirs in KERAS_HUB_FIELDS.items()}
    config = DistilBertConfig(**fields, attention_dropout=backbone.dropout)
    override(config, **overrides)
    return config


def backbone_tensors(backbone: keras.Model) -> Tensors:
    """Collects the weights of a backbone for `load_tensors`, as float32.

    Raises:
        TypeError: It is another kind of object.
        ValueError: It has weights that DistilBERT does not have.
    """
    _check_backbone(backbone)
    weights = list(_weights(backbone))
    known = {id(weight) for _, weight, _ in weights}
    if extra := sorted(weight.path for weight in backbone.weights if id(weight) not in known):
        more = f" and {len(extra) - 4} more" if len(extra) > 4 else ""
        raise ValueError(
            "The KerasHub backbone has weights that DistilBERT does not have, for example from "
            f"`quantize` or `enable_lora`: {', '.join(extra[:4])}{more}."
        )
    tensors = {}
    for name, weight, shape in weights:
        array = np.asarray(keras.ops.convert_to_numpy(weight), dtype=np.float32).reshape(shape)
        tensors[name] = array.T if _is_kernel(name) else array
    return tensors


def make_backbone(model: keras.Model) -> keras.Model:
    """Makes a backbone with the weights of an encoder: see `TFDistilBertModel.to_keras_hub`."""
    import keras_nlp

    config = model.config
    if config.activation not in EXACT_GELU:
        raise ValueError(
            f"config.activation is {config.activation!r}, but KerasHub's DistilBERT always has "
            "the exact 'gelu'."
        )
    if config.sinusoidal_pos_embds:
        raise ValueError(
            "config.sinusoidal_pos_embds is set, but KerasHub's DistilBERT always trains its "
            "positions."
        )
    if config.attention_dropout != config.dropout:
        logging.warning(
            "KerasHub has one dropout rate for all layers: config.dropout=%s is used, "
            "config.attention_dropout=%s is left out.",
            config.dropout,
            config.attention_dropout,
        )
    fields = {theirs: getattr(config, ours) for ours, theirs in KERAS_HUB_FIELDS.items()}
    backbone = keras_nlp.models.DistilBertBackbone(**fields, dtype=model.dtype_policy)
    tensors = export_tensors(model)
    for name, weight, _ in _weights(backbone):
        array = tensors[name].T if _is_kernel(name) else tensors[name]
        weight.assign(array.reshape(weight.shape))
    return backbone


def _check_backbone(backbone: object) -> None:
    import keras_nlp

    if isinstance(backbone, keras_nlp.models.DistilBertBackbone):
        return
    hint = " Give its `.backbone`." if hasattr(backbone, "backbone") else ""
    raise TypeError(
        "Only a keras_nlp.models.DistilBertBackbone can become a DistilBERT; got "
        f"{type(backbone).__name__}.{hint}"
    )


def _weights(backbone: keras.Model) -> Iterator[tuple[str, keras.Variable, tuple[int, ...]]]:
    """Yields the weights of a backbone: our name, KerasHub's variable, its shape without heads.

    KerasHub keeps attention heads on an axis of their own: the kernel of a query is (D, H, K) and
    its bias (H, K), the kernel of the output is (H, K, D) and its bias (D,).
    """
    for pattern, path in KERAS_HUB.items():
        root = backbone.transformer_layers if "{i}" in pattern else backbone
        for i, name in expand(pattern, backbone.num_layers):
            layer = find_layer(root, path.format(i=i))
            if hasattr(layer, "kernel"):
                outputs = len(layer.bias.shape)
                inputs = int(np.prod(layer.kernel.shape[:-outputs]))
                yield f"{name}.weight", layer.kernel, (inputs, -1)
                yield f"{name}.bias", layer.bias, (-1,)
            elif hasattr(layer, "gamma"):
                yield f"{name}.weight", layer.gamma, tuple(layer.gamma.shape)
                yield f"{name}.bias", layer.beta, tuple(layer.beta.shape)
            else:
                attribute = "position_embeddings" if "position" in name else "embeddings"
                table = getattr(layer, attribute)
                yield f"{name}.weight", table, tuple(table.shape)


def _is_kernel(name: str) -> bool:
    return name.endswith(("_lin.weight", ".lin1.weight", ".lin2.weight"))
