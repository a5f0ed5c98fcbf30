"""Between KerasHub's `DistilBertBackbone` and `DistilBertTextClassifier` and this package's models.

KerasHub (`keras_nlp`) is imported only when one of these functions is called, which takes many
seconds. The models compute the same, so their outputs agree, but for what one cannot express:

* KerasHub has one dropout rate, DistilBERT two. From KerasHub, its rate becomes both; to KerasHub,
  an `attention_dropout` of another rate than `dropout` is dropped with a warning. In training
  KerasHub also drops elements of the attention's output, as BERT does and DistilBERT does not.
  Neither changes a prediction.
* KerasHub's activation is always the exact GELU, and its positions are always trained. Other
  configurations are refused.
* KerasHub has no names of labels, and a classifier of it may end in an activation: here it has
  logits.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from transformers import DistilBertConfig

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
CLASSIFIER = {"pre_classifier": "pooled_dense", "classifier": "output_dense"}
EXACT_GELU = ("gelu", "gelu_python")


def load_preset(preset: str | Path, dtype: Any = None, *, with_head: bool = False) -> keras.Model:
    """Loads a preset through KerasHub: see `PreTrainedModel.from_preset`.

    Args:
        preset: A name, a handle or a directory.
        dtype: Keras dtype or policy.
        with_head: Whether to load a classifier, if the preset has one.

    Returns:
        A classifier or a backbone.
    """
    import keras_nlp

    offline = (
        "Offline, give a directory that KerasHub's `save_to_preset` wrote, copy Kaggle's cache "
        "(KAGGLEHUB_CACHE says where it is) from a machine that has loaded the preset, or load the "
        "same weights from a Hugging Face checkpoint with `from_pretrained`."
    )
    options = {} if dtype is None else {"dtype": dtype}
    load = keras_nlp.models.DistilBertBackbone.from_preset
    if Path(preset).is_dir():
        if with_head and (Path(preset) / "task.json").is_file():
            load = keras_nlp.models.DistilBertTextClassifier.from_preset
        return load(str(preset), **options)
    try:
        if with_head:
            with contextlib.suppress(TypeError):  # for want of num_classes: it has no head
                return keras_nlp.models.DistilBertTextClassifier.from_preset(str(preset), **options)
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


def read_model(model: keras.Model, *, with_head: bool) -> tuple[DistilBertConfig, Tensors]:
    """Reads a model of KerasHub's as a checkpoint.

    Args:
        model: A backbone, or a classifier if `with_head`.
        with_head: Whether a head is of use.

    Returns:
        The configuration, and the tensors for `load_tensors`.

    Raises:
        TypeError: It is another kind of object.
        ValueError: It has weights, or a head of a width, that DistilBERT does not have.
    """
    import keras_nlp

    if not with_head or not isinstance(model, keras_nlp.models.DistilBertTextClassifier):
        return backbone_config(model), backbone_tensors(model)
    config = backbone_config(model.backbone)
    if model.hidden_dim != config.dim:
        raise ValueError(
            f"The KerasHub classifier has a hidden layer of width {model.hidden_dim}, but "
            f"DistilBERT's has that of the encoder, {config.dim}."
        )
    config.num_labels, config.seq_classif_dropout = model.num_classes, model.dropout
    tensors = backbone_tensors(model.backbone)
    for ours, theirs in CLASSIFIER.items():
        layer = getattr(model, theirs)
        tensors[f"{ours}.weight"] = _as_float32(layer.kernel).T
        tensors[f"{ours}.bias"] = _as_float32(layer.bias)
    return config, tensors


def backbone_config(backbone: keras.Model) -> DistilBertConfig:
    """Makes the configuration of a backbone."""
    _check_backbone(backbone)
    fields = {ours: getattr(backbone, theirs) for ours, theirs in KERAS_HUB_FIELDS.items()}
    return DistilBertConfig(**fields, attention_dropout=backbone.dropout)


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
        array = _as_float32(weight).reshape(shape)
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


def make_classifier(model: keras.Model, tokenizer: Any = None) -> keras.Model:
    """Makes a KerasHub classifier: see `TFDistilBertForSequenceClassification.to_keras_hub`."""
    import keras_nlp

    preprocessor = None
    if tokenizer is not None:
        preprocessor = keras_nlp.models.DistilBertTextClassifierPreprocessor(
            tokenizer.to_keras_hub(), sequence_length=model.config.max_position_embeddings
        )
    classifier = keras_nlp.models.DistilBertTextClassifier(
        backbone=make_backbone(model.distilbert),
        num_classes=model.config.num_labels,
        preprocessor=preprocessor,
        dropout=model.config.seq_classif_dropout,
    )
    tensors = export_tensors(model)
    for ours, theirs in CLASSIFIER.items():
        layer = getattr(classifier, theirs)
        layer.kernel.assign(tensors[f"{ours}.weight"].T)
        layer.bias.assign(tensors[f"{ours}.bias"])
    return classifier


def _as_float32(weight: keras.Variable) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(weight), dtype=np.float32)


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
