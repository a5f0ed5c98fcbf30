"""Tables in files: TSV, CSV, JSON, Parquet and Arrow, all read as rows of the requested columns.

This module is independent of tasks. A malformed row is returned as a `Fault`, so that the caller
can stop or continue; a file that is not a table raises a `DataError`.
"""

import codecs
import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

ENDINGS = (".tsv", ".csv", ".jsonl", ".json", ".parquet")  # in order of preference
ARROW = ".arrow"

BadRows = Literal["error", "skip"]  # what to do with rows that cannot be used


class DataError(ValueError):
    """A data file that cannot be read, or does not fit the task."""


@dataclass(frozen=True)
class Fault:
    """Why a row cannot be used: a few words to group by, and the full reason."""

    kind: str
    detail: str


# The number of the line or the row, from 1, and the values of the requested columns.
Row = tuple[int, Sequence[Any] | Fault]


class Table(NamedTuple):
    """An opened file.

    Attributes:
        columns: All its columns.
        rows: Returns the rows, with the values of the requested columns in the requested order.
        unit: What the numbers of the rows count.
        class_names: Returns the label names that the file lists for a column of integers.
    """

    columns: Sequence[str]
    rows: Callable[[Sequence[str]], Iterable[Row]]
    unit: str = "line"
    class_names: Callable[[str], Sequence[str]] = lambda column: ()


_NOT_UTF8 = Fault("not UTF-8", "not UTF-8")


def is_unicode(text: str) -> bool:
    """Returns whether a string is valid Unicode: without undecodable bytes or lone surrogates."""
    if text.isascii():  # takes constant time
        return True
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which is also how bad bytes are decoded
        return False
    return True


def _decoded(path: Path) -> str:
    return path.read_bytes().removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")


def _lines(text: str) -> list[str]:
    # Split at \n alone: str.splitlines would also split a sentence at U+2028 and the like.
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def _open_tsv(path: Path) -> Table:
    return _with_header(
        path,
        (
            (number, line.split("\t") if is_unicode(line) else _NOT_UTF8)
            for number, line in enumerate(_lines(_decoded(path)), 1)
        ),
    )


def _open_csv(path: Path) -> Table:
    rows: list[Row] = []
    # This limit is global, so it is raised only while reading: no field is longer than its file.
    limit = csv.field_size_limit(max(path.stat().st_size, csv.field_size_limit()))
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, strict=True)
            while True:
                number = reader.line_num + 1
                try:
                    fields = next(reader)
                except StopIteration:
                    break
                except csv.Error as error:
                    rows.append((number, Fault("not CSV", f"not CSV: {error}")))
                else:
                    rows.append((number, fields if all(map(is_unicode, fields)) else _NOT_UTF8))
    finally:
        csv.field_size_limit(limit)
    return _with_header(path, iter(rows))


def _with_header(path: Path, records: Iterator[Row]) -> Table:
    """Makes a table of rows of strings; the first row names the columns."""
    _, header = next(records, (1, []))
    if isinstance(header, Fault):
        raise DataError(f"{path}, line 1: the header is {header.detail}.")
    names = list(header)

    def rows(columns: Sequence[str]) -> Iterator[Row]:
        places = [names.index(column) for column in columns]
        for number, fields in records:
            if isinstance(fields, Fault):
                yield number, fields
            elif len(fields) != len(names):
                detail = f"{len(fields)} fields, but the header has {len(names)}"
                kind = "not as many fields as the header has"
                yield number, Fault(kind, f"{detail} ({', '.join(names)})")
            else:
                yield number, [fields[place] for place in places]

    return Table(names, rows)


def _open_json_lines(path: Path) -> Table:
    return _of_objects(path, map(_parsed, _lines(_decoded(path))), "line")


def _open_json(path: Path) -> Table:
    text = _decoded(path)
    if not text.lstrip().startswith("["):
        return _open_json_lines(path)
    values = _parsed(text)
    if isinstance(values, Fault):
        raise DataError(f"{path} is {values.detail}.")
    return _of_objects(path, values, "row")


