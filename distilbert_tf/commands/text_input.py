"""The texts that a command line names: its words, or the rows of a file or of a pipe."""

import codecs
import contextlib
import os
import stat
import sys
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from absl import flags

from distilbert_tf.commands.common_flags import UsageError, define_flag
from distilbert_tf.data.file_formats import BadRows, Fault, open_table

# Files of rows with columns; of any other, each line is a text.
_TABLES = (".csv", ".jsonl", ".json", ".parquet")

# What a row holds: a line, or cells by column, or why it cannot be read.
Content = bytes | dict[str, Any] | Fault


class InputRow(NamedTuple):
    """A text, or a pair of texts.

    Args:
        texts: One or two.
        place: Where it stands, such as "reviews.txt, line 7".
        share: Which share of the whole input ends with it, if that is known.
    """

    texts: tuple[str, ...]
    place: str
    share: float | None


class Faults:
    """Texts without an answer, since they cannot be read, or not be computed.

    Args:
        bad_rows: "error": the first of them is an error; "skip": they are left out and counted.
    """

    def __init__(self, bad_rows: BadRows) -> None:
        self.bad_rows = bad_rows
        self.count = 0
        self.example = ""

    def add(self, fault: str) -> None:
        """Takes a text's place, and what is wrong with it.

        Raises:
            UsageError: it may not be left out.
        """
        if self.bad_rows == "error":
            raise UsageError(fault)
        self.count += 1
        self.example = self.example or fault


def define_input(
    values: flags.FlagValues, *, has_pairs: bool = True, has_task: bool = False
) -> None:
    """Defines the flags that say where texts come from, and how many each row has.

    Args:
        values: Where.
        has_pairs: Whether a row may be a pair of texts.
        has_task: Whether the model may know the columns that it was fine-tuned on.
    """
    text = (
        "file with a text in each line, or .csv, .jsonl, .json or .parquet with a column of texts "
        "(default: standard input, if there is no TEXT either)"
    )
    define_flag(values, "input", None, text, kind=str)
    known = "those that the checkpoint was fine-tuned on, or " if has_task else ""
    columns = "text, or of pairs text and text_pair" if has_pairs else "text"
    text = (
        "columns of the texts, in an --input with columns"
        + ("; two are those of pairs" if has_pairs else "")
        + f" (default: {known}{columns}, or the only one)"
    )
    define_flag(values, "text_columns", None, text, kind=list)
    if has_pairs:
        text = (
            "each text is two, which a line separates by a tab and a file has in two columns; of a "
            "model that was fine-tuned on pairs, it is so without the flag"
        )
        define_flag(values, "pair", False, text)
    text = "what to do with texts that cannot be read or computed"
    define_flag(values, "bad_rows", "error", text, choices=typing.get_args(BadRows))


@contextlib.contextmanager
def open_texts(values: flags.FlagValues, words: Sequence[str]) -> Iterator["TextInput"]:
    """Opens what the flags of `define_input` name, unless texts are given as words.

    Raises:
        OSError: The file cannot be opened.
        UsageError: Texts are given as words and as a file.
    """
    if words and values.input is not None:
        raise UsageError(f"texts are given twice: {words[0]!r} and --input={values.input}")
    path = values.input
    with (
        contextlib.nullcontext(sys.stdin.buffer) if path is None else Path(path).open("rb") as file
    ):
        name = "standard input" if path is None else path
        takes_pairs, columns = "pair" in values, values.text_columns or ()
        is_pair = takes_pairs and (values.pair or len(columns) == 2)
        texts = TextInput(
            words, file, name, Faults(values.bad_rows), is_pair, columns, takes_pairs=takes_pairs
        )
        if texts.is_typed:
            sys.stderr.write("Type a text and Enter; Ctrl-D ends. (--help: other ways.)\n")
        yield texts


