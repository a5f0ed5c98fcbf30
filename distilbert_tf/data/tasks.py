"""Classification tasks as data: their columns, labels, files and metrics.

This module reads no data: `distilbert_tf.data.examples` does, as described by a `Task`.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, SupportsIndex

from distilbert_tf.checkpoints.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from distilbert_tf.data.labels import INTEGER, read_number, spellings
from distilbert_tf.files import read_json_object
from distilbert_tf.spelling import suggest

# By problem type, the usual ones first.
METRIC_NAMES = {
    SINGLE_LABEL: ("accuracy", "f1", "macro_f1", "matthews_correlation"),
    MULTI_LABEL: ("micro_f1", "macro_f1", "accuracy"),
    REGRESSION: ("pearson", "r2"),
}


def _usual_splits() -> dict[str, tuple[str, ...]]:
    return {
        "train": ("train", "training"),
        "validation": ("dev", "validation", "val", "valid"),
        "test": ("test",),
    }


@dataclass(frozen=True)
class Task:
    """A text classification task. To add a task of your own, make another `Task(...)`.

    Attributes:
        name: Its name on the command line, and of its directory.
        text_columns: The column of the text, or the two columns of a pair.
        label_columns: Possible names of the label's column; the first one present is used. A single
            column or metric may be a string.
        labels: Label names, ordered by id. If not given, `find_labels` finds them in the training
            data; `finetune` does so itself.
        label_values: How each label is written in the files, in the same order; `labels` if not
            given.
        splits: Possible names of each split's file, with or without the ending; the first one
            found is read. A single name may be a string. By default the usual names.
        folder: GLUE's own name for the task's directory.
        aliases: Alternative names of text columns, each with the name in `text_columns`.
        metrics: What models are evaluated by, names in `METRIC_NAMES`. The first one chooses the
            best checkpoint. `"f1"` is the F1 score of label 1, of two labels; the accuracy of
            several labels is the share of rows of which all are right. By default the accuracy; of
            several labels the micro F1 as well; of numbers Pearson's correlation and R2.
        submission: For each split that GLUE scores, the name of its submission file; by default
            that of `test` is named after the task.
        hub_dataset: The dataset's repository on the hub; none if empty.
        hub_config: The task's directory in that repository; `name` if not given.
        validation_share: Of the training rows, how many `finetune` holds out for validation if
            there is no validation split.
        validation_seed: Which rows these are.
        problem_type: What the label of a row is, as in transformers' configurations:
            `"single_label_classification"`, one of the labels; `"multi_label_classification"`, any
            number of them; `"regression"`, a number. Several labels are a list, or text with
            `label_separator`; or each has a column, which holds 1 or 0, and all are
            `label_columns`. The only label of a regression is its column.
        label_separator: What stands between the labels of a row that has several.
        quoted_tsv: Whether fields of `.tsv` files may be quoted as in CSV; if None, each file shows
            it. GLUE's are not: quotation marks in them are plain characters.

    Example:
        tickets = Task("tickets", ("subject", "body"), ("queue",), ("billing", "network"))
        tickets.label_id("network")  # 1
        tickets.splits["validation"]  # ("dev", "validation", "val", "valid")
    """

    name: str
    text_columns: tuple[str, ...]
    label_columns: tuple[str, ...]
    labels: tuple[str, ...] = ()
    label_values: tuple[str, ...] = ()
    splits: dict[str, tuple[str, ...]] = field(default_factory=_usual_splits)
    folder: str = ""
    aliases: dict[str, str] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    submission: dict[str, str] = field(default_factory=dict)
    hub_dataset: str = ""
    hub_config: str = ""
    validation_share: float = 0.1
    validation_seed: int = 42
    problem_type: str = SINGLE_LABEL
    label_separator: str = ";"
    quoted_tsv: bool | None = None

    def __post_init__(self) -> None:
        splits = {
            split: (stems,) if isinstance(stems, str) else tuple(stems)
            for split, stems in self.splits.items()
        }
        object.__setattr__(self, "splits", splits)
        for name in ("text_columns", "label_columns", "metrics"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        if self.problem_type == REGRESSION:
            object.__setattr__(self, "labels", self.labels or self.label_columns[:1])
        if self.has_indicators:
            object.__setattr__(self, "labels", self.labels or self.label_columns)
        if not self.metrics and self.problem_type in METRIC_NAMES:
            count = 1 if self.problem_type == SINGLE_LABEL else None
            object.__setattr__(self, "metrics", METRIC_NAMES[self.problem_type][:count])
        for name in ("labels", "label_values"):
            object.__setattr__(self, name, self._read_labels(name))
        object.__setattr__(self, "label_values", self.label_values or self.labels)
        object.__setattr__(self, "hub_config", self.hub_config or self.name)
        if not self.submission and "test" in self.splits:
            object.__setattr__(self, "submission", {"test": f"{self.name}.tsv"})
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
        if self.problem_type not in METRIC_NAMES:
            kinds = ", ".join(METRIC_NAMES)
            yield f"has the problem_type {self.problem_type!r}, which is none of {kinds}"
        elif self.problem_type == REGRESSION and len(self.labels) != 1:
            yield f"is a regression, which has one column and label; got {self.labels}"
        elif (
            self.problem_type != REGRESSION
            and self.labels
            and (len(self.labels) < 2 or len(set(self.labels)) != len(self.labels))
        ):
            yield f"needs two or more different labels; got {self.labels}"
        if self.has_indicators and len(self.labels) != len(self.label_columns):
            columns = self.label_columns
            yield f"has {len(self.labels)} labels, but a column for each of {', '.join(columns)}"
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
        if not self.metrics or set(self.metrics) - set(METRIC_NAMES[self.problem_type]):
            known = ", ".join(METRIC_NAMES[self.problem_type])
            yield f"needs metrics out of {known}; got {self.metrics}"
        if "f1" in self.metrics and self.labels and len(self.labels) != 2:
            yield (
                f"has {len(self.labels)} labels, but the metric 'f1' is that of label 1 of two; "
                "'macro_f1' is for more"
            )
        for split in self.submission:
            if split not in self.splits:
                yield f"has a submission file for {split!r}, which is not one of its splits"
        share = self.validation_share
        if not isinstance(share, int | float) or not 0 < share < 1:
            yield f"needs a validation_share between 0 and 1; got {share!r}"

    @property
    def is_pair(self) -> bool:
        """Whether an example is two texts."""
        return len(self.text_columns) == 2

    @property
    def has_indicators(self) -> bool:
        """Whether each label has a column of its own."""
        return self.problem_type == MULTI_LABEL and len(self.label_columns) > 1

    @property
    def id2label(self) -> dict[int, str]:
        """Label names by id, as a configuration holds them."""
        return dict(enumerate(self.labels))

    @cached_property
    def _ids(self) -> dict[str, int]:
        """Label ids by all spellings of a label in a file; `label_values` take precedence."""
        names = {name: i for i, name in enumerate(self.labels)}
        names.update({value: i for i, value in enumerate(self.label_values)})
        if any(INTEGER.fullmatch(name) for name in names):
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
        the label that is written like it, and never an id. A float without a fraction is its
        integer: columns of integers become floats where a value is missing.

        Args:
            value: The value in the file.

        Returns:
            The id, from 0.

        Raises:
            ValueError: The value is not a label; the message lists what is allowed.
        """
        for written in spellings(value):
            if written in self._ids:
                return self._ids[written]
        raise ValueError(
            f"the label {value!r} is none of {', '.join(self._ids)}{suggest(str(value), self._ids)}"
        )

    def read_label(self, value: object) -> int | float | list[float]:
        """Reads the label of a row, as `problem_type` has it.

        Args:
            value: The value in the file; of a column for each label, a list of their values.

        Returns:
            A label id; or a number; or, for each label, 1 if the row has it, and 0 if not.

        Raises:
            ValueError: It is no such label.
        """
        if self.problem_type == SINGLE_LABEL:
            return self.label_id(value)
        if self.problem_type == REGRESSION:
            return read_number(value)
        if self.has_indicators and isinstance(value, Iterable):
            numbers = [read_number(one) for one in value]
            if wrong := [number for number in numbers if number not in (0.0, 1.0)]:
                raise ValueError(f"{wrong[0]:g} is neither 1 nor 0, which say if a row has a label")
            return numbers
        found = {self.label_id(one) for one in self.split_labels(value)}
        return [float(number in found) for number in range(len(self.labels))]

    def split_labels(self, value: object) -> list[Any]:
        """Returns the labels in a cell of several: a list, or text with separators."""
        if isinstance(value, str):
            return [part for one in value.split(self.label_separator) if (part := one.strip())]
        return list(value) if isinstance(value, Iterable) else [value]

    def record(self) -> dict[str, Any]:
        """Returns the fields that were given, as JSON has them: see `read_task`."""
        usual = Task(
            self.name, self.text_columns, self.label_columns, self.labels,
            problem_type=self.problem_type,
        )  # fmt: skip
        given = {
            one.name: value
            for one in dataclasses.fields(self)
            if (value := getattr(self, one.name)) != getattr(usual, one.name)
            or one.name in ("name", "text_columns", "label_columns", "labels")
        }
        if self.problem_type != SINGLE_LABEL:
            given["problem_type"] = self.problem_type
        return json.loads(json.dumps(given))


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
            quoted_tsv=False,
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
            quoted_tsv=False,
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
            quoted_tsv=False,
        ),
    )
}


