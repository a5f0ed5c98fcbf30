"""Checks that models can be exported, and wraps each in what serves it."""

import re
from collections.abc import Mapping

from distilbert_serving import signatures as names
from distilbert_serving.saved_model.served_models import (
    ServedClassifier,
    ServedEncoder,
    ServedMaskedLM,
    ServedModel,
)
from distilbert_tf.models.encoder import TFDistilBertModel
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM
from distilbert_tf.models.pretrained import PreTrainedModel
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer

# What TF Serving and all its clients can name; TensorFlow's own begin with two underscores.
_SIGNATURE_NAME = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def serve_tasks(
    models: Mapping[str, TFDistilBertForSequenceClassification],
    tokenizer: DistilBertTokenizer,
    pair: bool | None,
) -> dict[str, ServedModel]:
    """Checks that classifiers can stand in one export, and returns each under its task's name."""
    if not models:
        raise ValueError("There are no classifiers to export: the mapping is empty.")
    served: dict[str, ServedModel] = {}
    for task, model in models.items():
        if not _SIGNATURE_NAME.fullmatch(task) or task == names.SERVING_DEFAULT:
            raise ValueError(
                f"{task!r} cannot be the name of a task's signature: it must consist of letters, "
                "digits and underscores, begin with a letter or one underscore, and not be "
                f"{names.SERVING_DEFAULT!r}, which is that of the first task."
            )
        try:
            if not isinstance(model, TFDistilBertForSequenceClassification):
                raise TypeError(
                    "several tasks must be TFDistilBertForSequenceClassification; "
                    f"got {type(model).__name__}."
                )
            served[task] = ServedClassifier(model, tokenizer, pair)
        except (TypeError, ValueError) as error:
            raise type(error)(f"Task {task!r}: {error}") from error
    first, *others = models
    for task in others:
        if models[task].distilbert is not models[first].distilbert:
            raise ValueError(
                f"The classifiers of {first!r} and {task!r} have encoders of their own; those of "
                "one export must share one, as load_classifiers makes them."
            )
    return served


def serve_model(
    model: PreTrainedModel,
    tokenizer: DistilBertTokenizer,
    pair: bool | None,
    regress_label: str | None,
    top_k: int,
    max_masks: int,
) -> ServedModel:
    """Checks that a model can be exported with a tokenizer."""
    if isinstance(model, TFDistilBertForSequenceClassification):
        return ServedClassifier(model, tokenizer, pair, regress_label)
    if pair or regress_label is not None:
        raise ValueError("pair and regress_label are for classifiers.")
    if isinstance(model, TFDistilBertForMaskedLM):
        return ServedMaskedLM(model, tokenizer, top_k, max_masks)
    if isinstance(model, TFDistilBertModel):
        return ServedEncoder(model, tokenizer)
    raise TypeError(
        "export_saved_model takes a TFDistilBertForSequenceClassification, "
        f"TFDistilBertForMaskedLM or TFDistilBertModel; got {type(model).__name__}."
    )


def check_length(
    max_length: int | None, model: PreTrainedModel, tokenizer: DistilBertTokenizer
) -> int:
    """Returns the longest row in tokens, and checks that the model has as many positions."""
    positions = model.config.max_position_embeddings
    if max_length is None:
        return min(tokenizer.model_max_length, positions)
    if max_length > positions:
        raise ValueError(
            f"max_length={max_length}, but the model has {positions} positions "
            "(config.max_position_embeddings)."
        )
    return max_length
