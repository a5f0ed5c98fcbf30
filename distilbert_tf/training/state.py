"""The whole state of a run in files, from which it resumes whatever ended it.

One safetensors file holds all variables (weights, dropout's steps, the optimizer's moments, running
metrics) and, in its header, a JSON record of how far the run has come and a digest of the rest.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import safetensors
import tensorflow as tf
from absl import logging
from safetensors.numpy import save_file

from distilbert_tf.checkpoints.tensor_files import CheckpointError, Tensors
from distilbert_tf.files import replacing

_FILE = re.compile(r"step-(\d+)\.safetensors")


@dataclasses.dataclass
class Progress:
    """How far a run has come. The callbacks of a run share one, and keep it up to date.

    Steps are counted over the whole run, from 1.

    Attributes:
        steps_per_epoch: Optimizer steps in an epoch.
        step: Steps taken.
        previous_step: Steps taken before the last execution, which may have several.
        train_time_s: Seconds of training, evaluations included, in all processes of the run.
        epochs: What `fit` logged of each epoch.
        evaluations: Each with its `score`, `epoch` (counted from 1), `step` and figures.
        losses: Pairs of a step and the mean training loss since the pair before.
    """

    steps_per_epoch: int
    step: int = 0
    previous_step: int = 0
    train_time_s: float = 0.0
    epochs: list[dict[str, float]] = dataclasses.field(default_factory=list)
    evaluations: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    losses: list[tuple[int, float]] = dataclasses.field(default_factory=list)

    @property
    def epoch(self) -> int:
        """The epoch of the last step, counted from 1."""
        return -(-self.step // self.steps_per_epoch)

    @property
    def ends_epoch(self) -> bool:
        """Whether no step of an epoch is left."""
        return self.step % self.steps_per_epoch == 0

    @property
    def best(self) -> dict[str, Any] | None:
        """The evaluation with the best score, of equal ones that with the least loss, or the first.

        None before the first evaluation.
        """
        return max(
            self.evaluations, key=lambda found: (found["score"], -found["loss"]), default=None
        )

    def advance(self, batch: int) -> None:
        """Counts the steps of an execution up to one of this number within its epoch, from 0."""
        self.previous_step = self.step
        self.step += batch + 1 - self.step % self.steps_per_epoch

    def passed(self, every: int) -> bool:
        """Whether a multiple of this number is among the steps of the last execution."""
        return self.step // every > self.previous_step // every

    def is_out_of_patience(self, patience: int | None) -> bool:
        """Whether the last evaluations, this many, had no better score; False if None."""
        if patience is None or self.best is None:
            return False
        return len(self.evaluations) - 1 - self.evaluations.index(self.best) >= patience


class State(NamedTuple):
    """A state of a run.

    Attributes:
        tensors: All variables.
        record: How far the run had come, and what tells it from others; JSON.
    """

    tensors: Tensors
    record: dict[str, Any]


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
    """Puts back what `read_variables` returned.

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
    """Writes a state under a temporary name, renames it, and removes all but the newest.

    Args:
        directory: Where states are; made if missing.
        step: Steps taken since the run began; the file's name has it.
        tensors: All variables.
        record: See `State`.
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
    # Those of later steps are damaged: the run was resumed from one before them.
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


def read_state(path: Path) -> State:
    """Reads a state and checks it.

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
    return State(tensors, json.loads(header["record"]))


def read_newest_state(directory: Path) -> State | None:
    """Reads the newest state that is whole; warns of each that is not.

    Returns:
        The state; None if there is none.

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
            f"All states in {directory} are damaged. Delete the directory to start over."
        )
    return None


def _digest(tensors: Tensors, record: str) -> str:
    digest = hashlib.sha256(record.encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
