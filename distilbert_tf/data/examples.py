"""Labelled text: the examples of a task, from files as GLUE and the hub have them, or memory."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from absl import logging

from distilbert_tf.checkpoints.problem_types import MULTI_LABEL, SINGLE_LABEL
from distilbert_tf.data.file_formats import (
    BadRows,
    DataError,
    Fault,
    Table,
    open_table,
)
from distilbert_tf.data.in_memory import name_table, read_table
from distilbert_tf.data.labels import choose_labels
from distilbert_tf.data.places import Source, explain_absence, find_source
from distilbert_tf.data.rows import (
    UNLABELLED,
    Example,
    find_column,
    is_missing,
    is_no_label,
    read_rows,
)
from distilbert_tf.data.tasks import Task
from distilbert_tf.files import digest_files


@dataclass(frozen=True)
class Examples:
    """Texts, with labels if they have any.

    Attributes:
        texts: One or two tuples of N strings each, one tuple for each text column.
        labels: int32 (N,), label ids; all -1 if labels were not read. Of several labels float32
            (N, C), 1 for each that a row has and 0 for others; of a regression float32 (N,).
        ids: N row ids, from a column `index`, `id` or `idx`; None without such a column, or if it
            holds values other than text and integers.
        files: The files that were read, in order.
        skipped: Number of rows that were skipped.

    Example:
        examples = load_examples(get_task("qqp"), "demo", "validation").take(8)
        questions, other_questions = examples.texts  # 8 strings each
    """

    texts: tuple[tuple[str, ...], ...]
    labels: np.ndarray
    ids: tuple[str, ...] | None = None
    files: tuple[Path, ...] = ()
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, count: int) -> "Examples":
        """Returns the first `count` examples; `files` and `skipped` stay."""
        return self.select(range(min(count, len(self))))

    def select(self, rows: Sequence[int]) -> "Examples":
        """Returns some of the examples, by their places; `files` and `skipped` stay."""
        return replace(
            self,
            texts=tuple(tuple(column[row] for row in rows) for column in self.texts),
            labels=self.labels[np.asarray(rows, int)],
            ids=None if self.ids is None else tuple(self.ids[row] for row in rows),
        )

    def digest(self) -> str:
        """Returns the SHA-256 of the files' current bytes, or, without files, of the examples."""
        if self.files:
            return digest_files(self.files)
        little_endian = self.labels.dtype.newbyteorder("<")
        digest = hashlib.sha256(self.labels.astype(little_endian).tobytes())
        for column in self.texts:
            for text in column:
                digest.update(text.encode() + b"\xff")  # which no text has
        return digest.hexdigest()


def load_examples(
    task: Task,
    data: Any,
    split: str,
    *,
    bad_rows: BadRows = "error",
    labelled: bool = True,
) -> Examples:
    """Reads one split of a task.

    In a directory, the split's file is looked for in the directory itself, then in its
    subdirectories with GLUE's name (`SST-2`), the task's name (`sst2`) and the hub's name. In each
    of these, the names in `task.splits` are tried in order, and for each name the endings `.tsv`,
    `.csv`, `.jsonl`, `.json` and `.parquet`, shards with the hub's names
    (`train-00000-of-00002.parquet`), and a directory of Arrow files as written by
    `datasets.save_to_disk`. The first match is read.

    Args:
        task: Names the columns, labels and files.
        data: `"demo"`, `"hub"` (downloads the split once, then reads it from the local cache), a
            directory; a file; or a table in memory: a pandas data frame, a `datasets.Dataset`, a
            dict of columns, a list of dicts, or `Examples`. A file or a table is the split itself;
            a dict of these (or a `DatasetDict`) has the splits by their names.
        split: A name in `task.splits`, such as `"train"` or `"validation"`.
        bad_rows: What to do with rows that cannot be used: see `read_files`.
        labelled: Whether to read labels. GLUE's test splits have none.

    Returns:
        The examples, in their order.

    Raises:
        FileNotFoundError: There is no such directory or file, or the hub is out of reach.
        DataError: The data do not fit the task; the message says which line and why.
        ValueError: The task has no such split, or no dataset on the hub, or no labels yet.

    Example:
        mood = Task("mood", ("remark",), ("mood",), ("gloomy", "merry"))
        load_examples(mood, {"remark": ["Hooray!"], "mood": ["merry"]}, "train").labels  # [1]
    """
    if labelled and not task.labels:
        raise ValueError(
            f"Task {task.name!r} has no labels yet: name them (labels), or find them in the "
            "training data with `task = find_labels(task, data)`."
        )
    source = _require_source(task, data, split)
    if isinstance(source.table, Examples):
        return _checked_examples(source.table, task, labelled)
    return _read(_open_all(source, task), task, bad_rows, labelled, source.files)


