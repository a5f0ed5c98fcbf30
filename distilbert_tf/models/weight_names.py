"""Between a checkpoint's tensor names and a model's variables, strictly.

The layers carry Hugging Face's names, so DistilBERT's table is the list of modules itself, and
BERT's says what it calls each of them. One table serves both directions.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import keras
import ml_dtypes  # noqa: F401  (gives NumPy its bfloat16)
import numpy as np
from absl import logging

from distilbert_tf.checkpoints.tensor_files import CheckpointError, Tensors
from distilbert_tf.models.attention import Projection

# Our module -> BERT's. `{i}` counts layers. The modules of the encoder stand under the prefix
# "distilbert." or "bert." in checkpoints with a head, and under none in others.
BERT_ENCODER = {
    "embeddings.word_embeddings": "embeddings.word_embeddings",
    "embeddings.position_embeddings": "embeddings.position_embeddings",
    "embeddings.LayerNorm": "embeddings.LayerNorm",
    "transformer.layer.{i}.attention.q_lin": "encoder.layer.{i}.attention.self.query",
    "transformer.layer.{i}.attention.k_lin": "encoder.layer.{i}.attention.self.key",
    "transformer.layer.{i}.attention.v_lin": "encoder.layer.{i}.attention.self.value",
    "transformer.layer.{i}.attention.out_lin": "encoder.layer.{i}.attention.output.dense",
    "transformer.layer.{i}.sa_layer_norm": "encoder.layer.{i}.attention.output.LayerNorm",
    "transformer.layer.{i}.ffn.lin1": "encoder.layer.{i}.intermediate.dense",
    "transformer.layer.{i}.ffn.lin2": "encoder.layer.{i}.output.dense",
    "transformer.layer.{i}.output_layer_norm": "encoder.layer.{i}.output.LayerNorm",
}
BERT_HEAD = {
    "vocab_transform": "cls.predictions.transform.dense",
    "vocab_layer_norm": "cls.predictions.transform.LayerNorm",
    "vocab_projector": "cls.predictions.decoder",
}
MODULES = {"distilbert": {}, "bert": BERT_ENCODER | BERT_HEAD}

# What each head is made of, to tell "a checkpoint of another head" from "a damaged one".
HEADS = {
    "sequence classification": ("pre_classifier", "classifier"),
    "masked LM": ("vocab_transform", "vocab_layer_norm", "vocab_projector"),
    "question answering": ("qa_outputs",),
}
TIED = "vocab_projector.weight"
TIED_TO = "embeddings.word_embeddings.weight"

# Buffers that are no weights, and parts of BERT that DistilBERT does not have.
_DROPPED = {
    "distilbert": re.compile(r"embeddings\.position_ids$"),
    "bert": re.compile(r"(pooler|cls\.seq_relationship)\.|embeddings\.position_ids$"),
}
_SEGMENTS = "embeddings.token_type_embeddings.weight"
_BERT_BIAS = "cls.predictions.bias"  # shared with the decoder's own bias


class Slot(NamedTuple):
    """Where a tensor of a checkpoint lies in a model.

    Attributes:
        variable: The variable.
        transposed: Whether the checkpoint holds it transposed.
        rows: The tensor's rows of the variable, if that holds several tensors.
    """

    variable: keras.Variable
    transposed: bool = False
    rows: slice = slice(None)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in the checkpoint."""
        shape = (len(range(*self.rows.indices(self.variable.shape[0]))), *self.variable.shape[1:])
        return shape[::-1] if self.transposed else shape

    def take(self, array: np.ndarray) -> np.ndarray:
        """Takes the tensor, in the checkpoint's layout, out of the variable's value."""
        return array[self.rows].T if self.transposed else array[self.rows]

    def read(self) -> np.ndarray:
        """Gives the tensor in the checkpoint's layout."""
        return self.take(self.variable.numpy())

    def write(self, tensor: np.ndarray) -> None:
        """Puts a tensor of the checkpoint into the variable."""
        value = tensor.T if self.transposed else tensor
        if self.rows != slice(None):
            whole = np.array(self.variable.numpy())
            whole[self.rows] = value
            value = whole
        self.variable.assign(value)


