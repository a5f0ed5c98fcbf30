"""The splits that a training reads, and the validation split that is made where there is none."""

import hashlib
from typing import Any

import numpy as np
from absl import logging

from distilbert_tf.data.examples import Examples, has_labels, load_examples
from distilbert_tf.data.file_formats import BadRows
from distilbert_tf.data.places import HUB, as_training_data, find_source
from distilbert_tf.data.tasks import Task

TRAIN, VALIDATION = "train", "validation"


def split_examples(
    examples: Examples, share: float = 0.1, seed: int = 42
) -> tuple[Examples, Examples]:
    """Holds out a share of the examples, the same of each label or combination of labels.

    Which rows are held out depends on the seed and on their texts alone, by a hash: not on their
    order, nor on a library's random numbers. Every label keeps at least one row in the first part.

    Args:
        examples: N examples with labels.
        share: Of the examples, how many to hold out, between 0 and 1.
        seed: Another one holds out others.

    Returns:
        The rest, and those held out, both in the order of the examples.

    Raises:
        ValueError: There are too few examples to hold one out.

    Example:
        task = get_task("sst2")
        train, validation = split_examples(load_examples(task, "demo", "train"), 0.1)
    """
    labels = _strata(examples.labels)
    counts = np.bincount(labels)
    exact = counts * share
    held = np.minimum(np.floor(exact).astype(int), counts - 1)
    # What rounding leaves goes to the labels that lost most by it.
    for label in np.argsort(held - exact, kind="stable"):
        if held.sum() < max(1, round(len(examples) * share)) and held[label] < counts[label] - 1:
            held[label] += 1
    if not held.sum():
        raise ValueError(
            f"{len(examples)} rows are too few to hold some out for validation: a label needs two "
            "at least. Add rows, or name validation data (--validation_file)."
        )
    keys = [_key(texts, seed) for texts in zip(*examples.texts, strict=True)]
    order = sorted(range(len(examples)), key=lambda row: (labels[row], keys[row], row))
    starts = np.cumsum(counts) - counts
    out = {
        row
        for start, count in zip(starts, held, strict=True)
        for row in order[start : start + count]
    }
    kept = [row for row in range(len(examples)) if row not in out]
    return examples.select(kept), examples.select(sorted(out))


def _strata(labels: np.ndarray) -> np.ndarray:
    """Returns a number, from 0, for each row: those of one kind have the same, integers (N,)."""
    if np.issubdtype(labels.dtype, np.integer):
        return np.unique(labels, return_inverse=True)[1]
    if labels.ndim == 1:
        return np.zeros(len(labels), int)
    _, kinds, counts = np.unique(labels, axis=0, return_inverse=True, return_counts=True)
    kinds = kinds.ravel()
    return np.unique(np.where(counts[kinds] == 1, -1, kinds), return_inverse=True)[1]


def _key(texts: tuple[str, ...], seed: int) -> bytes:
    return hashlib.blake2b("\0".join((str(seed), *texts)).encode(), digest_size=8).digest()


def load_training_splits(
    task: Task, data: Any, *, bad_rows: BadRows = "error"
) -> dict[str, Examples]:
    """Reads the splits of a task that have labels.

    Args:
        task: The task.
        data: See `load_examples`; a file or a table is the training split.
        bad_rows: What to do with rows that cannot be used.

    Returns:
        `train`, `validation`, and what else there is, such as a test split with labels. If there is
        no validation split, `task.validation_share` of the training rows is held out: see
        `split_examples`.

    Raises:
        FileNotFoundError: There is no training data.
        DataError: The data do not fit the task.
        ValueError: There are too few rows to hold some out.
    """
    data = as_training_data(task, data)
    found = {TRAIN: load_examples(task, data, TRAIN, bad_rows=bad_rows)}
    for split in task.splits:
        # GLUE's test splits on the hub have no labels: they need not be downloaded to see that.
        if split == TRAIN or (str(data) == HUB and not split.startswith(VALIDATION)):
            continue
        if find_source(task, data, split) is None:
            continue
        if split.startswith(VALIDATION) or has_labels(task, data, split):
            found[split] = load_examples(task, data, split, bad_rows=bad_rows)
        else:
            logging.info("The %s split of %s has no labels, so it is not scored.", split, task.name)
    if VALIDATION not in found:
        found[TRAIN], found[VALIDATION] = split_examples(
            found[TRAIN], task.validation_share, task.validation_seed
        )
        logging.warning(
            "%s has no validation split: %d of %d training rows are held out for it, the same "
            "share (%g) of each label.",
            task.name,
            len(found[VALIDATION]),
            len(found[VALIDATION]) + len(found[TRAIN]),
            task.validation_share,
        )
    return found


def load_split(task: Task, data: Any, split: str, *, bad_rows: BadRows = "error") -> Examples:
    """Reads a split as a training does: also one that is held out of the training data.

    Args:
        task: The task.
        data: See `load_examples`.
        split: A name in `task.splits`.
        bad_rows: What to do with rows that cannot be used.

    Returns:
        The examples.

    Raises:
        FileNotFoundError: There is no such split.
        DataError: The data do not fit the task.
    """
    if split in (TRAIN, VALIDATION) and find_source(task, data, VALIDATION) is None:
        return load_training_splits(task, data, bad_rows=bad_rows)[split]
    return load_examples(task, data, split, bad_rows=bad_rows)
