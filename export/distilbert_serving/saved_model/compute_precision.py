"""Models in the precision that an export computes in."""

from collections.abc import Mapping
from typing import Any, TypeVar

from distilbert_tf.models.encoder import TFDistilBertModel
from distilbert_tf.models.pretrained import PreTrainedModel
from distilbert_tf.models.weight_names import list_slots

COMPUTE = ("float32", "bfloat16")

Model = TypeVar("Model", bound=PreTrainedModel)


def cast_models(models: Mapping[str, Model], compute: str | None) -> dict[str, Model]:
    """Returns models that hold their weights in a precision and compute in it.

    No call casts a weight then. In bfloat16, LayerNorm's statistics, scales and shifts, attention's
    softmax and a classifier's logits stay float32, and so are the sums inside of products.

    Args:
        models: Models by name; several share an encoder, and their copies share its copy.
        compute: One of `COMPUTE`; None leaves the models as they are.

    Returns:
        Copies; the models themselves if they are as asked already.

    Raises:
        ValueError: `compute` is unknown.
    """
    if compute is None:
        return dict(models)
    if compute not in COMPUTE:
        raise ValueError(f"compute must be one of {', '.join(COMPUTE)}; got {compute!r}.")
    if all(model.dtype_policy.name == compute for model in models.values()):
        return dict(models)
    encoder: TFDistilBertModel | None = None
    cast = {}
    for name, model in models.items():
        shared: dict[str, Any] = {} if encoder is None else {"encoder": encoder}
        cast[name] = _copy(model, type(model)(model.config, dtype=compute, **shared))
        encoder = getattr(cast[name], "distilbert", None)
    return cast


def _copy(source: Model, target: Model) -> Model:
    slots = list_slots(target)
    for name, slot in list_slots(source).items():
        slots[name].write(slot.read())
    return target