def slots(model: keras.Model) -> dict[str, Slot]:
    """Lists a model's weights under their names in a checkpoint.

    Args:
        model: An encoder or a model with a head.

    Returns:
        Slots by name, without prefix: `"transformer.layer.0.ffn.lin1.weight"`.
    """
    found = {}
    encoder = getattr(model, "distilbert", model)
    modules = dict(_encoder_modules(encoder))
    for names in HEADS.values():
        modules |= {name: getattr(model, name) for name in names if hasattr(model, name)}
    for name, layer in modules.items():
        if isinstance(layer, Projection):
            rows = slice(layer.start, layer.stop)
            found[f"{name}.weight"] = Slot(layer.layer.kernel, rows=rows)
            found[f"{name}.bias"] = Slot(layer.layer.bias, rows=rows)
        elif isinstance(layer, keras.layers.Dense):
            found[f"{name}.weight"] = Slot(layer.kernel, transposed=True)
            found[f"{name}.bias"] = Slot(layer.bias)
        elif isinstance(layer, keras.layers.LayerNormalization):
            found[f"{name}.weight"] = Slot(layer.gamma)
            found[f"{name}.bias"] = Slot(layer.beta)
        elif isinstance(layer, keras.layers.Embedding):
            found[f"{name}.weight"] = Slot(layer.embeddings)
        else:  # the projector on the vocabulary, whose kernel may be the word embeddings
            found[f"{name}.bias"] = Slot(layer.bias)
            if layer.kernel is not None:
                found[f"{name}.weight"] = Slot(layer.kernel)
    return found


def _encoder_modules(encoder: keras.Model) -> Iterator[tuple[str, Any]]:
    for pattern in BERT_ENCODER:
        for i in range(len(encoder.transformer.layer) if "{i}" in pattern else 1):
            name = pattern.format(i=i)
            module = encoder
            for part in name.split("."):
                module = module[int(part)] if part.isdigit() else getattr(module, part)
            yield name, module


def to_distilbert(tensors: Mapping[str, np.ndarray], family: str) -> Tensors:
    """Renames a checkpoint's tensors to DistilBERT's names without prefix.

    Of a BERT, row 0 of the token-type table is added to every position (DistilBERT has no
    segments), and pooler and next-sentence head are dropped.

    Args:
        tensors: Arrays by the names in the file, with or without the family's prefix.
        family: `"distilbert"` or `"bert"`.

    Returns:
        Arrays by name. Names that the family does not know stay as they are.

    Raises:
        CheckpointError: Two tensors come out under one name with different values.
    """
    renamed: Tensors = {}
    for name, array in tensors.items():
        plain = name.removeprefix(f"{family}.")
        plain = plain.replace("LayerNorm.gamma", "LayerNorm.weight")
        plain = plain.replace("LayerNorm.beta", "LayerNorm.bias")
        if _DROPPED[family].match(plain):
            continue
        plain = _rename(plain, family)
        if plain in renamed and not np.array_equal(renamed[plain], array):
            raise CheckpointError(
                f"{name} stands twice in the checkpoint, as {plain}, with different values."
            )
        renamed[plain] = array
    if family == "bert" and (segments := renamed.pop(_SEGMENTS, None)) is not None:
        positions = "embeddings.position_embeddings.weight"
        if positions in renamed:
            renamed[positions] = renamed[positions] + segments[0]
    return renamed


def _rename(name: str, family: str) -> str:
    if family == "bert" and name == _BERT_BIAS:
        return "vocab_projector.bias"
    module, _, leaf = name.rpartition(".")
    pattern = re.sub(r"\.\d+\.", ".{i}.", module, count=1)
    for ours, theirs in MODULES[family].items():
        if theirs == pattern:
            index = re.search(r"\.(\d+)\.", module)
            return f"{ours.format(i=index.group(1) if index else '')}.{leaf}"
    return name


