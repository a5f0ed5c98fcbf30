"""Labelled text: reads the examples of a task from files in GLUE's layout or the hub's.

This is the only place where the contents of rows are checked, whatever format they come from.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from absl import logging

from distilbert_tf.checkpoints.hub import find_dataset
from distilbert_tf.data.file_formats import (
    ARROW,
    ENDINGS,
    BadRows,
    DataError,
    Fault,
    Table,
    is_unicode,
    open_table,
)
from distilbert_tf.data.tasks import Task
from distilbert_tf.files import digest_files

DEMO, HUB = "demo", "hub"
DEMO_DATA = Path(__file__).parent / "demo_data"
ID_COLUMNS = ("index", "id", "idx")
UNLABELLED = -1  # as in the hub's test splits


@dataclass(frozen=True)
class Examples:
    """Texts, with labels if they have any.

    Attributes:
        texts: One or two tuples of N strings each, one tuple for each text column.
        labels: int32 (N,), label ids; all -1 if labels were not read.
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
        return replace(
            self,
            texts=tuple(column[:count] for column in self.texts),
            labels=self.labels[:count],
            ids=None if self.ids is None else self.ids[:count],
        )

    def digest(self) -> str:
        """Returns the SHA-256 of the files' current bytes, one file after another.

        Raises:
            ValueError: The examples come from no file.
        """
        if not self.files:
            raise ValueError("These examples come from no file, so there is nothing to digest.")
        return digest_files(self.files)


def load_examples(
    task: Task,
    data: str | Path,
    split: str,
    *,
    bad_rows: BadRows = "error",
    labelled: bool = True,
) -> Examples:
    """Reads one split of a task.

    The split's file is looked for in the directory itself, then in its subdirectories with GLUE's
    name (`SST-2`), the task's name (`sst2`) and the hub's name. In each of these, the names in
    `task.splits` are tried in order, and for each name the endings `.tsv`, `.csv`, `.jsonl`,
    `.json` and `.parquet`, shards with the hub's names (`train-00000-of-00002.parquet`), and a
    directory of Arrow files as written by `datasets.save_to_disk`. The first match is read.

    Args:
        task: Names the columns, labels and files.
        data: `"demo"`, `"hub"` (downloads the split once, then reads it from the local cache), or
            a directory.
        split: A name in `task.splits`, such as `"train"` or `"validation"`.
        bad_rows: What to do with rows that cannot be used: see `read_files`.
        labelled: Whether to read labels. GLUE's test splits have none.

    Returns:
        The examples, in file order.

    Raises:
        FileNotFoundError: There is no such directory or file, or the hub is out of reach.
        DataError: A file does not fit the task; the message says which line and why.
        ValueError: The task has no such split, or no dataset on the hub.
    """
    if split not in task.splits:
        raise ValueError(f"Task {task.name!r} has no split {split!r}, only {list(task.splits)}.")
    root = _root(task, data, task.splits[split])
    folders = dict.fromkeys(("", task.folder, task.name, task.hub_config))
    places = list(dict.fromkeys(root / folder for folder in folders))
    for place in places:
        for stem in task.splits[split]:
            if files := _find(place, stem):
                return read_files(files, task, bad_rows=bad_rows, labelled=labelled)
    held = "; ".join(
        f"{place} holds {', '.join(sorted(path.name for path in place.iterdir())) or 'nothing'}"
        for place in places
        if place.is_dir()
    )
    raise FileNotFoundError(
        f"Looked for the {split} split of {task.name} as {' or '.join(task.splits[split])} "
        f"({', '.join(ENDINGS)}, or a directory of {ARROW} files) in "
        f"{' and '.join(map(str, places))}; {held}."
        + (" Offline, the cache may be incomplete." if str(data) == HUB else "")
    )


def _root(task: Task, data: str | Path, stems: Sequence[str]) -> Path:
    if str(data) == DEMO:
        if not (DEMO_DATA / task.name).is_dir():
            raise FileNotFoundError(f"There is no demo data for the task {task.name!r}.")
        return DEMO_DATA / task.name
    if str(data) == HUB:
        if not task.hub_dataset:
            raise ValueError(
                f"Task {task.name!r} has no dataset on the hub (its hub_dataset is empty); give a "
                "directory with its files."
            )
        patterns = [
            f"{task.hub_config}/{stem}{rest}.parquet" for stem in stems for rest in ("", "-*-of-*")
        ]
        return find_dataset(task.hub_dataset, patterns)
    root = Path(data).expanduser()
    if root.is_file():
        raise FileNotFoundError(f"{root} is a file; give the directory that holds it.")
    if not root.is_dir():
        raise FileNotFoundError(f"There is no data directory {root}.")
    return root


def _find(place: Path, stem: str) -> list[Path]:
    for ending in ENDINGS:
        if (path := place / f"{stem}{ending}").is_file():
            return [path]
    return _shards(place / f"{stem}.parquet") or _shards(place / stem / f"data{ARROW}")