def find_labels(task: Task, data: Any) -> Task:
    """Completes a task with the labels that its training data has; returns others unchanged.

    Args:
        task: A task.
        data: Where its training data is: see `load_examples`.

    Returns:
        The task with labels: those that the data lists itself (`ClassLabel` of `datasets`), or
        else all values of the column, numbers by size and others in alphabetical order.

    Raises:
        DataError: There is no such column, or its values are no labels.
        FileNotFoundError: There is no training data.

    Example:
        task = Task("mood", ("remark",), ("mood",))
        find_labels(task, {"remark": ["Alas.", "Hooray!"], "mood": ["sad", "glad"]}).labels
    """
    if task.labels:
        return task
    source = _require_source(task, data, "train")
    if isinstance(source.table, Examples):
        raise ValueError(f"Name the labels of task {task.name!r}: Examples hold only their ids.")
    names, values, column, places = set(), [], "", []
    several = task.problem_type == MULTI_LABEL
    for where, table in _open_all(source, task):
        places.append(where)
        column = find_column(where, table, task.label_columns)
        names.add(tuple(table.class_names(column)))
        for number, row in table.rows([column]):
            if isinstance(row, Fault) or (several and is_missing(row[0])):
                continue
            for value in task.split_labels(row[0]) if several else row:
                values.append((f"{where}, {table.unit} {number}", value))
    if len(names) == 1 and (listed := names.pop()):
        return replace(task, labels=listed)
    try:
        return replace(task, labels=choose_labels(values))
    except ValueError as error:
        raise DataError(f"{', '.join(places)}: column {column!r} {error}.") from error


def has_labels(task: Task, data: Any, split: str) -> bool:
    """Returns whether a split that is there has a column of labels, with one in its first row.

    Args:
        task: The task.
        data: See `load_examples`.
        split: A name in `task.splits`.
    """
    source = find_source(task, data, split) or Source()
    if isinstance(source.table, Examples):
        return bool((source.table.labels != UNLABELLED).any())
    for _, table in _open_all(source, task):
        columns = [name for name in task.label_columns if name in table.columns]
        for _, row in table.rows(columns[:1]):
            if not isinstance(row, Fault):
                return bool(columns) and not is_no_label(task, row[0])
    return False


def list_columns(data: Any) -> tuple[str, list[str]]:
    """Returns the name of the first table of training data, and its columns.

    Raises:
        FileNotFoundError: There is no training data under a usual name.
        DataError: It cannot be read.
    """
    task = Task("data", ("text",), ("label",))
    where, table = next(_open_all(_require_source(task, data, "train"), task))
    return where, [str(column) for column in table.columns]


def _require_source(task: Task, data: Any, split: str) -> Source:
    source = find_source(task, data, split)
    if source is None:
        raise FileNotFoundError(explain_absence(task, data, split))
    return source


def _open_all(source: Source, task: Task) -> Iterator[tuple[str, Table]]:
    """Yields the tables of a source, each with its name."""
    for path in source.files:
        yield str(path), open_table(path, quoted_tsv=task.quoted_tsv)
    if source.table is not None:
        yield name_table(source.table), read_table(source.table)


