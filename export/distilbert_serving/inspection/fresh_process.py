"""Has a fresh process load a SavedModel and answer requests: see `reload`."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from distilbert_serving.inspection.reload import ERROR, read_array, write_array
from distilbert_serving.tf_serving.environment import set_serving_environment

SCRIPT = Path(__file__).with_name("reload.py")
TIMEOUT_S = 900

Arrays = dict[str, np.ndarray]  # by the name of the input or output; strings as bytes


class ReloadError(RuntimeError):
    """A process that could not load a SavedModel, or took too long."""


class Reloaded(NamedTuple):
    """What a process said.

    Attributes:
        tensorflow: Its release of TensorFlow.
        load_s: Seconds to load, by loader: "tf2" and "session".
        answers: By loader and signature, one item a batch; of a signature that failed, why.
    """

    tensorflow: str
    load_s: dict[str, float]
    answers: dict[str, dict[str, list[Arrays] | str]]


def ask_fresh_process(
    directory: Path, batches: Mapping[str, Sequence[Arrays]], python: str = sys.executable
) -> Reloaded:
    """Runs signatures in a process without this package, by two loaders.

    Args:
        directory: The SavedModel.
        batches: What to feed, by signature.
        python: The interpreter, whose TensorFlow may be an older one.

    Returns:
        The answers.

    Raises:
        ReloadError: The process could not load it, or took too long.
    """
    request = {
        "saved_model": os.fspath(directory.absolute()),
        "batches": {
            signature: [{name: write_array(array) for name, array in feed.items()} for feed in each]
            for signature, each in batches.items()
        },
        # Of another interpreter these would be another's libraries.
        "sys_path": [path for path in sys.path if path] if python == sys.executable else [],
    }
    # On the CPU, as this process may hold all of a GPU's memory.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    set_serving_environment(environment)  # as a server has it, packed weights included
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        # -I: no PYTHONPATH, nothing from the current directory.
        process = subprocess.run(
            [python, "-I", os.fspath(SCRIPT)],
            input=json.dumps(request).encode(),
            capture_output=True,
            cwd=os.sep,
            env=environment,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ReloadError(f"A fresh process took more than {TIMEOUT_S} s.") from error
    if process.returncode:
        tail = "\n  ".join(process.stderr.decode(errors="replace").strip().splitlines()[-15:])
        raise ReloadError(
            f"A fresh process could not load it (exit status {process.returncode}):\n  {tail}"
        )
    said = json.loads(process.stdout)
    answers = {
        loader: {name: _read_answers(each) for name, each in by_signature.items()}
        for loader, by_signature in said["answers"].items()
    }
    return Reloaded(said["tensorflow"], said["seconds"], answers)


def _read_answers(said: list | dict) -> list[Arrays] | str:
    if isinstance(said, dict):
        return str(said[ERROR])
    return [{name: read_array(array) for name, array in outputs.items()} for outputs in said]
