"""The texts that `query` asks about: words of the command line, or lines of a file or a pipe."""

import codecs
import os
import stat
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

from distilbert_tf.command_parts import UsageError, split_pair


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


class QueryInput:
    """Reads rows one by one.

    A bad row ends the reading: what stands before it is worth an answer all the same, so the
    error waits in `error`.

    Args:
        words: The command line's texts; without any, lines are read.
        file: What to read the lines from.
        name: How places call it.
        is_pair: Whether each text is two, with a tab between them.
    """

    def __init__(
        self, words: Sequence[str], file: BinaryIO, name: str, is_pair: bool = False
    ) -> None:
        self.error: Exception | None = None
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
            yield from self._arguments() if self._words else self._lines()
        except (UsageError, OSError) as error:
            self.error = error

    def _arguments(self) -> Iterator[InputRow]:
        for number, word in enumerate(self._words, 1):
            place = f"argument {number}"
            # What is not UTF-8 in an argument comes as half surrogate pairs.
            yield InputRow(self._split(place, os.fsencode(word)), place, number / len(self._words))

    def _lines(self) -> Iterator[InputRow]:
        status = os.fstat(self._file.fileno())
        size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        end = 0
        for number, line in enumerate(self._file, 1):
            end += len(line)
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            place = f"{self._name}, line {number}"
            texts = self._split(place, line.rstrip(b"\r\n"))
            yield InputRow(texts, place, min(end / size, 1.0) if size else None)

    def _split(self, place: str, content: bytes) -> tuple[str, ...]:
        try:
            text = content.decode()
            return split_pair(text) if self._is_pair else (text,)
        except UnicodeDecodeError as error:
            raise UsageError(
                f"{place} is not UTF-8: {error.reason} at byte {error.start}"
            ) from None
        except UsageError as error:
            raise UsageError(f"{place}: {error}") from None
