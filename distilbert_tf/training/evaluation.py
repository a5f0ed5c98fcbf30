"""Scoring classifiers: on a dataset, on a split of a task, and for GLUE's test server.

Shapes: B rows of a batch, N rows of a split, C labels.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from distilbert_tf.checkpoints.problem_types import SINGLE_LABEL
from distilbert_tf.data.datasets import make_dataset
from distilbert_tf.data.examples import load_examples
from distilbert_tf.data.file_formats import BadRows
from distilbert_tf.data.splits import load_split
from distilbert_tf.data.submission import write_submission
from distilbert_tf.data.tasks import Task, get_task
from distilbert_tf.models.heads import TFDistilBertForSequenceClassification
from distilbert_tf.tokenizers.tokenizer import DistilBertTokenizer
from distilbert_tf.training.batches import collect_rows, evaluation_batches
from distilbert_tf.training.classifiers import (
    choose_task,
    configured_task,
    load_classifier,
    task_checkpoint,
)
from distilbert_tf.training.multitask import MultiTaskModel
from distilbert_tf.training.run_directory import recorded_data


@dataclass(frozen=True)
class Scores:
    """How a classifier did on a split.

    Attributes:
        values: `loss`, the task's metrics by name, and, with a teacher, `agreement`.
        confusion: int64 (C, C): rows the true labels, columns the predicted ones. If rows may have
            several labels, (C, 2, 2), for each of them; of a regression (0, 0).
        rows: How many rows were scored; if -1, as many as `confusion` counts.
    """

    values: dict[str, float]
    confusion: np.ndarray
    rows: int = -1

    def __post_init__(self) -> None:
        if self.rows < 0:
            object.__setattr__(self, "rows", int(self.confusion.sum()))

    @property
    def rows_by_label(self) -> np.ndarray:
        """How many rows have each label: integers (C,)."""
        return self.confusion[..., -1, :].sum(-1) if self._has_tables else self.confusion.sum(1)

    @property
    def _has_tables(self) -> bool:
        return self.confusion.ndim == 3

    @property
    def by_label(self) -> dict[str, list[float]]:
        """Precision, recall and F1 of each label; 0 where there is nothing to divide by."""
        true = self.rows_by_label
        if self._has_tables:
            right, predicted = self.confusion[:, 1, 1], self.confusion[:, :, 1].sum(axis=1)
        else:
            right, predicted = np.diag(self.confusion), self.confusion.sum(axis=0)
        return {
            "precision": (right / np.maximum(predicted, 1)).tolist(),
            "recall": (right / np.maximum(true, 1)).tolist(),
            "f1": (2 * right / np.maximum(predicted + true, 1)).tolist(),
        }

    def record(self) -> dict[str, Any]:
        """Returns all of it as JSON takes it."""
        return {
            **self.values,
            "rows": self.rows,
            "by_label": self.by_label,
            "confusion": self.confusion.tolist(),
        }


def evaluate(
    model: TFDistilBertForSequenceClassification | str | Path,
    data: Any = None,
    tokenizer: DistilBertTokenizer | None = None,
    *,
    task: str | Task | None = None,
    **options: Any,
) -> dict[str, float]:
    """Scores a classifier on every row of a dataset, or of a task's data.

    Args:
        model: A classifier, compiled here if it is not yet; or the directory or hub name of one.
        data: Batches of inputs and label ids, as `make_dataset` returns; or, with a tokenizer or
            for a saved classifier, what `load_examples` takes, such as a data frame. For a saved
            one that of its fine-tuning if not given.
        tokenizer: That of a classifier in memory, to score it on texts.
        task: Says what the columns are; what the classifier was fine-tuned for if not given.
        **options: `split`, `batch_size`, `max_length`, `bad_rows`: see `score_pretrained`.

    Returns:
        `loss` and `accuracy`, or what the model was compiled with; of texts, `loss` and the task's
        metrics.

    Raises:
        TypeError: Texts without a tokenizer.
        ValueError: The classifier records no task, and none is given.

    Example:
        mood = Task("mood", ("remark",), ("mood",), ("dull", "good"))
        model = TFDistilBertForSequenceClassification.from_pretrained("demo", num_labels=2)
        tokenizer = DistilBertTokenizer.from_pretrained("demo")
        evaluate(model, {"remark": ["Fine."], "mood": ["good"]}, tokenizer, task=mood)
    """
    if isinstance(model, str | Path):
        return score_pretrained(model, task, data, **options).values
    if tokenizer is not None:
        found = get_task(task) if task else configured_task(model.config, "The classifier")
        return _score(model, tokenizer, found, data, **options).values
    if not hasattr(data, "element_spec") and not isinstance(data, keras.utils.PyDataset):
        raise TypeError(
            f"evaluate takes batches of token ids (`make_dataset`); for {type(data).__name__} it "
            "needs the tokenizer, too: evaluate(model, data, tokenizer)."
        )
    if not model.compiled:
        is_single = model.config.problem_type in (None, SINGLE_LABEL)
        accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        model.compile(
            loss=model.make_loss(),
            metrics=[accuracy] if is_single else [],
            jit_compile=False,
        )
    return {
        name: float(value)
        for name, value in model.evaluate(data, verbose=0, return_dict=True).items()
    }


def score_tasks(model: MultiTaskModel, batches: Any, steps: int) -> dict[str, Scores]:
    """Scores a model on the rows of its tasks.

    Args:
        model: The model, compiled.
        batches: What `evaluation_batches` returns.
        steps: How many of them.

    Returns:
        Scores by task; without rows, they are all zero.
    """
    model.evaluate(batches, steps=steps, verbose=0)
    found = {}
    for name, metric in model.task_metrics.items():
        values = {
            key.removeprefix(metric.prefix): float(value) for key, value in metric.result().items()
        }
        if name in model.agreements:
            values["agreement"] = float(model.agreements[name].result())
        rows = int(tf.convert_to_tensor(metric.rows.value))
        found[name] = Scores(values, metric.read_confusion(), rows)
    return found


def score_pretrained(
    model: str | Path,
    task: str | Task | None = None,
    data: Any = None,
    *,
    split: str = "validation",
    batch_size: int = 32,
    max_length: int | None = None,
    bad_rows: BadRows = "error",
) -> Scores:
    """Scores a saved classifier on a split of a task.

    Args:
        model: Directory or hub name of a classifier, or the directory of a run on several tasks.
        task: A task, its name, or a JSON file of it; the one that the checkpoint records if not
            given.
        data: Directory with the task's files, a file, a table in memory, `"hub"` or `"demo"`: see
            `load_examples`. Where the fine-tuning found it if not given.
        split: Name of the split. A validation split that is not there is held out of the training
            data, as in the training.
        batch_size: Rows per step.
        max_length: Longest row in tokens; the tokenizer's `model_max_length`, which is that of
            the fine-tuning, if not given.
        bad_rows: What becomes of rows that cannot be used: see `data.examples.read_files`.

    Returns:
        Loss, the task's metrics, and the confusion matrix.

    Raises:
        CheckpointError: The checkpoint has no classifier, or one for other labels.
        FileNotFoundError: No such checkpoint or data.
        DataError: A file is not as the task needs it.
    """
    task = choose_task(task, model)
    data = recorded_data(model) if data is None else data
    classifier = load_classifier(model, task)
    tokenizer = DistilBertTokenizer.from_pretrained(task_checkpoint(model, task))
    return _score(
        classifier, tokenizer, task, data,
        split=split, batch_size=batch_size, max_length=max_length, bad_rows=bad_rows,
    )  # fmt: skip


def _score(
    classifier: TFDistilBertForSequenceClassification,
    tokenizer: DistilBertTokenizer,
    task: Task,
    data: Any,
    *,
    split: str = "validation",
    batch_size: int = 32,
    max_length: int | None = None,
    bad_rows: BadRows = "error",
) -> Scores:
    examples = load_split(task, data, split, bad_rows=bad_rows)
    rows = collect_rows([examples], tokenizer.as_layer(max_length=max_length))
    scored = MultiTaskModel({task.name: classifier}, {task.name: task.metrics})
    scored.compile()
    batches, steps = evaluation_batches(rows, batch_size, scored.distribute_strategy)
    return score_tasks(scored, batches, steps)[task.name]


def predict_labels(
    model: TFDistilBertForSequenceClassification, dataset: tf.data.Dataset
) -> np.ndarray:
    """Predicts the label ids of all rows of a dataset, in its order.

    Args:
        model: A classifier.
        dataset: Batches of inputs and labels, as `make_dataset` returns; the labels are not read.

    Returns:
        Integers (N,).
    """
    logits = model.predict(dataset.map(lambda inputs, _: inputs), verbose=0)
    return np.argmax(logits, axis=-1)


def predict_submission(
    model: str | Path,
    task: str | Task | None,
    data: Any,
    directory: str | Path,
    *,
    batch_size: int = 32,
    max_length: int | None = None,
) -> list[Path]:
    """Answers the unlabelled test splits of a task, in files as GLUE's server takes them.

    Args:
        model: See `score_pretrained`.
        task: A task or its name; the checkpoint's if None.
        data: See `score_pretrained`.
        directory: Where the files go.
        batch_size: Rows per step.
        max_length: See `score_pretrained`.

    Returns:
        The files, one for each test split.

    Raises:
        ValueError: The task has no test split.
        CheckpointError: The checkpoint has no classifier, or one for other labels.
        FileNotFoundError: No such checkpoint or data.
    """
    task = choose_task(task, model)
    if task.problem_type != SINGLE_LABEL:
        raise ValueError(
            f"Task {task.name!r} is a {task.problem_type}: a submission has one label a row. "
            "`predict`, or the text-classification pipeline, answers texts of such a task."
        )
    if not task.submission:
        raise ValueError(f"Task {task.name!r} has no test split to answer.")
    classifier = load_classifier(model, task)
    tokenizer = DistilBertTokenizer.from_pretrained(task_checkpoint(model, task))
    tokenize = tokenizer.as_layer(max_length=max_length)
    written = []
    for split in task.submission:
        examples = load_examples(task, data, split, labelled=False)
        predictions = predict_labels(classifier, make_dataset(examples, tokenize, batch_size))
        written.append(write_submission(task, split, examples.ids, predictions, directory))
    return written
