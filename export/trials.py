"""Has a fresh process run every signature of a SavedModel, and compares what two loaders answer."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from export.environment import set_serving_environment

TRIAL_SCRIPT = Path(__file__).with_name("signature_trial.py")
TRIAL_TIMEOUT_S = 900
TOLERANCE = 1e-5  # relative to the largest number of an output, or 1
BATCH_SIZES = (1, 3, 8)
SENTENCES = (
    "The bus came early, and half of us were still tying our shoes.",
    "",
    "Señora Gómez paid 12.50 € — für nothing, she said!",
    "He never wrote back. " * 25,
    "It was [MASK], as ever: 東京 👍🏽",
    "ok",
    "Nobody would call the second act dull, though the first nearly put me to sleep.",
)

Outputs = dict[str, np.ndarray]  # by the name of the output


class TrialError(RuntimeError):
    """A SavedModel that cannot be loaded, or loaders that disagree."""


class Trial(NamedTuple):
    """What a process said.

    Attributes:
        tensorflow: Its release of TensorFlow.
        load_s: Seconds to load, by loader.
        answers: By loader and signature, one item a batch; of a signature that failed, why.
    """

    tensorflow: str
    load_s: dict[str, float]
    answers: dict[str, dict[str, list[Outputs] | str]]


def run_trial(
    directory: Path,
    python: str = sys.executable,
    texts: Sequence[str] = SENTENCES,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> Trial:
    """Runs every signature in a process without this package, by the TF2 and session loaders.

    Args:
        directory: The SavedModel.
        python: The interpreter, whose TensorFlow may be an older one.
        texts: What to feed to inputs of strings.
        batch_sizes: How many rows to feed, one call each.

    Returns:
        The answers.

    Raises:
        TrialError: The process failed, or took too long.
    """
    request = {
        "saved_model": os.fspath(directory.absolute()),
        "texts": list(texts),
        "batch_sizes": list(batch_sizes),
        # Of another interpreter these would be another's libraries.
        "sys_path": [path for path in sys.path if path] if python == sys.executable else [],
    }
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    set_serving_environment(environment)
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        # -I: no PYTHONPATH, nothing from the current directory.
        process = subprocess.run(
            [python, "-I", os.fspath(TRIAL_SCRIPT)],
            input=json.dumps(request).encode(),
            capture_output=True,
            cwd=os.sep,
            env=environment,
            timeout=TRIAL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TrialError(f"A fresh process took more than {TRIAL_TIMEOUT_S} s.") from error
    if process.returncode:
        tail = "\n  ".join(process.stderr.decode(errors="replace").strip().splitlines()[-8:])
        raise TrialError(
            f"A fresh process could not load it (exit status {process.returncode}):\n  {tail}"
        )
    said = json.loads(process.stdout)
    answers = {
        loader: {name: _read_answers(each) for name, each in by_signature.items()}
        for loader, by_signature in said["answers"].items()
    }
    return Trial(said["tensorflow"], said["seconds"], answers)


class Comparison(NamedTuple):
    """What `try_export` found.

    Attributes:
        error: What went wrong; None if every signature ran, and the loaders agree.
        load_s: Seconds to load, by loader.
        differences: The greatest difference between the loaders' numbers, by signature.
    """

    error: str | None
    load_s: dict[str, float]
    differences: dict[str, float]


def try_export(directory: Path) -> Comparison:
    """Runs every signature in a fresh process, by two loaders, and compares their answers."""
    load_s: dict[str, float] = {}
    try:
        trial = run_trial(directory)
        load_s = trial.load_s
        return Comparison(None, load_s, compare_loaders(trial))
    except TrialError as error:
        return Comparison(str(error), load_s, {})


def compare_loaders(trial: Trial) -> dict[str, float]:
    """Compares the answers of the two loaders.

    Args:
        trial: The answers.

    Returns:
        The greatest difference between two numbers, by signature.

    Raises:
        TrialError: A signature failed, or the loaders differ by more than `TOLERANCE`.
    """
    return compare_answers(trial.answers["tf2"], trial.answers["session"])


def compare_answers(
    left: Mapping[str, list[Outputs] | str],
    right: Mapping[str, list[Outputs] | str],
    tolerance: float = TOLERANCE,
) -> dict[str, float]:
    """Compares two sets of answers: see `compare_loaders`."""
    if left.keys() != right.keys():
        raise TrialError(f"one has the signatures {sorted(left)}, the other {sorted(right)}.")
    differences = {}
    for name in left:
        first, second = left[name], right[name]
        for side in (first, second):
            if isinstance(side, str):
                raise TrialError(f"signature {name} failed: {side}")
        pairs = zip(first, second, strict=True)
        differences[name] = max(
            (_compare_outputs(name, a, b, tolerance) for a, b in pairs),  # type: ignore[arg-type]
            default=0.0,
        )
    return differences


def _compare_outputs(signature: str, left: Outputs, right: Outputs, tolerance: float) -> float:
    if left.keys() != right.keys():
        raise TrialError(f"in signature {signature}: outputs {sorted(left)} and {sorted(right)}.")
    largest = 0.0
    for name, array in left.items():
        other, where = right[name], f"signature {signature}, output {name}"
        if (array.shape, array.dtype) != (other.shape, other.dtype):
            raise TrialError(
                f"in {where}: {array.dtype} {array.shape} and {other.dtype} {other.shape}."
            )
        if array.dtype.kind != "f":
            if not np.array_equal(array, other):
                raise TrialError(f"in {where}: {array.tolist()} and {other.tolist()}.")
            continue
        allowed = tolerance * float(np.abs(array).max(initial=1.0, where=np.isfinite(array)))
        if not np.allclose(array, other, rtol=0, atol=allowed, equal_nan=True):
            furthest = float(np.abs(array - other).max())
            raise TrialError(f"in {where}: they differ by {furthest:.1e}; allowed: {allowed:.1e}.")
        finite = np.isfinite(array)
        difference = float(np.abs(array[finite] - other[finite]).max(initial=0.0))
        largest = max(largest, difference)
    return largest


def _read_answers(said: Any) -> list[Outputs] | str:
    if isinstance(said, dict):
        return str(said["error"])
    return [
        {
            name: np.array(output["values"], output["dtype"]).reshape(output["shape"])
            for name, output in outputs.items()
        }
        for outputs in said
    ]
