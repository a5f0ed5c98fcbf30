"""Verification: whether an exported model returns what the model in memory does.

The export is loaded in a fresh process, which has TensorFlow and not this package. The expected
outputs come from transformers' own tokenizer and an eager call of the model, so that both the
in-graph tokenizer and the traced graph are tested, in every signature.

Shapes: B rows.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging

from distilbert_serving.inspection.fresh_process import Arrays, ReloadError, ask_fresh_process
from distilbert_serving.output_comparison import DifferenceError, compare_outputs, size_of
from distilbert_serving.sample_sentences import SENTENCES
from distilbert_serving.saved_model.endpoints import Endpoint, TextBatch
from distilbert_serving.saved_model.served_models import Expected
from distilbert_serving.saved_model.weight_quantization import fake_quantized
from distilbert_serving.signatures import SERVING_DEFAULT

# By how much numbers may differ, relative to the largest of their output (or 1). Both sides do the
# same arithmetic, but the graph optimizer fuses ops, which changes the order of sums: about 1e-6 in
# float32. A single wrong token or weight changes logits a hundred times more than these bounds.
TOLERANCES = {"float32": 1e-5, "float64": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}

# Few tokens and many in turn: the graph holds a way for each, and packed weights must serve both.
BATCHES = tuple(
    # The second texts are reversed, so that long meets short.
    TextBatch(list(texts), list(reversed(texts)))
    for texts in ((), ("",), SENTENCES, SENTENCES[:1], SENTENCES[:3], SENTENCES[4:])
)


class VerificationError(RuntimeError):
    """An exported model that cannot be loaded, or returns other outputs."""


def verify_saved_model(
    directory: Path, endpoints: Mapping[str, Endpoint], *, compute_dtype: str
) -> float:
    """Compares each signature with the endpoint it was made from, on sentences of all kinds.

    Args:
        directory: The SavedModel.
        endpoints: The endpoints by signature.
        compute_dtype: The float type that the models compute in, a key of `TOLERANCES`.

    Returns:
        The greatest difference between two numbers, relative to the largest of their output (or 1).

    Raises:
        VerificationError: It cannot be loaded, or an output differs; the message says which.
    """
    tolerance = TOLERANCES[compute_dtype]
    feeds = {
        name: [endpoint.feed(batch) for batch in BATCHES] for name, endpoint in endpoints.items()
    }
    expected: dict[int, list[Expected]] = {}  # an endpoint may have two names
    for name, endpoint in endpoints.items():
        if id(endpoint) not in expected:
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
                _check_answer(where, batch, want, got, tolerance)
                for batch, (want, got) in zip(BATCHES, pairs, strict=True)
            )
            difference = max(difference, largest)
    logging.info(
        "Reloaded, the outputs of %d signatures differ by %.1e at most (allowed: %.1e).",
        len(endpoints),
        difference,
        tolerance,
    )
    return difference


def measure_quantization(
    endpoints: Mapping[str, Endpoint], variables: Sequence[tf.Variable], weights: str
) -> float:
    """Measures what weight quantization does to the outputs of the default signature.

    Args:
        endpoints: The endpoints by signature.
        variables: The variables to be quantized.
        weights: How they are stored, one of `WEIGHTS`.

    Returns:
        The greatest difference between two numbers, such as logits; 0 for "fp32".

    Raises:
        ValueError: A variable cannot be quantized so.
    """
    if weights == "fp32":
        return 0.0
    endpoint = endpoints[SERVING_DEFAULT]
    before = [endpoint.expect(batch, 0.0) for batch in BATCHES]
    with fake_quantized(variables, weights):
        after = [endpoint.expect(batch, 0.0) for batch in BATCHES]
    return max(
        float(np.abs(array - quantized.outputs[name]).max(initial=0.0))
        for exact, quantized in zip(before, after, strict=True)
        for name, array in exact.outputs.items()
        if array.dtype.kind == "f"
    )


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
