"""Between the tensor names of a checkpoint and the variables of a model, strictly.

The layers carry Hugging Face's names, so the table lists the layers with weights, each with the
name that BERT gives it. It serves both directions. A new layer needs one row here, and a method
`slots` (see `slot`), which those of `layers` have.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import ml_dtypes  # noqa: F401  (adds bfloat16 to NumPy)
import numpy as np
from absl import logging

from distilbert_tf.checkpoints.tensor_files import CheckpointError, Tensors
from distilbert_tf.models.slot import Slot

# Our layer -> BERT's, or None if BERT has none. `{i}` counts blocks. In checkpoints with a head,
# the layers of the encoder have the prefix "distilbert." or "bert.", in others none.
ENCODER: dict[str, str | None] = {
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
# By task, to tell a checkpoint of another task from a damaged one.
HEADS: dict[str, dict[str, str | None]] = {
    "sequence classification": {"pre_classifier": None, "classifier": None},
    "masked LM": {
        "vocab_transform": "cls.predictions.transform.dense",
        "vocab_layer_norm": "cls.predictions.transform.LayerNorm",
        "vocab_projector": "cls.predictions.decoder",
    },
    "question answering": {"qa_outputs": None},
}
TIED = "vocab_projector.weight"
TIED_TO = "embeddings.word_embeddings.weight"

# Buffers that are not weights, and parts of BERT that DistilBERT does not have.
_DROPPED = {
    "distilbert": re.compile(r"embeddings\.position_ids$"),
    "bert": re.compile(r"(pooler|cls\.seq_relationship)\.|embeddings\.position_ids$"),
}
_SEGMENTS = "embeddings.token_type_embeddings.weight"
_BERT_BIAS = "cls.predictions.bias"  # the same tensor as the bias of the decoder
MOST_NAMES = 6  # of each kind in an error


class MissingHeadError(CheckpointError):
    """A checkpoint without any tensor of the head that a model has."""


def is_head(name: str) -> bool:
    """Whether a tensor of a checkpoint belongs to the head of some task."""
    return any(name.split(".")[0] in layers for layers in HEADS.values())


def expand(pattern: str, blocks: int) -> Iterator[tuple[int, str]]:
    """Yields the layers of a row: the number of the block (0 outside of blocks) and the name."""
    for i in range(blocks if "{i}" in pattern else 1):
        yield i, pattern.format(i=i)


def find_layer(root: Any, path: str) -> Any:
    """Follows a path of attributes and indices, such as `transformer.layer.0.ffn.lin1`."""
    for part in path.split("."):
        root = root[int(part)] if part.isdigit() else getattr(root, part)
    return root


def list_slots(model: keras.Model) -> dict[str, Slot]:
    """Lists the weights of a model under their names in a checkpoint.

    Args:
        model: An encoder or a model with a head.

    Returns:
        Slots by name, without prefix: `"transformer.layer.0.ffn.lin1.weight"`.
    """
    encoder = getattr(model, "distilbert", model)
    layers = {
        name: find_layer(encoder, name)
        for pattern in ENCODER
        for _, name in expand(pattern, len(encoder.transformer.layer))
    }
    for names in HEADS.values():
        layers |= {name: getattr(model, name) for name in names if hasattr(model, name)}
    return {
        f"{name}.{leaf}": slot
        for name, layer in layers.items()
        for leaf, slot in layer.slots().items()
    }


def to_distilbert(tensors: Mapping[str, np.ndarray], family: str) -> Tensors:
    """Renames the tensors of a checkpoint to DistilBERT's names without prefix.

    A prefix that the names of an encoder have in common, because it was saved inside of something
    else (`module.`, `_orig_mod.`, `model.`), is removed wherever it stands. Of a BERT, row 0 of the
    token-type table is added to every position (DistilBERT has no segments), and the pooler and the
    next-sentence head are dropped.

    Args:
        tensors: Arrays by the names in the file, with or without the family's prefix.
        family: `"distilbert"` or `"bert"`.

    Returns:
        Arrays by name. Names that the family does not know stay as they are.

    Raises:
        CheckpointError: Two tensors with different values get the same name.
    """
    renamed: Tensors = {}
    wrapper = _find_wrapper(tensors, family)
    for name, array in tensors.items():
        plain = name.removeprefix(wrapper).removeprefix(f"{family}.")
        plain = plain.replace("LayerNorm.gamma", "LayerNorm.weight")
        plain = plain.replace("LayerNorm.beta", "LayerNorm.bias")
        if _DROPPED[family].match(plain):
            continue
        if family == "bert":
            plain = _rename_bert(plain)
        if plain in renamed and not np.array_equal(renamed[plain], array):
            raise CheckpointError(
                f"{name} occurs twice in the checkpoint, as {plain}, with different values."
            )
        renamed[plain] = array
    if family == "bert" and (segments := renamed.pop(_SEGMENTS, None)) is not None:
        positions = "embeddings.position_embeddings.weight"
        if positions in renamed:
            renamed[positions] = renamed[positions] + segments[0]
    return renamed


def _find_wrapper(names: Iterable[str], family: str) -> str:
    """Returns what stands before the names of an encoder, besides the family's own prefix."""
    table = "embeddings.position_embeddings.weight"  # every encoder has it
    prefixes = {name.removesuffix(table) for name in names if name.endswith(table)}
    wrappers = {prefix.removesuffix(f"{family}.") for prefix in prefixes}
    return wrappers.pop() if len(wrappers) == 1 else ""


