"""Does an exported model answer as the model in memory does?

The exported one is loaded in a fresh process, which has TensorFlow and not this package. The
expected answers come from transformers' own tokenizer and an eager call of the model, so the
in-graph tokenizer and the traced graph are both on trial.

Shapes: B rows, C classes.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from distilbert_tf.heads import TFDistilBertForSequenceClassification
from distilbert_tf.tokenizer import DistilBertTokenizer
from export.environment import set_serving_environment
from export.signatures import LABEL, LOGITS, PROBABILITIES, TEXT, TEXT_PAIR

RELOAD_SCRIPT = Path(__file__).with_name("reload.py")
RELOAD_TIMEOUT_S = 900

# What the logits may differ by, relative to the largest (or 1). Both sides do the same arithmetic,
# but the graph optimizer fuses ops, which changes the order of sums: about 1e-6 in float32. A
# single wrong token or weight moves logits a hundred times further than these bounds.
TOLERANCES = {"float32": 1e-5, "float64": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}

SENTENCES = (
    "The soup was cold, but the waiter could not have been kinder.",
    "Señor Müller liked the crème brûlée; his naïve façade fell at once.",
    "best. birthday. ever 🎂🥳 thanks to all of you 👩‍👩‍👧",
    "",
    "It rained for the whole week, and still the children asked when we would come back. " * 40,
    "[MASK] 東京の夜 ist schön, n'est-ce pas?\tYes -- 100% (well, 99.5%)!",
    "ok",
)
# Few tokens and many in turn: the graph holds a way for each, and packed weights must serve both.
BATCHES: tuple[tuple[str, ...], ...] = (
    (),
    ("",),
    SENTENCES,
    SENTENCES[:1],
    SENTENCES[:3],
    SENTENCES[4:],
)

Arrays = dict[str, np.ndarray]
Batches = list[dict[str, list[str]]]


class Endpoint(NamedTuple):
    """What a signature is made from.

    Attributes:
        model: The classifier.
        labels: The names of the classes, in the order of the logits.
        pair: Whether it takes pairs of texts.
    """

    model: TFDistilBertForSequenceClassification
    labels: list[str]
    pair: bool


class VerificationError(RuntimeError):
    """An exported model that fails to load, or answers differently."""


def verify_saved_model(
    directory: Path,
    endpoints: Mapping[str, Endpoint],
    tokenizer: DistilBertTokenizer,
    *,
    max_length: int,
) -> float:
    """Compares each exported classifier with the one in memory, on sentences of all kinds.

    Args:
        directory: The SavedModel.
        endpoints: What its signatures were made from, by their names.
        tokenizer: The models' tokenizer.
        max_length: Longest row in tokens, special tokens included.

    Returns:
        The greatest difference between two logits.

    Raises:
        VerificationError: It cannot be loaded, or an answer differs; the message tells in what.
    """
    batches = {
        name: [_name_inputs(batch, endpoint.pair) for batch in BATCHES]
        for name, endpoint in endpoints.items()
    }
    expected: dict[str, list[Arrays]] = {}
    for name, endpoint in endpoints.items():
        # The default signature answers as one of the others: what that one gives is known by then.
        twin = next((other for other in expected if endpoints[other] is endpoint), None)
        expected[name] = (
            _expect(name, endpoint, tokenizer, batches[name], max_length)
            if twin is None
            else expected[twin]
        )
    answers = _reload(directory, batches)
    return max(
        _check_signature(name, endpoint, batches[name], expected[name], answers)
        for name, endpoint in endpoints.items()
    )


def _expect(
    name: str,
    endpoint: Endpoint,
    tokenizer: DistilBertTokenizer,
    batches: Batches,
    max_length: int,
) -> list[Arrays]:
    """Gives the answers of the model in memory."""
    answers = [_answer_in_memory(endpoint, tokenizer, batch, max_length) for batch in batches]
    if not all(np.isfinite(answer[LOGITS]).all() for answer in answers):
        raise VerificationError(
            f"The model in memory for signature {name} gives logits that are not finite: its "
            "training diverged, or its weights are damaged."
        )
    return answers


def _check_signature(
    name: str,
    endpoint: Endpoint,
    batches: Batches,
    expected: list[Arrays],
    answers: dict[str, dict[str, list[Arrays]]],
) -> float:
    """Checks a signature's answers by all loaders; gives their greatest difference."""
    largest = max(float(np.abs(answer[LOGITS]).max(initial=1.0)) for answer in expected)
    tolerance = TOLERANCES[endpoint.model.compute_dtype] * largest
    difference = 0.0
    for loader, by_signature in answers.items():
        where = f"signature {name}, {loader} loader"
        for batch, want, got in zip(batches, expected, by_signature[name], strict=True):
            _check_answer(where, batch, want, got, tolerance)
            difference = max(difference, _difference(want, got))
    logging.info(
        "Reloaded, logits of signature %s differ by %.1e at most (allowed: %.1e).",
        name,
        difference,
        tolerance,
    )
    return difference


