"""Rows of a table as a task has them: checks texts, labels and ids, whatever the format."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from distilbert_tf.checkpoints.problem_types import MULTI_LABEL, REGRESSION
from distilbert_tf.data.file_formats import SEPARATORS, DataError, Fault, Table, is_unicode
from distilbert_tf.data.tasks import Task
from distilbert_tf.spelling import suggest

ID_COLUMNS = ("index", "id", "idx")
UNLABELLED = -1  # as in the hub's test splits
_LABEL_HINT = " A split without labels is read with labelled=False."


class Example(NamedTuple):
    """A row: one or two texts, its label as `Task.read_label` has it, and its id, if any."""

    texts: Sequence[str]
    label: int | float | list[float]
    id: str | None


def read_rows(where: str, table: Table, task: Task, labelled: bool) -> Iterator[Example | Fault]:
    """Yields the rows of a table; the detail of a fault begins with its place.

    Args:
        where: The table's name.
        table: The table.
        task: Names the columns and labels.
        labelled: Whether to read labels; they are `UNLABELLED` if not.

    Raises:
        DataError: A column is missing, or there are several of its name.
    """
    columns = [find_column(where, table, task.names_of(name)) for name in task.text_columns]
    count = len(columns)
    class_names: Sequence[str] = ()
    if labelled and task.has_indicators:
        columns += [find_column(where, table, (name,), _LABEL_HINT) for name in task.label_columns]
    elif labelled:
        columns.append(find_column(where, table, task.label_columns, _LABEL_HINT))
        class_names = table.class_names(columns[-1])
    id_column = [n for n in ID_COLUMNS if n not in columns and table.columns.count(n) == 1][:1]

    def check(values: Sequence[Any] | Fault) -> Example | Fault:
        if isinstance(values, Fault):
            return values
        for name, text in zip(columns[:count], values, strict=False):
            if (fault := _text_fault(name, text)) is not None:
                return fault
        label: Any = UNLABELLED
        if labelled:
            cells = values[count : len(columns)] if task.has_indicators else values[count]
            label = _label(task, ", ".join(columns[count:]), cells, class_names)
        if isinstance(label, Fault):
            return label
        row_id = values[-1] if id_column else None
        return Example(
            values[:count], label, str(row_id) if isinstance(row_id, str | int) else None
        )

    for number, values in table.rows([*columns, *id_column]):
        row = check(values)
        if isinstance(row, Fault):
            row = Fault(row.kind, f"{where}, {table.unit} {number}: {row.detail}")
        yield row


def find_column(where: str, table: Table, names: Sequence[str], hint: str = "") -> str:
    """Returns the first of several names that a column has.

    Args:
        where: The table's name.
        table: The table.
        names: Possible names of the column.
        hint: What else the error says.

    Raises:
        DataError: No column has one of them, or several have.
    """
    for name in names:
        if (count := table.columns.count(name)) == 1:
            return name
        if count > 1:
            raise DataError(f"{where} has {count} columns named {name!r}.")
    (only,) = table.columns if len(table.columns) == 1 else ("",)
    separator = next((one for one in SEPARATORS if one in str(only)), None)
    if separator is not None:
        hint = f" Its header is one column: are its fields separated by {SEPARATORS[separator]}?"
    columns = [str(column) for column in table.columns]
    raise DataError(
        f"{where} has no column {' or '.join(map(repr, names))}{suggest(names[0], columns)}; its "
        f"columns are {', '.join(columns) or 'none'}.{hint}"
    )


def is_no_label(task: Task, value: object) -> bool:
    """Returns whether a value says that there is no label: -1, unless the task has such a one."""
    if task.problem_type == MULTI_LABEL:
        return is_missing(value)
    has_minus_one = "-1" in task.labels or task.problem_type == REGRESSION
    minus_one = isinstance(value, int | str) and str(value) == str(UNLABELLED)
    return is_missing(value) or value == "" or (minus_one and not has_minus_one)


def is_missing(value: object) -> bool:
    """Returns whether a cell is None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _text_fault(column: str, text: object) -> Fault | None:
    if is_missing(text):
        detail = f"the text in column {column!r} is missing or null"
        if isinstance(text, float):  # pandas reads an empty field so
            detail += f' (in pandas, frame[{column!r}].fillna("") makes it empty)'
        return Fault("text missing", detail)
    if not isinstance(text, str):
        return Fault(
            "text is not a string",
            f"the text in column {column!r} is {text!r}, of type {type(text).__name__}, not a "
            "string: write it as one",
        )
    if not is_unicode(text):
        return Fault(
            "text is not Unicode",
            f"the text in column {column!r} is not Unicode: it holds bytes that are not UTF-8, or "
            "half of a surrogate pair",
        )
    return None


def _label(
    task: Task, column: str, value: Any, class_names: Sequence[str]
) -> int | float | list[float] | Fault:
    def name(value: Any) -> Any:
        is_number = isinstance(value, int) and 0 <= value < len(class_names)
        return class_names[value] if is_number else value

    if task.problem_type == MULTI_LABEL and is_missing(value):
        return Fault(
            "no label", f"column {column!r} is missing or null; a row without labels has []"
        )
    try:
        return task.read_label([*map(name, value)] if isinstance(value, list) else name(value))
    except ValueError as error:
        if is_no_label(task, value):
            return Fault(
                "no label",
                f"column {column!r} holds no label but {value!r}; a split without labels is read "
                "with labelled=False",
            )
        return Fault("unknown label", f"column {column!r}: {error}")