def _rename_bert(name: str) -> str:
    if name == _BERT_BIAS:
        return "vocab_projector.bias"
    layer, _, leaf = name.rpartition(".")
    index = re.search(r"\.(\d+)\.", layer)
    pattern = re.sub(r"\.\d+\.", ".{i}.", layer, count=1)
    for table in (ENCODER, *HEADS.values()):
        for ours, theirs in table.items():
            if theirs == pattern:
                return f"{ours.format(i=index and index.group(1))}.{leaf}"
    return name


def load_tensors(
    model: keras.Model,
    tensors: Mapping[str, np.ndarray],
    *,
    family: str = "distilbert",
    fresh_head: bool = False,
    where: str = "the checkpoint",
) -> None:
    """Loads the tensors of a checkpoint into a model: all of them, or none and an error.

    The head of another task is left out, and the log says so. A head that the checkpoint lacks
    keeps its initial values only if `fresh_head`.

    Args:
        model: The model.
        tensors: Arrays by name, in PyTorch's layout.
        family: Whose names they have, `"distilbert"` or `"bert"`.
        fresh_head: Whether to leave the head of the model as initialized; a head of the same task
            in the checkpoint is then left out.
        where: What to call the checkpoint in errors and in the log.

    Raises:
        CheckpointError: A tensor is missing, unexpected or of the wrong shape. The message names
            both sides. If the whole head is missing, a `MissingHeadError`.
    """
    expected = list_slots(model)
    given = to_distilbert(tensors, family)
    _resolve_tie(expected, given, where)
    own_head = sorted(filter(is_head, expected))
    if fresh_head:
        expected = {name: slot for name, slot in expected.items() if not is_head(name)}
    elif own_head and given.keys().isdisjoint(own_head):
        raise MissingHeadError(
            f"{where} has no head for {type(model).__name__} (none of {', '.join(own_head)}). "
            "Pass fresh_head=True to start with a new one."
        )
    elif family == "bert" and "classifier.weight" in given and "classifier.weight" in own_head:
        raise CheckpointError(
            f"{where} has a BERT classifier, which reads the output of BERT's tanh pooler: it "
            "cannot become DistilBERT's. Pass fresh_head=True to leave it out and start with a new "
            "head."
        )
    left_out = sorted(name for name in given if is_head(name) and name not in expected)
    for name in left_out:
        del given[name]
    _check(expected, given, type(model).__name__, where)
    for name, slot in expected.items():
        slot.write(given[name])
    if left_out:
        logging.info("Left out of %s: %s.", where, ", ".join(left_out))


def warn_about_fresh_head(model: keras.Model) -> None:
    """Logs that nobody has trained the head of a model yet; nothing if it has none."""
    if head := sorted(filter(is_head, list_slots(model))):
        logging.warning(
            "%s keeps a freshly initialized head (%s): train it before use.",
            type(model).__name__,
            ", ".join(head),
        )


def _resolve_tie(expected: Mapping[str, Slot], given: Tensors, where: str) -> None:
    """Drops an explicit copy of a tied projector, or takes the word embeddings from it."""
    if TIED in expected or TIED not in given:
        return
    if "vocab_projector.bias" not in expected:
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
    both = [name for name in expected if name in given]
    problems = {
        "missing": {
            name: f"{name} {slot.shape}, which {model} has"
            for name, slot in expected.items()
            if name not in given
        },
        "extra": {
            name: f"{name} {array.shape}, which {model} does not have"
            for name, array in given.items()
            if name not in expected
        },
        "shape": {
            name: f"{name} is {given[name].shape} in {where}, {expected[name].shape} in {model}"
            for name in both
            if given[name].shape != expected[name].shape
        },
    }
    if not any(problems.values()):
        return
    counts = ", ".join(f"{len(found)} {kind}" for kind, found in problems.items() if found)
    lines = [
        f"{where} does not fit {model}: of {len(given)} tensors there and {len(expected)} here, "
        f"{counts}."
    ]
    for kind, found in problems.items():
        lines += [f"{kind}: {text}" for text in list(found.values())[:MOST_NAMES]]
        if (more := len(found) - MOST_NAMES) > 0:
            lines.append(f"{kind}: {more} more")
    hint = ""
    if all(is_head(name) for found in problems.values() for name in found):
        hint = "\nOnly the head disagrees: fresh_head=True starts with a new one."
    raise CheckpointError("\n  ".join(lines) + hint)


def export_tensors(model: keras.Model, dtype: Any = "float32") -> Tensors:
    """Collects the weights of a model under the names that PyTorch transformers expects.

    Args:
        model: An encoder or a model with a head.
        dtype: Float type to write, `"float32"`, `"float16"` or `"bfloat16"`.

    Returns:
        Arrays by name, in PyTorch's layout; with the prefix `distilbert.` if there is a head.
    """
    prefix = "distilbert." if hasattr(model, "distilbert") else ""
    return {
        name if is_head(name) else prefix + name: np.asarray(slot.read(), dtype=np.dtype(dtype))
        for name, slot in list_slots(model).items()
    }