def _parsed(text: str) -> Any:
    if not is_unicode(text):
        return _NOT_UTF8
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return Fault("not JSON", f"not JSON: {error}")


def _of_objects(path: Path, values: Iterable[Any], unit: str) -> Table:
    """Makes a table of dicts; its columns are the keys of all of them."""
    records = [
        value
        if isinstance(value, dict | Fault)
        else Fault("not an object", f"expected a JSON object, got {json.dumps(value)[:60]}")
        for value in values
    ]
    names = dict.fromkeys(name for value in records if isinstance(value, dict) for name in value)
    if records and not names and isinstance(records[0], Fault):
        raise DataError(f"{path}, {unit} 1: {records[0].detail}.")

    def rows(columns: Sequence[str]) -> Iterator[Row]:
        for number, value in enumerate(records, 1):
            if isinstance(value, dict):
                yield number, [value.get(column) for column in columns]
            else:
                yield number, value

    return Table(list(names), rows, unit)


def _open_parquet(path: Path) -> Table:
    arrow = _import_arrow(path)
    from pyarrow import parquet

    def batches(columns: Sequence[str] | None) -> Iterator[Any]:
        with _arrow_errors(arrow, path, "Parquet"), parquet.ParquetFile(path) as file:
            yield file.schema_arrow
            yield from file.iter_batches(4096, columns=columns)  # whole documents, maybe

    return _of_batches(arrow, batches)


def _open_arrow(path: Path) -> Table:
    arrow = _import_arrow(path)

    def batches(columns: Sequence[str] | None) -> Iterator[Any]:
        with (
            _arrow_errors(arrow, path, "an Arrow stream"),
            arrow.OSFile(str(path)) as file,
            arrow.ipc.open_stream(file) as stream,
        ):
            yield stream.schema
            yield from stream

    return _of_batches(arrow, batches)


def _import_arrow(path: Path) -> ModuleType:
    try:
        import pyarrow
    except ImportError as error:
        raise DataError(
            f"{path} can only be read with pyarrow, which is not installed: run `pip install "
            "distilbert-tf[parquet]`."
        ) from error
    return pyarrow


@contextmanager
def _arrow_errors(arrow: ModuleType, path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except (arrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as {kind}: {str(error).rstrip('.')}. It may be cut short: "
            "compare its size with the original's."
        ) from error


def _of_batches(
    arrow: ModuleType, batches: Callable[[Sequence[str] | None], Iterator[Any]]
) -> Table:
    """Makes a table of Arrow batches; `batches` yields the schema, then the batches of a file."""
    schema = next(batches(None))

    def rows(columns: Sequence[str]) -> Iterator[Row]:
        found = batches(columns)
        next(found)
        values = (
            row
            for batch in found
            for row in zip(*(_values(arrow, batch.column(name)) for name in columns), strict=True)
        )
        return enumerate(values, 1)

    return Table(schema.names, rows, "row", lambda column: _class_names(schema, column))


def _values(arrow: ModuleType, column: Any) -> list:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        texts = column.cast(arrow.large_binary()).to_pylist()
        return [text and text.decode("utf-8", "surrogateescape") for text in texts]


def _class_names(schema: Any, column: str) -> Sequence[str]:
    """Returns the label names that `datasets` stores in a file's metadata."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[column]["names"]]
    except (ValueError, KeyError, TypeError):
        return ()


_OPENERS = dict(
    zip(
        (*ENDINGS, ARROW),
        (_open_tsv, _open_csv, _open_json_lines, _open_json, _open_parquet, _open_arrow),
        strict=True,
    )
)


def open_table(path: Path) -> Table:
    """Opens a file in the format given by its ending.

    Args:
        path: A `.tsv`, `.csv`, `.jsonl`, `.json`, `.parquet` or `.arrow` file.

    Returns:
        Its columns and rows. The rows can be read once.

    Raises:
        DataError: The ending is unknown, or the file cannot be read. Reading the rows raises it
            too, if damage is found only there.
    """
    if path.suffix not in _OPENERS:
        raise DataError(f"{path} ends in none of {', '.join(_OPENERS)}.")
    return _OPENERS[path.suffix](path)
