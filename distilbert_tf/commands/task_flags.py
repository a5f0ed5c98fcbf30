"""The flags that say which task a command works on, and where its data is."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from distilbert_tf.commands.common_flags import UsageError, define_flag
from distilbert_tf.data.tasks import METRIC_NAMES, TASKS, Task, get_task

_FILES = ("train", "validation", "test")
_LISTS = {
    "text_columns": "text_columns",
    "label_columns": "label_column",
    "labels": "labels",
    "metrics": "metrics",
}
_METRICS = ", ".join(dict.fromkeys(name for names in METRIC_NAMES.values() for name in names))


def define_task(values: flags.FlagValues, text: str, data_text: str, data: str | None) -> None:
    """Defines the flags of a task and of its data.

    Args:
        values: Where.
        text: The help of `--task`.
        data_text: The end of the help of `--data`.
        data: The default of `--data`.
    """
    define_flag(values, "task", None, text, kind=str)
    place = "directory with the task's files, or a single file; 'hub', or 'demo'"
    define_flag(values, "data", data, f"{place}{data_text}", kind=str)
    help_of = {
        "text_columns": "the column of the text, or the two of a pair",
        "labels": "its labels, in the order of their ids (default: all in the training data)",
        "label_column": "its column of labels; of several labels a row, one, or one for each label",
        "metrics": f"its scores, the first one chooses the checkpoint: {_METRICS}",
    }
    for name, help_text in help_of.items():
        define_flag(values, name, None, f"for a task of your own: {help_text}", kind=list)
    text = "what the label of a row is: one of the labels, any number of them, or a number"
    define_flag(values, "problem_type", None, text, kind=str, choices=tuple(METRIC_NAMES))
    for split in _FILES:
        text = f"file of the {split} split, in --data or anywhere, if it has no usual name"
        define_flag(values, f"{split}_file", None, text, kind=str)
    text = "share of the training rows held out for validation if there is no validation file"
    define_flag(values, "validation_share", None, f"{text} (default: 0.1)", kind=float)


def read_task(
    values: flags.FlagValues, find: Callable[[], Task] | None = None
) -> str | Task | None:
    """Returns the task that the flags describe.

    Args:
        values: The flags.
        find: Finds the task that the other flags change, if `--task` is not given.

    Returns:
        The value of `--task` if there are no other flags; otherwise the task named there, or
        found, or a new one, with what the others say.

    Raises:
        UsageError: The flags describe no task.
    """
    given: dict[str, Any] = {
        field: tuple(value) for field, name in _LISTS.items() if (value := values[name].value)
    }
    for name in ("problem_type", "validation_share"):
        if values[name].value is not None:
            given[name] = values[name].value
    files = {
        split: (_place(f"{split}_file", file, values.data),)
        for split in _FILES
        if (file := values[f"{split}_file"].value)
    }
    if not given and not files:
        return values.task
    if values.task and "," in values.task:
        raise UsageError(
            "--text_columns, --label_column and the like describe one task, not several"
        )
    if values.task in TASKS or str(values.task).endswith(".json"):
        base = get_task(values.task)
    elif {"text_columns", "label_columns"} <= given.keys():
        place = values.data if values["data"].present else values.train_file or "task"
        base = Task(values.task or Path(place).resolve().stem, **given)
    elif find is not None:
        base = find()
    else:
        raise UsageError("a task of your own needs both --text_columns and --label_column")
    if "labels" in given:
        given["label_values"] = ()
    if "text_columns" in given:
        given["aliases"] = {}
    if "problem_type" in given:
        given = {"labels": (), "label_values": (), "metrics": (), **given}
    return dataclasses.replace(base, **given, splits={**base.splits, **files})


def _place(flag: str, name: str, data: str | None) -> str:
    """Returns a file's name as the data directory has it, or else its whole path.

    Raises:
        UsageError: It is in neither place.
    """
    path = Path(name).expanduser()
    if data is not None and (Path(data).expanduser() / path).exists():
        return name
    if not path.exists():
        there = f", nor in {data}" if data is not None else ""
        raise UsageError(f"there is no file {name} here{there} (--{flag})")
    return str(path.resolve())