def _shards(path: Path) -> list[Path]:
    """Returns all shards of a file, or nothing if there are none."""
    name = re.compile(rf"{re.escape(path.stem)}-(\d{{5}})-of-(\d{{5}}){re.escape(path.suffix)}")
    if not path.parent.is_dir():
        return []
    found = sorted(file for file in path.parent.iterdir() if name.fullmatch(file.name))
    if not found:
        return []
    total = found[0].stem.rpartition("-")[2]
    wanted = [
        path.with_name(f"{path.stem}-{i:05d}-of-{total}{path.suffix}") for i in range(int(total))
    ]
    if found != wanted:
        raise FileNotFoundError(
            f"{path.parent} holds {', '.join(file.name for file in found)}, but all shards of one "
            f"set are needed: {', '.join(file.name for file in wanted) or 'at least one'}."
        )
    return wanted


def read_files(
    files: Sequence[Path], task: Task, *, bad_rows: BadRows = "error", labelled: bool = True
) -> Examples:
    """Reads files as one split, each in the format given by its ending.

    Columns are found by name, so there may be more than needed, in any order. Text is UTF-8; a
    byte-order mark and the CR of line ends are removed, and all else is kept, including NUL.

    - `.tsv`: tab-separated with a header, as published by GLUE: quotes have no special meaning.
    - `.csv`: comma-separated with a header; quoted fields may hold commas, quotes and line ends.
    - `.jsonl`: one JSON object per line. `.json`: the same, or one list of objects.
    - `.parquet`, and `.arrow` in Arrow's stream format; both need pyarrow. Integers in a
      column for which the file lists label names (`ClassLabel` of `datasets`) are read as those.

    A row is bad if it is not UTF-8 or not of its format, if it has more or fewer fields than the
    header, if a text is missing, null or not a string, or if its label is missing or unknown to
    `Task.label_id`. An empty text is valid.

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
    if bad_rows not in get_args(BadRows):
        raise ValueError(f"bad_rows is {bad_rows!r}; it must be one of {get_args(BadRows)}.")
    rows: list[_Row] = []
    faults: list[Fault] = []
    for path in files:
        for row in _read_rows(path, task, labelled):
            if not isinstance(row, Fault):
                rows.append(row)
            elif bad_rows == "error":
                raise DataError(f"{row.detail}.")
            else:
                faults.append(row)
    names = ", ".join(map(str, files))
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
        np.array([row.label for row in rows], np.int32),
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


class _Row(NamedTuple):
    texts: Sequence[str]
    label: int
    id: str | None


def _read_rows(path: Path, task: Task, labelled: bool) -> Iterator[_Row | Fault]:
    """Yields the rows of a file; the detail of a fault begins with its place."""
    table = open_table(path)
    columns = [_column(path, table, task.names_of(name)) for name in task.text_columns]
    count = len(columns)
    class_names: Sequence[str] = ()
    if labelled:
        hint = " A split without labels is read with labelled=False."
        columns.append(_column(path, table, task.label_columns, hint))
        class_names = table.class_names(columns[-1])
    id_column = [n for n in ID_COLUMNS if n not in columns and table.columns.count(n) == 1][:1]

    def check(values: Sequence[Any] | Fault) -> _Row | Fault:
        if isinstance(values, Fault):
            return values
        for name, text in zip(columns[:count], values, strict=False):
            if (fault := _text_fault(name, text)) is not None:
                return fault
        label = _label(task, columns[-1], values[count], class_names) if labelled else UNLABELLED
        if isinstance(label, Fault):
            return label
        row_id = values[-1] if id_column else None
        return _Row(values[:count], label, str(row_id) if isinstance(row_id, str | int) else None)

    for number, values in table.rows([*columns, *id_column]):
        row = check(values)
        if isinstance(row, Fault):
            row = Fault(row.kind, f"{path}, {table.unit} {number}: {row.detail}")
        yield row


def _column(path: Path, table: Table, names: Sequence[str], hint: str = "") -> str:
    for name in names:
        if (count := table.columns.count(name)) == 1:
            return name
        if count > 1:
            raise DataError(f"{path} has {count} columns named {name!r}.")
    raise DataError(
        f"{path} has no column {' or '.join(map(repr, names))}; its columns are "
        f"{', '.join(table.columns) or 'none'}.{hint}"
    )


def _text_fault(column: str, text: object) -> Fault | None:
    if text is None:
        return Fault("text missing", f"the text in column {column!r} is missing or null")
    if not isinstance(text, str):
        return Fault(
            "text is not a string",
            f"the text in column {column!r} is {text!r}, of type {type(text).__name__}, not a "
            "string",
        )
    if not is_unicode(text):
        return Fault(
            "text is not Unicode",
            f"the text in column {column!r} is not Unicode: it holds bytes that are not UTF-8, or "
            "half of a surrogate pair",
        )
    return None


def _label(task: Task, column: str, value: object, class_names: Sequence[str]) -> int | Fault:
    if isinstance(value, int) and 0 <= value < len(class_names):
        value = class_names[value]
    try:
        return task.label_id(value)
    except ValueError as error:
        if value in (None, "", UNLABELLED, str(UNLABELLED)):
            return Fault(
                "no label",
                f"column {column!r} holds no label but {value!r}; a split without labels is read "
                "with labelled=False",
            )
        return Fault("unknown label", f"column {column!r}: {error}")