def load_tensors(
    model: keras.Model,
    tensors: Mapping[str, np.ndarray],
    *,
    family: str = "distilbert",
    fresh_head: bool = False,
    where: str = "the checkpoint",
) -> None:
    """Puts a checkpoint's tensors into a model: all of them, or none and an error.

    The head of another task is left out, and the log says so. A head that the checkpoint lacks
    keeps its initial values only if `fresh_head`.

    Args:
        model: The model to fill.
        tensors: Arrays by name, in PyTorch's layout.
        family: Whose names they have, `"distilbert"` or `"bert"`.
        fresh_head: Whether the model's head may stay as initialised; the checkpoint's head
            for the same task, if there is one, is then left out.
        where: What to call the checkpoint in errors and in the log.

    Raises:
        CheckpointError: A tensor is missing, left over or of another shape. The message names
            both sides.
    """
    expected = slots(model)
    given = to_distilbert(tensors, family)
    _settle_tie(expected, given, where)
    own_head = {name for name in expected if name.split(".")[0] in _head_modules()}
    other_heads = {name for name in given if name.split(".")[0] in _head_modules()} - own_head
    if fresh_head:
        for name in own_head:
            expected.pop(name)
        other_heads |= own_head & given.keys()
    elif own_head and not own_head & given.keys():
        raise CheckpointError(
            f"{where} has no head for {type(model).__name__} (none of "
            f"{', '.join(sorted(own_head))}). Pass fresh_head=True to start with a new one."
        )
    if family == "bert" and not fresh_head and "classifier.weight" in own_head & given.keys():
        raise CheckpointError(
            f"{where} has a BERT classifier, which reads the output of BERT's tanh pooler: it "
            "cannot be turned into DistilBERT's. Pass fresh_head=True to leave it out and start "
            "with a new head."
        )
    left_out = other_heads & given.keys()
    for name in left_out:
        del given[name]
    _check(expected, given, type(model).__name__, where)
    for name, slot in expected.items():
        slot.write(given[name])
    if left_out:
        logging.info("Left out of %s: %s.", where, ", ".join(sorted(left_out)))
    if fresh_head and own_head:
        logging.warning(
            "%s keeps a freshly initialised head (%s): train it before use.",
            type(model).__name__,
            ", ".join(sorted(own_head)),
        )


def _head_modules() -> set[str]:
    return {name for names in HEADS.values() for name in names}


def _settle_tie(expected: Mapping[str, Slot], given: Tensors, where: str) -> None:
    """Drops an explicit copy of a tied projector; completes a checkpoint that has only one."""
    if TIED in expected or TIED not in given:
        return
    if not any(name.startswith("vocab_projector.") for name in expected):
        return  # another head, or none: left out with the rest of the masked-LM head
    projector = given.pop(TIED)
    words = given.setdefault(TIED_TO, projector)
    if not np.array_equal(words, projector):
        raise CheckpointError(
            f"{where} has a {TIED} that differs from {TIED_TO}, although its configuration ties "
            "them. Pass tie_word_embeddings=False to keep both."
        )


def _check(
    expected: Mapping[str, Slot], given: Mapping[str, np.ndarray], model: str, where: str
) -> None:
    problems = [
        f"missing: {name} {slot.shape}, which {model} has"
        for name, slot in expected.items()
        if name not in given
    ]
    problems += [
        f"extra: {name} {array.shape}, which {model} does not have"
        for name, array in given.items()
        if name not in expected
    ]
    problems += [
        f"shape: {name} is {given[name].shape} in {where}, {slot.shape} in {model}"
        for name, slot in expected.items()
        if name in given and given[name].shape != slot.shape
    ]
    if not problems:
        return
    hint = ""
    if any(name.split(".")[0] in _head_modules() for name in expected) and all(
        problem.split(" ")[1].split(".")[0] in _head_modules() for problem in problems
    ):
        hint = "\nOnly the head disagrees: fresh_head=True starts with a new one."
    shown = "\n  ".join(problems[:20])
    more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
    raise CheckpointError(f"{where} does not fit {model}:\n  {shown}{more}{hint}")


def export_tensors(model: keras.Model, dtype: Any = "float32") -> Tensors:
    """Collects a model's weights under the names that PyTorch transformers expects.

    Args:
        model: An encoder or a model with a head.
        dtype: Float type to write, `"float32"`, `"float16"` or `"bfloat16"`.

    Returns:
        Arrays by name, in PyTorch's layout; with the prefix `distilbert.` if there is a head.
    """
    prefix = "distilbert." if hasattr(model, "distilbert") else ""
    tensors = {}
    for name, slot in slots(model).items():
        is_head = name.split(".")[0] in _head_modules()
        tensors[name if is_head else prefix + name] = np.asarray(slot.read(), dtype=np.dtype(dtype))
    return tensors