class TextInput:
    """Reads rows one by one.

    If a fault ends the reading, what stands before it is worth an answer all the same, so the
    error waits in `error`.

    Args:
        words: The command line's texts; without any, lines are read.
        file: What to read from.
        name: How places call it.
        faults: Takes the texts that cannot be read.
        is_pair: Whether each text is two.
        columns: Those of the texts, if the file is a table.
        takes_pairs: Whether each text could be two.

    Attributes:
        is_pair: See the arguments; a model may say so, too.
        usual_columns: Where a table's texts are if `columns` does not say so.
    """

    def __init__(
        self,
        words: Sequence[str],
        file: BinaryIO,
        name: str,
        faults: Faults,
        is_pair: bool = False,
        columns: Sequence[str] = (),
        *,
        takes_pairs: bool = True,
    ) -> None:
        self.error: Exception | None = None
        self.faults = faults
        self._words = words
        self._file = file
        self._name = name
        self.is_pair = is_pair
        self.usual_columns: Sequence[str] = ()
        self._columns = columns
        self._takes_pairs = takes_pairs

    @property
    def is_typed(self) -> bool:
        """Whether somebody types the lines, and wants the answer to each at once."""
        return not self._words and self._file.isatty()

    def __iter__(self) -> Iterator[InputRow]:
        try:
            for content, place, share in self._rows():
                try:
                    texts = self._read(content)
                except UnicodeDecodeError as error:
                    self.faults.add(f"{place} is not UTF-8: {error.reason} at byte {error.start}")
                except UsageError as error:
                    self.faults.add(f"{place}: {error}")
                else:
                    yield InputRow(texts, place, share)
        except (ValueError, OSError) as error:
            self.error = error

    def _rows(self) -> Iterator[tuple[Content, str, float | None]]:
        """Yields what each row holds, its place, and the share of the whole that ends there."""
        if self._words:
            for number, word in enumerate(self._words, 1):
                # What is not UTF-8 in an argument comes as half surrogate pairs.
                yield os.fsencode(word), f"argument {number}", number / len(self._words)
        elif Path(self._name).suffix.lower() in _TABLES:
            table = open_table(Path(self._name))
            columns = self._choose_columns(table.columns)
            for number, row in table.rows(columns):
                cells = row if isinstance(row, Fault) else dict(zip(columns, row, strict=True))
                yield cells, f"{self._name}, {table.unit} {number}", None
        else:
            yield from self._lines()

    def _lines(self) -> Iterator[tuple[Content, str, float | None]]:
        status = os.fstat(self._file.fileno())
        size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        end = 0
        for number, line in enumerate(self._file, 1):
            end += len(line)
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            share = min(end / size, 1.0) if size else None
            yield line.rstrip(b"\r\n"), f"{self._name}, line {number}", share

    def _choose_columns(self, found: Sequence[str]) -> Sequence[str]:
        count = 2 if self.is_pair else 1
        usual = [self.usual_columns, ("text", "text_pair")[:count]]
        if count == 1:  # two columns may be an id and a text as well as a pair
            usual.append(found)
        for columns in [self._columns] if self._columns else usual:
            if len(columns) == count and set(columns) <= set(found):
                return list(columns)
        missing = [column for column in self._columns if column not in found]
        fault = f", but no {missing[0]}" if missing else ""
        wanted = "two, of pairs, with --text_columns=FIRST,SECOND"
        if not self.is_pair:
            pairs = f", or {wanted}" if self._takes_pairs else ""
            wanted = f"one, of texts, with --text_columns=NAME{pairs}"
        raise UsageError(
            f"{self._name} has the columns {', '.join(map(str, found))}{fault}: name {wanted}"
        )

    def _read(self, content: Content) -> tuple[str, ...]:
        """Returns the texts of a row.

        Raises:
            UnicodeDecodeError: It is not UTF-8.
            UsageError: It does not hold as many texts as it should.
        """
        if isinstance(content, Fault):
            raise UsageError(content.detail)
        if isinstance(content, dict):
            for column, cell in content.items():
                if not isinstance(cell, str):
                    kind = "empty" if cell is None else repr(cell)
                    raise UsageError(f"the column {column!r} is {kind}, not a text")
            return tuple(content.values())
        text = content.decode()
        if not self.is_pair:
            return (text,)
        first, tab, second = text.partition("\t")
        if not tab:
            hint = r"; in a shell, a pair is written $'first\tsecond'" if self._words else ""
            raise UsageError(f"two texts separated by a tab are expected; got {text[:60]!r}{hint}")
        return first, second
