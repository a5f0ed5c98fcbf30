"""Labelled text: files in GLUE's layout and the demo data, and from there to `tf.data`.

Shapes: B rows of a batch, T tokens of the longest row in it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from distilbert_tf.tasks import Task

DEMO_DATA = Path(__file__).parent / "demo_data"
SORTED_BATCHES = 50  # batches that are cut from one window of rows sorted by length
TOKENIZED_ROWS = 1024  # rows that the tokenizer gets at once


class DataError(ValueError):
    """A data file that cannot be read as what the task needs."""


@dataclass(frozen=True)
class Examples:
    """Labelled texts.

    Attributes:
        texts: One or two tuples of N strings each, one tuple for each text column.
        labels: int32 (N,), label ids.
    """

    texts: tuple[tuple[str, ...], ...]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, count: int) -> "Examples":
        """Gives the first `count` examples."""
        return Examples(tuple(column[:count] for column in self.texts), self.labels[:count])


def load_examples(task: Task, data: str | Path, split: str) -> Examples:
    """Reads one split of a task.

    Args:
        task: Names the columns and labels.
        data: `"demo"`, or a directory with the split's file (`train.tsv`, `dev.tsv`), also one
            level down in GLUE's own folder (`SST-2`).
        split: A name in `task.splits`, such as `"train"` or `"validation"`.

    Returns:
        The examples, in file order.

    Raises:
        FileNotFoundError: No such directory or file.
        DataError: A file is not as the task needs it; says which line and why.
    """
    if split not in task.splits:
        raise ValueError(f"Task {task.name!r} has no split {split!r}, only {list(task.splits)}.")
    file_name = f"{task.splits[split]}.tsv"
    root = DEMO_DATA / task.name if str(data) == "demo" else Path(data).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"There is no data directory {root}.")
    places = [root / file_name] + ([root / task.folder / file_name] if task.folder else [])
    for place in places:
        if place.is_file():
            return read_tsv(place, task)
    raise FileNotFoundError(
        f"Looked for the {split} split of {task.name} in {' and '.join(map(str, places))}; "
        f"{root} holds {', '.join(sorted(path.name for path in root.iterdir())) or 'nothing'}."
    )


def read_tsv(path: Path, task: Task) -> Examples:
    """Reads a tab-separated file with a header, as GLUE publishes it.

    Quotes are plain characters, as in GLUE, and columns are found by name, so files with more
    columns than needed are fine. A byte-order mark and CRLF line ends are taken off.

    Args:
        path: The file, UTF-8.
        task: Names the columns and labels.

    Returns:
        The examples, in file order.

    Raises:
        DataError: Not UTF-8, a column is missing, a row has another number of fields than the
            header, or a label is unknown.
    """
    rows = _rows(path)
    header = next(rows, (0, []))[1]
    text_indices = [_column(header, (name,), path) for name in task.text_columns]
    label_index = _column(header, task.label_columns, path)
    ids = {value: i for i, value in enumerate(task.label_values)}
    columns: list[list[str]] = [[] for _ in text_indices]
    labels = []
    for line, fields in rows:
        if len(fields) != len(header):
            raise DataError(
                f"{path}, line {line}: {len(fields)} fields, but the header has {len(header)} "
                f"({', '.join(header)})."
            )
        if fields[label_index] not in ids:
            raise DataError(
                f"{path}, line {line}: the label {fields[label_index]!r} in column "
                f"{header[label_index]!r} is none of {', '.join(ids)}."
            )
        labels.append(ids[fields[label_index]])
        for column, index in zip(columns, text_indices, strict=True):
            column.append(fields[index])
    if not labels:
        raise DataError(f"{path} has no rows.")
    return Examples(tuple(map(tuple, columns)), np.array(labels, np.int32))


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    # Split at \n alone: str.splitlines would also break a sentence at U+2028 and its like.
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}") from error
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    for number, line in enumerate(lines, 1):
        yield number, line.removesuffix("\r").split("\t")


def _column(header: list[str], names: tuple[str, ...], path: Path) -> int:
    for name in names:
        if name in header:
            return header.index(name)
    raise DataError(
        f"{path} has no column {' or '.join(map(repr, names))}; its header is "
        f"{', '.join(header) or 'empty'}."
    )


class TokenRows(NamedTuple):
    """The token ids of many rows, without padding.

    Attributes:
        ids: int32 (sum of the lengths,), row after row.
        starts: int32 (N,), where in `ids` each row begins.
        lengths: int32 (N,).
    """

    ids: tf.Tensor
    starts: tf.Tensor
    lengths: tf.Tensor

    def batch(self, rows: tf.Tensor, width: int | None = None) -> dict[str, tf.Tensor]:
        """Makes a model's inputs.

        Args:
            rows: Integers (B,), numbers of rows.
            width: T; that of the longest of the rows if None.

        Returns:
            `input_ids` and `attention_mask`, each int32 (B, T).
        """
        lengths = tf.gather(self.lengths, rows)[:, tf.newaxis]
        places = tf.range(tf.reduce_max(lengths) if width is None else width)
        is_token = places < lengths  # (B, T)
        indices = tf.where(is_token, tf.gather(self.starts, rows)[:, tf.newaxis] + places, 0)
        ids = tf.where(is_token, tf.gather(self.ids, indices), 0)
        return {"input_ids": ids, "attention_mask": tf.cast(is_token, tf.int32)}


def tokenize_examples(
    examples: Examples, tokenize: Callable[..., dict[str, tf.Tensor]]
) -> TokenRows:
    """Tokenizes all examples, on all cores.

    Args:
        examples: N examples.
        tokenize: The in-graph tokenizer: strings (B,), twice for pairs, to a dict of (B, T).

    Returns:
        The rows, in the order of the examples.
    """
    texts = tf.data.Dataset.from_tensor_slices(tuple(map(tf.constant, examples.texts)))

    def strip(*columns: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        tokens = tokenize(*columns)
        is_token = tokens["attention_mask"] != 0
        lengths = tf.reduce_sum(tokens["attention_mask"], axis=1)
        return tf.boolean_mask(tokens["input_ids"], is_token), lengths

    batches = texts.batch(TOKENIZED_ROWS).map(strip, num_parallel_calls=tf.data.AUTOTUNE)
    ids, lengths = zip(*batches.prefetch(tf.data.AUTOTUNE), strict=True)
    all_lengths = tf.concat(lengths, 0)
    return TokenRows(tf.concat(ids, 0), tf.cumsum(all_lengths, exclusive=True), all_lengths)


def make_dataset(
    examples: Examples,
    tokenize: Callable[..., dict[str, tf.Tensor]],
    batch_size: int,
    *,
    shuffle_seed: int | None = None,
    width: int | None = None,
) -> tf.data.Dataset:
    """Turns examples into batches for `fit`, `evaluate` and `predict`.

    Every text is tokenized once, here, and its token ids are kept (about 60 bytes for a sentence of
    SST-2); an epoch then costs a few gathers. For training, rows are shuffled anew in every epoch,
    sorted by length within windows of 50 batches so that a batch holds rows of about one length,
    and the batches are shuffled again.

    Args:
        examples: What to feed.
        tokenize: The in-graph tokenizer: strings (B,), twice for pairs, to a dict of (B, T).
        batch_size: B; one batch of an epoch may be smaller.
        shuffle_seed: Seed of the shuffles; file order if None.
        width: T for all batches, at least the tokenizer's `max_length`: XLA wants one shape. By
            default each batch is as wide as its longest row.

    Returns:
        A dataset of pairs of inputs (`input_ids`, `attention_mask`: int32 (B, T)) and labels,
        int32 (B,), with its number of batches known.

    Raises:
        ValueError: A row is longer than `width`.
    """
    tokens = tokenize_examples(examples, tokenize)
    longest = int(tf.reduce_max(tokens.lengths))
    if width is not None and longest > width:
        raise ValueError(f"A row has {longest} tokens, but width={width}.")
    labels = tf.constant(examples.labels)
    count = len(examples)
    rows = tf.data.Dataset.range(count)
    if shuffle_seed is None:
        rows = rows.batch(batch_size)
    else:
        rows = rows.shuffle(count, seed=shuffle_seed, reshuffle_each_iteration=True)
        rows = rows.batch(SORTED_BATCHES * batch_size)
        rows = rows.map(lambda window: tf.gather(window, _order(tokens.lengths, window)))
        # Windows hold a whole number of batches, so only the last one can end in a short batch.
        rows = rows.unbatch().batch(batch_size)
        rows = rows.shuffle(SORTED_BATCHES, seed=shuffle_seed + 1)
    dataset = rows.map(
        lambda batch: (tokens.batch(batch, width), tf.gather(labels, batch)),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    return dataset.prefetch(tf.data.AUTOTUNE).apply(
        tf.data.experimental.assert_cardinality(-(-count // batch_size))
    )


def _order(lengths: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    return tf.argsort(tf.gather(lengths, rows), stable=True)
