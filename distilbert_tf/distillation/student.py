"""Students: shallower copies of a teacher."""

import copy
import re
from collections.abc import Sequence
from typing import Any

from distilbert_tf.checkpoints.tensor_files import Tensors
from distilbert_tf.models.masked_lm import TFDistilBertForMaskedLM
from distilbert_tf.models.weight_names import export_tensors, load_tensors

_LAYER = re.compile(r"(?<=transformer\.layer\.)\d+")


def every_second_layer(n_layers: int) -> tuple[int, ...]:
    """Returns the layers of a teacher that DistilBERT starts with: 0, 2, 4, ..."""
    return tuple(range(0, n_layers, 2))


def make_student(
    teacher: TFDistilBertForMaskedLM,
    layers: Sequence[int] | None = None,
    *,
    random_weights: bool = False,
    dtype: Any = None,
) -> TFDistilBertForMaskedLM:
    """Makes a student of some of a teacher's layers, and all of its embeddings and head.

    Args:
        teacher: The teacher.
        layers: Numbers of the layers to take, from 0, in the student's order; by default every
            second one.
        random_weights: Whether to draw new weights instead of copying the teacher's.
        dtype: Keras dtype or policy.

    Returns:
        The student, with as many layers.

    Raises:
        ValueError: The teacher has no such layer, or `layers` is empty.

    Reference:
        Sanh et al., "DistilBERT, a distilled version of BERT" (arXiv 1910.01108), section 3.

    Example:
        teacher = TFDistilBertForMaskedLM.from_pretrained("demo", fresh_head=True)
        make_student(teacher, [0, 2, 5]).config.n_layers  # 3
    """
    if layers is None:
        layers = every_second_layer(teacher.config.n_layers)
    beyond = [layer for layer in layers if not 0 <= layer < teacher.config.n_layers]
    if beyond or not layers:
        raise ValueError(
            f"The student's layers are {list(layers)}; the teacher has the layers 0 to "
            f"{teacher.config.n_layers - 1}, and at least one is needed."
        )
    config = copy.deepcopy(teacher.config)
    config.n_layers = len(layers)
    student = TFDistilBertForMaskedLM(config, dtype=dtype)
    if not random_weights:
        load_tensors(student, _take_layers(export_tensors(teacher), layers), where="the teacher")
    return student


def _take_layers(tensors: Tensors, layers: Sequence[int]) -> Tensors:
    """Renames the tensors of some layers to 0, 1, 2, ..., and leaves out those of the others."""
    taken = {}
    for name, tensor in tensors.items():
        match = _LAYER.search(name)
        if match is None:
            taken[name] = tensor
            continue
        for number, layer in enumerate(layers):  # one layer may be taken twice
            if layer == int(match[0]):
                taken[_LAYER.sub(str(number), name)] = tensor
    return taken
