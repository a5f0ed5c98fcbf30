"""Tables in files: TSV, CSV, JSON, Parquet and Arrow, all read as rows of the requested columns.

This module is independent of tasks. A malformed row is returned as a `Fault`, so that the caller
can stop or continue; a file that is not a table raises a `DataError`.
"""

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

ENDINGS = (".tsv", ".csv", ".jsonl", ".json", ".parquet")  # in order of preference
ARROW = ".arrow"
SPREADSHEETS = (".xlsx", ".xls", ".ods")  # not read, but named
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}

BadRows = Literal["error", "skip"]  # what to do with rows that cannot be used


class DataError(ValueError):
    """A data file that cannot be read, or does not fit the task."""


@dataclass(frozen=True)
class Fault:
    """Why a row cannot be used: a few words to group by, and the full reason."""

    kind: str
    detail: str


# The number of the line or the row, from 1, and the values of the requested columns. Tables in
# memory have whatever their rows are called by.
Row = tuple[Any, Sequence[Any] | Fault]


class Table(NamedTuple):
    """An opened file, or a table in memory.

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


_NOT_UTF8 = Fault(
    "not UTF-8",
    "not UTF-8: convert the file, for example with `iconv -f WINDOWS-1252 -t UTF-8`, or save it as "
    "UTF-8",
)


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
    """Returns a file's text, with a lone surrogate for each byte that is not UTF-8.

    Raises:
        DataError: The bytes are a spreadsheet's, or UTF-16.
    """
    content = path.read_bytes()
    if content.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise DataError(f"{path} is an Excel or ZIP file, whatever its name says. {_SAVE_AS_CSV}")
    head = content[:64]
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or (
        # Without a mark: every other byte of plain letters is 0.
        len(head) > 7 and (not any(head[1:8:2]) or not any(head[:8:2])) and any(head[:8])
    ):
        raise DataError(
            f"{path} is UTF-16, not UTF-8: save it as UTF-8, or convert it with "
            "`iconv -f UTF-16 -t UTF-8`."
        )
    return content.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")


def _lines(text: str) -> list[str]:
    # Split at \n alone: str.splitlines would also split a sentence at U+2028 and the like.
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def _open_tsv(path: Path, quoted: bool | None = False) -> Table:
    """Opens a tab-separated file.

    Args:
        path: The file.
        quoted: Whether fields may be quoted as in CSV, or quotation marks are plain characters. If
            None, it is what fits: the reading in which fewer rows are wrong.
    """
    text = _decoded(path)
    plain: list[Row] = [
        (number, line.split("\t") if is_unicode(line) else _NOT_UTF8)
        for number, line in enumerate(_lines(text), 1)
    ]
    # A quotation mark is special only where a field begins.
    if quoted is False or not (text.startswith('"') or '\t"' in text or '\n"' in text):
        return _with_header(path, plain)
    unquoted = _separated(text, "\t", "TSV")
    if quoted:
        return _with_header(path, unquoted)
    wrong = _count_wrong(plain), _count_wrong(unquoted)
    if wrong == (0, 0) and len(plain) != len(unquoted):
        number = next(number for number, fields in unquoted if _has_line_end(fields))
        raise DataError(
            f"{path}, line {number}: a field begins with a quotation mark that is closed on a "
            "later line, but each of these lines is a row, too. Say in the task whether its .tsv "
            "files are quoted as CSV is (quoted_tsv=True) or not (quoted_tsv=False)."
        )
    return _with_header(path, plain if wrong[0] < wrong[1] else unquoted)


def _has_line_end(fields: Sequence[str] | Fault) -> bool:
    return not isinstance(fields, Fault) and "\n" in "".join(fields)


def _count_wrong(rows: Sequence[Row]) -> int:
    """Counts the rows that are no rows, or have not as many fields as the first."""
    width = len(rows[0][1]) if rows and not isinstance(rows[0][1], Fault) else 0
    return sum(isinstance(row, Fault) or len(row) != width for _, row in _without_blank_end(rows))


def _open_csv(path: Path) -> Table:
    text = _decoded(path)
    rows = _separated(text, ",", "CSV")
    if rows and len(rows[0][1] if not isinstance(rows[0][1], Fault) else ()) == 1:
        # No comma in the header: many programs write semicolons where commas are in numbers.
        for separator in list(SEPARATORS)[1:]:
            others = _separated(text, separator, "CSV")
            if not isinstance(others[0][1], Fault) and len(others[0][1]) > 1:
                return _with_header(path, others)
    return _with_header(path, rows)


def _separated(text: str, separator: str, kind: str) -> list[Row]:
    """Splits text into rows of fields, which may be quoted."""
    rows: list[Row] = []
    # This limit is global, so it is raised only while reading: no field is longer than its file.
    limit = csv.field_size_limit(max(len(text), csv.field_size_limit()))
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        while True:
            number = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                rows.append((number, Fault(f"not {kind}", f"not {kind}: {error}")))
            else:
                rows.append((number, fields if all(map(is_unicode, fields)) else _NOT_UTF8))
    finally:
        csv.field_size_limit(limit)
    return rows


def _without_blank_end(rows: Sequence[Row]) -> Sequence[Row]:
    """Leaves out blank lines at the end, unless they may be empty texts of a single column."""
    if not rows or isinstance(rows[0][1], Fault) or len(rows[0][1]) < 2:
        return rows
    end = len(rows)
    while end > 1:
        fields = rows[end - 1][1]
        if isinstance(fields, Fault) or "".join(fields).strip():
            break
        end -= 1
    return rows[:end]


def _with_header(path: Path, records: Sequence[Row]) -> Table:
    """Makes a table of rows of strings; the first row names the columns."""
    _, header = records[0] if records else (1, [])
    if isinstance(header, Fault):
        raise DataError(f"{path}, line 1: the header is {header.detail}.")
    names = list(header)

    def rows(columns: Sequence[str]) -> Iterator[Row]:
        places = [names.index(column) for column in columns]
        for number, fields in _without_blank_end(records)[1:]:
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
    lines = _lines(_decoded(path))
    while lines and not lines[-1].strip():
        lines.pop()
    return _of_objects(path, map(_parsed, lines), "line")


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


_SAVE_AS_CSV = "Save it as CSV in UTF-8 (in Excel: Save As, `CSV UTF-8`)."

_OPENERS: dict[str, Callable[[Path], Table]] = {
    ".tsv": _open_tsv,
    ".csv": _open_csv,
    ".jsonl": _open_json_lines,
    ".json": _open_json,
    ".parquet": _open_parquet,
    ARROW: _open_arrow,
}


def open_table(path: Path, *, quoted_tsv: bool | None = False) -> Table:
    """Opens a file in the format given by its ending.

    Args:
        path: A `.tsv`, `.csv`, `.jsonl`, `.json`, `.parquet` or `.arrow` file.
        quoted_tsv: Whether fields of a `.tsv` file may be quoted as in CSV; if None, that is found
            out.

    Returns:
        Its columns and rows. The rows can be read once.

    Raises:
        DataError: The ending is unknown, or the file cannot be read. Reading the rows raises it
            too, if damage is found only there.
    """
    ending = path.suffix.lower()
    if ending == ".tsv":
        return _open_tsv(path, quoted_tsv)
    if ending in SPREADSHEETS:
        raise DataError(f"{path} is a spreadsheet, which is not read. {_SAVE_AS_CSV}")
    if ending not in _OPENERS:
        raise DataError(f"{path} ends in none of {', '.join(_OPENERS)}.")
    return _OPENERS[ending](path)