def read_task(record: Mapping[str, Any], where: object, name: str | None = None) -> Task:
    """Makes a task of its fields in JSON.

    Args:
        record: Fields of `Task`, as `Task.record` returns them.
        where: Where they stand, for messages.
        name: The task's name if the record has none.

    Returns:
        The task.

    Raises:
        ValueError: A field is unknown, missing or impossible.

    Example:
        read_task({"name": "mood", "text_columns": ["remark"], "label_columns": ["mood"]}, "here")
    """
    known = [one.name for one in dataclasses.fields(Task)]
    if not isinstance(record, Mapping):
        raise ValueError(f"{where} is not a JSON object with the fields of a task: {known}.")
    fields = {"name": name, **record} if name else dict(record)
    for one in fields:
        if one not in known:
            raise ValueError(
                f"{where} has the field {one!r}{suggest(one, known)}; a task's are "
                f"{', '.join(known)}."
            )
    if missing := [one for one in known[:3] if not fields.get(one)]:
        raise ValueError(f"{where} has no {missing[0]}, which a task needs.")
    return Task(**fields)


def get_task(task: str | Path | Task) -> Task:
    """Looks up a task by name, or reads one from a JSON file; returns a `Task` unchanged.

    Args:
        task: A name in `TASKS`, or a file that ends in `.json`, with fields of `Task`:
            `{"text_columns": ["subject", "body"], "label_columns": ["queue"]}`. Its name is that
            of the file, unless it has one.

    Raises:
        FileNotFoundError: There is no such file.
        TypeError: It is neither a name nor a task.
        ValueError: There is no task of that name, or the file does not hold one.
    """
    if isinstance(task, Task):
        return task
    if not isinstance(task, str | Path):
        raise TypeError(
            f"A task is a Task, a name ({', '.join(TASKS)}) or a .json file; got "
            f"{type(task).__name__}. A table of examples is passed as data."
        )
    task = str(task)
    if task in TASKS:
        return TASKS[task]
    if not task.endswith(".json"):
        raise ValueError(
            f"There is no task {task!r}; known are {', '.join(TASKS)}{suggest(task, TASKS)}. For "
            "one of your own, name its columns (--text_columns and --label_column, or a Task), or "
            "a .json file with them."
        )
    path = Path(task).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"There is no task file {path}.")
    return read_task(read_json_object(path), path, path.stem)
