"""Labelled text: files in GLUE's layout and the demo data, and from there to `tf.data`.

Shapes: B rows of a batch, T tokens of the longest row in it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from distilbert_tf.tasks import Task

DEMO_DATA = Path(__file__).parent / "demo_data"
SORTED_BATCHES = 50  # batches that are cut from one window of rows sorted by length


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


def make_dataset(
    examples: Examples,
    tokenize: Callable[..., dict[str, tf.Tensor]],
    batch_size: int,
    *,
    shuffle_seed: int | None = None,
) -> tf.data.Dataset:
    """Turns examples into batches for `fit`, `evaluate` and `predict`.

    Tokenization runs inside the pipeline, in the background of the training step. For training,
    rows are shuffled anew in every epoch, sorted by length within windows of 50 batches so that
    a batch holds rows of about one length (most of the cost of short text is padding), and the
    batches are shuffled again.

    Args:
        examples: What to feed.
        tokenize: The in-graph tokenizer: strings (B,), twice for pairs, to a dict of (B, T).
        batch_size: B; one batch of an epoch may be smaller.
        shuffle_seed: Seed of the shuffles; file order if None.

    Returns:
        A dataset of pairs of inputs (`input_ids`, `attention_mask`: int32 (B, T)) and labels,
        int32 (B,), with its number of batches known.
    """
    count = len(examples)
    dataset = tf.data.Dataset.from_tensor_slices(
        (*map(tf.constant, examples.texts), examples.labels)
    )
    if shuffle_seed is None:
        dataset = dataset.batch(batch_size)
    else:
        dataset = dataset.shuffle(count, seed=shuffle_seed, reshuffle_each_iteration=True)
        dataset = dataset.batch(SORTED_BATCHES * batch_size)
        dataset = dataset.flat_map(lambda *window: _even_batches(window, batch_size))
        dataset = dataset.shuffle(SORTED_BATCHES, seed=shuffle_seed + 1)
    dataset = dataset.map(
        lambda *columns: (tokenize(*columns[:-1]), columns[-1]),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    # Windows hold a whole number of batches, so only the last window can end in a short one.
    batches = -(-count // batch_size)
    return dataset.prefetch(tf.data.AUTOTUNE).apply(
        tf.data.experimental.assert_cardinality(batches)
    )


def _even_batches(window: tuple[tf.Tensor, ...], batch_size: int) -> tf.data.Dataset:
    length = tf.add_n([tf.strings.length(column) for column in window[:-1]])
    order = tf.argsort(length, stable=True)
    columns = tuple(tf.gather(column, order) for column in window)
    return tf.data.Dataset.from_tensor_slices(columns).batch(batch_size)
