"""Predictions for test splits, in the format of GLUE's submission files."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distilbert_tf.data.tasks import Task
from distilbert_tf.files import replacing


def write_submission(
    task: Task,
    split: str,
    ids: Sequence[str] | None,
    predictions: Sequence[int] | np.ndarray,
    directory: str | Path,
) -> Path:
    r"""Writes one of GLUE's submission files, atomically.

    The file is tab-separated: a header `index\tprediction`, then a row for each prediction, with
    labels as in `task.label_values`.

    Args:
        task: Defines the file's name and the labels.
        split: A name in `task.submission`, such as `"test"`.
        ids: N row ids, as in `Examples.ids`. If None, rows are numbered from 0, which is correct
            only for all rows of the split in file order.
        predictions: Integers (N,), label ids.
        directory: Where the file is written; created if it does not exist.

    Returns:
        The file, such as `SST-2.tsv`.

    Raises:
        ValueError: GLUE does not score this split of the task, the lengths differ, a prediction is
            not a label id, or an id is repeated or contains a tab or a line end.
    """
    if split not in task.submission:
        known = ", ".join(task.submission) or "none"
        raise ValueError(
            f"Task {task.name!r} has no submission file for the split {split!r}; it has one for: "
            f"{known}."
        )
    labels = np.asarray(predictions)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"Predictions must be label ids, integers (N,); got {labels.dtype} {labels.shape}."
        )
    bad = np.flatnonzero((labels < 0) | (labels >= len(task.labels)))
    if bad.size:
        raise ValueError(
            f"Prediction {bad[0]} is {labels[bad[0]]}, but {task.name!r} has the label ids 0 to "
            f"{len(task.labels) - 1}."
        )
    names = list(map(str, range(len(labels)))) if ids is None else list(ids)
    if len(names) != len(labels):
        raise ValueError(f"There are {len(names)} ids, but {len(labels)} predictions.")
    if len(set(names)) != len(names):
        raise ValueError(f"The id {Counter(names).most_common(1)[0][0]!r} is repeated.")
    rows = [("index", "prediction")]
    for name, label in zip(names, labels, strict=True):
        if set(name) & set("\t\r\n"):
            raise ValueError(f"The id {name!r} contains a tab or a line end.")
        rows.append((name, task.label_values[label]))
    path = Path(directory).expanduser() / task.submission[split]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        content = "".join(f"{name}\t{value}\n" for name, value in rows)
        temporary.write_bytes(content.encode())
    return path
