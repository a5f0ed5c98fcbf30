"""Runs every signature of any SavedModel on made-up inputs, and compares what two loaders answer.

What is fed: to an input of strings, sentences in turn; if it is `inputs` and the only one,
serialized tf.Examples of the features `text` and `text_pair`; to an attention mask ones; to numbers
of tokens what there is room for; to other integers small numbers, to floats random ones. Dimensions
of unknown size, but for the batch's, are of size 6.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from distilbert_serving import signatures as names
from distilbert_serving.examples import serialize_examples
from distilbert_serving.inspection.endpoint_contracts import (
    SignatureContract,
    describe_signatures,
)
from distilbert_serving.inspection.fresh_process import (
    Arrays,
    Reloaded,
    ReloadError,
    ask_fresh_process,
)
from distilbert_serving.inspection.saved_model_files import find_compute_dtype, read_meta_graph
from distilbert_serving.output_comparison import TOLERANCES, DifferenceError, compare_outputs
from distilbert_serving.sample_sentences import SENTENCES
from distilbert_serving.signatures import TensorInfo
from distilbert_serving.tensors import NUMPY_TYPES

BATCH_SIZES = (1, 3, 8)
FREE_SIZE = 6


class RunError(RuntimeError):
    """A signature that cannot be run, or loaders that disagree."""


def run_signatures(
    directory: Path,
    python: str = sys.executable,
    texts: Sequence[str] = SENTENCES,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> Reloaded:
    """Runs every signature in a process without this package, by the TF2 and session loaders.

    Args:
        directory: The SavedModel.
        python: The interpreter, whose TensorFlow may be an older one.
        texts: What to feed to inputs of strings.
        batch_sizes: How many rows to feed, one call each.

    Returns:
        The answers.

    Raises:
        ReloadError: The process failed, or took too long.
        RunError: An input has a type that cannot be made up.
        CompatibilityError: It is no SavedModel.
    """
    signatures = describe_signatures(read_meta_graph(directory))
    batches = {
        signature.name: [make_inputs(signature, texts, size) for size in batch_sizes]
        for signature in signatures
    }
    return ask_fresh_process(directory, batches, python)


def make_inputs(signature: SignatureContract, texts: Sequence[str], batch_size: int) -> Arrays:
    """Makes a batch for a signature, always the same one.

    Raises:
        RunError: An input has a type that cannot be made up.
    """
    return {
        name: _make_array(signature, name, tensor, texts, batch_size)
        for name, tensor in sorted(signature.inputs.items())
    }


def _make_array(
    signature: SignatureContract,
    name: str,
    tensor: TensorInfo,
    texts: Sequence[str],
    batch_size: int,
) -> np.ndarray:
    if tensor.dtype not in NUMPY_TYPES:
        raise RunError(f"signature {signature.name}: no {tensor.dtype} can be made up for {name}.")
    dtype = NUMPY_TYPES[tensor.dtype]
    sizes = (None,) if tensor.shape is None else tensor.shape
    shape = [FREE_SIZE if size is None else size for size in sizes]
    if sizes and sizes[0] is None:
        shape[0] = batch_size
    random = np.random.RandomState(len(name) + batch_size)
    if dtype.hasobject:
        count = int(np.prod(shape))
        offset = 1 if name.endswith("pair") else 0
        chosen = [texts[(i + offset) % len(texts)] for i in range(count)]
        array = np.empty(count, object)
        array[:] = [text.encode() for text in chosen]
        if names.kind_of_inputs(signature.inputs) == "examples":
            array[:] = serialize_examples({names.TEXT: chosen, names.TEXT_PAIR: chosen[::-1]})
        return array.reshape(shape)
    if "mask" in name:
        return np.ones(shape, dtype)
    if name == names.NUM_TOKENS:
        return random.randint(1, FREE_SIZE + 1, shape).astype(dtype)
    if dtype.kind in "iub":
        return random.randint(0, 2 if dtype.kind == "b" else 5, shape).astype(dtype)
    return random.standard_normal(shape).astype(dtype)


class Comparison(NamedTuple):
    """What `compare_export` found.

    Attributes:
        error: What went wrong; None if every signature ran, and the loaders agree.
        load_s: Seconds to load, by loader.
        differences: The greatest difference between the loaders' numbers, by signature.
    """

    error: str | None
    load_s: dict[str, float]
    differences: dict[str, float]


def compare_export(directory: Path) -> Comparison:
    """Runs every signature in a fresh process, by two loaders, and compares their answers."""
    load_s: dict[str, float] = {}
    try:
        reloaded = run_signatures(directory)
        load_s = reloaded.load_s
        tolerance = TOLERANCES[find_compute_dtype(read_meta_graph(directory))]
        return Comparison(None, load_s, compare_loaders(reloaded, tolerance))
    except (ReloadError, RunError) as error:
        return Comparison(str(error), load_s, {})


def compare_loaders(
    reloaded: Reloaded, tolerance: float = TOLERANCES["float32"]
) -> dict[str, float]:
    """Compares the answers of the two loaders.

    Args:
        reloaded: The answers.
        tolerance: What numbers may differ by: see `compare_outputs`.

    Returns:
        The greatest difference between two numbers, by signature.

    Raises:
        RunError: A signature failed, or the loaders differ by more than the tolerance.
    """
    return compare_answers(reloaded.answers["tf2"], reloaded.answers["session"], tolerance)


def compare_answers(
    left: Mapping[str, list[Arrays] | str],
    right: Mapping[str, list[Arrays] | str],
    tolerance: float = TOLERANCES["float32"],
) -> dict[str, float]:
    """Compares two sets of answers: see `compare_loaders`."""
    if left.keys() != right.keys():
        raise RunError(f"one has the signatures {sorted(left)}, the other {sorted(right)}.")
    return {
        name: _compare_signature(name, left[name], right[name], tolerance) for name in sorted(left)
    }


def _compare_signature(
    name: str, left: list[Arrays] | str, right: list[Arrays] | str, tolerance: float
) -> float:
    for side in (left, right):
        if isinstance(side, str):
            raise RunError(f"signature {name} failed: {side}")
    try:
        differences = [
            compare_outputs(got, want, tolerance)  # type: ignore[arg-type]
            for got, want in zip(left, right, strict=True)
        ]
    except DifferenceError as error:
        raise RunError(f"in signature {name}: {error}.") from error
    return max((value for each in differences for value in each.values()), default=0.0)
