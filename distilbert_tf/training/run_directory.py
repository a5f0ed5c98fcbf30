"""The files of a run's directory: their names, and which of them a new run replaces.

Needs no TensorFlow.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import logging

from distilbert_tf.checkpoints.hub import CONFIG, WEIGHTS
from distilbert_tf.checkpoints.tensor_files import CheckpointError
from distilbert_tf.files import read_json_object

RUN, METRICS, CARD = "run.json", "metrics.json", "README.md"
CURVES, CONFUSION = "learning_curves.png", "confusion_matrix.png"
STATES, TENSORBOARD, LOGS = "checkpoints", "tensorboard", "logs"
TEACHER_LOGITS = "teacher_logits"
VALIDATION = "validation"  # the split by which the best weights are chosen


def default_output_dir(task: str) -> Path:
    """Returns the default directory of a run; `task` may list several with commas."""
    return Path("runs", task.replace(",", "-"))


def confusion_picture(split: str) -> str:
    """Returns the name of the file with a split's confusion matrix."""
    return CONFUSION if split == VALIDATION else CONFUSION.replace("matrix", split)


@dataclass(frozen=True)
class RunDirectory:
    """The directory of a run.

    Attributes:
        path: The directory.
        names: The names of the models that the run trains.
    """

    path: Path
    names: tuple[str, ...]

    @property
    def models(self) -> dict[str, Path]:
        """Where each model goes: a single one into the directory itself, several below it."""
        return {name: self.path / name if self.names[1:] else self.path for name in self.names}

    @property
    def states(self) -> Path:
        """Where the states of a run that has not ended are."""
        return self.path / STATES

    @property
    def teacher_logits(self) -> Path:
        """Where the logits of a teacher are, until the run ends."""
        return self.path / TEACHER_LOGITS

    @property
    def is_finished(self) -> bool:
        """Whether it holds a finished run: `metrics.json` is written last."""
        return (self.path / METRICS).exists()

    def check(self, model: str | Path, *, overwrite: bool) -> None:
        """Raises if the run would destroy something in the directory.

        Args:
            model: A checkpoint that the run reads.
            overwrite: Whether a finished run may be replaced.

        Raises:
            FileExistsError: There is a finished run, and `overwrite` is false.
            ValueError: The run would write its result over the model.
        """
        for path in (self.path, *self.models.values()):
            if path.exists() and path.resolve() == Path(model).expanduser().resolve():
                raise ValueError(
                    f"{path} would be read and written: a run that fails would lose the model. "
                    "Choose another output_dir."
                )
        if self.is_finished and not overwrite:
            raise FileExistsError(
                f"{self.path} already holds a finished run ({METRICS}). Choose another "
                "output_dir, or pass overwrite=True (--overwrite) to replace it."
            )

    def read_run(self) -> dict[str, Any]:
        """Reads `run.json`; empty if there is none, or a damaged one."""
        try:
            return _read_record(self.path / RUN)
        except (OSError, CheckpointError):
            return {}

    def clear(self, *, overwrite: bool) -> None:
        """Makes the directory, and removes what an earlier run left in it.

        Its scores and pictures would otherwise stand beside another run's weights, and its
        `config.json` where a run with several models has none.

        Raises:
            FileExistsError: There is a checkpoint, and `overwrite` is false.
        """
        places = [self.path, *self.models.values()]
        results = [place / name for place in places for name in (*WEIGHTS, METRICS)]
        earlier = [path for path in results if path.exists()]
        if earlier and not overwrite:
            raise FileExistsError(
                f"{self.path} already holds a checkpoint ({earlier[0].name}). Choose another "
                "output_dir, or pass overwrite=True (--overwrite) to replace it."
            )
        if earlier:
            for place in places:
                for pattern in (CONFIG, CARD, CURVES, confusion_picture("*")):
                    earlier += place.glob(pattern)
            for path in earlier:
                path.unlink(missing_ok=True)
        for name in (STATES, TENSORBOARD):
            shutil.rmtree(self.path / name, ignore_errors=True)
        self.path.mkdir(parents=True, exist_ok=True)


def recorded_data(model: str | os.PathLike[str]) -> Any:
    """Returns where the data of a checkpoint's fine-tuning was: see `load_examples`.

    Args:
        model: Its directory, or that of a run on several tasks.

    Returns:
        What the record beside it says; a single file was the training split. The demo data if there
        is no record, or none of data on a disk.
    """
    for path in (Path(model).expanduser(), Path(model).expanduser().parent):
        if data := RunDirectory(path, ()).read_run().get("data"):
            is_file = isinstance(data, str) and Path(data).expanduser().is_file()
            return {"train": data} if is_file else data
    return "demo"


def find_task_directories(directory: str | os.PathLike[str]) -> list[Path]:
    """Finds the classifiers that a run on several tasks left in a directory.

    Args:
        directory: Holds one directory for each task, named as the task, whose `config.json` says
            so (`task_name`), and no `config.json` itself.

    Returns:
        The tasks' directories: those in the list `tasks` of `run.json`, in its order, if there is
        one, otherwise all by name. Empty if it is no such directory.

    Raises:
        CheckpointError: A `config.json` cannot be read or names another task than its directory,
            or `run.json` cannot be read or lists a task that has no directory.
    """
    parent = Path(directory).expanduser()
    if not parent.is_dir() or (parent / CONFIG).exists():
        return []
    found = {path.parent.name: path.parent for path in sorted(parent.glob(f"*/{CONFIG}"))}
    for name, path in found.items():
        named = _read_record(path / CONFIG).get("task_name")
        if named != name:
            raise CheckpointError(
                f"{path / CONFIG} has task_name={named!r}; in a directory of several tasks it must "
                f"be the name of its own directory, {name!r}. To choose the names yourself, list "
                "the checkpoints one by one."
            )
    if not found or not (parent / RUN).is_file():
        return list(found.values())
    names = _read_record(parent / RUN).get("tasks")
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        return list(found.values())
    if missing := [name for name in names if name not in found]:
        raise CheckpointError(
            f"{parent / RUN} lists the task {missing[0]!r}, but there is no "
            f"{parent / missing[0] / CONFIG}; there are {', '.join(found)}."
        )
    if others := sorted(found.keys() - set(names)):
        logging.warning("Left out, since %s does not list them: %s.", parent / RUN, others)
    return [found[name] for name in names]


def _read_record(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
