"""Verification: whether an exported model returns what the model in memory does.

The export is loaded in a fresh process, which has TensorFlow and not this package. The expected
outputs come from transformers' own tokenizer and an eager call of the model, so that both the
in-graph tokenizer and the traced graph are tested, in every signature.

Shapes: B rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging

from distilbert_serving.inspection.fresh_process import Arrays, ReloadError, ask_fresh_process
from distilbert_serving.output_comparison import (
    TOLERANCES,
    DifferenceError,
    compare_outputs,
    size_of,
)
from distilbert_serving.sample_sentences import SENTENCES
from distilbert_serving.saved_model.endpoints import Endpoint, TextBatch
from distilbert_serving.saved_model.served_models import Expected
from distilbert_serving.saved_model.weight_quantization import fake_quantized

# Few tokens and many in turn: the graph holds a way for each, and packed weights must serve both.
BATCHES = tuple(
    # The second texts are reversed, so that long meets short.
    TextBatch(list(texts), list(reversed(texts)))
    for texts in ((), ("",), SENTENCES, SENTENCES[:1], SENTENCES[:3], SENTENCES[4:])
)


class VerificationError(RuntimeError):
    """An exported model that cannot be loaded, or returns other outputs."""


def verify_saved_model(
    directory: Path,
    endpoints: Mapping[str, Endpoint],
    *,
    compute_dtype: str,
    in_float32: Mapping[str, Endpoint] | None = None,
) -> float:
    """Compares each signature with the endpoint it was made from, on sentences of all kinds.

    Args:
        directory: The SavedModel.
        endpoints: The endpoints by signature.
        compute_dtype: The float type that the models compute in, a key of `TOLERANCES`.
        in_float32: Those of models with the same weights that compute in float32, if
            `compute_dtype` is less. What is compared are then two roundings of one answer: each
            may be as far from it as the model in memory is, and twice that is allowed where it is
            more than `TOLERANCES` says.

    Returns:
        The greatest difference between two numbers, relative to the largest of their output (or 1).

    Raises:
        VerificationError: It cannot be loaded, or an output differs; the message says which.
    """
    feeds = {
        name: [endpoint.feed(batch) for batch in BATCHES] for name, endpoint in endpoints.items()
    }
    expected: dict[int, list[Expected]] = {}  # an endpoint may have two names
    tolerances: dict[int, float] = {}
    for name, endpoint in endpoints.items():
        if id(endpoint) not in expected:
            tolerance = TOLERANCES[compute_dtype]
            if in_float32 is not None:
                rounded = (_expect(name, each, 0.0) for each in (endpoint, in_float32[name]))
                tolerance = max(
                    tolerance, 2 * max(_differences(*rounded, relative=True), default=0.0)
                )
            tolerances[id(endpoint)] = tolerance
            expected[id(endpoint)] = _expect(name, endpoint, tolerance)
    try:
        reloaded = ask_fresh_process(directory, feeds)
    except ReloadError as error:
        raise VerificationError(f"Not verified: {error}") from error
    difference = 0.0
    for name, endpoint in endpoints.items():
        for loader, by_signature in reloaded.answers.items():
            where = f"signature {name}, {loader} loader"
            answers = by_signature[name]
            if isinstance(answers, str):
                raise VerificationError(f"Not verified: {where}: {answers}")
            pairs = zip(expected[id(endpoint)], answers, strict=True)
            largest = max(
                _check_answer(where, batch, want, got, tolerances[id(endpoint)])
                for batch, (want, got) in zip(BATCHES, pairs, strict=True)
            )
            difference = max(difference, largest)
    logging.info(
        "Reloaded, the outputs of %d signatures differ by %.1e at most (allowed: %.1e).",
        len(endpoints),
        difference,
        max(tolerances.values()),
    )
    return difference


def measure_rounding(
    exact: Endpoint, endpoint: Endpoint, variables: Sequence[tf.Variable], weights: str
) -> float:
    """Measures what storing and computing with fewer bits does to the outputs of a signature.

    Args:
        exact: The endpoint of the model in memory.
        endpoint: The same of the model that is exported.
        variables: The variables of that model.
        weights: How they are stored, one of `WEIGHTS`.

    Returns:
        The greatest difference between two numbers, such as logits.

    Raises:
        ValueError: A variable cannot be quantized so.
    """
    if exact is endpoint and weights == "fp32":
        return 0.0
    before = [exact.expect(batch, 0.0) for batch in BATCHES]
    with fake_quantized(variables, weights):
        after = [endpoint.expect(batch, 0.0) for batch in BATCHES]
    return max(_differences(after, before))


def _differences(
    got: Sequence[Expected], want: Sequence[Expected], *, relative: bool = False
) -> Iterator[float]:
    """Yields the greatest difference between two numbers of each output and batch."""
    for ours, theirs in zip(got, want, strict=True):
        for name, array in theirs.outputs.items():
            if array.dtype.kind == "f":
                difference = float(np.abs(array - ours.outputs[name]).max(initial=0.0))
                yield difference / (size_of(array) if relative else 1.0)


def _expect(name: str, endpoint: Endpoint, tolerance: float) -> list[Expected]:
    """Computes the outputs of the model in memory."""
    # The fresh process computes on the CPU, as this one may hold all of a GPU's memory.
    with tf.device("CPU"):
        answers = [endpoint.expect(batch, tolerance) for batch in BATCHES]
    for answer in answers:
        for output, array in answer.outputs.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise VerificationError(
                    f"The model in memory for signature {name} returns {output} that are not "
                    "finite: its training diverged, or its weights are damaged."
                )
    return answers


def _check_answer(
    where: str, batch: TextBatch, want: Expected, got: Arrays, tolerance: float
) -> float:
    """Compares the outputs for a batch; returns the greatest relative difference."""
    where = f"in {where}, batch of {len(batch.texts)}"
    try:
        differences = compare_outputs(got, want.outputs, tolerance, want.is_tie)
    except DifferenceError as error:
        text = "" if error.row is None else f", text {batch.texts[error.row][:60]!r}"
        raise VerificationError(f"Not verified: {where}{text}: {error}.") from error
    return max(
        (
            difference / size_of(want.outputs[name])
            for name, difference in differences.items()
            if difference
        ),
        default=0.0,
    )
