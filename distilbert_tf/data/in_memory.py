"""Tables in memory: data frames, datasets, dicts and lists, without importing their libraries.

A table is known by what it can do, so neither pandas nor `datasets` is needed.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from distilbert_tf.data.file_formats import DataError, Row, Table

_KINDS = (
    "a pandas or Polars data frame, a dataset of the `datasets` library, a pyarrow table, a dict "
    "of columns, or a list of dicts"
)


def read_table(data: Any) -> Table:
    """Reads a table in memory.

    Args:
        data: A pandas or Polars data frame, a `datasets.Dataset` or `IterableDataset`, a
            `pyarrow.Table`, a dict of columns, or dicts with a row each.

    Returns:
        Its columns and rows. Rows are numbered from 0, or as a data frame's index has them. NaN and
        the like are None.

    Raises:
        DataError: It is no table, or its columns are not of one length.

    Example:
        read_table({"text": ["Fine.", "Poor."], "label": [1, 0]}).columns  # ["text", "label"]
    """
    if isinstance(data, Mapping):
        return _of_columns(data)
    if hasattr(data, "iloc") and hasattr(data, "columns"):  # pandas
        return Table(
            list(data.columns),
            lambda columns: zip(
                data.index.tolist(),
                zip(*(_without_nan(data[name]) for name in columns), strict=True),
                strict=True,
            ),
            "index",
        )
    if hasattr(data, "to_pylist") or hasattr(data, "to_dicts"):  # pyarrow, Polars
        records = data.to_pylist() if hasattr(data, "to_pylist") else data.to_dicts()
        return _of_records(records)
    if hasattr(data, "element_spec"):
        raise DataError(
            "A tf.data.Dataset is no table of named columns. Train on it with `model.compile` and "
            f"`model.fit`, score it with `evaluate(model, dataset)`, or pass {_KINDS}."
        )
    if isinstance(data, Iterator):
        raise DataError(f"{data!r:.80} can be read only once: pass a list of it.")
    if isinstance(data, str | bytes) or not isinstance(data, Iterable):
        raise DataError(f"{data!r:.80} is no table: pass {_KINDS}.")
    features = getattr(data, "features", None) or {}  # of `datasets`

    def class_names(column: str) -> Sequence[str]:
        feature = features.get(column)
        feature = getattr(feature, "feature", feature)  # of a list of labels
        return getattr(feature, "names", None) or ()

    return _of_records(data)._replace(class_names=class_names)


def name_table(data: Any) -> str:
    """Returns what a table is called in messages and records: its type."""
    return f"the {type(data).__name__} in memory"


def _without_nan(column: Any) -> list[Any]:
    values, missing = column.tolist(), column.isna().tolist()
    return [
        None if is_missing else value for value, is_missing in zip(values, missing, strict=True)
    ]


def _of_columns(columns: Mapping[str, Any]) -> Table:
    for name, values in columns.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise DataError(f"The column {name!r} is {values!r:.60}: pass a list of its values.")
    found = {name: _as_list(values) for name, values in columns.items()}
    lengths = {name: len(values) for name, values in found.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(
            "The columns are not of one length: "
            f"{', '.join(f'{name} has {length:,}' for name, length in lengths.items())}."
        )

    def rows(names: Sequence[str]) -> Iterable[Row]:
        return enumerate(zip(*(found[name] for name in names), strict=True))

    return Table(list(found), rows, "index")


def _as_list(values: Iterable[Any]) -> list[Any]:
    """Returns Python's own values, also of an array."""
    if hasattr(values, "isna"):
        return _without_nan(values)
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _of_records(data: Iterable[Any]) -> Table:
    records = list(data)
    for number, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise DataError(f"Index {number} is {record!r:.60}, not a dict: pass {_KINDS}.")
    names = list(dict.fromkeys(itertools.chain.from_iterable(records)))

    def rows(columns: Sequence[str]) -> Iterable[Row]:
        return (
            (number, [record.get(column) for column in columns])
            for number, record in enumerate(records)
        )

    return Table(names, rows, "index")