def _name_inputs(texts: Sequence[str], pair: bool) -> dict[str, list[str]]:
    # Reversed, so that long meets short.
    return {TEXT: list(texts), **({TEXT_PAIR: list(reversed(texts))} if pair else {})}


def _answer_in_memory(
    endpoint: Endpoint,
    tokenizer: DistilBertTokenizer,
    batch: dict[str, list[str]],
    max_length: int,
) -> Arrays:
    logits = np.zeros((0, len(endpoint.labels)), np.float32)
    if batch[TEXT]:
        encoding = tokenizer(
            *batch.values(),
            truncation=True,
            max_length=max_length,
            padding=True,
            return_tensors="tf",
        )
        # The fresh process computes on the CPU, as this one may hold all of a GPU's memory.
        with tf.device("CPU"):
            logits = endpoint.model(encoding, training=False).numpy()
    return {
        LOGITS: logits,
        PROBABILITIES: tf.nn.softmax(logits).numpy(),
        LABEL: np.array(endpoint.labels, object)[logits.argmax(axis=1)],
    }


def _reload(directory: Path, batches: dict[str, Batches]) -> dict[str, dict[str, list[Arrays]]]:
    """Has a fresh process answer: by loader, signature and batch."""
    request = {
        "saved_model": os.fspath(directory.absolute()),
        "batches": batches,
        "sys_path": [path for path in sys.path if path],
    }
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    set_serving_environment(environment)  # as a server has it: packed weights are on trial too
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        # -I: no PYTHONPATH, nothing from the current directory.
        process = subprocess.run(
            [sys.executable, "-I", os.fspath(RELOAD_SCRIPT)],
            input=json.dumps(request).encode(),
            capture_output=True,
            cwd=os.sep,
            env=environment,
            timeout=RELOAD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise VerificationError(
            f"A fresh process did not load the exported model within {RELOAD_TIMEOUT_S} s."
        ) from error
    if process.returncode:
        tail = "\n  ".join(process.stderr.decode(errors="replace").strip().splitlines()[-15:])
        raise VerificationError(
            f"A fresh process failed to load or run the exported model (exit status "
            f"{process.returncode}):\n  {tail}"
        )
    answers = json.loads(process.stdout)
    return {
        loader: {
            signature: [
                {name: _read_array(output) for name, output in answer.items()}
                for answer in per_batch
            ]
            for signature, per_batch in by_signature.items()
        }
        for loader, by_signature in answers.items()
    }


def _read_array(output: dict[str, Any]) -> np.ndarray:
    return np.array(output["values"], output["dtype"]).reshape(output["shape"])


def _check_answer(
    where: str, batch: dict[str, list[str]], want: Arrays, got: Arrays, tolerance: float
) -> None:
    where = f"in {where}, batch of {len(batch[TEXT])}"
    for name, array in want.items():
        if name not in got:
            raise VerificationError(f"Not verified: {where}: no output {name!r}.")
        if (got[name].shape, got[name].dtype) != (array.shape, array.dtype):
            raise VerificationError(
                f"Not verified: {where}: {name} is {got[name].dtype} {got[name].shape}, in memory "
                f"{array.dtype} {array.shape}."
            )
    for row, text in enumerate(batch[TEXT]):
        shown = f"{where}, text {text[:60]!r}"
        for name in (LOGITS, PROBABILITIES):
            difference = float(np.abs(want[name][row] - got[name][row]).max())
            if math.isnan(difference) or difference > tolerance:
                raise VerificationError(
                    f"Not verified: {shown}: {name} {got[name][row].tolist()}, in memory "
                    f"{want[name][row].tolist()}; they differ by {difference:.1e}, allowed is "
                    f"{tolerance:.1e}."
                )
        # Where two classes are as good as equal, either label is right.
        ranked = np.sort(want[LOGITS][row])
        is_tie = ranked[-1] - ranked[-2] <= 2 * tolerance
        if got[LABEL][row] != want[LABEL][row] and not is_tie:
            raise VerificationError(
                f"Not verified: {shown}: label {got[LABEL][row]!r}, in memory {want[LABEL][row]!r}."
            )


def _difference(want: Arrays, got: Arrays) -> float:
    return float(np.abs(want[LOGITS] - got[LOGITS]).max(initial=0.0))
