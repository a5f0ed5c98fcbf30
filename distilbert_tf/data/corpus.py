"""Unlabelled text: from files to documents, sentences, and rows of consecutive sentences.

Everything here is a generator, so that memory doesn't grow with the corpus.
"""

import bz2
import glob
import gzip
import itertools
import json
import lzma
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from distilbert_tf.data.file_formats import DataError, Fault, is_unicode, open_table

MAX_LINE_BYTES = 16 * 2**20  # longer ones are no paragraphs, but a file without line ends
MAX_SENTENCE = 10_000  # characters; the time of a tokenizer grows with the square of a longer one

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}


def find_files(files: str | Path | Sequence[str | Path]) -> list[Path]:
    """Returns the paths of files, in the given order; those that match a pattern by their names."""
    found: list[Path] = []
    if isinstance(files, str | Path):
        files = [files]
    for file in files:
        matches = [] if Path(file).exists() else sorted(glob.glob(str(file), recursive=True))
        found += map(Path, matches or [str(file)])
    if not found:
        raise ValueError("A corpus needs at least one file.")
    return found


def read_documents(path: Path, *, text_column: str = "text") -> Iterator[Iterator[str]]:
    """Reads the documents of a file, one paragraph at a time.

    Args:
        path: Plain text with a paragraph a line and a blank line between documents; or `.jsonl` or
            `.parquet`, with a document a row, in which paragraphs stand on lines of their own.
            Text and JSON Lines may be compressed (`.gz`, `.xz`, `.bz2`).
        text_column: The name of the column of JSON Lines and Parquet.

    Yields:
        The paragraphs of each document, without white space at either end; no document is empty.
        What is left of one is skipped when the next one is asked for.

    Raises:
        DataError: The file is damaged, a line is not UTF-8 or longer than 16 MiB, or a row has no
            text; names file and line.
    """
    kind = Path(path.stem).suffix if path.suffix in _OPENERS else path.suffix
    if kind == ".parquet":
        paragraphs = _paragraphs_of_rows(_parquet_rows(path, text_column))
    elif kind in (".jsonl", ".json"):
        paragraphs = _paragraphs_of_rows(_json_rows(path, text_column))
    else:
        paragraphs = _paragraphs_of_lines(path)
    for _, document in itertools.groupby(paragraphs, key=operator.itemgetter(0)):
        yield (paragraph for _, paragraph in document)


def _paragraphs_of_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields paragraphs, each with a number that all of its document have in common."""
    blank_lines = 0
    for _, line in _lines(path):
        if paragraph := line.strip():
            yield blank_lines, paragraph
        else:
            blank_lines += 1


def _paragraphs_of_rows(texts: Iterable[str]) -> Iterator[tuple[int, str]]:
    for number, text in enumerate(texts):
        for line in text.split("\n"):
            if paragraph := line.strip():
                yield number, paragraph


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields the number and the text of each line."""
    number = 0
    try:
        with _OPENERS.get(path.suffix, open)(path, "rb") as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise DataError(
                        f"{path}, line {number}: longer than {MAX_LINE_BYTES // 2**20} MiB. A "
                        "corpus has a paragraph a line, and a blank line between documents."
                    )
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, line {number}: not UTF-8 ({error.reason} at byte {error.start}). Convert the "
            "file, for example with iconv."
        ) from error
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise DataError(f"{path} cannot be read after line {number}: {error}.") from error


def _json_rows(path: Path, column: str) -> Iterator[str]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not JSON: {error}.") from error
        yield _text_of(row if isinstance(row, dict) else {}, column, f"{path}, line {number}")


def _parquet_rows(path: Path, column: str) -> Iterator[str]:
    table = open_table(path)
    if column not in table.columns:
        raise DataError(
            f"{path} has no column {column!r}; its columns are {', '.join(table.columns)}. Name "
            "the one with the text (--text_column)."
        )
    for number, values in table.rows([column]):
        assert not isinstance(values, Fault)  # Parquet has no unreadable rows
        yield _text_of({column: values[0]}, column, f"{path}, row {number}")


def _text_of(row: dict[str, object], column: str, where: str) -> str:
    text = row.get(column)
    if not isinstance(text, str):
        raise DataError(
            f"{where}: no text in {column!r}, but {text!r}; its columns are "
            f"{', '.join(row) or 'none'} (--text_column)."
        )
    if not is_unicode(text):
        raise DataError(f"{where}: the text is not Unicode: a lone surrogate, or not UTF-8.")
    return text


# A sentence ends at a full stop, question or exclamation mark, with closing quotes or brackets
# behind it, if white space and the beginning of another one follow.
_SENTENCE_END = re.compile(r"""([.!?…]["'”’»)\]]*)\s+(?=["'“‘«(\[]*[A-Z0-9À-ÖØ-Þ])""")
_ABBREVIATION = re.compile(
    r"(?<!\w)(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|Rev|Gen|Col|Capt|Lt|Sgt|Nos?|[Vv]ol|vs|cf|ca|c|pp?"
    r"|eds?|Inc|Ltd|Co|Corp|Bros|e\.g|i\.e|a\.m|p\.m|U\.S|U\.K)\.$"
)


def split_sentences(paragraph: str) -> list[str]:
    """Splits a paragraph at the ends of its sentences.

    A rule of thumb for English and its like: initials and common abbreviations end no sentence.
    What it gets wrong costs nothing but a row that begins or ends within a sentence. What is longer
    than `MAX_SENTENCE` is cut at white space; where there is none, it is no text, and cut anywhere.

    Args:
        paragraph: Text.

    Returns:
        Its sentences, in order; joined by a space they are the paragraph, white space aside.
    """
    ends = [match.end(1) for match in _SENTENCE_END.finditer(paragraph)]
    sentences, start = [], 0
    for end in (*ends, len(paragraph)):
        if end < len(paragraph) and _ABBREVIATION.search(paragraph, max(start, end - 8), end):
            continue
        while end - start > MAX_SENTENCE:
            space = paragraph.rfind(" ", start + 1, start + MAX_SENTENCE)
            cut = space if space > 0 else start + MAX_SENTENCE
            sentences.append(paragraph[start:cut])
            start = cut
        sentences.append(paragraph[start:end])
        start = end
    return [sentence for sentence in map(str.strip, sentences) if sentence]


def pack_document(
    sentences: Iterable[Sequence[int]], max_length: int, *, first_token: int, last_token: int
) -> Iterator[list[int]]:
    """Packs the consecutive sentences of one document into rows.

    A row takes sentences as long as they fit; the next one begins with the sentence that did not.
    One that is longer than a row fills rows of its own, and its rest goes on as a sentence.

    Args:
        sentences: Token ids of each sentence, without special tokens.
        max_length: The longest row, its two special tokens included; 3 at least.
        first_token: The id that begins each row: [CLS].
        last_token: The id that ends each row: [SEP].

    Yields:
        Rows, `max_length` ids or fewer, none without a sentence.
    """
    room = max_length - 2
    if room < 1:
        raise ValueError(f"max_length is {max_length}; a row has two special tokens and a word.")
    row: list[int] = []
    for sentence in sentences:
        ids = list(sentence)
        while ids:
            if row and len(row) + len(ids) > room:
                yield [first_token, *row, last_token]
                row = []
            row += ids[:room]
            ids = ids[room:]
    if row:
        yield [first_token, *row, last_token]
