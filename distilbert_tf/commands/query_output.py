"""How `query` writes answers: as text, JSON lines or CSV, to standard output or a file."""

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from distilbert_tf.commands.common_flags import UsageError

FORMATS = ("text", "jsonl", "csv")
_DIGITS = 6  # what float32 holds of a probability


def _prediction(answer: Any) -> dict[str, Any]:
    return {
        "label": answer.label,
        "label_id": answer.label_id,
        "score": round(answer.score, _DIGITS),
        "probabilities": _rounded(answer.probabilities),
    }


def _classification(answer: Any) -> dict[str, Any]:
    return {
        "label": answer.label,
        "score": round(answer.score, _DIGITS),
        "classes": answer.classes,
        "scores": _rounded(answer.scores),
    }


def _mask_answers(answer: Any) -> dict[str, Any]:
    return {
        "masks": [
            [{**row.to_dict(), "score": round(row.score, _DIGITS)} for row in mask]
            for mask in answer
        ]
    }


def _rounded(array: Any) -> list[float]:
    return [round(value, _DIGITS) for value in array.tolist()]


def _label_text(answer: Any) -> str:
    return f"{answer.label}\t{answer.score:.4f}"


def _mask_text(answer: Any) -> str:
    return " | ".join(" ".join(f"{row.token} {row.score:.4f}" for row in mask) for mask in answer)


# By the client's method: an answer's fields, and its text.
_LAYOUTS: dict[str, tuple[Callable[[Any], Mapping[str, Any]], Callable[[Any], str]]] = {
    "predict": (_prediction, _label_text),
    "classify": (_classification, _label_text),
    "regress": (lambda answer: {"value": answer}, lambda answer: f"{answer:.6g}"),
    "encode": (
        lambda answer: answer.to_dict(),
        lambda answer: " ".join(f"{value:.6g}" for value in answer.mean.tolist()),
    ),
    "tokenize": (lambda answer: answer.to_dict(), lambda answer: " ".join(answer.tokens)),
    "fill_mask": (_mask_answers, _mask_text),
}
METHODS = tuple(_LAYOUTS)


class QueryOutput:
    """Writes each answer as a line, at once.

    A file is written under a temporary name beside it, and gets its own when all is written. If
    that does not come to pass, the temporary file stays, if it has any answer.

    Args:
        path: The file; None: standard output.
        format_name: One of FORMATS.
        method: One of METHODS.

    Raises:
        OSError: the file cannot be made.
        UsageError: the path is a directory, or something else that is no file.
    """

    def __init__(self, path: str | None, format_name: str, method: str) -> None:
        self._fields, self._text = _LAYOUTS[method]
        self._format = format_name
        self._path = None if path is None else Path(path)
        self._has_header = False
        self._file: TextIO = sys.stdout
        self.place = "standard output"
        if self._path is not None:
            if self._path.exists() and not self._path.is_file():
                raise UsageError(f"--output={path} is there already, and is no file")
            partial = self._path.with_name(f"{self._path.name}.{os.getpid()}.partial")
            self.place = os.fspath(partial)
            self._file = partial.open("x", encoding="utf-8", newline="")

    def write(self, texts: tuple[str, ...], answer: Any) -> None:
        """Writes an answer with its texts."""
        self._file.write(self._lines(texts, answer))
        self._file.flush()

    def __enter__(self) -> "QueryOutput":
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._path is None:
            return
        self._file.close()
        partial = Path(self.place)
        if error is None:
            partial.replace(self._path)
        elif partial.stat().st_size == 0:
            partial.unlink()

    def _lines(self, texts: tuple[str, ...], answer: Any) -> str:
        if self._format == "text":
            return f"{self._text(answer)}\t" + "\t".join(texts) + "\n"
        row = {**dict(zip(("text", "text_pair"), texts, strict=False)), **self._fields(answer)}
        if self._format == "jsonl":
            return json.dumps(row, ensure_ascii=False) + "\n"
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\n")
        if not self._has_header:
            writer.writerow(row)
            self._has_header = True
        writer.writerow(
            json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
            for value in row.values()
        )
        return lines.getvalue()
