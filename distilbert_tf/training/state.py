"""The whole state of a training in files, so that it can go on after whatever ended it.

One safetensors file holds all variables (weights, dropout's steps, the optimizer's moments, running
metrics) and, in its header, a JSON record of where the run stands and a digest of the rest.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import safetensors
import tensorflow as tf
from absl import logging
from safetensors.numpy import save_file

from distilbert_tf.checkpoints.tensor_files import CheckpointError, Tensors
from distilbert_tf.files import replacing

CHECKPOINTS = "checkpoints"  # where in a run's directory its states are
_FILE = re.compile(r"step-(\d+)\.safetensors")


def read_variables(groups: Mapping[str, Sequence[keras.Variable]]) -> Tensors:
    """Copies variables out of a model, under any strategy.

    In a multi-worker run every worker has to call this: running metrics are read by adding up those
    of all replicas.

    Args:
        groups: Lists of variables by a name for each.

    Returns:
        Arrays by group and number, `"model/0007"`: paths of Keras' variables depend on what else
        a process has made.
    """
    return {
        f"{group}/{i:04d}": np.asarray(tf.convert_to_tensor(variable.value))
        for group, variables in groups.items()
        for i, variable in enumerate(variables)
    }


def write_variables(groups: Mapping[str, Sequence[keras.Variable]], tensors: Tensors) -> None:
    """Puts back what `read_variables` gave.

    Raises:
        CheckpointError: Another number of variables, or another shape or type.
    """
    slots = {
        f"{group}/{i:04d}": variable
        for group, variables in groups.items()
        for i, variable in enumerate(variables)
    }
    given = {name: array for name, array in tensors.items() if name.split("/")[0] in groups}
    for name in slots.keys() | given.keys():
        ours = (
            f"{tuple(slots[name].shape)} {slots[name].dtype}" if name in slots else "not in the run"
        )
        theirs = f"{given[name].shape} {given[name].dtype}" if name in given else "not in the state"
        if ours != theirs:
            raise CheckpointError(
                f"The saved state does not fit this run: variable {name} is {theirs}, here {ours}."
            )
    for name, variable in slots.items():
        variable.assign(given[name])


def save_state(
    directory: Path, step: int, tensors: Tensors, record: Mapping[str, Any], keep: int
) -> Path:
    """Writes a state, whole or not at all, then removes all but it and the ones just before it.

    Args:
        directory: Where states are; made if missing.
        step: Steps taken since the run began; the file's name has it.
        tensors: All variables.
        record: What else there is to know; JSON.
        keep: How many states to keep.

    Returns:
        The file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"step-{step:08d}.safetensors"
    text = json.dumps(record)
    # save_file writes an array's memory as it lies: transposed views must be copied first.
    tensors = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"record": text, "digest": _digest(tensors, text)})
    states = list_states(directory)
    place = states.index(path)
    # Those of later steps are damaged: the run has gone on from one before them.
    for old in states[:place] + states[place + keep :]:
        old.unlink(missing_ok=True)
    for leftover in directory.glob(".step-*.tmp"):  # of a process that was killed as it wrote
        leftover.unlink(missing_ok=True)
    return path


def list_states(directory: Path) -> list[Path]:
    """Lists the states in a directory, the newest first."""
    if not directory.is_dir():
        return []
    matches = [(path, _FILE.fullmatch(path.name)) for path in directory.iterdir()]
    steps = {path: int(match[1]) for path, match in matches if match}
    return sorted(steps, key=steps.__getitem__, reverse=True)


def read_state(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Reads a state and checks it.

    Returns:
        The variables, and the record.

    Raises:
        CheckpointError: The file is damaged.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    if header.get("digest") != _digest(tensors, header.get("record", "")):
        raise CheckpointError(f"{path} is damaged: its contents do not have the digest it states.")
    return tensors, json.loads(header["record"])


def read_newest_state(directory: Path) -> tuple[Tensors, dict[str, Any]] | None:
    """Reads the newest state that is whole; warns of each that is not.

    Returns:
        The variables and the record; None if there is no state.

    Raises:
        CheckpointError: There are states, and all are damaged.
    """
    paths = list_states(directory)
    for path in paths:
        try:
            return read_state(path)
        except CheckpointError as error:
            logging.warning("%s The one before it is tried.", error)
    if paths:
        raise CheckpointError(
            f"All states in {directory} are damaged. Delete the directory to start anew."
        )
    return None


def _digest(tensors: Tensors, record: str) -> str:
    digest = hashlib.sha256(record.encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
