"""The flags that say which task a command works on, and where its data is."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from distilbert_tf.commands.common_flags import UsageError, define_flag
from distilbert_tf.data.tasks import METRIC_NAMES, TASKS, Task, get_task

_FILES = ("train", "validation", "test")


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
        "text_columns": "for a task of your own: the column of the text, or the two of a pair",
        "labels": "its labels, in the order of their ids (default: all in the training data)",
        "metrics": f"its scores, the first one chooses the checkpoint: {', '.join(METRIC_NAMES)}",
    }
    for name, help_text in help_of.items():
        define_flag(values, name, None, help_text, kind=list)
    define_flag(values, "label_column", None, "its column of labels", kind=str)
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
    lists = {name: tuple(value) for name in ("text_columns", "labels", "metrics")
             if (value := values[name].value)}  # fmt: skip
    given: dict[str, Any] = dict(lists)
    if values.label_column:
        given["label_columns"] = (values.label_column,)
    if values.validation_share is not None:
        given["validation_share"] = values.validation_share
    files = {
        split: (_place(name, values.data),)
        for split in _FILES
        if (name := values[f"{split}_file"].value)
    }
    if not given and not files:
        return values.task
    if values.task and "," in values.task:
        raise UsageError(
            "--text_columns, --label_column and the like describe one task, not several"
        )
    is_own = {"text_columns", "label_columns"} <= given.keys()
    if values.task in TASKS or str(values.task).endswith(".json"):
        base = get_task(values.task)
    elif is_own:
        place = values.data if values["data"].present else values.train_file or "task"
        name = values.task or Path(place).resolve().stem
        base = Task(name, given["text_columns"], given["label_columns"])
    elif find is not None:
        base = find()
    else:
        raise UsageError("a task of your own needs both --text_columns and --label_column")
    if "labels" in given:
        given["label_values"] = ()
    if "text_columns" in given:
        given["aliases"] = {}
    return dataclasses.replace(base, **given, splits={**base.splits, **files})


def _place(name: str, data: str | None) -> str:
    """Returns a file's name as the data directory has it, or else its whole path."""
    path = Path(name).expanduser()
    is_in_data = data is not None and (Path(data).expanduser() / path).is_file()
    return str(path.resolve()) if path.is_file() and not is_in_data else name
