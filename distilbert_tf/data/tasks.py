"""Classification tasks as data: their columns, labels, files and metrics.

This module reads no files: `distilbert_tf.data.examples` does, as described by a `Task`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import SupportsIndex

METRIC_NAMES = ("accuracy", "f1", "macro_f1", "matthews_correlation")

_INTEGER = re.compile("-?[0-9]+")


def _usual_splits() -> dict[str, tuple[str, ...]]:
    return {"train": ("train",), "validation": ("dev", "validation"), "test": ("test",)}


@dataclass(frozen=True)
class Task:
    """A text classification task. To add a task of your own, make another `Task(...)`.

    Attributes:
        name: Its name on the command line, and of its directory.
        text_columns: The column of the text, or the two columns of a pair.
        label_columns: Possible names of the label's column; the first one present is used. A single
            column or metric may be a string.
        labels: Label names, ordered by id.
        label_values: How each label is written in the files, in the same order; `labels` if not
            given.
        splits: Possible names of each split's file, without the ending; the first one found is
            read. A single name may be a string. By default GLUE's names and the hub's.
        folder: GLUE's own name for the task's directory.
        aliases: Alternative names of text columns, each with the name in `text_columns`.
        metrics: What models are evaluated by, names in `METRIC_NAMES`. The first one chooses the
            best checkpoint. `"f1"` is the F1 score of label 1, of two labels.
        submission: For each split that GLUE scores, the name of its submission file.
        hub_dataset: The dataset's repository on the hub; none if empty.
        hub_config: The task's directory in that repository; `name` if not given.

    Example:
        tickets = Task("tickets", ("subject", "body"), ("queue",), ("billing", "network"))
        tickets.label_id("network")  # 1
        tickets.splits["validation"]  # ("dev", "validation")
    """

    name: str
    text_columns: tuple[str, ...]
    label_columns: tuple[str, ...]
    labels: tuple[str, ...]
    label_values: tuple[str, ...] = ()
    splits: dict[str, tuple[str, ...]] = field(default_factory=_usual_splits)
    folder: str = ""
    aliases: dict[str, str] = field(default_factory=dict)
    metrics: tuple[str, ...] = ("accuracy",)
    submission: dict[str, str] = field(default_factory=dict)
    hub_dataset: str = ""
    hub_config: str = ""

    def __post_init__(self) -> None:
        splits = {
            split: (stems,) if isinstance(stems, str) else tuple(stems)
            for split, stems in self.splits.items()
        }
        object.__setattr__(self, "splits", splits)
        for name in ("text_columns", "label_columns", "metrics"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        for name in ("labels", "label_values"):
            object.__setattr__(self, name, self._read_labels(name))
        object.__setattr__(self, "label_values", self.label_values or self.labels)
        object.__setattr__(self, "hub_config", self.hub_config or self.name)
        for complaint in self._complaints():
            raise ValueError(f"Task {self.name!r} {complaint}.")

    def _read_labels(self, name: str) -> tuple[str, ...]:
        """Returns labels as strings: an integer is the label that is written like it."""
        labels = getattr(self, name)
        what = f"Task {self.name!r} has {name}={labels!r}"
        if isinstance(labels, str):
            raise ValueError(f"{what}, one string; give a tuple with a string for each label.")
        for i, label in enumerate(labels):
            if isinstance(label, bool) or not isinstance(label, str | SupportsIndex):
                raise ValueError(
                    f"{what}; label {i} is a {type(label).__name__}, {label!r}: write it as a "
                    "string, as it stands in the files."
                )
        return tuple(x if isinstance(x, str) else str(x.__index__()) for x in labels)

    def _complaints(self) -> Iterator[str]:
        if len(self.text_columns) not in (1, 2):
            yield f"needs one text column or two; got {self.text_columns}"
        for name in (*self.text_columns, *self.label_columns):
            if not isinstance(name, str):
                yield f"has a column {name!r}; names of columns are strings"
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            yield f"needs two or more different labels; got {self.labels}"
        if len(self.label_values) != len(self.labels):
            yield f"has {len(self.labels)} labels, but {len(self.label_values)} label_values"
        for names in (self.label_values, self.labels):
            for label_id, name in enumerate(names):
                if self._ids[name] != label_id:
                    yield (
                        f"reads {name!r} as label {self._ids[name]} and as label {label_id}: see "
                        f"its labels {self.labels} and label_values {self.label_values}"
                    )
        for split, stems in self.splits.items():
            if not stems:
                yield f"names no file for the split {split!r}"
        for column in self.aliases.values():
            if column not in self.text_columns:
                columns = self.text_columns
                yield f"has an alias for {column!r}, which is not one of its text columns {columns}"
        if not self.metrics or set(self.metrics) - set(METRIC_NAMES):
            yield f"needs metrics out of {', '.join(METRIC_NAMES)}; got {self.metrics}"
        if "f1" in self.metrics and len(self.labels) != 2:
            yield (
                f"has {len(self.labels)} labels, but the metric 'f1' is that of label 1 of two; "
                "'macro_f1' is for more"
            )
        for split in self.submission:
            if split not in self.splits:
                yield f"has a submission file for {split!r}, which is not one of its splits"

    @property
    def is_pair(self) -> bool:
        """Whether an example is two texts."""
        return len(self.text_columns) == 2

    @property
    def id2label(self) -> dict[int, str]:
        """Label names by id, as a configuration holds them."""
        return dict(enumerate(self.labels))

    @cached_property
    def _ids(self) -> dict[str, int]:
        """Label ids by all spellings of a label in a file; `label_values` take precedence."""
        names = {name: i for i, name in enumerate(self.labels)}
        names.update({value: i for i, value in enumerate(self.label_values)})
        if any(_INTEGER.fullmatch(name) for name in names):
            return names  # a rating of 1 is the label "1", not the second of the labels
        return {**names, **{str(i): i for i in range(len(self.labels))}}

    def names_of(self, text_column: str) -> tuple[str, ...]:
        """Returns all names of a text column, its own first."""
        others = (alias for alias, column in self.aliases.items() if column == text_column)
        return (text_column, *others)

    def label_id(self, value: object) -> int:
        """Returns the id of a label as written in a file.

        A label is written as one of `label_values` or `labels`, exactly, or as its id: an integer
        or its digits. Where labels are themselves numbers (ratings from 1 to 5), an integer means
        the label that is written like it, and never an id.

        Args:
            value: The value in the file.

        Returns:
            The id, from 0.

        Raises:
            ValueError: The value is not a label; the message lists what is allowed.
        """
        written: str | None = None
        if isinstance(value, str):
            written = value
        elif isinstance(value, SupportsIndex) and not isinstance(value, bool):
            # JSON and Parquet have integers, which are looked up by their digits. True is not 1.
            written = str(value.__index__())
        if written is None or written not in self._ids:
            raise ValueError(f"the label {value!r} is none of {', '.join(self._ids)}")
        return self._ids[written]


GLUE_ON_THE_HUB = "nyu-mll/glue"

TASKS = {
    task.name: task
    for task in (
        Task(
            name="sst2",
            text_columns=("sentence",),
            label_columns=("label",),
            labels=("negative", "positive"),
            label_values=("0", "1"),
            folder="SST-2",
            submission={"test": "SST-2.tsv"},
            hub_dataset=GLUE_ON_THE_HUB,
        ),
        Task(
            name="mnli",
            text_columns=("sentence1", "sentence2"),
            label_columns=("gold_label", "label"),
            labels=("entailment", "neutral", "contradiction"),
            splits={
                "train": ("train",),
                "validation": ("dev_matched", "validation_matched"),
                "validation_mismatched": ("dev_mismatched", "validation_mismatched"),
                "test": ("test_matched",),
                "test_mismatched": ("test_mismatched",),
            },
            folder="MNLI",
            aliases={"premise": "sentence1", "hypothesis": "sentence2"},
            submission={"test": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv"},
            hub_dataset=GLUE_ON_THE_HUB,
        ),
        Task(
            name="qqp",
            text_columns=("question1", "question2"),
            label_columns=("is_duplicate", "label"),
            labels=("not_duplicate", "duplicate"),
            label_values=("0", "1"),
            folder="QQP",
            metrics=("accuracy", "f1"),
            submission={"test": "QQP.tsv"},
            hub_dataset=GLUE_ON_THE_HUB,
        ),
    )
}


def get_task(task: str | Task) -> Task:
    """Looks up a task by name; returns a `Task` unchanged.

    Raises:
        ValueError: There is no task of that name.
    """
    if isinstance(task, Task):
        return task
    if task not in TASKS:
        raise ValueError(f"There is no task {task!r}; known are {', '.join(TASKS)}.")
    return TASKS[task]