def _checked_examples(examples: Examples, task: Task, labelled: bool) -> Examples:
    if len(examples.texts) != len(task.text_columns):
        raise DataError(
            f"The examples have {len(examples.texts)} texts each; task {task.name!r} has "
            f"{len(task.text_columns)} ({', '.join(task.text_columns)})."
        )
    if not len(examples):
        raise DataError("The examples have no rows.")
    if task.problem_type != SINGLE_LABEL:
        shape = (len(examples), len(task.labels))[: 1 + (task.problem_type == MULTI_LABEL)]
        if labelled and examples.labels.shape != shape:
            raise DataError(
                f"The labels of the examples have the shape {examples.labels.shape}; those of a "
                f"{task.problem_type} have {shape}."
            )
        return examples
    lowest, highest = examples.labels.min(), examples.labels.max()
    if labelled and not 0 <= lowest <= highest < len(task.labels):
        raise DataError(
            f"The examples have label ids from {lowest} to {highest}; task {task.name!r} has 0 to "
            f"{len(task.labels) - 1}: {', '.join(task.labels)}."
        )
    return examples


def read_files(
    files: Sequence[Path], task: Task, *, bad_rows: BadRows = "error", labelled: bool = True
) -> Examples:
    """Reads files as one split, each in the format given by its ending.

    Columns are found by name, so there may be more than needed, in any order. Text is UTF-8; a
    byte-order mark and the CR of line ends are removed, and all else is kept, including NUL.

    - `.tsv`: tab-separated with a header; `task.quoted_tsv` says whether fields may be quoted.
    - `.csv`: comma-separated with a header; quoted fields may hold commas, quotes and line ends. If
      the header has no comma, semicolons, tabs or vertical bars separate.
    - `.jsonl`: one JSON object per line. `.json`: the same, or one list of objects.
    - `.parquet`, and `.arrow` in Arrow's stream format; both need pyarrow. Integers in a
      column for which the file lists label names (`ClassLabel` of `datasets`) are read as those.

    A row is bad if it is not UTF-8 or not of its format, if it has more or fewer fields than the
    header, if a text is missing, null or not a string, or if its label is missing or unknown to
    `Task.label_id`. An empty text is valid. Blank lines at the end are no rows.

    Args:
        files: Files of one split, at least one.
        task: Names the columns and labels.
        bad_rows: `"error"` to stop at the first bad row; `"skip"` to skip bad rows, count them in
            `Examples.skipped`, and log a warning with the number of rows for each reason.
        labelled: Whether to read labels.

    Returns:
        The examples, in file order.

    Raises:
        DataError: A file cannot be read, a column is missing, a row is bad, no row is left, or
            pyarrow is missing.
    """
    return _read(_open_all(Source(tuple(files)), task), task, bad_rows, labelled, files)


def _read(
    tables: Iterable[tuple[str, Table]],
    task: Task,
    bad_rows: BadRows,
    labelled: bool,
    files: Sequence[Path] = (),
) -> Examples:
    if bad_rows not in get_args(BadRows):
        raise ValueError(f"bad_rows is {bad_rows!r}; it must be one of {get_args(BadRows)}.")
    rows: list[Example] = []
    faults: list[Fault] = []
    places = []
    for where, table in tables:
        places.append(where)
        for row in read_rows(where, table, task, labelled):
            if not isinstance(row, Fault):
                rows.append(row)
            elif bad_rows == "error":
                raise DataError(
                    f"{row.detail}. (bad_rows='skip', or --bad_rows=skip, leaves such rows out.)"
                )
            else:
                faults.append(row)
    names = ", ".join(places)
    if not rows:
        reason = f"no usable row: {_summarize(faults)}" if faults else "no rows"
        raise DataError(f"{names} has {reason}.")
    if faults:
        total = len(faults) + len(rows)
        logging.warning(
            "Skipped %d of %d rows of %s: %s.", len(faults), total, names, _summarize(faults)
        )
    ids = [row.id for row in rows if row.id is not None]
    return Examples(
        tuple(zip(*(row.texts for row in rows), strict=True)),
        np.array(
            [row.label for row in rows],
            np.int32 if task.problem_type == SINGLE_LABEL or not labelled else np.float32,
        ),
        tuple(ids) if len(ids) == len(rows) else None,
        tuple(files),
        len(faults),
    )


def _summarize(faults: Sequence[Fault]) -> str:
    kinds = Counter(fault.kind for fault in faults)
    first = {fault.kind: fault.detail for fault in reversed(faults)}
    return "; ".join(
        f"{kind} {count} times, first in {first[kind]}" for kind, count in kinds.most_common()
    )
