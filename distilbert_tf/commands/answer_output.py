"""Answers about texts: as text, JSON lines or CSV, to standard output or a file."""

import contextlib
import csv
import io
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from absl import flags

from distilbert_tf.commands.common_flags import UsageError, define_flag
from distilbert_tf.commands.text_input import InputRow, TextInput

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


def _on_one_line(text: str) -> str:
    return "\\n".join(text.splitlines()) if len(text.splitlines()) > 1 else text


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


def define_output(values: flags.FlagValues) -> None:
    """Defines the flags that say where answers go, and how they are written."""
    text = "file to write, complete or not at all (default: standard output)"
    define_flag(values, "output", None, text, kind=str)
    define_flag(values, "format", "text", "how answers are written", choices=FORMATS)
    define_flag(values, "json", False, "the same as --format=jsonl")
    text = "show progress on standard error (default: only on a terminal)"
    define_flag(values, "progress", None, text, kind=bool)


class AnswerOutput:
    """Writes each answer as a line, at once.

    A file is written under a temporary name beside it, and gets its own when all is written. If
    that does not come to pass, the temporary file stays, if it has any answer.

    Args:
        values: The flags of `define_output`.
        method: One of METHODS; what `--method` says if not given.

    Raises:
        OSError: the file cannot be made.
        UsageError: the path is a directory, or something else that is no file.
    """

    def __init__(self, values: flags.FlagValues, method: str | None = None) -> None:
        path = values.output
        self._fields, self._text = _LAYOUTS[method or values.method]
        self._format = "jsonl" if values.json else values.format
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

    def __enter__(self) -> "AnswerOutput":
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
            return "\t".join([self._text(answer), *map(_on_one_line, texts)]) + "\n"
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


def write_answers(
    command: str,
    values: flags.FlagValues,
    texts: TextInput,
    output: AnswerOutput,
    ask: Callable[[Iterator[Any]], Generator[Any, None, None]],
    find_fault: Callable[[Any], str | None],
) -> None:
    """Writes answer after answer; if that ends early, says where.

    Args:
        command: The subcommand, for messages.
        values: Its flags, those of `define_output` among them.
        texts: What to ask about.
        output: Where answers go.
        ask: Answers texts, or pairs of them, in order.
        find_fault: Says of an answer why its text could not be computed, if so.
    """
    from tqdm import tqdm

    asked: deque[InputRow] = deque()  # without an answer yet
    is_shown = values.progress
    if is_shown is None:  # two things on one terminal would be a mess
        is_shown = sys.stderr.isatty() and not (values.output is None and sys.stdout.isatty())
    count = done = 0
    stream = ask(_note(texts, asked))
    try:
        with (
            contextlib.closing(stream) as answers,
            tqdm(
                disable=not is_shown,
                unit=" texts",
                smoothing=0,
                dynamic_ncols=True,
                mininterval=0.1 if sys.stderr.isatty() else 10.0,  # a log is kept
            ) as progress,
        ):
            for answer in answers:
                if fault := find_fault(answer):
                    texts.faults.add(f"{asked[0].place} cannot be computed: {fault}")
                else:
                    output.write(asked[0].texts, answer)
                    count += 1
                done += 1
                if share := asked.popleft().share:
                    progress.total = round(done / share)  # a guess until the last
                progress.update()
        if texts.error is not None:
            raise texts.error
    except BaseException:
        place = f" before {asked[0].place}" if asked else ""
        if count:
            sys.stderr.write(
                f"distilbert-tf {command}: stopped{place}; {count} answers are in {output.place}\n"
            )
        raise
    finally:
        if faults := texts.faults.count:
            sys.stderr.write(
                f"distilbert-tf {command}: left out {faults} of {faults + count} texts, among "
                f"them: {texts.faults.example}\n"
            )


def _note(rows: Iterable[InputRow], asked: deque[InputRow]) -> Iterator[Any]:
    """Yields rows as a text or a pair, and notes them."""
    for row in rows:
        asked.append(row)
        yield row.texts[0] if len(row.texts) == 1 else row.texts
