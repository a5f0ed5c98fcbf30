"""The texts that `query` asks about: words of the command line, or lines of a file or a pipe."""

import codecs
import os
import stat
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

from distilbert_tf.commands.common_flags import UsageError, split_pair
from distilbert_tf.data.file_formats import BadRows


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


class QueryInput:
    """Reads rows one by one.

    If a fault ends the reading, what stands before it is worth an answer all the same, so the
    error waits in `error`.

    Args:
        words: The command line's texts; without any, lines are read.
        file: What to read the lines from.
        name: How places call it.
        faults: Takes the texts that cannot be read.
        is_pair: Whether each text is two, with a tab between them.
    """

    def __init__(
        self,
        words: Sequence[str],
        file: BinaryIO,
        name: str,
        faults: Faults,
        is_pair: bool = False,
    ) -> None:
        self.error: Exception | None = None
        self.faults = faults
        self._words = words
        self._file = file
        self._name = name
        self._is_pair = is_pair

    @property
    def is_typed(self) -> bool:
        """Whether somebody types the lines, and wants the answer to each at once."""
        return not self._words and self._file.isatty()

    def __iter__(self) -> Iterator[InputRow]:
        try:
            for content, place, share in self._arguments() if self._words else self._lines():
                try:
                    text = content.decode()
                    texts = split_pair(text) if self._is_pair else (text,)
                except UnicodeDecodeError as error:
                    self.faults.add(f"{place} is not UTF-8: {error.reason} at byte {error.start}")
                except UsageError as error:
                    self.faults.add(f"{place}: {error}")
                else:
                    yield InputRow(texts, place, share)
        except (UsageError, OSError) as error:
            self.error = error

    def _arguments(self) -> Iterator[tuple[bytes, str, float | None]]:
        for number, word in enumerate(self._words, 1):
            # What is not UTF-8 in an argument comes as half surrogate pairs.
            yield os.fsencode(word), f"argument {number}", number / len(self._words)

    def _lines(self) -> Iterator[tuple[bytes, str, float | None]]:
        status = os.fstat(self._file.fileno())
        size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        end = 0
        for number, line in enumerate(self._file, 1):
            end += len(line)
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            share = min(end / size, 1.0) if size else None
            yield line.rstrip(b"\r\n"), f"{self._name}, line {number}", share
