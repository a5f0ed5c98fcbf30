"""Writes the same rows in every format that is read."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

Rows = Sequence[dict[str, Any]]


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def write_tsv(path: Path, rows: Rows) -> None:
    lines = ["\t".join(rows[0]), *("\t".join(map(str, row.values())) for row in rows)]
    write(path, "\n".join(lines) + "\n")


def write_csv(path: Path, rows: Rows) -> None:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write(path, file.getvalue())


def write_json_lines(path: Path, rows: Rows) -> None:
    write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_json_list(path: Path, rows: Rows) -> None:
    write(path, json.dumps(rows, indent=2))


def table_of(rows: Rows, class_names: Sequence[str] = ()) -> pa.Table:
    table = pa.Table.from_pylist(list(rows))
    if not class_names:
        return table
    features = {"label": {"names": class_names, "_type": "ClassLabel"}}
    return table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )


def write_parquet(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table_of(rows), path, row_group_size=2)


def write_arrow(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = table_of(rows)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table, max_chunksize=2)


WRITERS: dict[str, Callable[[Path, Rows], None]] = {
    "train.tsv": write_tsv,
    "train.csv": write_csv,
    "train.jsonl": write_json_lines,
    "train.json": write_json_list,
    "train.parquet": write_parquet,
    "train/data-00000-of-00001.arrow": write_arrow,
}
TYPED = [name for name in WRITERS if not name.endswith(("tsv", "csv"))]

REVIEWS = [
    {"sentence": 'Half a star, and "half" is generous.', "label": 0, "idx": 40},
    {"sentence": "Café by the canal, quiet – we'll be back.", "label": 1, "idx": 41},
    {"sentence": "", "label": 1, "idx": 42},
    {"sentence": " two spaces  and a NUL\0here ", "label": 0, "idx": 43},
    {"sentence": "A line\u2028separator, and 漢字 too", "label": 1, "idx": 44},
]
